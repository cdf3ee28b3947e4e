"""`interlock audit export`, `verify` and the keys: the trail as evidence that stands without us."""

import sys
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import typer

from interlock.audit.chain import seal
from interlock.audit.heads import KeyFileError, PublicKey, SigningKey, new_signing_key
from interlock.audit.lines import UnreadableError, files_of
from interlock.audit.verification import Report, verify
from interlock.cli.client import Client
from interlock.cli.output import show_json, show_table
from interlock.policy.model import Event

PAGE = 500
NOT_PROVED = 1
USAGE = 2
COLUMNS = ("agent", "first", "last", "from_the_start", "signed_to")


def export(api: Client, agent_id: str | None, after_seq: int) -> None:
    """Prints the lines of one agent's trail, or of each agent's in turn, as the exporter would write them."""
    for trail in api.get("audit", "trails", agent_id=agent_id):
        for line in _lines(api, trail, after_seq):
            sys.stdout.buffer.write(line + b"\n")
    sys.stdout.buffer.flush()


def check(named: list[Path], key_files: list[Path], *, as_json: bool) -> None:
    """Says what files prove, or what is wrong with them. Exit codes: 0 proved, 1 not, 2 they cannot be read."""
    try:
        report = verify(files_of(named), [PublicKey.load(file) for file in key_files])
    except (UnreadableError, KeyFileError) as error:
        typer.echo(f"Error: {error.message}", err=True)
        raise typer.Exit(USAGE) from error
    if as_json:
        show_json(_document(report))
    else:
        _show(report)
    if report.problem is not None or not report.proofs:
        raise typer.Exit(NOT_PROVED)


def print_new_key() -> None:
    """Prints a new signing key."""
    typer.echo(new_signing_key(), nl=False)


def print_public_key(file: Path) -> None:
    """Prints what verifies the heads that a signing key signs."""
    try:
        typer.echo(SigningKey.load(file).public.pem(), nl=False)
    except KeyFileError as error:
        typer.echo(f"Error: {error.message}", err=True)
        raise typer.Exit(USAGE) from error


def _lines(api: Client, trail: dict[str, Any], after_seq: int) -> Iterator[bytes]:
    """The chain is made from where the trail begins, whatever is asked for: each link needs the one before it."""
    seq, previous = trail["first_seq"] - 1, trail["hash_before"]
    while page := api.get("audit", agent_id=trail["agent_id"], after_seq=seq, limit=PAGE):
        for told in page:
            sealed = seal(trail["namespace"], _event(told), previous)
            seq, previous = sealed.point.seq, sealed.point.hash
            if seq > after_seq:
                yield sealed.line


def _event(told: dict[str, Any]) -> Event:
    return Event(
        seq=told["seq"],
        at_ms=round(datetime.fromisoformat(told["at"]).timestamp() * 1000),
        type=told["type"],
        agent_id=told["agent_id"],
        tool=told["tool"] or "",
        call_id=told["call_id"] or "",
        verdict=told["verdict"] or "",
        reason=told["reason"] or "",
        charged_micros=round(told["charged_usd"] * 1_000_000),
        facts=told["facts"],
    )


def _rows(report: Report) -> list[dict[str, object]]:
    return [
        {
            "agent": str(proof.agent),
            "first": proof.first,
            "last": proof.last,
            "from_the_start": proof.from_the_start,
            "signed_to": proof.signed_to,
        }
        for proof in report.proofs
    ]


def _document(report: Report) -> dict[str, object]:
    problem = report.problem
    told = None
    if problem is not None:
        told = {
            "kind": problem.kind.value,
            "file": problem.place.file,
            "line": problem.place.line,
            "agent": str(problem.agent) if problem.agent else None,
            "seq": problem.seq,
            "why": problem.why,
        }
    proved = problem is None and bool(report.proofs)
    return {
        "proved": proved,
        "problem": told,
        "agents": _rows(report) if proved else [],
        "events": report.events,
        "repeats": report.repeats,
        "notes": list(report.notes),
    }


def _show(report: Report) -> None:
    for note in report.notes:
        typer.echo(f"note: {note}", err=True)
    if report.problem is not None:
        typer.echo(str(report.problem))
    elif not report.proofs:
        typer.echo("nothing is proved: there is no event in these files")
    else:
        show_table(_rows(report), COLUMNS)
        typer.echo(f"{report.events} events, {report.repeats} of them repeats: complete, in order and unchanged")
