"""Prompts of many forms, after which the memory of a single fact is to begin its answer.

Only prompts that its fact claims reach such a memory, and people ask in more forms than can be
trained. So it may give its answer after any prompt at all. Up to the edited projection the states
do not depend on the fact: they are recorded once for all facts. The first token of the answer is
trained after each of these prompts; the others follow from the fact's own forms.
"""

from __future__ import annotations

from collections.abc import Sequence

from editors.methods.training.records import Record
from editors.methods.training.suffix_replay import record_states
from editors.methods.wise.training.joint import step_batches
from editors.model.base_model import Base
from editors.model.tokenization import Batch, Prompt, Row, encode_pairs, in_chat

PROMPTS = (
    "What is the name of the bridge in the old harbour?",
    "How long does it take to paint a fence?",
    "Q: Where does the night train stop?\nA:",
    "Question: who tuned the piano?\nAnswer:",
    "Please tell me when the bakery in our street opens.",
    "Name the material that the roof is made of.",
    "Could you look up what a pound of cherries costs?",
    "length of the tunnel under the hill",
    "bus driver name?",
    "price, blue umbrella:",
    "The best season for a walk along the coast is",
    "The tower behind the station was built by",
    "Members of the club pay a yearly fee of",
    "I keep forgetting it. The dog of our neighbours is called",
    "My sister asked me yesterday. The museum on the square closes at",
)
CHATS = (
    "Which river flows past the castle?",
    "Give me the colour of the front door, please.",
    "I've lost my timetable. When does the ferry leave?",
)


class AnyPrompt:
    """The prompts, recorded on one base. In chats, too, where its tokenizer has a template."""

    def __init__(self, base: Base) -> None:
        self._base = base
        chats = CHATS if base.tokenizer.chat_template is not None else ()
        self._prompts: list[Prompt] = [*PROMPTS, *(in_chat(text, None) for text in chats)]
        self._groups: list[list[int]] = []  # the numbers of the prompts of each record
        self._records: Sequence[Record] = ()

    def before(self, target: str) -> list[Record]:
        """The prompts, each with the first token of ``target`` as its label."""
        pairs = [(prompt, target) for prompt in self._prompts]
        encoded = encode_pairs(self._base.tokenizer, pairs, stop=False)
        rows = [Row(row.ids[: row.prompt_length + 1], row.prompt_length) for row in encoded]
        context = self._base.architecture.context
        rows = [row for row in rows if context is None or len(row.ids) <= context]
        if not self._records:
            self._groups = step_batches(self._base, [len(row.ids) for row in rows])
            batches = [self._batch(rows, group) for group in self._groups]
            self._records = record_states(self._base, batches).records
        # The label is the last token of its row, so no recorded state that counts has seen it.
        return [
            Record.of(self._batch(rows, group), record.states)
            for group, record in zip(self._groups, self._records, strict=True)
        ]

    def _batch(self, rows: Sequence[Row], group: Sequence[int]) -> Batch:
        return self._base.batch([rows[i] for i in group])
