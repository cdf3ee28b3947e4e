"""Attacks on exported files, and what their verification says of each."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import rfc8785
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from interlock.audit import lines as reading
from interlock.audit.chain import seal
from interlock.audit.heads import PublicKey, SigningKey
from interlock.audit.lines import UnreadableError, files_of
from interlock.audit.verification import Kind, Problem, Report, verify
from tests.unit.audit.trails import KEY, chain, event, head, lines, written

PUBLIC = KEY.public
Lines = list[bytes]


def trail(count: int = 8) -> Lines:
    """An agent's events, and a head at their end."""
    sealed = chain(count)
    return [*(one.line for one in sealed), head(sealed[-1])]


def checked(folder: Path, *files: Lines, keys: tuple[PublicKey, ...] = (PUBLIC,)) -> Report:
    return verify(written(folder, *files), keys)


def problem(folder: Path, *files: Lines) -> Problem:
    found = checked(folder, *files).problem
    assert found is not None
    return found


def proved(report: Report) -> list[tuple[str, int, int, int]]:
    assert report.problem is None, report.problem
    return [(proof.agent.agent_id, proof.first, proof.last, proof.signed_to) for proof in report.proofs]


def changed(line: bytes, **attributes: object) -> bytes:
    return rfc8785.dumps({**json.loads(line), **attributes})


def rehashed(line: bytes, **attributes: object) -> bytes:
    """A change by somebody who knows how hashes are made."""
    value = {**json.loads(line), **attributes}
    del value["hash"]
    digest = reading.hash_of(rfc8785.dumps({**value, "hash": "0" * 64}))
    return rfc8785.dumps({**value, "hash": digest})


def respelled(head: bytes) -> bytes:
    """The same signature, with one of the bits set that base64 leaves over."""
    signature = json.loads(head)["signature"]
    *_, last = signature.removesuffix("==")
    return changed(head, signature=f"{signature[:-3]}{chr(ord(last) + 1)}==")


# What is as it was.


def test_what_was_exported_is_proved_over_several_files(tmp_path: Path) -> None:
    whole = trail()
    report = checked(tmp_path, whole[:3], whole[3:])
    assert proved(report) == [("bot-1", 1, 8, 8)]
    assert (report.proofs[0].from_the_start, report.events, report.repeats) == (True, 8, 0)


def test_agents_may_come_in_any_order_to_one_another(tmp_path: Path) -> None:
    mixed = [line for pair in zip(lines(4, "a"), lines(4, "b"), strict=True) for line in pair]
    mixed[2], mixed[3] = mixed[3], mixed[2]
    assert proved(checked(tmp_path, mixed)) == [("a", 1, 4, 0), ("b", 1, 4, 0)]


@pytest.mark.parametrize(
    "repeated",
    [
        lambda whole: [*whole, *whole],
        lambda whole: [*whole[:5], *whole[2:]],
        lambda whole: [*whole[:5], *whole[2:4], *whole[3:]],
        lambda whole: [*whole[:5], *whole[:2], *whole[1:3], *whole[5:]],
        lambda whole: [line for line in whole for _ in range(3)],
        lambda whole: [*whole, whole[3]],
    ],
    ids=["all", "a run", "a run that broke off", "two that broke off", "each three times", "an older one alone"],
)
def test_identical_repeats_are_accepted(tmp_path: Path, repeated: Callable[[Lines], Lines]) -> None:
    report = checked(tmp_path, repeated(trail()))
    assert proved(report) == [("bot-1", 1, 8, 8)]
    assert report.repeats > 0


def test_a_chain_that_begins_later_says_so(tmp_path: Path) -> None:
    report = checked(tmp_path, trail()[3:])
    assert proved(report) == [("bot-1", 4, 8, 8)]
    assert not report.proofs[0].from_the_start


