"""Swapping modules and registering hooks. Everything is undone at the end of ``with``.

A reader sees only the forwards of the thread that registered it, so several threads may read one
model at the same time. A swapped module is swapped for all threads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from threading import get_ident
from typing import Any

from torch import nn

InputReader = Callable[[tuple[Any, ...], dict[str, Any]], None]
OutputReader = Callable[[Any], None]


class StandIn(nn.Module):
    """A module that replaces another for a while, and has the attributes of the original."""

    def __init__(self, original: nn.Module) -> None:
        super().__init__()
        # Not registered as a child, so that no state dict or parameter list holds it twice.
        object.__setattr__(self, "_original", original)

    def __getattr__(self, name: str) -> Any:
        return getattr(object.__getattribute__(self, "_original"), name)


class _ForwardStopped(Exception):  # noqa: N818 - this is no error
    """Ends a forward early, once everything of interest has been read."""


def stop_forward() -> None:
    """End the running forward. A reader calls this, inside :func:`stopping_early`."""
    raise _ForwardStopped


@contextmanager
def stopping_early() -> Iterator[None]:
    """Allow a reader to end the one forward inside ``with`` by :func:`stop_forward`."""
    with suppress(_ForwardStopped):
        yield


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
def reading_inputs(model: nn.Module, readers: Mapping[str, InputReader]) -> Iterator[None]:
    """Call each reader with the arguments (positional, keyword) of each call of the module at its
    path."""
    owner = get_ident()
    with ExitStack() as stack:
        for path, read in readers.items():

            def hook(
                _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], read: Any = read
            ) -> None:
                if get_ident() == owner:
                    read(args, kwargs)

            module = model.get_submodule(path)
            stack.enter_context(module.register_forward_pre_hook(hook, with_kwargs=True))
        yield


@contextmanager
def reading_outputs(model: nn.Module, readers: Mapping[str, OutputReader]) -> Iterator[None]:
    """Call each reader with the output of each call of the module at its path."""
    owner = get_ident()
    with ExitStack() as stack:
        for path, read in readers.items():

            def hook(_: nn.Module, args: Any, output: Any, read: Any = read) -> None:
                if get_ident() == owner:
                    read(output)

            stack.enter_context(model.get_submodule(path).register_forward_hook(hook))
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
