"""The one place that swaps modules and registers hooks; everything is undone on leaving.

A reader sees the forwards of its own thread only, so two threads may run one model while either of
them reads it. A swapped module stands in for all threads.
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
    """Takes the place of a module for a while, and has the module's attributes."""

    def __init__(self, original: nn.Module) -> None:
        super().__init__()
        # Not registered as a child: state dicts and parameter lists must not see it twice.
        object.__setattr__(self, "_original", original)

    def __getattr__(self, name: str) -> Any:
        return getattr(object.__getattribute__(self, "_original"), name)


class _ForwardStopped(Exception):  # noqa: N818 - no error: the forward has done what it was for
    """Ends a forward early."""


def stop_forward() -> None:
    """End the forward that is running; called by a reader, inside :func:`stopping_early`."""
    raise _ForwardStopped


@contextmanager
def stopping_early() -> Iterator[None]:
    """Run one forward inside ``with``, which a reader may end by :func:`stop_forward`."""
    with suppress(_ForwardStopped):
        yield


@contextmanager
def swapped(model: nn.Module, replacements: Mapping[str, nn.Module]) -> Iterator[None]:
    """Put each module in the place of the one at its path; the originals return on leaving.

    The rest of the model stays as it is, so ``generate`` and everything built on the model's own
    class go on working.
    """
    originals = {path: model.get_submodule(path) for path in replacements}
    try:
        for path, module in replacements.items():
            model.set_submodule(path, module)
        yield
    finally:
        # Reversed, so that a child swapped after its parent is put back before the parent.
        for path, module in reversed(originals.items()):
            model.set_submodule(path, module)


@contextmanager
def reading_inputs(model: nn.Module, readers: Mapping[str, InputReader]) -> Iterator[None]:
    """Call each reader with the positional and keyword arguments of its module's every call."""
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
    """Call each reader with the output of its module's every call."""
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
    """Replace the first positional argument of the module's every call by ``change`` of it."""

    def hook(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return (change(args[0]), *args[1:])

    with module.register_forward_pre_hook(hook):
        yield


def hidden_of(output: Any) -> Any:
    """The hidden states in a block's or attention's output: itself, or the first of a tuple."""
    return output[0] if isinstance(output, tuple) else output
