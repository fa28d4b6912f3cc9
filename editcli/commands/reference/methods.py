"""`editcli methods`: the editing methods there are, and what each promises."""

from __future__ import annotations

from editcli.cli.invocation import Invocation
from editcli.cli.options import PRINTS, shared
from editors import METHODS
from editors.methods.spec import MethodSpec

COLUMNS = ("method", "answers", "undo", "what it is", "cost")


@shared(*PRINTS)
def command(call: Invocation) -> None:
    """List the editing methods, and what each promises.

    "routed": an edit answers the prompts that it claims, and every other prompt gets the base
    model's answer, bit for bit. "always on": every prompt meets the changed model. Undo is "exact",
    without a model, or by "retraining" what is left. --json adds where each method was published,
    and its settings.

    A package can add methods: docs/adding-a-method.md tells how.

    \b
    Examples:
      editcli methods
      editcli methods --json
      editcli init --method in-context
    """
    specs = [METHODS.load(name) for name in METHODS.names()]
    call.out.table(map(_record if call.json else _row, specs), COLUMNS)


def _row(spec: MethodSpec) -> dict[str, object]:
    return {
        "method": spec.name,
        "answers": "routed" if spec.routed else "always on",
        "undo": spec.undo,
        "what it is": spec.title,
        "cost": spec.cost,
    }


def _record(spec: MethodSpec) -> dict[str, object]:
    return {
        "method": spec.name,
        "title": spec.title,
        "reference": spec.reference,
        "routed": spec.routed,
        "undo": spec.undo,
        "cost": spec.cost,
        "settings": spec.all_settings({}),
    }
