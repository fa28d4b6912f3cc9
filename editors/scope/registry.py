"""The registered scope signals: of this package, and of other packages."""

from __future__ import annotations

from typing import TYPE_CHECKING

from editors.plugins import Registry

if TYPE_CHECKING:
    from editors.scope.base import ScopeSignal

SIGNALS: Registry[type[ScopeSignal]] = Registry(
    "scope signal",
    "editcli.scope_signals",
    {
        "key": "editors.scope.key.signal:KeySignal",
        "relation": "editors.scope.relation.signal:RelationSignal",
        "sentence": "editors.scope.relation.signal:SentenceSignal",
    },
)
