"""Which scope signals there are: ours, and those that other packages register."""

from __future__ import annotations

from editors.plugins import Registry
from editors.scope.base import ScopeSignal

SIGNALS: Registry[type[ScopeSignal]] = Registry(
    "scope signal", "editcli.scope_signals", {"key": "editors.scope.keys:KeySignal"}
)
