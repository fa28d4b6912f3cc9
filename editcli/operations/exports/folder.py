"""Exports: a version as a folder that other programs load. A folder appears whole or not at all."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from typer import Option

from editcli import __version__
from editcli.errors import UsageError
from editcli.models.loading import dtype_name
from editcli.models.quantization import BITS
from editcli.operations.exports.gguf_file import GgufDtype, require_gguf, write_gguf_file
from editcli.operations.session import Session
from editcli.store.files import atomic
from editcli.store.records import Version
from editors import EditorError, Fact

if TYPE_CHECKING:
    from editors.evaluation.edit_scores import EditScores
    from editors.exports.folder import EditConfig
    from editors.methods.edit_state import EditState
    from editors.model.base_model import Base

Kind = Literal["adapter", "remote-code", "merged", "gguf", "lora"]

KindOption = Annotated[
    Kind,
    Option(
        "--as",
        help="adapter: the edits alone, for `editcli.load` and `editors.load` over the same base. "
        "remote-code: base, edits and code in one folder, for transformers without editcli. "
        "merged: plain weights. gguf: plain weights in one file, for llama.cpp. "
        "lora: the edits, and each of their memories as an adapter of PEFT, from a store with "
        "memory=low-rank.",
    ),
]
GgufDtypeOption = Annotated[
    GgufDtype | None,
    Option(help="The dtype of the matrices in a GGUF file; by default that of the store."),
]
PrivateFactsOption = Annotated[
    bool, Option("--private-facts", help="List no facts in the model card, only their number.")
]

MEASURED = 100  # facts, the newest, by which merging is measured
CARD = "README.md"

Scored = dict[str, "EditScores"]
"""By name, the scores of the version and of what was made of it; empty if both are the same."""

Describe = Callable[[list[Fact], Scored], str]
"""From the facts in force and the scores to the text of the card."""


def require_kind(kind: Kind, gguf_dtype: GgufDtype | None) -> None:
    """Raises UsageError if a dtype is given for a file that is not written, and EditorError where
    a package is missing that ``kind`` needs."""
    if kind == "gguf":
        require_gguf()
    elif gguf_dtype is not None:
        raise UsageError(f"an export as {kind} has no GGUF file", "`--as gguf`")


def export(
    session: Session,
    version: Version,
    target: Path,
    kind: Kind,
    describe: Describe,
    *,
    gguf_dtype: GgufDtype | None = None,
    for_others: bool = False,
) -> Scored:
    """Write ``version`` to the folder ``target``, which must not exist. Returns the scores that
    merging changes.

    ``gguf_dtype``: of the matrices in a GGUF file; None: that of the base.
    ``for_others``: of a base in a local folder, only the name of the folder is written.

    Raises:
        EditorError: the folder exists or cannot be written, or the version cannot be exported so.
    """
    from editors.exports.folder import EditConfig

    if target.exists():
        raise EditorError(f"{target} exists", "name a folder that does not")
    config, state = session.store.config, session.state(version)
    local = for_others and not config.revision
    about = EditConfig(
        base_model_name_or_path=Path(config.base).name if local else config.base,
        revision=config.revision,
        dtype=dtype_name(session.base),
        layer=session.base.layer,
        method=config.method,
        seed=config.seed,
        version=version.id,
        editcli_version=__version__,
        adapter=session.base.adapter,
    )
    staged = target.parent / f"{atomic.TEMP_PREFIX}{target.name}"
    with atomic.explained(f"writing {target}"):
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(staged, ignore_errors=True)
        try:
            if kind == "gguf":
                scored = _write_gguf(session, state, staged / f"{target.name}.gguf", gguf_dtype)
            else:
                scored = _write(session, state, about, kind, staged)
            card = describe(state.in_force(), scored)
            (staged / CARD).write_text(card, encoding="utf-8")
            staged.rename(target)
        except BaseException:
            shutil.rmtree(staged, ignore_errors=True)
            raise
    return scored


def _write(
    session: Session, state: EditState, config: EditConfig, kind: Kind, folder: Path
) -> Scored:
    if kind == "adapter":
        from editors.exports.adapter import write_adapter

        write_adapter(session.method, state, config, folder)
        return {}
    if kind == "lora":
        from editors.exports.lora import write_lora

        write_lora(session.method, state, config, folder)
        return {}
    _require_weights(session.base)
    if kind == "remote-code":
        from editors.exports.remote_code import write_remote_code

        merged = bool(session.base.adapter)  # so the weights are in no file
        weights = None if merged else weights_folder(session.base.model, config.revision)
        write_remote_code(session.method, state, config, weights, folder)
        return {}
    from editors.exports.merged import write_merged

    write_merged(session.method, state, folder)
    return _scores_of_merging(session, state)


def _write_gguf(session: Session, state: EditState, path: Path, dtype: GgufDtype | None) -> Scored:
    from editors.exports.merged import merged

    _require_weights(session.base)
    texts = [fact.prompt for fact in state.in_force()[-MEASURED:]]
    with merged(session.method, state) as model:
        write_gguf_file(model.base, path, dtype or dtype_name(session.base), texts)
    return _scores_of_merging(session, state)


def _require_weights(base: Base) -> None:
    """Raises EditorError for a base whose weights are packed."""
    if (dtype := dtype_name(base)) in BITS:
        raise EditorError(
            f"the base is packed to {dtype}, and its weights are not in a file", "`--as adapter`"
        )


def _scores_of_merging(session: Session, state: EditState) -> Scored:
    """The scores of the newest facts with routed edits, and with the weights that they are merged
    into; empty for edits that are always on."""
    from editors.evaluation.edit_scores import score_edits
    from editors.exports.merged import merged

    method, facts = session.method, state.in_force()[-MEASURED:]
    if not facts or not method.spec.routed:
        return {}
    attached = {
        "routed": lambda: method.attach(state),
        "merged": lambda: merged(method, state),
    }
    return {
        name: score_edits(session.base, attach, facts, teacher_forced=False)
        for name, attach in attached.items()
    }


def weights_folder(model: Any, revision: str) -> Path:
    """The folder with the files of the checkpoint that ``model`` was loaded from."""
    from transformers.utils import cached_file

    if Path(model.name_or_path).is_dir():
        return Path(model.name_or_path)
    return Path(cached_file(model.name_or_path, "config.json", revision=revision or None)).parent
