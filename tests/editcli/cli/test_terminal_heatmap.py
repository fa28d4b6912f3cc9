"""Scores of heads as lines of text."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from editcli.cli.terminal_heatmap import SHADES, terminal_map


def heads(scores: list[list[float]]) -> list[dict[str, Any]]:
    """Records of heads from scores by layer, in no particular order."""
    records = [
        {"layer": layer, "head": head, "memory": score, "context": -score}
        for layer, row in enumerate(scores)
        for head, score in enumerate(row)
    ]
    return records[::-1]


def cells(line: str) -> str:
    return line.split("|")[1]


def test_a_line_for_each_layer_the_last_first_and_two_characters_a_head() -> None:
    assert terminal_map(heads([[0.0, 1.0, -3.0], [0.5, 0.0, 0.1]]), "memory") == [
        "layer  1 |++  ..|",
        "layer  0 |  @@  |",
    ]


def test_the_score_that_is_named_is_shown() -> None:
    assert terminal_map(heads([[0.0, 1.0, -3.0]]), "context") == ["layer  0 |    @@|"]


def test_without_a_score_above_zero_nothing_is_shaded() -> None:
    for scores in ([[0.0, 0.0]], [[-1.0, -2.0]]):
        assert terminal_map(heads(scores), "memory") == ["layer  0 |    |"]


def test_a_head_without_a_record_is_blank() -> None:
    assert terminal_map([{"layer": 1, "head": 2, "memory": 1.0}], "memory") == [
        "layer  1 |    @@|",
        "layer  0 |      |",
    ]


@pytest.mark.parametrize("width", [1, 8, 34, 35, 36, 64])
def test_two_characters_a_head_where_eighty_columns_allow_it(width: int) -> None:
    [line] = terminal_map(heads([[1.0] * width]), "memory")
    assert cells(line) == "@" * (2 * width if len("layer  0 ||") + 2 * width <= 80 else width)
    assert len(line) <= 80


def test_rows_are_of_one_length_with_many_layers() -> None:
    lines = terminal_map(heads([[1.0, 0.5]] * 48), "memory")
    assert len(lines) == 48
    assert {len(line) for line in lines} == {len("layer 47 |@@++|")}
    assert [int(line[6:8]) for line in lines] == list(range(47, -1, -1))


@given(st.lists(st.floats(-10, 10, allow_subnormal=False), min_size=1, max_size=30))
def test_a_larger_score_is_never_lighter(scores: list[float]) -> None:
    [line] = terminal_map(heads([scores]), "memory")
    shades = [SHADES.index(char) for char in cells(line)[::2]]
    for one, shade in zip(scores, shades, strict=True):
        assert (shade > 0) == (one > 0)
        assert all(
            shade <= other for score, other in zip(scores, shades, strict=True) if score > one
        )
    if max(scores) > 0:
        assert max(shades) == len(SHADES) - 1
