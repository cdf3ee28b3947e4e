"""Money at the edge: JSON numbers of US dollars outside, integer micro-USD inside."""

from decimal import ROUND_CEILING, Decimal, InvalidOperation

MICROS = 1_000_000
_ONE_MICRO = Decimal("0.000001")
MOST_WHOLE = 2**63


def exact(literal: str) -> Decimal:
    """The number that a JSON literal writes: 0.1 is one tenth, not the nearest double to it. Raises ValueError."""
    try:
        return Decimal(literal)
    except InvalidOperation as error:  # an exponent of twenty digits
        raise ValueError(f"{literal} is no number to count with") from error


def exact_or_whole(literal: str) -> Decimal | int:
    """The same; 60.0 is the integer 60, as JSON Schema has it (2020-12, 4.2.1), if it fits into 64 bits."""
    value = exact(literal)
    return int(value) if abs(value) < MOST_WHOLE and value == int(value) else value


def micros_of(usd: Decimal) -> int:
    """Micro-USD, rounded up: a price below a millionth of a dollar is not free. `usd` is below 10^20."""
    return int(usd.quantize(_ONE_MICRO, rounding=ROUND_CEILING) * MICROS)


def usd_of(micros: int) -> float:
    """US dollars for a JSON answer: the double nearest to the true quotient, which prints as the amount itself."""
    return micros / MICROS
