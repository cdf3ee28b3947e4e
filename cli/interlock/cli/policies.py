"""`interlock policies`: what each agent may do."""

from collections.abc import Callable, Sequence
from decimal import Decimal, InvalidOperation
from enum import StrEnum
from typing import Annotated, TypeVar

import typer

from interlock.cli.acting import OperatorCommands
from interlock.cli.client import EXIT_CODES, connected
from interlock.cli.completion import agent_names
from interlock.cli.documents import FromFile, document, given
from interlock.cli.output import AsJson, show_fields, show_json, show_one, show_rows

app = OperatorCommands(help="Show and set what agents may do.", epilog=EXIT_CODES, no_args_is_help=True)

COLUMNS = (
    *("agent_id", "allowed_tools", "allow_read_only", "blocked_tools", "max_actions_per_hour"),
    *("max_spend_usd_per_day", "max_calls_per_tool", "pricing_rules", "managed_by"),
)


class Template(StrEnum):
    """Templates of policies, as the API has them."""

    STRICT = "strict"
    MODERATE = "moderate"
    PERMISSIVE = "permissive"
    READ_ONLY = "read_only"
    SUPPORT_BOT = "support_bot"


Agent = Annotated[str, typer.Argument(help="The agent's id.", autocompletion=agent_names)]
Tools = list[str] | None
Number = TypeVar("Number")
Allow = Annotated[Tools, typer.Option(help="A tool (or * glob) that is allowed, and no other; repeatable.")]
Block = Annotated[Tools, typer.Option(help="A tool (or * glob) that is blocked; repeatable.")]
AllowReadOnly = Annotated[
    bool | None, typer.Option("--allow-read-only", help="Allow tools that are declared read_only, too.")
]
ActionsPerHour = Annotated[int | None, typer.Option(help="In any rolling hour.")]
SpendPerDay = Annotated[str | None, typer.Option(help="In the UTC day, as in 12.50.")]
Calls = Annotated[Tools, typer.Option(help="TOOL=N in the UTC day; repeatable.")]
Prices = Annotated[Tools, typer.Option(help="TOOL=USD for one call; repeatable.")]


@app.command("list")
def list_policies(as_json: AsJson = False) -> None:
    """List policies."""
    with connected() as api:
        held = api.get("policies")
    rows = held if as_json else [{**agent, **agent["policy"]} for agent in held]
    show_rows(rows, COLUMNS, as_json=as_json)


@app.command()
def show(agent: Agent, as_json: AsJson = False) -> None:
    """Show an agent's policy."""
    with connected() as api:
        _show(api.get("policies", agent), as_json=as_json)


@app.command()
def put(
    agent: Agent,
    *,
    file: FromFile = None,
    allow: Allow = None,
    allow_read_only: AllowReadOnly = None,
    block: Block = None,
    max_actions_per_hour: ActionsPerHour = None,
    max_spend_usd_per_day: SpendPerDay = None,
    max_calls: Calls = None,
    price: Prices = None,
    as_json: AsJson = False,
) -> None:
    """Create or replace an agent's policy, from a file, from flags, or from a file with flags over it.

    What is left out of both holds no longer. The file may be what `show --json` prints.
    """
    flags = fields_of(allow, allow_read_only, block, max_actions_per_hour, max_spend_usd_per_day, max_calls, price)
    with connected() as api:
        _show(api.post("policies", agent, body={**_policy_in(document(file)), **flags}), as_json=as_json)


@app.command("from-template")
def from_template(
    agent: Agent,
    template: Annotated[Template, typer.Argument(help="What to begin with.")],
    *,
    file: FromFile = None,
    allow: Allow = None,
    allow_read_only: AllowReadOnly = None,
    block: Block = None,
    max_actions_per_hour: ActionsPerHour = None,
    max_spend_usd_per_day: SpendPerDay = None,
    max_calls: Calls = None,
    price: Prices = None,
    as_json: AsJson = False,
) -> None:
    """Create or replace an agent's policy from a template, with what a file or flags have otherwise."""
    flags = fields_of(allow, allow_read_only, block, max_actions_per_hour, max_spend_usd_per_day, max_calls, price)
    body = {"template": template.value, "overrides": {**_policy_in(document(file)), **flags}}
    with connected() as api:
        _show(api.post("policies", agent, "from-template", body=body), as_json=as_json)


@app.command()
def delete(agent: Agent, as_json: AsJson = False) -> None:
    """Delete an agent's policy: the default holds for its very next call."""
    with connected() as api:
        show_one(api.delete("policies", agent), as_json=as_json)


def fields_of(
    allow: Tools,
    allow_read_only: bool | None,
    block: Tools,
    max_actions_per_hour: int | None,
    max_spend_usd_per_day: str | None,
    max_calls: Tools,
    price: Tools,
) -> dict[str, object]:
    """The fields of a policy that flags give."""
    return given(
        allowed_tools=allow,
        allow_read_only=allow_read_only,
        blocked_tools=block,
        max_actions_per_hour=max_actions_per_hour,
        max_spend_usd_per_day=None if max_spend_usd_per_day is None else usd(max_spend_usd_per_day),
        max_calls_per_tool=dict(pairs(max_calls, int)) if max_calls else None,
        pricing_rules=[{"tool": tool, "price_usd": cost} for tool, cost in pairs(price or (), usd)],
    )


def _policy_in(written: dict[str, object]) -> dict[str, object]:
    """The policy's own fields, also of an answer of the API, which holds them under `policy`."""
    policy = written.get("policy")
    return policy if isinstance(policy, dict) else written


def pairs(given: Sequence[str], number: Callable[[str], Number]) -> list[tuple[str, Number]]:
    """`TOOL=NUMBER` as pairs. A tool's name holds no `=`. Raises BadParameter."""
    return [_pair(*written.partition("="), number) for written in given]


def _pair(tool: str, sign: str, written: str, number: Callable[[str], Number]) -> tuple[str, Number]:
    if not (tool and sign):
        raise typer.BadParameter(f"{tool}{sign}{written} is not TOOL=NUMBER")
    try:
        return tool, number(written)
    except ValueError as error:
        raise typer.BadParameter(f"{tool}={written} is not TOOL=NUMBER") from error


def usd(written: str) -> float:
    """US dollars as a JSON number. Raises BadParameter for no amount, or one of more digits than a double keeps."""
    try:
        amount = Decimal(written)
    except InvalidOperation as error:
        raise typer.BadParameter(f"{written} is no amount in US dollars") from error
    if not amount.is_finite() or Decimal(repr(float(amount))) != amount:
        raise typer.BadParameter(f"{written} is no amount in US dollars")
    return float(amount)


def _show(held: dict[str, object], *, as_json: bool) -> None:
    if as_json:
        show_json(held)
        return
    policy = held["policy"]
    show_fields({"agent_id": held["agent_id"], **(policy if isinstance(policy, dict) else {})})
