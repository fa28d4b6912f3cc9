"""On GPT-2 small the heads that an independent study reports come out on top.

Ortu et al. (arXiv 2402.11655) report L10H7 and L11H10 for the fact and L9H6, L9H9, L10H0 and L10H10
for the copy. Needs the weights of GPT-2 in the local cache of the Hub library; nothing is fetched.
"""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.slow

FACTS = [
    ("iPhone was developed by", "Apple", "Google"),
    ("Windows was developed by", "Microsoft", "Apple"),
    ("The Eiffel Tower is in the city of", "Paris", "Rome"),
    ("The Colosseum is in the city of", "Rome", "Paris"),
    ("The mother tongue of Angela Merkel is", "German", "French"),
    ("The mother tongue of Emmanuel Macron is", "French", "German"),
    ("The capital of Japan is the city of", "Tokyo", "London"),
    ("The capital of England is the city of", "London", "Tokyo"),
    ("The PlayStation was developed by", "Sony", "Microsoft"),
    ("Toyota Corolla is produced by", "Toyota", "Honda"),
    ("Honda Civic is produced by", "Honda", "Toyota"),
    ("The headquarters of Boeing are in", "Chicago", "Seattle"),
]


def test_the_published_heads_of_gpt2_rank_on_their_sides() -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from editors.conflicts.cases import Conflict, ConflictCase
    from editors.conflicts.locate import LocateSettings, locate
    from editors.errors import EditorError
    from editors.heads.pruning import Head
    from editors.inference.edited_model import EditedModel
    from editors.model.base_model import Base

    try:
        model = AutoModelForCausalLM.from_pretrained("gpt2", local_files_only=True)
        tokenizer = AutoTokenizer.from_pretrained("gpt2", local_files_only=True)
    except (OSError, ValueError):
        pytest.skip("the weights of GPT-2 are not in the local cache of the Hub library")
    base = Base.of(model, tokenizer)
    cases = [
        ConflictCase(Conflict(stem, f"Redefine: {stem} {claim}.", claim, fact), fact)
        for stem, fact, claim in FACTS
    ]
    try:
        ranking = locate(EditedModel.unedited(base), cases, LocateSettings(corruption="both"))
    except EditorError as problem:  # all rows follow the passage: the joint score needs no memory
        pytest.skip(f"these prompts show no conflict on this model: {problem}")
    joint = ranking.mean("joint")
    assert joint[10, 7] > 0
    assert joint[11, 10] > 0
    copying = {(int(i) // 12, int(i) % 12) for i in joint.flatten().argsort()[:10]}
    assert len(copying & {Head(9, 6), Head(9, 9), Head(10, 0), Head(10, 10)}) >= 3