def test_a_head_may_come_long_after_its_event_and_before_the_next_file(tmp_path: Path) -> None:
    sealed = chain(8)
    events = [one.line for one in sealed]
    assert proved(checked(tmp_path, [*events[:6], head(sealed[2]), *events[6:]])) == [("bot-1", 1, 8, 3)]
    assert proved(checked(tmp_path, [head(sealed[2]), *events[3:]])) == [("bot-1", 4, 8, 3)]


def test_without_a_public_key_it_says_that_nothing_was_verified_by_it(tmp_path: Path) -> None:
    report = checked(tmp_path, trail(), keys=())
    assert proved(report) == [("bot-1", 1, 8, 0)]
    assert "no public key" in report.notes[0]


def test_after_a_rotation_of_keys_both_are_needed(tmp_path: Path) -> None:
    other = SigningKey(Ed25519PrivateKey.generate())
    sealed = chain(4)
    whole = [sealed[0].line, head(sealed[0]), *(one.line for one in sealed[1:]), head(sealed[-1], key=other)]
    assert proved(checked(tmp_path, whole, keys=(PUBLIC, other.public))) == [("bot-1", 1, 4, 4)]
    found = checked(tmp_path, whole).problem
    assert found is not None
    assert (found.kind, found.seq) == (Kind.FORGED, 4)


def test_a_line_that_a_crash_tore_off_counts_for_nothing(tmp_path: Path) -> None:
    whole = trail()
    first, second = written(tmp_path, whole[:3], whole[2:])
    first.write_bytes(first.read_bytes()[:-40])
    report = verify([first, second], [PUBLIC])
    assert proved(report) == [("bot-1", 1, 8, 8)]
    assert report.notes == (f"{first}:3: a line is torn off; it counts for nothing",)


def test_files_may_be_compressed_and_folders_named(tmp_path: Path) -> None:
    whole = trail()
    first, _ = written(tmp_path, whole[:3], whole[3:])
    first.with_suffix(".jsonl.gz").write_bytes(gzip.compress(first.read_bytes()))
    first.unlink()
    (tmp_path / ".lock").touch()
    assert proved(verify(files_of([tmp_path]), [PUBLIC])) == [("bot-1", 1, 8, 8)]


def test_files_of_exporters_that_took_turns_are_put_together_by_their_names(tmp_path: Path) -> None:
    whole = trail()
    here, there = tmp_path / "here", tmp_path / "there"
    for folder, name, content in (
        (here, "audit-20260101T000000000Z.jsonl", whole[:3]),
        (there, "audit-20260101T000001000Z.jsonl", whole[2:5]),
        (here, "audit-20260101T000002000Z.jsonl", whole[5:]),
    ):
        folder.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"".join(line + b"\n" for line in content))
    assert proved(verify(files_of([there, here]), [PUBLIC])) == [("bot-1", 1, 8, 8)]


# What is not.


