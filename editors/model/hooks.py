"""Swapping modules, hooking them, setting variables. All is undone at the end of ``with``.

A reader sees only the forwards of the thread that registered it, so several threads may read one
model at the same time. A swapped module is swapped for all threads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from contextvars import ContextVar
from functools import partial
from threading import get_ident
from typing import Any, TypeVar

from torch import nn

InputReader = Callable[[tuple[Any, ...], dict[str, Any]], None]
OutputReader = Callable[[Any], None]
Within = AbstractContextManager[None]
T = TypeVar("T")


class StandIn(nn.Module):
    """A module that replaces another for a while, and has the attributes of the original."""

    def __init__(self, original: nn.Module, **attributes: Any) -> None:
        """``attributes``: what a subclass keeps, or the ``forward`` of this stand-in."""
        super().__init__()
        # Nothing is registered as a child, so that no state dict or parameter list holds it twice.
        vars(self).update(attributes, _original=original)

    def __getattr__(self, name: str) -> Any:
        return getattr(vars(self)["_original"], name)


class _ForwardStopped(Exception):  # noqa: N818 - this is no error
    """Ends a forward early, once everything of interest has been read."""


def stop_forward() -> None:
    """End the running forward. A reader calls this, inside :func:`stopping_early`."""
    raise _ForwardStopped


def stopping_early() -> Within:
    """Allow a reader to end the one forward inside ``with`` by :func:`stop_forward`."""
    return suppress(_ForwardStopped)


@contextmanager
def setting(variable: ContextVar[T], value: T) -> Iterator[None]:
    """Inside ``with``, ``variable`` has ``value`` in this thread."""
    token = variable.set(value)
    try:
        yield
    finally:
        variable.reset(token)


@contextmanager
def swapped(model: nn.Module, replacements: Mapping[str, nn.Module]) -> Iterator[None]:
    """Replace the module at each path, inside ``with``.

    The rest of the model is unchanged, so ``generate`` and all code for the model's class still
    work.
    """
    originals = {path: model.get_submodule(path) for path in replacements}
    try:
        for path, module in replacements.items():
            model.set_submodule(path, module)
        yield
    finally:
        # In reverse, so that a child swapped after its parent is restored before the parent.
        for path, module in reversed(originals.items()):
            model.set_submodule(path, module)


@contextmanager
def overriding(module: nn.Module, attributes: Mapping[str, Any]) -> Iterator[None]:
    """Inside ``with``, ``module`` has ``attributes`` in place of those of its class, or of its own,
    as a wrapped ``forward`` may be."""
    own = vars(module)
    originals = {name: own[name] for name in attributes if name in own}
    own.update(attributes)
    try:
        yield
    finally:
        for name in attributes:
            del own[name]
        own.update(originals)


def reading_inputs(model: nn.Module, readers: Mapping[str, InputReader]) -> Within:
    """Call each reader with the arguments (positional, keyword) of each call of the module at its
    path."""
    return _reading(model, readers, partial(nn.Module.register_forward_pre_hook, with_kwargs=True))


def reading_outputs(model: nn.Module, readers: Mapping[str, OutputReader]) -> Within:
    """Call each reader with the output of each call of the module at its path."""
    return _reading(model, readers, nn.Module.register_forward_hook, first=1)


@contextmanager
def _reading(
    model: nn.Module, readers: Mapping[str, Callable[..., None]], register: Any, first: int = 0
) -> Iterator[None]:
    """``register`` adds a hook to a module. A reader gets what the hook gets after the module, from
    number ``first`` on."""
    owner = get_ident()

    def hook(_: nn.Module, *passed: Any, read: Callable[..., None]) -> None:
        if get_ident() == owner:
            read(*passed[first:])

    with ExitStack() as stack:
        for path, read in readers.items():
            stack.enter_context(register(model.get_submodule(path), partial(hook, read=read)))
        yield


@contextmanager
def changing_input(module: nn.Module, change: Callable[[Any], Any]) -> Iterator[None]:
    """In each call of ``module``, replace the first positional argument ``x`` by ``change(x)``."""

    def hook(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return (change(args[0]), *args[1:])

    with module.register_forward_pre_hook(hook):
        yield


def hidden_of(output: Any) -> Any:
    """The hidden states in the output of a block or attention: the output, or its first item if it
    is a tuple."""
    return output[0] if isinstance(output, tuple) else output
