"""Decimal text is converted to whole units and back."""

from __future__ import annotations

import contextlib
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from statemachine.decimals import DecimalError, DecimalFault, to_text, to_units
from statemachine.limits import AMOUNT_MAX, SCALE_MAX


@pytest.mark.parametrize(
    ("text", "scale", "units"),
    [
        ("0", 0, 0),
        ("7", 0, 7),
        ("7", 2, 700),
        ("1.5", 8, 150_000_000),
        ("0.01", 2, 1),
        ("585.33", 2, 58_533),
        ("1.500", 1, 15),
        ("3.000", 0, 3),
        ("0007.10", 2, 710),
    ],
)
def test_plain_decimals_are_exact(text: str, scale: int, units: int) -> None:
    assert to_units(text, scale, "size") == units


@pytest.mark.parametrize(
    "text",
    ["", " 1", "1 ", "1e3", "1E3", "+1", ".5", "5.", "1.2.3", "NaN", "inf", "1_000", "1,5", "0x10", "٣", "--1", "1\n", "9" * 65],
)
def test_other_texts_are_not_plain_decimals(text: str) -> None:
    with pytest.raises(DecimalError) as caught:
        to_units(text, 2, "price")
    assert caught.value.fault is DecimalFault.NOT_PLAIN
    assert caught.value.field == "price"
    assert str(caught.value).startswith("price: expected a plain decimal")


def test_each_fault_of_a_decimal_has_its_own_text() -> None:
    cases = {"-1": DecimalFault.NEGATIVE, "0.001": DecimalFault.TOO_PRECISE, str(AMOUNT_MAX): DecimalFault.TOO_LARGE}
    for text, fault in cases.items():
        with pytest.raises(DecimalError, match=r"^funds: expected ") as caught:
            to_units(text, 2, "funds")
        assert caught.value.fault is fault


def test_a_long_text_is_cut_in_the_message() -> None:
    with pytest.raises(DecimalError) as caught:
        to_units("1" * 10_000, 2, "price")
    assert len(str(caught.value)) < 200


def test_the_largest_amount_is_an_amount() -> None:
    assert to_units(str(AMOUNT_MAX), 0, "amount") == AMOUNT_MAX


@pytest.mark.parametrize(
    ("units", "scale", "text"),
    [(0, 8, "0"), (1, 8, "0.00000001"), (150_000_000, 8, "1.5"), (7, 0, "7"), (100, 2, "1"), (-5, 2, "-0.05")],
)
def test_units_are_written_as_the_shortest_plain_decimal(units: int, scale: int, text: str) -> None:
    assert to_text(units, scale) == text


@given(st.integers(0, AMOUNT_MAX), st.integers(0, SCALE_MAX))
def test_text_and_units_are_inverse(units: int, scale: int) -> None:
    text = to_text(units, scale)
    assert to_units(text, scale, "amount") == units
    assert Decimal(text).scaleb(scale) == units


@given(st.text(max_size=80), st.integers(0, SCALE_MAX))
def test_any_text_is_an_exact_number_or_refused(text: str, scale: int) -> None:
    with contextlib.suppress(DecimalError):
        units = to_units(text, scale, "amount")
        assert Decimal(text).scaleb(scale) == units