ATTACKS: dict[str, tuple[Callable[[Lines], Lines], Kind, int, int]] = {
    "a word changed": (lambda w: [*w[:4], w[4].replace(b"EXECUTE", b"BLOCKED"), *w[5:]], Kind.ALTERED, 5, 5),
    "a byte changed": (lambda w: [*w[:4], w[4].replace(b"call_5", b"call_6"), *w[5:]], Kind.ALTERED, 5, 5),
    "a field added": (lambda w: [*w[:4], changed(w[4], extra="1"), *w[5:]], Kind.ALTERED, 5, 5),
    "changed and hashed anew": (lambda w: [*w[:4], rehashed(w[4], time="x"), *w[5:]], Kind.ALTERED, 6, 6),
    "the last one hashed anew": (lambda w: [*w[:7], rehashed(w[7], time="x"), w[8]], Kind.ALTERED, 9, 8),
    "the first one hashed anew": (lambda w: [rehashed(w[0], time="x"), *w[1:]], Kind.ALTERED, 2, 2),
    "removed": (lambda w: [*w[:4], *w[5:]], Kind.MISSING, 5, 5),
    "three removed": (lambda w: [*w[:4], *w[7:]], Kind.MISSING, 5, 5),
    "the last removed, its head left": (lambda w: [*w[:7], w[8]], Kind.MISSING, 8, 8),
    "swapped": (lambda w: [*w[:4], w[5], w[4], *w[6:]], Kind.REORDERED, 6, 5),
    "moved to the end": (lambda w: [*w[:2], *w[3:], w[2]], Kind.REORDERED, 9, 3),
    "the first moved to the end": (lambda w: [*w[1:], w[0]], Kind.REORDERED, 9, 1),
    "the latter half first": (lambda w: [*w[4:], *w[:4]], Kind.REORDERED, 6, 1),
    "inserted": (lambda w: [*w[:4], seal("acme", event(5), "1" * 64).line, *w[4:]], Kind.ALTERED, 5, 5),
    "a repeat that differs": (lambda w: [*w, rehashed(w[3], time="x")], Kind.ALTERED, 10, 4),
    "a repeated end that differs": (lambda w: [*w, w[6], rehashed(w[7], time="x")], Kind.ALTERED, 11, 8),
    "a space": (lambda w: [*w[:4], w[4].replace(b'":', b'": ', 1), *w[5:]], Kind.ALTERED, 5, 5),
    "a duplicate name": (
        lambda w: [*w[:4], w[4].replace(b'"verdict":', b'"verdict":"X","verdict":', 1), *w[5:]],
        *(Kind.ALTERED, 5, 5),
    ),
    "an escape": (lambda w: [*w[:4], w[4].replace(b"charge", b"\\u0063harge", 1), *w[5:]], Kind.ALTERED, 5, 5),
    "names in another order": (
        lambda w: [
            *w[:4],
            json.dumps(dict(reversed(json.loads(w[4]).items())), separators=(",", ":")).encode(),
            *w[5:],
        ],
        *(Kind.ALTERED, 5, 5),
    ),
    "another agent's name": (lambda w: [*w[:4], changed(w[4], subject="bot-2"), *w[5:]], Kind.ALTERED, 5, 5),
    "a head's hash": (lambda w: [*w[:8], changed(w[8], hash="1" * 64)], Kind.FORGED, 9, 8),
    "a head's seq": (
        lambda w: [*w[:8], changed(w[8], sequence="0000000000000007", id="acme/bot-1/7/head")],
        *(Kind.FORGED, 9, 7),
    ),
    "half a character": (lambda w: [*w[:4], w[4].replace(b"charge", b"\\ud800"), *w[5:]], Kind.ALTERED, 5, 5),
    "bits of a signature that say nothing": (lambda w: [*w[:8], respelled(w[8])], Kind.FORGED, 9, 8),
    "a head's time": (lambda w: [*w[:8], changed(w[8], time="2020-01-01T00:00:00.000Z")], Kind.FORGED, 9, 8),
}


@pytest.mark.parametrize(("attack", "kind", "line", "seq"), ATTACKS.values(), ids=ATTACKS.keys())
def test_what_was_done_to_a_file_is_named_with_its_line_and_seq(
    tmp_path: Path, attack: Callable[[Lines], Lines], kind: Kind, line: int, seq: int
) -> None:
    found = problem(tmp_path, attack(trail()))
    assert (found.kind, found.place.line, found.seq) == (kind, line, seq), found
    assert str(found.agent) == "acme/bot-1"


def test_a_problem_in_a_later_file_names_that_file(tmp_path: Path) -> None:
    whole = trail()
    found = problem(tmp_path, whole[:4], [*whole[5:]])
    assert (found.place.file, found.place.line) == (str(tmp_path / "audit-1.jsonl"), 1)


def test_a_chain_made_anew_from_some_line_on_is_found_by_its_heads_alone(tmp_path: Path) -> None:
    """Who can write the files can compute hashes, but not sign."""
    forged = lines(4)
    previous = json.loads(forged[-1])["hash"]
    for seq in range(5, 9):
        sealed = seal("acme", event(seq, verdict="BLOCKED"), previous)
        forged.append(sealed.line)
        previous = sealed.point.hash
    assert checked(tmp_path, forged, keys=()).problem is None
    mallory = SigningKey(Ed25519PrivateKey.generate())
    signed_by_another = [*forged, head(sealed, key=mallory)]
    found = problem(tmp_path, signed_by_another)
    assert (found.kind, found.seq) == (Kind.FORGED, 8)
    found = problem(tmp_path, [*forged, trail()[-1]])
    assert (found.kind, found.seq) == (Kind.ALTERED, 8)


