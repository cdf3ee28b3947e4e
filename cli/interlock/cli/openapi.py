"""`interlock openapi`."""

import json

import typer

from interlock.proxy.api.document import document


def print_document() -> None:
    """Prints the document, the same for the same version."""
    typer.echo(json.dumps(document(), indent=1, ensure_ascii=False))
