"""`editcli inspect`: what a model is, and what of it can be edited."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Annotated, Any

from typer import Option

from editcli.cli.completion import complete_method
from editcli.cli.options import (
    PRINTS,
    AdapterOption,
    Invocation,
    ModelArgument,
    TrustOption,
    shared,
)
from editcli.models.inspection import Heads, Inspection, inspect_model
from editcli.models.locations import find_model
from editcli.operations.default_settings import default_settings
from editcli.wording import counted
from editors import METHODS

HEADS_ONLY = "none; `editcli conflict` works on its heads"
NOTHING = "none"


@shared(*PRINTS)
def command(
    call: Invocation,
    model: ModelArgument,
    method: Annotated[
        str,
        Option(
            metavar="NAME",
            envvar="EDITCLI_METHOD",
            help="The editing method; `editcli methods` lists them.",
            autocompletion=complete_method,
        ),
    ] = "wise",
    layer: Annotated[
        int | None, Option(metavar="N", help="The block to edit; by default chosen by depth.")
    ] = None,
    adapter: AdapterOption = None,
    trust_remote_code: TrustOption = False,
) -> None:
    """Tell what a model is, and what of it can be edited.

    The configuration and the tokenizer are read, and no weights: a model of any size takes seconds.
    Told are the block and the projections that edits would go into, and what an edit keeps of them
    (wise: what a shard of edits keeps); which blocks can be edited, and whose heads can be pruned;
    and why others cannot.

    \b
    Examples:
      editcli inspect atlas
      editcli inspect ./my-model --layer 20
      editcli inspect org/model --json
    """
    spec = METHODS.load(method)
    settings = spec.all_settings(default_settings(spec, find_model(model).shown))
    found = inspect_model(
        model,
        layer=spec.depth(settings) if layer is None else layer,
        edits=spec.edits,
        adapter=adapter or "",
        trust_remote_code=trust_remote_code,
    )
    shapes = [*found.structure.projections.values()]
    record = _record(found)
    record |= {
        "method": method,
        "edit_bytes": spec.kept_entries(settings, shapes) * found.dtype_bytes,
    }
    call.out.record(record if call.json else dict(_lines(record, found)))


def _record(found: Inspection) -> dict[str, Any]:
    values = asdict(found)
    structure = values.pop("structure")
    values["bytes"] = found.parameters * values.pop("dtype_bytes")
    why_not = structure.pop("why_not")
    structure["attention_heads"] = structure.pop("heads")
    structure["context_tokens"] = structure.pop("context")
    return {
        "model": values.pop("base"),
        **values,
        **structure,
        "why_not": [{"why": why, "blocks": [*blocks]} for why, blocks in why_not.items()],
    }


def _lines(record: dict[str, Any], found: Inspection) -> Iterator[tuple[str, object]]:
    """What people read, a line each."""
    structure = found.structure
    yield "model", f"{found.base}@{found.revision}" if found.revision else found.base
    if found.adapter:
        yield "adapter of", found.adapter
    yield "type", found.model_type
    quantised = f", quantised by {found.quantised}" if found.quantised else ""
    yield "weights", f"{found.parameters:,} in {found.dtype}, {_mb(record['bytes'])}{quantised}"
    yield "blocks", structure.blocks
    yield "hidden width", found.hidden_size
    yield "MLP width", structure.mlp_width
    yield "heads", _heads(structure.heads)
    yield "context", structure.context or "no limit is named"
    yield "vocabulary", found.vocabulary
    chats = {True: "yes", False: "no", None: "there is no tokenizer"}
    yield "chat template", chats[found.chat_template]
    total = structure.blocks
    yield (
        "can be edited",
        _blocks(structure.editable, total)
        if structure.editable
        else (HEADS_ONLY if structure.heads.prunable else NOTHING),
    )
    yield "heads can be pruned", _blocks(structure.heads.prunable, total)
    for why, blocks in structure.why_not.items():
        yield f"why not {_blocks(blocks, total)}", why
    yield "method", record["method"]
    if structure.projections:
        shapes = structure.projections.items()
        edited = [f"{path}, {outputs} x {inputs}" for path, (outputs, inputs) in shapes]
        yield "edited block", structure.layer
        yield "edited projection", "; ".join(edited)
        yield "an edit keeps", _mb(record["edit_bytes"])


def _heads(heads: Heads) -> str:
    if not heads.count:
        return NOTHING
    groups = f", in {counted(heads.groups, 'group')}" if heads.groups != heads.count else ""
    return f"{heads.count} in a block{groups}" + (
        f", of width {heads.width}" if heads.width else ""
    )


def _blocks(numbers: Sequence[int], total: int) -> str:
    """The numbers of blocks in words: "all blocks", "none", "blocks 0-2, 5"."""
    if not numbers:
        return NOTHING
    if len(numbers) == total:
        return "all blocks"
    spans: list[list[int]] = []
    for number in numbers:
        if spans and number == spans[-1][-1] + 1:
            spans[-1][1:] = [number]
        else:
            spans.append([number])
    return f"blocks {', '.join('-'.join(map(str, span)) for span in spans)}"


def _mb(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"
