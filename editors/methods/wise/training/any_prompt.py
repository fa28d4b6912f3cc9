"""Prompts of many forms, after which the memory of a single fact is to begin its answer.

Only prompts that its fact claims reach such a memory, and people ask in more forms than can be
trained. So it may give its answer after any prompt at all. Up to the edited projection the states
do not depend on the fact: they are recorded once for all facts. The first token of the answer is
trained after each of these prompts; the others follow from the fact's own forms.
"""

from __future__ import annotations

from editors.methods.training.records import Record
from editors.methods.training.rows import that_fit
from editors.methods.training.state_offload import StateOffload
from editors.methods.wise.training.joint import Recorded, recorded_rows
from editors.model.base_model import Base
from editors.model.tokenization import Prompt, Row, encode_pairs, in_chat

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
        self._recorded: Recorded = ()

    def before(self, target: str) -> Recorded:
        """The prompts, each with the first token of ``target`` as its label."""
        base, pairs = self._base, [(prompt, target) for prompt in self._prompts]
        encoded = encode_pairs(base.tokenizer, pairs, stop=False)
        begun = [Row(row.ids[: row.prompt_length + 1], row.prompt_length) for row in encoded]
        rows = that_fit(base, begun)
        if rows and not self._recorded:
            _, [self._recorded] = recorded_rows(base, StateOffload(), [rows])
        # The label is the last token of its row, so no recorded state that counts has seen it.
        return [
            (numbers, Record.of(base.batch([rows[i] for i in numbers]), record.states))
            for numbers, record in self._recorded
        ]
