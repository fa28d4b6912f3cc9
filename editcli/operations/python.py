"""Edited models for use in Python."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from editcli.errors import UsageError
from editcli.models.adapters import IGNORE, USE
from editcli.models.loading import load_base
from editcli.models.recorded.store_base import load_store_base
from editcli.operations.session import Session
from editcli.settings import current_folder
from editcli.store.files.layout import find_store
from editcli.store.store import Store

if TYPE_CHECKING:
    from editors.exports.loaded_model import LoadedModel


def load_model(place: Path, version: str, device: str, dtype: str) -> LoadedModel:
    """See :func:`editcli.load`."""
    from editors.exports.folder import CONFIG, EditConfig, opened
    from editors.exports.loaded_model import LoadedModel

    if not (place / CONFIG).is_file():
        store = Store.open(find_store(place, current_folder(), {}))
        base = load_store_base(store.config, device=device, dtype=dtype)
        session = Session.on(store, base)
        return LoadedModel(session.method, session.state(version))
    if version != "HEAD":
        raise UsageError(f"{place} is an export, and holds one version", "leave `version` out")
    config = EditConfig.read(place)
    base = load_base(
        config.base_model_name_or_path,
        revision=config.revision,
        device=device,
        dtype=config.dtype if dtype == "auto" else dtype,
        layer=config.layer,
        adapter=USE if config.adapter else IGNORE,
    )
    return opened(base.model, base.tokenizer, place, base.source)