def test_a_chain_made_anew_behind_a_head_that_is_left_is_found(tmp_path: Path) -> None:
    true, anew = chain(3), chain(5, first=4, previous="1" * 64)
    found = problem(tmp_path, [one.line for one in anew], [head(true[-1])])
    assert (found.kind, found.seq, found.place.line) == (Kind.ALTERED, 3, 1)


def test_an_end_that_is_cut_off_is_proved_no_further_than_its_last_head(tmp_path: Path) -> None:
    sealed = chain(8)
    whole = [*(one.line for one in sealed[:4]), head(sealed[3]), *(one.line for one in sealed[4:])]
    assert proved(checked(tmp_path, whole[:-2])) == [("bot-1", 1, 6, 4)]


def test_lines_of_two_agents_exchanged_are_found(tmp_path: Path) -> None:
    a, b = lines(4, "a"), lines(4, "b")
    a[1], b[1] = changed(b[1], subject="a", id="acme/a/2"), changed(a[1], subject="b", id="acme/b/2")
    found = problem(tmp_path, [*a, *b])
    assert (found.kind, str(found.agent), found.seq) == (Kind.ALTERED, "acme/a", 2)


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"nonsense",
        b"\xff\xfe\x00",
        b"[]",
        b"null",
        b'"text"',
        b"{}",
        b'{"source":7,"subject":{},"sequence":[]}',
        b'{"hash":"x","sequence":"0000000000000001","source":"/interlock/a","subject":"b"}',
        b"[" * 100_000,
        b'{"a":' * 50_000,
        b"9" * 100_000,
        b'{"sequence":"' + "٣".encode() * 16 + b'","source":"/interlock/a","subject":"b","hash":"' + b"0" * 64 + b'"}',
        b"NaN",
    ],
    ids=lambda line: repr(line[:24]),
)
def test_a_line_that_is_no_event_at_all_is_named_by_its_place(tmp_path: Path, line: bytes) -> None:
    whole = trail()
    found = problem(tmp_path, [*whole[:2], line, *whole[2:]])
    assert (found.kind, found.place.line) == (Kind.ALTERED, 3)


def test_a_line_longer_than_any_event_is_not_read_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("interlock.audit.lines.MAX_LINE", 2000)
    monkeypatch.setattr("interlock.audit.verification.MAX_LINE", 2000)
    found = problem(tmp_path, [*trail()[:2], b"{" + b" " * 10_000])
    assert (found.kind, found.place.line, found.why) == (Kind.ALTERED, 3, "it is longer than any event")


def test_a_hostile_name_does_not_move_the_readers_cursor(tmp_path: Path) -> None:
    hostile = "\x1b[2J\x07 bot\u202e"
    found = problem(tmp_path, [seal("acme", event(1, hostile), "0" * 64).line, lines(3, hostile)[2]])
    assert "\x1b" not in str(found)
    assert "\u202e" not in str(found)


def test_an_empty_file_proves_nothing_and_one_that_is_not_there_is_told(tmp_path: Path) -> None:
    assert checked(tmp_path, []).proofs == ()
    with pytest.raises(UnreadableError, match="nowhere"):
        verify([tmp_path / "nowhere"])
    broken = tmp_path / "audit-9.jsonl.gz"
    broken.write_bytes(gzip.compress(b"x" * 1000)[:-9])
    with pytest.raises(UnreadableError, match=str(broken)):
        verify([broken])
    broken.write_bytes(gzip.compress(b"x" * 1000)[:10] + b"\xff" * 40)
    with pytest.raises(UnreadableError, match=str(broken)):
        verify([broken])
