"""How the libraries underneath behave: their versions, logs, devices and threads."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from typing import TYPE_CHECKING

from editcli import __version__
from editcli.errors import UsageError

if TYPE_CHECKING:
    import torch

LIBRARY_LOGS = 2  # -vv


def tools() -> dict[str, str]:
    """The versions of editcli, torch and transformers, for manifests; imports neither."""
    return {
        "editcli": __version__,
        "torch": _installed("torch"),
        "transformers": _installed("transformers"),
    }


def _installed(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def device_named(name: str) -> torch.device:
    """The device that ``--device name`` means; "auto" is the first there is of cuda, mps and cpu.

    Raises UsageError for an unknown or absent device.
    """
    import torch

    known = "`--device` takes auto, cpu, cuda, cuda:1, mps or spread"
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UsageError(f"unknown device {name!r}", known) from error
    count = {
        "cpu": 1,
        "cuda": torch.cuda.device_count(),
        "mps": int(torch.backends.mps.is_available()),
    }.get(device.type)
    if count is None:
        raise UsageError(f"unknown device {name!r}", known)
    if (device.index or 0) >= count:
        raise UsageError(
            f"there is no device {name!r} here: {count} of type {device.type}", "`--device auto`"
        )
    return device


def use_threads(wanted: int | None) -> None:
    """Compute with so many threads; by default with as many as the machine has to spare.

    On a busy machine, threads that wait for each other make small models many times slower.
    """
    import torch

    if wanted is None:
        if "OMP_NUM_THREADS" in os.environ:  # the user has decided
            return
        wanted = spare_threads(torch.get_num_threads())
    torch.set_num_threads(wanted)


def spare_threads(most: int) -> int:
    """How many of ``most`` threads other work leaves to us, at least one."""
    try:
        busy = os.getloadavg()[0]
    except (OSError, AttributeError):  # not on Windows
        return most
    return max(1, min(most, round(most - busy)))


def plan_no_attention() -> None:
    """Keep cuDNN from attention: it plans each shape anew, and the shapes of prompts hardly repeat.

    Planning one takes as long as dozens of forwards. Holds for this process.
    """
    import torch

    torch.backends.cuda.enable_cudnn_sdp(False)


@contextmanager
def quiet_libraries(verbose: int) -> Iterator[None]:
    """No bars, and no logs or warnings except with -vv.

    Logs stay off afterwards: generating warns as loading does.
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
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def reason_of(error: BaseException) -> str:
    """The first line of an error of a library, as part of a sentence."""
    first = (str(error).strip() or type(error).__name__).splitlines()[0]
    return first.rstrip(" .:")
