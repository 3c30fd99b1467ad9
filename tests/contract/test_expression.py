"""Expressions: right on whole columns, and nothing but arithmetic gets in."""

import numpy as np
import pytest
from offrl_contract import InputError
from offrl_contract.expression import parse

TERMS = {
    "scan": np.array([[3.0, 1.0, 2.0], [0.1, 5.0, 5.0], [np.nan, 1.0, 1.0]]),
    "speed": np.array([[1.0], [-2.0], [0.5]]),
    "pair": np.zeros((3, 2)),
}
NAMES = frozenset(TERMS)


def value(text: str) -> np.ndarray:
    return parse(text, NAMES, "reward")(TERMS)


def test_reductions_run_over_the_parts_of_a_term() -> None:
    np.testing.assert_array_equal(value("min(scan)")[:2], [1.0, 0.1])
    np.testing.assert_array_equal(value("sum(scan) + speed")[:2], [7.0, 8.1])


def test_comparisons_count_as_numbers_and_chain() -> None:
    np.testing.assert_array_equal(value("2 - 3 * (min(scan) < 0.2)")[:2], [2.0, -1.0])
    np.testing.assert_array_equal(value("-(speed > 0)"), [-1.0, 0.0, -1.0])
    np.testing.assert_array_equal(value("0 < speed <= 1"), [True, False, True])
    np.testing.assert_array_equal(value("not (speed > 0 and speed < 1)"), [True, True, False])
    np.testing.assert_array_equal(value("1 if speed > 0 else -1"), [1, -1, 1])


def test_constant_is_broadcast_to_all_ticks() -> None:
    assert value("0").shape == (3,)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1 / 0", np.inf),
        ("1 % 0", np.nan),
        ("0 ** -1", np.inf),
        ("9 ** 9 ** 9", np.inf),
        ("10 ** 400", np.inf),
        ("sqrt(10 ** 30)", 1e15),
        ("norm(3)", 3.0),
        ("mean(True)", 1.0),
        ("exp(1 > 0)", np.e),
    ],
)
def test_constants_are_numbers_in_double_precision(text: str, expected: float) -> None:
    np.testing.assert_array_equal(value(text), [expected] * 3)


def test_nan_is_kept_for_the_caller_to_refuse() -> None:
    assert np.isnan(value("max(scan)")[2])


def test_square_case_does_not_mix_axes() -> None:
    """As many ticks as parts: (T, d) with T == d must not broadcast the wrong way."""
    np.testing.assert_array_equal(
        value("max(scan) - min(scan) + speed")[:2], [3.0 - 1.0 + 1.0, 5.0 - 0.1 - 2.0]
    )


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("sped", "unknown name 'sped'. Did you mean 'speed'?"),
        ("__import__('os')", "unknown function '__import__'"),
        ("speed.__class__", "'speed.__class__' is not allowed"),
        ("[x for x in speed]", "is not allowed"),
        ("(lambda: 1)()", "is not allowed"),
        ("'text'", "is not allowed"),
        ("speed if", "is not an expression"),
        ("speed @ speed", "is not allowed"),
        ("clip(speed)", "'clip' takes 3 arguments"),
        ("min(speed, axis=0)", "is not allowed"),
        ("norm(scan - min(scan, where(speed > 0, scan, pair)))", "combines terms of other lengths"),
        ("+".join(["1"] * 3000), "is nested too deep"),
        ("1" + "0" * 400, "a number is larger than 1.8e+308"),
    ],
)
def test_anything_else_is_refused(text: str, sentence: str) -> None:
    with pytest.raises(InputError) as error:
        value(text)
    assert sentence in str(error.value)
    assert str(error.value).startswith("reward: ")


def test_a_vector_left_over_is_refused() -> None:
    with pytest.raises(InputError, match="gives 3 numbers per tick"):
        value("scan * 2")
