"""The libraries underneath: their versions, logs, devices and threads."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from importlib.util import find_spec
from typing import TYPE_CHECKING

from editcli import __version__
from editcli.errors import UsageError
from editors import EditorError

if TYPE_CHECKING:
    import torch

LIBRARY_LOGS = 2  # -vv


def tools() -> dict[str, str]:
    """The versions of editcli, torch and transformers, for manifests; imports neither."""
    versions = {"editcli": __version__}
    for package in ("torch", "transformers"):
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:  # as in a build from source
            versions[package] = "unknown"
    return versions


def device_named(name: str) -> torch.device:
    """The device that ``--device name`` means; "auto" is the first there is of cuda, mps and cpu.

    Raises UsageError for an unknown or absent device.
    """
    import torch

    hint = "`--device` takes auto, cpu, cuda, cuda:1, mps or spread"
    counts = {
        "cuda": torch.cuda.device_count() if torch.cuda.is_available() else 0,
        "mps": int(torch.backends.mps.is_available()),
        "cpu": 1,
    }
    if name == "auto":
        name = next(kind for kind, count in counts.items() if count)
    try:
        device = torch.device(name)
        count = counts[device.type]
    except (RuntimeError, KeyError) as error:
        raise UsageError(f"unknown device {name!r}", hint) from error
    if (device.index or 0) >= count:
        raise UsageError(
            f"there is no device {name!r}: this machine has {count} of type {device.type}",
            "`--device auto`",
        )
    return device


def use_threads(count: int | None) -> None:
    """Compute with ``count`` threads; None: as many as other programs leave free.

    On a busy machine, threads that wait for each other make small models many times slower.
    """
    import torch

    if count is None:
        if "OMP_NUM_THREADS" in os.environ:  # the user has decided
            return
        count = spare_threads(torch.get_num_threads())
    torch.set_num_threads(count)


def spare_threads(limit: int) -> int:
    """How many of ``limit`` threads other programs leave free, at least one."""
    try:
        busy = os.getloadavg()[0]
    except (OSError, AttributeError):  # not on Windows
        return limit
    return max(1, min(limit, round(limit - busy)))


def disable_cudnn_attention() -> None:
    """Keep attention off cuDNN, which plans each shape anew: shapes of prompts seldom repeat.

    Planning a shape takes as long as dozens of forwards. Holds for this process.
    """
    import torch

    torch.backends.cuda.enable_cudnn_sdp(False)


@contextmanager
def quiet_libraries(verbose: int) -> Iterator[None]:
    """Inside ``with``, the libraries show no progress bars, and no logs or warnings without -vv.

    Logs stay off afterwards, since generating warns too.
    """
    from transformers.utils import logging as library

    library.disable_progress_bar()
    if verbose >= LIBRARY_LOGS:
        library.set_verbosity_info()
        yield
        return
    library.set_verbosity_error()
    for name in ("huggingface_hub", "bitsandbytes", "accelerate"):
        logging.getLogger(name).setLevel(logging.ERROR)
    with warnings.catch_warnings(action="ignore"):
        yield


def require(package: str, why: str, extra: str) -> None:
    """Raises EditorError where an optional ``package`` that ``why`` needs is not installed; the
    hint names the ``extra`` of editcli that brings it."""
    if find_spec(package) is None:
        raise EditorError(
            f"{why} needs the package {package}, which is not installed",
            f"`pip install 'editcli[{extra}]'`",
        )


def reason_of(error: BaseException) -> str:
    """The first line of a library's error, without the punctuation at its end."""
    first = (str(error).strip() or type(error).__name__).splitlines()[0]
    return first.rstrip(" .:")
