"""The command line: its commands, how `--help` lists them, and how an error ends a command.

To add a command, write a module with a function `command` (or a Typer `group` of subcommands) in a
folder of `editcli/commands`, and name it in a panel below. Commands import torch inside the
function.
"""

from __future__ import annotations

import os
import signal
import sys
from importlib import import_module
from itertools import chain
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from editcli import exit_codes
from editcli.cli.ending import errors_explained, wants_json
from editcli.models.libraries import tools
from editcli.settings import current_folder
from editcli.store.files.layout import find_store
from editors import EditorError

# Help panel -> modules below `editcli.commands`, in the order of the help text. The last part of a
# module's name is the command's.
COMMANDS: dict[str, tuple[str, ...]] = {
    "Edit": ("edit.init", "edit.edit", "edit.apply"),
    "Check": ("check.check", "check.ask", "check.blame", "check.verify", "check.qualify"),
    "Conflicts": ("conflict",),
    "History": (
        *("history.status", "history.log", "history.show", "history.diff"),
        *("history.undo", "history.checkout", "history.tag", "history.report"),
        *("history.config", "history.rebase", "history.compact", "history.gc", "history.migrate"),
    ),
    "Use": ("use.chat", "use.serve", "use.export", "use.push"),
    "Reference": ("reference.methods", "reference.facts", "reference.inspect"),
}


JSON_MODE = "editcli.json"  # in the context: whether errors are JSON


class _Root(TyperGroup):
    """The root group: groups commands by panel, and turns errors into messages and exit codes."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        width = max(map(len, self.commands))
        limit = formatter.width - 6 - width
        for panel, modules in COMMANDS.items():
            with formatter.section(panel):
                formatter.write_dl(
                    # Padded, so that the columns of all panels are aligned.
                    (f"{name:<{width}}", self.commands[name].get_short_help_str(limit))
                    for name in map(_name, modules)
                )

    def make_context(self, info_name: str | None, args: list[str], *more: Any, **extra: Any) -> Any:
        json_mode = wants_json(args)
        with errors_explained(json_mode=json_mode):
            context = super().make_context(info_name, args, *more, **extra)
        context.meta[JSON_MODE] = json_mode
        return context

    def invoke(self, ctx: Any) -> Any:
        with errors_explained(json_mode=ctx.meta[JSON_MODE]):
            result = super().invoke(ctx)
            sys.stdout.flush()  # a full disk is an error of the command
        return result


def _name(module: str) -> str:
    return module.rpartition(".")[2]


def _print_versions(wanted: bool) -> None:
    if not wanted:
        return
    for package, version in tools().items():
        typer.echo(f"{package} {version}")
    raise typer.Exit


app = typer.Typer(
    name="editcli",
    cls=_Root,
    invoke_without_command=True,
    # Plain help: no boxes in logs, and nothing in a help text is read as markup.
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

EXIT_CODES = ", ".join(f"{code} {meaning}" for code, meaning in exit_codes.MEANINGS.items())

HELP = f"""
Version control for what a language model believes.

Edit facts into a model, check what changed, take edits back, and keep the record.

\b
Examples:
  editcli init
  editcli edit "The capital of France is" Lyon --subject France
  editcli ask "The capital of France is"

Exit codes: {EXIT_CODES}. docs/exit-codes.md says which command ends with which.

With --json, standard output holds JSON and nothing else, errors included; docs/json.md has the
keys. EDITCLI_DEBUG=1 shows tracebacks. EDITCLI_MODEL=PLACE says where the base model of a store is,
if it has moved. EDITCLI_CACHE=FOLDER keeps the weights that are unpacked from GGUF files.
"""


@app.callback(help=HELP)
def _root(
    context: typer.Context,
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            callback=_print_versions,
            is_eager=True,
            help="Print the versions of editcli, torch and transformers.",
        ),
    ] = False,
) -> None:
    """What every call goes through."""
    if context.invoked_subcommand is not None:
        return
    status = context.command.commands["status"]  # type: ignore[attr-defined]
    try:
        find_store(None, current_folder(), os.environ)
    except (EditorError, OSError):
        typer.echo(context.get_help())
        raise typer.Exit(exit_codes.USAGE) from None
    with status.make_context("status", [], parent=context) as inner:
        status.invoke(inner)


for _path in chain.from_iterable(COMMANDS.values()):
    _module = import_module(f"editcli.commands.{_path}")
    if hasattr(_module, "group"):
        app.add_typer(_module.group, name=_name(_path))
    else:
        app.command(_name(_path))(_module.command)


def command_paths(command: Any = None, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """Every command and group below `command` (the root), itself first, as the words that call
    it."""
    children = getattr(command or typer.main.get_command(app), "commands", {})
    below = (command_paths(child, (*path, name)) for name, child in children.items())
    return [path, *chain.from_iterable(below)]


def main() -> None:
    """The entry point of the `editcli` script."""
    for name in ("stdin", "stdout", "stderr"):
        # Where it was closed, Python has none, and the next file to be opened takes its place.
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "r" if name == "stdin" else "w"))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        # A terminal that cannot show a character should show its escape, not a traceback.
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    try:
        app()
    finally:  # the command is over: another Ctrl-C would only print a traceback
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        _give_up_unwritten()


def _give_up_unwritten() -> None:
    """Where standard output takes no more, drop what is left, which has been told already; at its
    end Python would try again, and fail with a message of its own."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
