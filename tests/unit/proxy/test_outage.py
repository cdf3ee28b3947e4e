from interlock.proxy.outage import _Quota


def test_no_minute_wherever_it_begins_has_more_calls_than_the_quota() -> None:
    quota = _Quota()
    taken = [at for at in range(0, 300, 7) if quota.takes(float(at), 3)]
    assert len(taken) == 15
    for begins in range(300):
        assert len([at for at in taken if begins <= at < begins + 60]) <= 3


def test_what_is_refused_is_not_counted() -> None:
    quota = _Quota()
    assert [quota.takes(0.0, 1), quota.takes(30.0, 1), quota.takes(59.9, 1), quota.takes(60.0, 1)] == [
        True,
        False,
        False,
        True,
    ]
    assert not quota.is_whole(100.0)
    assert quota.is_whole(120.0)
