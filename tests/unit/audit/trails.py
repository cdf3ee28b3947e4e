"""Trails as they might be, sealed as an exporter seals them."""

from collections.abc import Sequence
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from interlock.audit.chain import Sealed, seal
from interlock.audit.heads import SigningKey
from interlock.policy.model import GENESIS, Event, Scope

KEY = SigningKey(Ed25519PrivateKey.from_private_bytes(bytes(range(32))))
AT_MS = 1_767_225_600_123


def event(seq: int, agent: str = "bot-1", **changes: object) -> Event:
    fields: dict[str, object] = {
        "seq": seq,
        "at_ms": AT_MS + seq,
        "type": "decision",
        "agent_id": agent,
        "tool": "charge",
        "call_id": f"call_{seq}",
        "verdict": "EXECUTE",
        "reason": "ok",
        "charged_micros": 70_000,
        "facts": {"args_hash": "ab" * 32, "key_id": "key_1"},
    }
    return Event(**(fields | changes))  # type: ignore[arg-type]


def chain(count: int, agent: str = "bot-1", *, first: int = 1, previous: str = GENESIS) -> list[Sealed]:
    sealed: list[Sealed] = []
    for seq in range(first, first + count):
        sealed.append(seal("acme", event(seq, agent), sealed[-1].point.hash if sealed else previous))
    return sealed


def lines(count: int, agent: str = "bot-1", **how: int) -> list[bytes]:
    return [sealed.line for sealed in chain(count, agent, **how)]


def head(sealed: Sealed, agent: str = "bot-1", key: SigningKey = KEY) -> bytes:
    return key.head(Scope("acme", agent), sealed.point, AT_MS + sealed.point.seq)


def written(folder: Path, *files: Sequence[bytes]) -> list[Path]:
    """Files of lines."""
    paths = [folder / f"audit-{number}.jsonl" for number in range(len(files))]
    for path, content in zip(paths, files, strict=True):
        path.write_bytes(b"".join(line + b"\n" for line in content))
    return paths
