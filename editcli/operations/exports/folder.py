"""Exports: a version as a folder that other programs load. A folder appears whole or not at all."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from typer import Option

from editcli import __version__
from editcli.models.loading import dtype_name
from editcli.models.quantization import BITS
from editcli.operations.session import Session
from editcli.store import atomic
from editcli.store.records import Version
from editors import EditorError, Fact

if TYPE_CHECKING:
    from editors.evaluation.edit_scores import EditScores
    from editors.exports.folder import EditConfig
    from editors.methods.edit_state import EditState

Kind = Literal["adapter", "remote-code", "merged", "lora"]

KindOption = Annotated[
    Kind,
    Option(
        "--as",
        help="adapter: the edits alone, for `editcli.load` and `editors.load` over the same base. "
        "remote-code: base, edits and code in one folder, for transformers without editcli. "
        "merged: plain weights. lora: the edits, and each of their memories as an adapter of PEFT, "
        "from a store with memory=low-rank.",
    ),
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


def export(
    session: Session,
    version: Version,
    target: Path,
    kind: Kind,
    describe: Describe,
    *,
    for_others: bool = False,
) -> Scored:
    """Write ``version`` to the folder ``target``, which must not exist. Returns the scores that
    merging changes.

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
    if config.dtype in BITS:
        raise EditorError(
            f"the base is packed to {config.dtype}, and its weights are not in a file",
            "`--as adapter`",
        )
    if kind == "remote-code":
        from editors.exports.remote_code import write_remote_code

        merged = bool(session.base.adapter)  # so the weights are in no file
        weights = None if merged else weights_folder(session.base.model, config.revision)
        write_remote_code(session.method, state, config, weights, folder)
        return {}
    from editors.exports.merged import write_merged

    write_merged(session.method, state, folder)
    return _scores_of_merging(session, state) if session.method.spec.routed else {}


def _scores_of_merging(session: Session, state: EditState) -> Scored:
    """The scores of the newest facts with routed edits, and with the weights that they are merged
    into."""
    from editors.evaluation.edit_scores import score_edits
    from editors.exports.merged import merged

    method, facts = session.method, state.in_force()[-MEASURED:]
    if not facts:
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
