"""How an error ends a command: with one message, or one JSON record, and an exit code."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from typer import Abort, Exit
from typer.exceptions import TyperException

from editcli.cli.console import Output
from editcli.errors import Defect, Interrupted, SystemRefused, UsageError
from editcli.settings import env_flag
from editors import EditorError

JSON = "--json"


def wants_json(arguments: Sequence[str]) -> bool:
    """Whether these words ask for JSON. They are looked through as they are, since they may be
    such that they cannot be parsed."""
    words = list(arguments)
    return JSON in (words[: words.index("--")] if "--" in words else words)


@contextmanager
def errors_explained(*, json_mode: bool) -> Iterator[None]:
    """Print an error of the block as ``error: ...``, or as JSON, and exit with its code.

    EDITCLI_DEBUG lets all errors pass. What nobody foresaw passes as well, after its record where
    JSON is wanted; so does the end of a pipe that is read no more, which is no error.
    """
    try:
        yield
    except (EditorError, KeyboardInterrupt, TyperException, OSError) as raised:
        is_help = isinstance(raised, TyperException) and _is_help(raised)
        if is_help or _is_closed_pipe(raised) or env_flag(os.environ, "EDITCLI_DEBUG"):
            raise
        error = _as_error(raised)
        _tell(error, json_mode=json_mode)
        raise Exit(error.exit_code) from raised
    except (Exit, Abort):
        raise
    except Exception as raised:
        if json_mode:
            defect = Defect(f"{type(raised).__name__}: {raised}", _REPORT)
            _tell(defect, json_mode=True)
        raise


_REPORT = "the traceback is on standard error; please report it"


def _tell(error: EditorError, *, json_mode: bool) -> None:
    out = Output(json_mode)
    try:
        out.error(error)
        out.flush()
    except OSError:  # standard output takes no more
        Output().error(error)


def _is_closed_pipe(raised: BaseException) -> bool:
    return isinstance(raised, OSError) and raised.errno == errno.EPIPE


def _is_help(raised: TyperException) -> bool:
    """Whether a group was called without a command, and the message is its help."""
    context = getattr(raised, "ctx", None)
    return context is not None and raised.message == context.get_help()


def _as_error(raised: BaseException) -> EditorError:
    if isinstance(raised, EditorError):
        return raised
    if isinstance(raised, TyperException):
        return _of_parser(raised)
    if isinstance(raised, OSError):
        about = f"{raised.filename}: " if raised.filename else ""
        return SystemRefused(about + (raised.strerror or str(raised)).lower())
    return Interrupted("interrupted")


def _of_parser(raised: TyperException) -> UsageError:
    """An error of the parser, in the words of all other errors."""
    message = raised.format_message().removesuffix(".")
    for theirs, ours in (("Value error, ", ""), ("Input should be ", "must be ")):
        message = message.replace(theirs, ours)
    context = getattr(raised, "ctx", None)
    hint = f"`{context.command_path if context else 'editcli'} --help` tells how it is called"
    if hasattr(raised, "option_name") and context and _takes_text(context.command):
        hint += "; `--` goes before text that begins with a hyphen"
    return UsageError(message[:1].lower() + message[1:], hint)


def _takes_text(command: object) -> bool:
    parameters = getattr(command, "params", ())
    return any(parameter.param_type_name == "argument" for parameter in parameters)
