"""`interlock master-key`: a new key to seal tool secrets with."""

import typer

from interlock.policy.secrets import generate_key


def print_new_key() -> None:
    """Prints a line for `engine.master_key_file`. It is kept nowhere."""
    typer.echo(generate_key())
