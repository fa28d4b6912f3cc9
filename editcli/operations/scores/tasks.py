"""Tasks of lm-evaluation-harness by name: those that it ships with, and files of the user's."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from difflib import get_close_matches
from io import StringIO
from pathlib import Path
from typing import Any

from editcli.errors import UsageError
from editcli.models.libraries import LIBRARY_LOGS, quiet_libraries, reason_of, require
from editcli.wording import listed
from editors import EditorError

EXTRA = "tasks"
NEAREST = 3  # names that an unknown one may be meant as
OFFLINE = ("reach", "offline", "connect", "resolve", "network", "timed out", "retries")
"""Words by which a library says that it got no connection."""


@dataclass(frozen=True, slots=True)
class Tasks:
    """Tasks, loaded with their data. ``loaded``: as the harness keeps them. ``limit``: so many
    questions of each task, the first ones; None: all."""

    loaded: Any
    limit: int | None


@contextmanager
def quiet_harness(verbose: int) -> Iterator[None]:
    """Inside ``with``, the harness and the libraries under it say nothing without -vv."""
    with quiet_libraries(verbose):
        if verbose >= LIBRARY_LOGS:
            yield
            return
        for name in ("lm_eval", "datasets"):
            logging.getLogger(name).setLevel(logging.ERROR)
        with redirect_stderr(StringIO()):  # some of its progress bars have no switch
            yield


def load_tasks(
    names: str | None,
    folder: Path | None,
    limit: int | None,
    *,
    verbose: int,
    tell: Callable[[str], None],
) -> Tasks | None:
    """The tasks called ``names``, parted by commas, and their data, from the Hub if need be; None
    where no names are given.

    ``folder``: where files of further tasks are, which count before those of the harness. Their
    Python code is run. ``tell`` takes a note on what takes long.

    Raises:
        UsageError: no name is given, there is no task of a name, or no such folder.
        EditorError: the harness is not installed, a task or its data cannot be loaded, or a task
            runs code that the model writes.
    """
    wanted = [name for part in (names or "").split(",") if (name := part.strip())]
    if not wanted:
        if (names, folder, limit) == (None, None, None):
            return None
        raise UsageError("no task is named", "`--tasks arc_easy,hellaswag`")
    if folder is not None and not folder.is_dir():
        raise UsageError(f"there is no folder {folder}", "`--tasks-from` takes a folder of tasks")
    for package in ("lm_eval", "accelerate"):
        require(package, "running tasks", EXTRA)
    with quiet_harness(verbose):
        loaded = _loaded(wanted, folder, tell)
    for name, task in loaded["tasks"].items():
        if getattr(task, "UNSAFE_CODE", False):
            raise EditorError(
                f"the task {name!r} runs code that the model writes, so it is not run here",
                "`lm_eval --confirm_run_unsafe_code` runs it, on an export, at your own risk",
            )
        if task.get_config("num_fewshot") is None:
            task.set_config(key="num_fewshot", value=0)
    return Tasks(loaded, limit)


def _loaded(names: Sequence[str], folder: Path | None, tell: Callable[[str], None]) -> Any:
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=folder, include_defaults=False)
    if not {*names} <= {*manager.all_tasks}:
        tell("reading the list of tasks, which takes some seconds")
        manager = TaskManager(include_path=folder)
    for name in names:
        if name not in manager.all_tasks:
            raise _unknown(name, manager.all_tasks, folder)
    try:
        return manager.load(list(names))
    # A task brings code of its own, and its data come by way of several libraries.
    except Exception as error:
        shown = listed([repr(name) for name in names], NEAREST)
        reason = reason_of(error)
        hint = "correct the file of the task; `-vv` shows what the libraries say"
        if any(word in f"{type(error).__name__} {reason}".lower() for word in OFFLINE):
            hint = (
                "run it once with a connection, as its data are kept then; or name tasks whose "
                "data are files: `--tasks-from FOLDER`"
            )
        raise EditorError(f"the data of {shown} cannot be loaded: {reason}", hint) from error


def _unknown(name: str, known: Sequence[str], folder: Path | None) -> UsageError:
    close = get_close_matches(name, known, n=NEAREST)
    where = f"in {folder}, or of lm-evaluation-harness" if folder else "of lm-evaluation-harness"
    meant = f"did you mean {' or '.join(f'`{other}`' for other in close)}? " if close else ""
    return UsageError(
        f"there is no task {name!r} {where}",
        f"{meant}`lm_eval ls tasks` lists them",
    )
