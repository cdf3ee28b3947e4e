"""Examples for the help of every command: what a person types who wants just that. A test runs them."""

from collections.abc import Iterator, Mapping

import typer

from interlock.cli.client import EXIT_CODES

Path = tuple[str, ...]

EXAMPLES: Mapping[Path, tuple[str, ...]] = {
    ("dev",): ("interlock dev", "interlock dev --port 9400 --admin-port 9401 --data-dir ./other"),
    ("sidecar",): ("interlock sidecar --config interlock.yaml",),
    ("engine",): ("interlock engine --config interlock.yaml",),
    ("exporter",): ("interlock exporter --config interlock.yaml",),
    ("injector",): ("interlock injector --config interlock.yaml",),
    ("check-config",): (
        "interlock check-config --config interlock.yaml",
        "interlock check-config --config interlock.yaml --role engine",
        "interlock check-config --schema",
    ),
    ("master-key",): ("interlock master-key",),
    ("openapi",): ("interlock openapi",),
    ("top",): ("interlock top --sort spend", "interlock top --once --limit 10", "interlock top --json"),
    ("apply",): (
        "interlock apply -f tools.yaml --dry-run",
        "interlock apply -f tools.yaml",
        "interlock apply --schema",
    ),
    ("agents",): ("interlock agents list", "interlock agents disable shopper --reason 'buys too much'"),
    ("agents", "list"): ("interlock agents list", "interlock agents list --limit 1000 --json"),
    ("agents", "show"): ("interlock agents show shopper",),
    ("agents", "disable"): ("interlock agents disable shopper --reason 'buys too much'",),
    ("agents", "enable"): ("interlock agents enable shopper --reason 'was a test'",),
    ("agents", "logs"): ("interlock agents logs shopper --limit 20",),
    ("agents", "metrics"): ("interlock agents metrics shopper --period week",),
    ("tools",): ("interlock tools put payments.charge --url https://pay.example/charge", "interlock tools list"),
    ("tools", "list"): ("interlock tools list", "interlock tools list --scope agent:shopper --json"),
    ("tools", "show"): ("interlock tools show payments.charge",),
    ("tools", "put"): (
        "interlock tools put charge --url https://pay.example/ --on-ambiguous hold",
        "interlock tools put -f tool.yaml",
    ),
    ("tools", "delete"): ("interlock tools delete payments.charge",),
    ("tools", "enable"): ("interlock tools enable payments.charge",),
    ("tools", "disable"): ("interlock tools disable payments.charge",),
    ("runs",): ("interlock runs list", "interlock runs cancel order-17 --reason 'order withdrawn'"),
    ("runs", "list"): ("interlock runs list --prefix order-",),
    ("runs", "show"): ("interlock runs show order-17",),
    ("runs", "cancel"): ("interlock runs cancel order-17 --agent shopper --reason 'order withdrawn'",),
    ("policies",): ("interlock policies put shopper --max-spend-usd-per-day 50", "interlock policies list"),
    ("policies", "list"): ("interlock policies list",),
    ("policies", "show"): ("interlock policies show shopper",),
    ("policies", "delete"): ("interlock policies delete shopper",),
    ("policies", "put"): (
        "interlock policies put shopper --allow 'pay*' --max-spend-usd-per-day 50",
        "interlock policies put shopper --price 'pay*=0.25' --max-calls 'pay*=100'",
        "interlock policies put shopper -f policy.yaml",
    ),
    ("policies", "from-template"): (
        "interlock policies from-template reporter read_only",
        "interlock policies from-template helper support_bot --allow '*ticket*'",
    ),
    ("keys",): ("interlock keys create --role agent --agent shopper", "interlock keys list"),
    ("keys", "create"): (
        "interlock keys create --role agent --agent shopper --json",
        "interlock keys create --role viewer --label 'the dashboard'",
    ),
    ("keys", "list"): ("interlock keys list",),
    ("keys", "revoke"): ("interlock keys revoke key_1B9ZfmMTeJuFoEF12sVhzv",),
    ("switch",): ("interlock switch on --scope namespace --reason 'incident 12'", "interlock switch status"),
    ("switch", "on"): ("interlock switch on --scope namespace --reason 'incident 12'",),
    ("switch", "off"): ("interlock switch off --scope namespace --reason 'all clear'",),
    ("switch", "status"): ("interlock switch status",),
    ("calls",): ("interlock calls follow --verdict BLOCKED", "interlock calls list --state unknown"),
    ("calls", "list"): ("interlock calls list --state unknown", "interlock calls list --agent shopper --json"),
    ("calls", "show"): ("interlock calls show call_4VNqQ7BVc7z8FBwCEZALao",),
    ("calls", "resolve"): (
        "interlock calls resolve call_4VNqQ7BVc7z8FBwCEZALao --succeeded --note ch_17",
        "interlock calls resolve call_4VNqQ7BVc7z8FBwCEZALao --not-sent",
    ),
    ("calls", "follow"): (
        "interlock calls follow",
        "interlock calls follow --agent shopper --tool 'payments.*' --verdict BLOCKED",
    ),
    ("alerts",): ("interlock alerts webhook https://ops.example/hook", "interlock alerts dead"),
    ("alerts", "list"): ("interlock alerts list --limit 20",),
    ("alerts", "dead"): ("interlock alerts dead --json",),
    ("alerts", "redeliver"): ("interlock alerts redeliver --all",),
    ("alerts", "webhook"): (
        "interlock alerts webhook",
        "interlock alerts webhook https://ops.example/hook --mail-to ops@example.com",
        "interlock alerts webhook --remove",
    ),
    ("audit",): ("interlock audit tail --follow", "interlock audit show --agent shopper"),
    ("audit", "show"): ("interlock audit show --agent shopper --after 100 --limit 1000 --json",),
    ("audit", "changes"): ("interlock audit changes --namespace team-a", "interlock audit changes --global --json"),
    ("audit", "tail"): ("interlock audit tail -n 20", "interlock audit tail --agent shopper --follow --json"),
    ("audit", "export"): (
        "interlock audit export --agent shopper",
        "interlock audit export --agent shopper --after 100",
    ),
    ("audit", "verify"): (
        "interlock audit verify shopper.jsonl",
        "interlock audit verify exported/ --public-key audit.pub",
    ),
    ("audit", "new-key"): ("interlock audit new-key",),
    ("audit", "public-key"): ("interlock audit public-key audit.key",),
    ("namespaces",): ("interlock namespaces put team-a --default-policy deny", "interlock namespaces list"),
    ("namespaces", "list"): ("interlock namespaces list --with-deleted",),
    ("namespaces", "show"): ("interlock namespaces show team-a",),
    ("namespaces", "put"): ("interlock namespaces put team-a --plan unlimited --default-policy deny",),
    ("namespaces", "delete"): ("interlock namespaces delete team-a --force",),
    ("namespaces", "plans"): ("interlock namespaces plans",),
}


def teach(app: typer.Typer) -> None:
    """Puts the examples below the help of every command, and the exit codes below that of every group."""
    for of, path in _commands(app):
        of.epilog = _epilog(path, of.epilog or (EXIT_CODES if len(path) == 2 else ""))
    for group in app.registered_groups:
        if group.typer_instance is not None:
            group.typer_instance.info.epilog = _epilog((str(group.name),), EXIT_CODES)


def _commands(app: typer.Typer) -> Iterator[tuple[typer.models.CommandInfo, Path]]:
    for command in app.registered_commands:
        yield command, (name_of(command),)
    for group in app.registered_groups:
        for command in group.typer_instance.registered_commands if group.typer_instance else ():
            yield command, (str(group.name), name_of(command))


def name_of(command: typer.models.CommandInfo) -> str:
    """By what a command is called."""
    return command.name or str(getattr(command.callback, "__name__", "")).replace("_", "-")


def _epilog(path: Path, codes: str) -> str:
    """Paragraphs: within one, line breaks are not kept."""
    examples = [f"$ {example}" for example in EXAMPLES.get(path, ())]
    return "\n\n".join(part for part in ("Examples:" if examples else "", *examples, codes) if part)
