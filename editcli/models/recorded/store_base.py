"""The base of a store: where it is now, whether it is the one that was recorded, and loading it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from editcli.models.gguf_cache import Tell
from editcli.models.loading import dtype_name, load_base, untold
from editcli.models.locations import SMOLLM2, find_model
from editcli.models.recorded.structure import differences, structure_of
from editcli.store.records import StoreConfig
from editcli.wording import listed
from editors import METHODS, EditorError, StateMismatch

if TYPE_CHECKING:
    from editors.model.base_model import Base

MODEL_VARIABLE = "EDITCLI_MODEL"  # where a store's base is, if the base has moved
DIGITS = 16  # of a fingerprint, as shown in errors
SHOWN = 4  # differences in an error
OTHER_BASE = (
    "use the model and `--dtype` that the store was made with; `editcli rebase MODEL` moves the "
    "store to another; or make a new store: `editcli init MODEL --store DIR`"
)


def load_store_base(
    config: StoreConfig,
    *,
    device: str = "auto",
    dtype: str = "auto",
    chats: bool = False,
    verbose: int = 0,
    tell: Tell = untold,
) -> Base:
    """The base of a store, loaded as it was when the store was made; ``MODEL_VARIABLE`` may name
    another place for it.

    Arguments and errors are those of :func:`load_base`, and one error more.

    Raises:
        StateMismatch: the model, or code of its own, is not the one that the store was made on.
    """
    name, revision = base_of(config)
    if problems := structure_problems(config):  # before the weights, which may not fit
        raise StateMismatch(
            f"the base model is not the one that the store was made on: {listed(problems, SHOWN)}",
            OTHER_BASE,
        )
    base = load_base(
        name,
        revision=revision,
        device=device,
        dtype=config.dtype if dtype == "auto" else dtype,
        layer=config.layer,
        chats=chats,
        verbose=verbose,
        tell=tell,
        edits=METHODS.load(config.method).edits,
        adapter=config.adapter,
        code=config.remote_code,
    )
    fingerprint = base.fingerprint()
    if fingerprint != config.fingerprint:
        raise StateMismatch(
            f"the base model has the fingerprint {fingerprint[:DIGITS]} (in {dtype_name(base)}), "
            f"the store was made on {config.fingerprint[:DIGITS]}",
            OTHER_BASE,
        )
    return base


def base_of(config: StoreConfig) -> tuple[str, str]:
    """The name and revision of the base of a store, where it is now; ``MODEL_VARIABLE`` may name
    another place for it. Raises EditorError if it is not there."""
    moved = os.environ.get(MODEL_VARIABLE)
    name, revision = (moved, "") if moved else (config.base, config.revision)
    try:
        find_model(name, revision)
    except EditorError as error:
        hint = (
            "put the model back; `editcli config set base FOLDER` records where it is now, and "
            f"`{MODEL_VARIABLE}=FOLDER editcli ...` says so once"
        )
        raise EditorError(
            f"the base of this store cannot be found: {error.message}",
            error.hint if name == SMOLLM2 else hint,  # how to install it
        ) from error
    return name, revision


def structure_problems(config: StoreConfig) -> list[str]:
    """What of the structure of a store's base differs from the recorded one, one sentence each.
    Errors are those of :func:`~editcli.models.recorded.structure.structure_of`."""
    if not config.structure:  # releases up to 0.2 do not write it
        return []
    name, revision = base_of(config)
    found = structure_of(name, revision, config.adapter, config.remote_code)
    return differences(config.structure, found)
