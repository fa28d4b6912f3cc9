"""Fixtures of the library's tests: bases and methods on the tiny models, the reference trainer."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest
from tiny_edits import SETTINGS

if TYPE_CHECKING:
    from editors.methods.wise.method import Wise
    from editors.model.base_model import Base

BaseOf = Callable[..., "Base"]
MethodOf = Callable[..., Any]


@pytest.fixture(scope="session")
def tiny_base(tiny_model: Any, word_tokenizer: Any) -> BaseOf:
    """``tiny_base(family)``: the shared model of that family with a word tokenizer."""
    from editors.model.base_model import Base

    return lambda family="llama", **kinds: Base.of(tiny_model(family), word_tokenizer(**kinds))


@pytest.fixture(scope="session")
def tiny_method(tiny_base: BaseOf) -> MethodOf:
    """``tiny_method(name, family, settings, seed)``: a method on a shared model."""
    from editors import METHODS

    def make(
        name: str = "wise",
        family: str = "llama",
        settings: Mapping[str, Any] | None = None,
        seed: int = 0,
    ) -> Any:
        chosen = SETTINGS[name] if settings is None else settings
        return METHODS.load(name).build(tiny_base(family), chosen, seed)

    return make


@pytest.fixture(scope="session")
def tiny_wise(tiny_method: MethodOf) -> Callable[..., Wise]:
    """``tiny_wise(family, settings, seed)``: WISE on a shared model."""
    return lambda family="llama", settings=None, seed=0: tiny_method("wise", family, settings, seed)


@pytest.fixture(scope="session")
def full_loop() -> ModuleType:
    """The trainers, written plainly."""
    return _reference("full_loop")


@pytest.fixture(scope="session")
def literal_patching() -> ModuleType:
    """Path patching, written plainly."""
    return _reference("literal_patching")


def _reference(name: str) -> ModuleType:
    """A module of ``tests/reference``, which is on no import path."""
    path = Path(__file__).parents[1] / "reference" / f"{name}.py"
    spec = spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
