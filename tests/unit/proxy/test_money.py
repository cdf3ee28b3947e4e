import json
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from interlock.proxy import strict_json
from interlock.proxy.money import exact, micros_of, usd_of

MICROS = st.integers(min_value=0, max_value=10**14)


@given(MICROS)
def test_micro_dollars_survive_the_way_out_and_back(micros: int) -> None:
    written = json.dumps({"usd": usd_of(micros)}).encode()
    read = strict_json.parse(written, parse_float=exact)
    assert isinstance(read, dict)
    assert micros_of(Decimal(read["usd"])) == micros


@given(st.integers(min_value=0, max_value=10**9), st.integers(min_value=0, max_value=10**6 - 1))
def test_an_amount_comes_back_as_it_was_written(dollars: int, micros: int) -> None:
    written = f"{dollars}.{micros:06d}"
    assert Decimal(repr(usd_of(micros_of(exact(written))))) == Decimal(written)


@given(st.decimals(min_value=0, max_value=10**7, allow_nan=False, allow_infinity=False))
def test_rounding_is_up_and_by_less_than_a_micro_dollar(usd: Decimal) -> None:
    assert 0 <= Fraction(micros_of(usd), 10**6) - Fraction(usd) < Fraction(1, 10**6)


def test_the_smallest_price_is_not_free() -> None:
    assert micros_of(exact("1e-300")) == 1


def test_one_tenth_is_one_tenth() -> None:
    assert micros_of(exact("0.1")) == 100_000
    assert json.dumps(usd_of(100_000)) == "0.1"


def test_an_exponent_beyond_reason_is_no_number() -> None:
    with pytest.raises(ValueError, match="no number"):
        exact("1e99999999999999999999")
