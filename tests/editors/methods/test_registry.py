"""Methods are found by their names, and what is said of them needs no tensor library."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict
from typing import Any

import pytest

from editors import METHODS, EditorError
from editors.methods.base import Method


def test_the_methods_are_listed_by_name() -> None:
    assert {"wise", "in-context", "ft-m"} <= set(METHODS.names())
    assert list(METHODS.names()) == sorted(METHODS.names())


@pytest.mark.parametrize("name", METHODS.names())
def test_every_method_takes_settings_and_refuses_unknown_ones(name: str) -> None:
    spec = METHODS.load(name)
    assert spec.name == name
    settings = spec.all_settings({})
    assert settings == spec.all_settings({}) == spec.all_settings(settings)
    assert json.loads(json.dumps(settings)) == settings, "they are stored as JSON"
    with pytest.raises(EditorError, match="unknown key 'no_such_setting'"):
        spec.all_settings({"no_such_setting": 1})


@pytest.mark.parametrize("name", METHODS.names())
def test_what_a_method_is_built_from_is_what_it_was_given(tiny_base: Any, name: str) -> None:
    spec = METHODS.load(name)
    method = spec.build(tiny_base("llama"), {}, 7)
    assert isinstance(method, Method)
    assert method.spec is spec
    assert (method.seed, asdict(method.settings)) == (7, spec.all_settings({}))
    with pytest.raises(EditorError, match=f"{name} cannot take these settings"):
        spec.build(tiny_base("llama"), {"no_such_setting": 1}, 7)


def test_specifications_need_no_torch() -> None:
    code = (
        "import sys; from editors import METHODS;"
        "[METHODS.load(name).all_settings({}) for name in METHODS.names()];"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_an_unknown_method_gets_a_suggestion_and_the_list() -> None:
    with pytest.raises(EditorError, match="no editing method is called 'wize'") as caught:
        METHODS.load("wize")
    assert "did you mean 'wise'?" in caught.value.hint
    assert f"known: {', '.join(METHODS.names())}" in caught.value.hint
    with pytest.raises(EditorError):
        METHODS.load("../wise")
