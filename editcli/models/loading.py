"""Loading the base model: the embedded one, a folder, or a Hub id at one commit.

Nothing that a checkpoint brings is executed: weights come from safetensors only, and custom code is
refused. A checkpoint that leaves weights unset is refused too, where transformers would draw them.
"""

from __future__ import annotations

import logging
import os
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from os.path import expanduser
from pathlib import Path
from typing import TYPE_CHECKING, Any

from editcli import __version__
from editcli.errors import UsageError
from editcli.files.packaged import datasets_dir
from editcli.models import quantization as quantized
from editcli.settings import env_name
from editcli.store.store import StoreConfig
from editors import EditorError, StateMismatch

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from editors.model.base_model import Base

ATLAS = "atlas"
MOVED = env_name("model")  # where the base of a store is now, if not where it was
DTYPES = ("float32", "bfloat16", "float16", *quantized.BITS)
SPREAD = "spread"  # a device: the blocks over all accelerators, and what does not fit on the CPU
DIGITS = 16  # of a fingerprint, as shown in errors
LIBRARY_LOGS = 2  # -vv

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?(@[^\s@]+)?", re.ASCII)
_EMBEDDED = "`editcli init atlas` uses the embedded model"
_FOLDER = "a base is a folder written by `save_pretrained`, or a Hub id"


@dataclass(frozen=True, slots=True)
class Place:
    """Where a checkpoint is: a folder, or a Hub id with a revision. `shown` is for messages."""

    shown: str
    location: str
    revision: str | None = None


def tools() -> dict[str, str]:
    """The versions of editcli, torch and transformers, for manifests; imports neither."""
    return {
        "editcli": __version__,
        "torch": _installed("torch"),
        "transformers": _installed("transformers"),
    }


def resolve(name: str) -> tuple[str, str]:
    """What a store records for the base called `name`: (base, revision).

    `name` is "atlas", a folder, or a Hub id with an optional `@revision`. A folder becomes an
    absolute path without a revision; a Hub id gets the commit that its revision means today.

    Raises:
        EditorError: there is no such model, or the Hub was needed and cannot be reached.
    """
    place = find_model(name)
    if name == ATLAS:
        return ATLAS, ""
    if place.revision is None:
        return place.location, ""
    from transformers.utils import extract_commit_hash

    with quiet_libraries(0):
        commit = extract_commit_hash(hub_config(place), None)
    return place.location, commit or place.revision


def from_hub(name: str) -> bool:
    """Whether `name` is looked up on the Hub: neither "atlas" nor a folder. Raises as `resolve`."""
    return find_model(name).revision is not None


def load_base(
    base: StoreConfig | str,
    *,
    revision: str = "",
    device: str = "auto",
    dtype: str = "auto",
    layer: int | None = None,
    verbose: int = 0,
) -> Base:
    """The model and tokenizer of `base`, frozen, with the block to edit.

    `base` is a name as `resolve` takes or returns it, with its `revision` if that came apart; or a
    store's configuration, which gives revision, dtype and layer and holds the model to its
    fingerprint, wherever it is now (`MOVED`). `device` "auto" is the first there is of cuda, mps
    and cpu, "spread" all there are; `dtype` "auto" keeps the checkpoint's, "8bit" and "4bit" pack
    all but what edits go into. Library logs are let through from `verbose` 2 on.

    Raises:
        UsageError: an unknown or absent device, or an unknown dtype.
        StateMismatch: the model is not the one that the store was made on.
        UnsupportedArchitecture: the block cannot be edited.
        EditorError: the model or its tokenizer cannot be found or loaded.
    """
    if isinstance(base, StoreConfig):
        moved = os.environ.get(MOVED)
        try:
            find_model(moved or base.base, "" if moved else base.revision)
        except EditorError as error:
            raise EditorError(
                f"the base of this store cannot be found: {error.message}",
                f"put the model back, or name where it is now: `{MOVED}=FOLDER editcli ...`",
            ) from error
        loaded = load_base(
            moved or base.base,
            revision="" if moved else base.revision,
            device=device,
            dtype=base.dtype if dtype == "auto" else dtype,
            layer=_stored_layer(base) if layer is None else layer,
            verbose=verbose,
        )
        require_fingerprint(loaded, base.fingerprint)
        return loaded
    if dtype not in ("auto", *DTYPES):
        raise UsageError(f"unknown dtype {dtype!r}", f"`--dtype` takes auto, {', '.join(DTYPES)}")
    place = find_model(base, revision)
    target = SPREAD if device == SPREAD else device_named(device)
    with quiet_libraries(verbose):
        if place.revision is not None:
            hub_config(place)
        model = _model(place, dtype, target, layer)
        tokenizer = load_tokenizer(place)
        return _base(model, tokenizer, layer, target, place)


