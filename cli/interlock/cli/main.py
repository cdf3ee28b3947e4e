"""The `interlock` command.

The roles are imported when they are run: an operator's command should not wait for all they need.
"""
# ruff: noqa: PLC0415 - see above

from pathlib import Path
from typing import Annotated

import typer

from interlock.cli import agents, alerts, apply, audit, calls, keys, namespaces, policies, runs, switch, tools
from interlock.cli.acting import in_namespace
from interlock.cli.examples import teach
from interlock.cli.output import AsJson
from interlock.cli.role import Role
from interlock.cli.sorting import Sort

app = typer.Typer(
    help="A safety interlock for AI agents: the sidecar that stands between an agent and its tools.",
    epilog="Begin with `interlock dev`: it prints a key. With that in INTERLOCK_API_KEY, register a tool: "
    "`interlock tools put --help`. INTERLOCK_BASE_URL says where a sidecar is, if not at http://127.0.0.1:8400.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
RUN = "Run it"
OPERATE = "Operate it, over its API"

Config = Annotated[Path | None, typer.Option(help="A YAML file; INTERLOCK_… variables win over it.")]


@app.command(rich_help_panel=RUN)
def dev(
    port: Annotated[int | None, typer.Option(help="Where agents call.", show_default="8400")] = None,
    admin_port: Annotated[int | None, typer.Option(help="Metrics and health.", show_default="8401")] = None,
    grpc_port: Annotated[int | None, typer.Option(help="Where agents call gRPC tools.", show_default="8405")] = None,
    data_dir: Annotated[Path, typer.Option(help="What is kept between starts: Redis's data, keys.")] = (
        Path(".interlock")
    ),
    config: Config = None,
) -> None:
    """Run everything in one go: an own Redis (unless INTERLOCK_REDIS_URL names one), an engine and a sidecar.

    INTERLOCK_BOOTSTRAP_KEY sets the admin key that is printed; without it, one is made and kept in the data folder.
    """
    from interlock.cli.dev import run

    run(port, admin_port, grpc_port, data_dir, config)


@app.command(rich_help_panel=RUN)
def sidecar(config: Config = None) -> None:
    """Run a sidecar: it asks the engine at sidecar.engine.target."""
    from interlock.cli.sidecar import run

    run(config)


@app.command(rich_help_panel=RUN)
def engine(config: Config = None) -> None:
    """Run a governance engine: it judges for any number of sidecars, and any number of it may share a Redis."""
    from interlock.cli.engine import run

    run(config)


@app.command(rich_help_panel=RUN)
def exporter(config: Config = None) -> None:
    """Run an exporter of the audit trail. Several may run: one works, and the next takes over when it dies."""
    from interlock.cli.exporting import run

    run(config)


@app.command(rich_help_panel=RUN)
def injector(config: Config = None) -> None:
    """Run the webhook that puts sidecars into labelled pods of a Kubernetes cluster."""
    from interlock.cli.injecting import run

    run(config)


@app.command(rich_help_panel=RUN)
def check_config(
    config: Config = None,
    role: Annotated[Role | None, typer.Option(help="Also ask whether this role could start with it, here.")] = None,
    manifest: Annotated[
        list[Path] | None, typer.Option(help="Also a file of tools and policies, or a folder of them; repeatable.")
    ] = None,
    references: Annotated[
        bool, typer.Option("--references/--no-references", help="Ask where env: and file: lead, here.")
    ] = True,
    show_schema: Annotated[bool, typer.Option("--schema", help="Print the JSON schema of the file and exit.")] = False,
) -> None:
    """Say whether the configuration holds. Exit codes: 0 it does, 1 it does not, 2 it cannot be read."""
    from interlock.cli.check_config import check, print_schema

    if show_schema:
        print_schema()
    else:
        check(config, role, manifest or (), resolve=references)


@app.command(rich_help_panel=RUN)
def master_key() -> None:
    """Print a new master key: a line for the file that engine.master_key_file names. It is kept nowhere else."""
    from interlock.cli.master_key import print_new_key

    print_new_key()


@app.command(rich_help_panel=RUN)
def openapi() -> None:
    """Print the OpenAPI document of the REST API, as a sidecar serves it at /openapi.json."""
    from interlock.cli.openapi import print_document

    print_document()


@app.command(rich_help_panel=OPERATE)
@in_namespace
def top(
    sort: Annotated[Sort, typer.Option(help="By what agents are sorted, the greatest first.")] = Sort.RATE,
    limit: Annotated[int | None, typer.Option("--limit", "-n", min=1, help="At most so many agents.")] = None,
    interval: Annotated[float, typer.Option("--interval", "-i", min=0.2, help="Seconds between two looks.")] = 2.0,
    once: Annotated[bool, typer.Option("--once", help="Print one table and exit.")] = False,
    as_json: AsJson = False,
) -> None:
    """Watch the agents: rate, spend against budget, what is refused, open or of unknown outcome; until Ctrl-C.

    `?` counts calls of which nobody knows whether they happened: `interlock calls list --state unknown` names them.
    Not on a terminal, it prints a table every interval.
    """
    from interlock.cli.top import View, run

    run(View(sort, limit), interval, once=once, as_json=as_json)


app.command(rich_help_panel=OPERATE, epilog=apply.EXIT_CODES)(in_namespace(apply.apply))

for group in (agents, tools, policies, keys, switch, calls, runs, audit, alerts, namespaces):
    app.add_typer(group.app, name=group.__name__.rpartition(".")[2], rich_help_panel=OPERATE)

teach(app)


def _show_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        typer.echo(f"interlock {version('interlock')}")
        raise typer.Exit


@app.callback()
def _options(
    _: Annotated[bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show it and exit.")] = (
        False
    ),
) -> None:
    pass


def main() -> None:
    """The entry point of the installed command."""
    app(prog_name="interlock")


if __name__ == "__main__":
    main()
