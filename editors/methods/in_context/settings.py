"""The settings of in-context editing. Needs no tensor library."""

from __future__ import annotations

from string import Formatter
from typing import Annotated

from pydantic import AfterValidator

from editors.errors import EditorError
from editors.facts import Fact
from editors.schema import Text, record
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