def require_fingerprint(base: Base, fingerprint: str) -> None:
    """Raise StateMismatch unless `base` is the model that the store was made on."""
    found = base.fingerprint()
    if found != fingerprint:
        raise StateMismatch(
            f"the base model has the fingerprint {found[:DIGITS]} (in {dtype_name(base)}), "
            f"the store was made on {fingerprint[:DIGITS]}",
            "use the model and `--dtype` that the store was made with, "
            "or make another store: `editcli init MODEL --store DIR`",
        )


def dtype_name(base: Base) -> str:
    """The dtype of a loaded base as `--dtype` calls it."""
    return quantized.bits_of(base.model) or str(base.model.dtype).removeprefix("torch.")


def _installed(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def find_model(name: str, revision: str = "") -> Place:
    if revision:
        return Place(f"{name}@{revision}", name, revision)
    if name == ATLAS:
        folder = datasets_dir() / ATLAS / "model"
        if not (folder / "config.json").is_file():
            raise EditorError(
                "the embedded model is not part of this installation",
                "`editcli init FOLDER` or `editcli init HUB_ID`",
            )
        return Place(ATLAS, str(folder))
    folder = Path(expanduser(name))
    if name and folder.is_dir():
        if not (folder / "config.json").is_file():
            raise EditorError(f"{name} holds no config.json", _FOLDER)
        return Place(name, str(folder.resolve()))
    if not _HUB_ID.fullmatch(name):
        what = "no such folder" if name else "no model is named"
        raise EditorError(f"{what}: {name!r}", f"{_FOLDER}; {_EMBEDDED}")
    location, _, wanted = name.partition("@")
    return Place(name, location, wanted or "main")


def hub_config(place: Place) -> str:
    """The cached config.json of a Hub id, fetched if need be; raises EditorError saying why not."""
    from huggingface_hub import errors
    from transformers.utils import cached_file

    try:
        file = cached_file(place.location, "config.json", revision=place.revision)
    except OSError as error:
        raise _hub_error(place, error.__cause__ or error, errors) from error
    if file is None:
        raise EditorError(f"{place.shown} has no config.json on the Hub", _FOLDER)
    return str(file)


def _hub_error(place: Place, cause: BaseException, errors: Any) -> EditorError:
    if isinstance(cause, errors.LocalEntryNotFoundError):
        return EditorError(
            f"{place.shown} is neither a folder nor in the Hub's cache, "
            "and the Hub cannot be reached",
            _EMBEDDED,
        )
    if isinstance(cause, errors.GatedRepoError):
        return EditorError(f"{place.shown} is gated on the Hub", "`hf auth login` to an account")
    if isinstance(cause, errors.RevisionNotFoundError):
        return EditorError(f"{place.location} has no revision {place.revision!r} on the Hub")
    if isinstance(cause, errors.RepositoryNotFoundError):
        return EditorError(
            f"{place.shown} is neither a folder nor a model on the Hub that you may read",
            f"`hf auth login` for a private one; {_EMBEDDED}",
        )
    return EditorError(f"{place.shown} cannot be fetched: {reason_of(cause)}", _EMBEDDED)


def _model(
    place: Place, dtype: str, target: torch.device | str, layer: int | None
) -> PreTrainedModel:
    import torch
    from safetensors import SafetensorError
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoConfig, AutoModelForCausalLM

    try:
        config = AutoConfig.from_pretrained(
            place.location, revision=place.revision, trust_remote_code=False
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        if "trust_remote_code" in str(error):
            raise EditorError(
                f"{place.shown} needs code of its own, which editcli does not run",
                "use a model of a family that transformers knows",
            ) from error
        raise EditorError(
            f"the configuration of {place.shown} cannot be used: {reason_of(error)}",
            "`pip install --upgrade transformers` if the model is newer",
        ) from error
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise EditorError(
            f"{place.shown} is no causal language model: its type is {config.model_type!r}",
            "name a decoder that generates text",
        )
    told: dict[str, Any] = {"dtype": dtype}
    if dtype in quantized.BITS:
        kept = config.dtype or torch.float32
        told = {
            "dtype": kept,
            "quantization_config": quantized.packing(config, dtype, layer, kept),
            "device_map": {"": target},
        }
    if target == SPREAD:
        quantized.require("accelerate", "`--device spread`")
        told["device_map"] = "auto"
    try:
        model, loading = AutoModelForCausalLM.from_pretrained(
            place.location,
            revision=place.revision,
            config=config,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
            **told,
        )
    except torch.OutOfMemoryError as error:
        raise _too_large(place, target) from error
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise EditorError(
            f"the weights of {place.shown} cannot be loaded: {reason_of(error)}",
            "weights are read from .safetensors files only",
        ) from error
    if missing := sorted(loading["missing_keys"]):
        raise EditorError(
            f"{place.shown} lacks {len(missing)} of the weights, {missing[0]} among them",
            "the checkpoint is incomplete, or is no causal language model",
        )
    quantized.differentiable(model)
    loaded: PreTrainedModel = model
    return loaded


def load_tokenizer(place: Place) -> PreTrainedTokenizerBase:
    from transformers import AutoTokenizer

    hint = "save the tokenizer into the model's folder: `tokenizer.save_pretrained(FOLDER)`"
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            place.location, revision=place.revision, trust_remote_code=False
        )
    # The loaders of the many formats raise what they like; all of it means the same to the user.
    except Exception as error:
        raise EditorError(
            f"the tokenizer of {place.shown} cannot be loaded: {reason_of(error)}", hint
        ) from error
    if len(tokenizer) <= len(tokenizer.all_special_ids):  # made from nothing, when files are absent
        raise EditorError(f"{place.shown} has no tokenizer", hint)
    return tokenizer


def _base(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    layer: int | None,
    target: torch.device | str,
    place: Place,
) -> Base:
    import torch

    from editors.model.base_model import Base

    if any(parameter.is_meta for parameter in model.parameters()):  # left on disk by accelerate
        raise EditorError(
            f"{place.shown} does not fit into the memory of all devices together",
            "a smaller `--dtype`: `--dtype 4bit`",
        )
    loaded = Base.of(model, tokenizer, layer)
    if torch.cuda.is_available():
        plan_no_attention()
    if target == SPREAD or quantized.bits_of(model):  # put where it belongs as it was loaded
        return loaded
    try:
        model.to(target)
    except torch.OutOfMemoryError as error:
        raise _too_large(place, target) from error
    return loaded


def plan_no_attention() -> None:
    """Keep cuDNN from attention: it plans each shape anew, and the shapes of prompts hardly repeat.

    Planning one takes as long as dozens of forwards of it. For this process.
    """
    import torch

    torch.backends.cuda.enable_cudnn_sdp(False)


def _too_large(place: Place, target: torch.device | str) -> EditorError:
    return EditorError(
        f"{place.shown} does not fit into the memory of {target}",
        "`--device spread` over several, `--device cpu`, or a smaller `--dtype`",
    )


def device_named(name: str) -> torch.device:
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


def _stored_layer(config: StoreConfig) -> int | None:
    layer = config.settings.get("layer")
    return layer if isinstance(layer, int) else None


@contextmanager
def quiet_libraries(verbose: int) -> Iterator[None]:
    """No bars, and no logs or warnings but with -vv.

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
