"""The scope settings of every routed method. Needs no tensor library."""

from __future__ import annotations

from typing import Annotated

from editors.errors import EditorError
from editors.schema import Field, Number, String, Whole, record


@record(EditorError)
class ScopeSettings:
    """``scope``: the name of the scope signal. ``rank``: the number of components of a key.
    ``false_open``: the share of near misses (other questions about the subject) that may pass the
    threshold. Hard negatives are compared after that. ``encoder``: the sentence encoder of the
    signal ``sentence``: minilm, a folder, or a Hub id."""

    scope: String = "key"
    false_open: Annotated[Number, Field(ge=0, le=1)] = 0.1
    rank: Annotated[Whole, Field(ge=1, le=4096)] = 24
    encoder: String = "minilm"
