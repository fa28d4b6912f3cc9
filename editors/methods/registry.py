"""The registered editing methods: of this package, and of other packages."""

from __future__ import annotations

from editors.methods.spec import MethodSpec
from editors.plugins import Registry

METHODS: Registry[MethodSpec] = Registry(
    "editing method",
    "editcli.methods",
    {
        "ft-m": "editors.methods.ft_m:SPEC",
        "in-context": "editors.methods.in_context:SPEC",
        "wise": "editors.methods.wise:SPEC",
    },
)
