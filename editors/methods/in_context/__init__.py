"""In-context editing: the fact that a prompt asks for is put before the prompt; no weight changes.

This is the usual alternative to editing a model, and so a baseline for the other methods (compare
IKE, Zheng et al., EMNLP 2023, arXiv 2305.12740). This module needs no tensor library.
"""

from __future__ import annotations

from string import Formatter
from typing import Annotated

from editors.errors import EditorError
from editors.facts import Fact
from editors.methods.spec import MethodSpec
from editors.schema import AfterValidator, Text, record
from editors.scope.settings import ScopeSettings


def _named(*names: str) -> AfterValidator:
    """A validator of a template: it must have exactly the fields ``names``, each in braces."""

    def check(template: str) -> str:
        try:
            fields = {name for _, name, _, _ in Formatter().parse(template) if name is not None}
        except ValueError as error:
            raise ValueError(f"cannot be read as a template: {error}") from None
        if fields != set(names):
            expected = ", ".join(f"{{{name}}}" for name in names)
            raise ValueError(f"must hold {expected} and nothing else in braces")
        return template

    return AfterValidator(check)


@record(EditorError)
class InContextSettings(ScopeSettings):
    """``template``: a claimed prompt as the model sees it; ``{prompt}`` and ``{target}`` are those
    of the fact, ``{query}`` is the claimed prompt. ``system``: for a chat, the text that is added
    to its system turn instead."""

    template: Annotated[Text, _named("prompt", "target", "query")] = "{prompt} {target}.\n{query}"
    system: Annotated[Text, _named("prompt", "target")] = (
        "Answer by this fact, whatever you remember: {prompt} {target}."
    )

    def before(self, fact: Fact, query: str) -> str:
        """``query`` with ``fact`` before it."""
        return self.template.format(prompt=fact.prompt, target=fact.target, query=query)

    def instruction(self, fact: Fact) -> str:
        """The text about ``fact`` in the system turn of a chat."""
        return self.system.format(prompt=fact.prompt, target=fact.target)


SPEC = MethodSpec(
    name="in-context",
    title="the fact is put before the prompt",
    reference="compare arXiv 2305.12740, EMNLP 2023",
    routed=True,
    undo="exact",
    cost="an edit trains nothing; a claimed prompt grows by the text of its fact",
    settings=InContextSettings,
    implementation="editors.methods.in_context.method:InContext",
    for_language={"scope": "sentence"},
)
