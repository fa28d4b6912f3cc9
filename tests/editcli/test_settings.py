"""Settings: typed values from text, and what the environment may say."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from editcli.errors import UsageError
from editcli.settings import Setting, env_flag, parse_settings, parse_value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("50", 50),
        ("-3", -3),
        ("0.2", 0.2),
        ("1e-4", 1e-4),
        (".5", 0.5),
        ("true", True),
        ("False", False),
        ("key", "key"),
        ("", ""),
        ("nan", "nan"),
        ("1_000", "1_000"),
        ('"50"', "50"),
        ("1.2.3", "1.2.3"),
    ],
)
def test_a_value_has_the_type_it_looks_like(text: str, value: Setting) -> None:
    assert parse_value(text) == value
    assert type(parse_value(text)) is type(value)


@given(st.integers() | st.booleans() | st.floats(allow_nan=False, allow_infinity=False))
def test_numbers_and_truth_values_survive_as_text(value: Setting) -> None:
    assert parse_value(str(value)) == value
    assert type(parse_value(str(value))) is type(value)


def test_settings_are_pairs_and_hyphens_are_underscores() -> None:
    pairs = ["shard-size=50", "scope=key", "note=a=b"]
    assert parse_settings(pairs) == {"shard_size": 50, "scope": "key", "note": "a=b"}


@pytest.mark.parametrize("pairs", [["novalue"], ["=5"], ["2x=1"], ["a=1", "a=2"]])
def test_a_malformed_or_repeated_setting_is_a_usage_error(pairs: list[str]) -> None:
    with pytest.raises(UsageError, match="setting") as caught:
        parse_settings(pairs)
    assert "--set key=value" in caught.value.hint


def test_flags_can_be_switched_off() -> None:
    assert env_flag({"EDITCLI_DEBUG": "1"}, "EDITCLI_DEBUG")
    assert not any(env_flag({"X": value}, "X") for value in ("", "0", "false", "No", "off"))
    assert not env_flag({}, "X")
