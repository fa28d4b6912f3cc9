"""`editcli methods`: the editing methods there are, and what each promises."""

from __future__ import annotations

from editcli.cli.options import PRINTS, Invocation, shared
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
    records = map(_record, map(METHODS.load, METHODS.names()))
    call.out.table(records if call.json else map(_for_people, records), COLUMNS)


def _record(spec: MethodSpec) -> dict[str, object]:
    keys = ("title", "reference", "routed", "undo", "cost")
    values = {key: getattr(spec, key) for key in keys}
    return {"method": spec.name, **values, "settings": spec.all_settings({})}


def _for_people(record: dict[str, object]) -> dict[str, object]:
    answers = "routed" if record["routed"] else "always on"
    return {**record, "answers": answers, "what it is": record["title"]}
