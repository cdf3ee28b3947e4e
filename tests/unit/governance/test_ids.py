"""Ids that nobody can guess."""

from interlock.governance.ids import base62, new_id


def test_base62_keeps_leading_zeros() -> None:
    assert base62(bytes(32), 43) == "0" * 43
    assert base62(bytes(31) + b"\x3e", 43) == "0" * 41 + "10"


def test_ids_say_what_they_are_of_and_differ() -> None:
    made = {new_id("call") for _ in range(100)}
    assert len(made) == 100
    assert all(made_id.startswith("call_") and len(made_id) == len("call_") + 22 for made_id in made)
