"""The one place that swaps modules and registers hooks; everything is undone on leaving."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import nn


class StandIn(nn.Module):
    """In the place of a module for a while; has the module's attributes."""

    def __init__(self, original: nn.Module) -> None:
        super().__init__()
        # Not registered as a child: state dicts and parameter lists must not see it twice.
        object.__setattr__(self, "_original", original)

    def __getattr__(self, name: str) -> Any:
        return getattr(object.__getattribute__(self, "_original"), name)


@contextmanager
def swapped(model: nn.Module, replacements: Mapping[str, nn.Module]) -> Iterator[None]:
    """Put each module in the place of the one at its path; the originals return on leaving.

    Swapping keeps the rest of the model as it is, so ``generate`` and everything built on the
    model's own class go on working.
    """
    originals = {path: model.get_submodule(path) for path in replacements}
    try:
        for path, module in replacements.items():
            model.set_submodule(path, module)
        yield
    finally:
        # Reversed, so that a child swapped after its parent is put back before it.
        for path, module in reversed(originals.items()):
            model.set_submodule(path, module)


@contextmanager
def reading_inputs(
    model: nn.Module, readers: Mapping[str, Callable[[tuple[Any, ...], dict[str, Any]], None]]
) -> Iterator[None]:
    """Call each reader with the positional and keyword arguments of its module's every call."""
    with ExitStack() as stack:
        for path, read in readers.items():
            module = model.get_submodule(path) if path else model

            def hook(
                _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], read: Any = read
            ) -> None:
                read(args, kwargs)

            stack.enter_context(module.register_forward_pre_hook(hook, with_kwargs=True))
        yield


@contextmanager
def reading_outputs(
    model: nn.Module, readers: Mapping[str, Callable[[Any], None]]
) -> Iterator[None]:
    """Call each reader with the output of its module's every call."""
    with ExitStack() as stack:
        for path, read in readers.items():

            def hook(_: nn.Module, args: Any, output: Any, read: Any = read) -> None:
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
