"""A base with heads pruned, and with nothing else attached."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from editors.heads.pruning import HeadMask
    from editors.inference.edited_model import EditedModel
    from editors.model.base_model import Base


@contextmanager
def pruned(base: Base, mask: HeadMask) -> Iterator[EditedModel]:
    """Inside ``with``, the base with the heads of ``mask`` pruned and without edits."""
    from editors.heads.head_mask import pruning_heads
    from editors.inference.edited_model import attached

    with pruning_heads(base, mask), attached(base, {}, None) as model:
        yield model
