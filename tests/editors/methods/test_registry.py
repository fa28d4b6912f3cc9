"""Methods are found by the name of their module."""

from __future__ import annotations

import pytest

from editors import EditorError, load_method, methods_available


def test_the_methods_are_the_modules_of_the_folder() -> None:
    assert "wise" in methods_available()
    assert list(methods_available()) == sorted(methods_available())


@pytest.mark.parametrize("name", methods_available())
def test_every_method_takes_settings_and_refuses_unknown_ones(name: str) -> None:
    method = load_method(name)
    assert method.settings_from({}) == method.settings_from({})
    with pytest.raises(EditorError):
        method.settings_from({"no_such_setting": 1})


def test_an_unknown_method_gets_a_suggestion_and_the_list() -> None:
    with pytest.raises(EditorError, match="no method is called 'wize'") as caught:
        load_method("wize")
    assert "`--method wise`" in caught.value.hint
    with pytest.raises(EditorError):
        load_method("../wise")
