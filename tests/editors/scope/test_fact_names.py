"""The names that facts are found by, as the tokenizer of a base shows them."""

from __future__ import annotations

import pytest
from transformers import PreTrainedTokenizerBase

from editors import Fact
from editors.scope.fact_names import names_in_tokens, names_of
from editors.scope.mentions import Mentions

TEXTS = (
    "the mayor of Bras\u00edlia is",
    "S\u00e3o Paulo's mayor is",
    "the king of C\u00f4te d\u2019Ivoire",
    "the U.S. mayor is",
)
FACTS = (
    Fact(TEXTS[0], "Ann", "Bras\u00edlia"),
    Fact(TEXTS[1], "Ann", "S\u00e3o Paulo", aliases=("Sampa",)),
    Fact(TEXTS[2], "Ann", "C\u00f4te d'Ivoire"),
    Fact(TEXTS[3], "Ann", "U.S."),
    Fact("the sea is", "blue"),
)


@pytest.fixture(scope="module")
def lossy() -> PreTrainedTokenizerBase:
    """A tokenizer that drops case and accents, and sets marks apart from words."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = "the mayor of brasilia is sao paulo ' s sampa king cote d ivoire u . sea".split()  # noqa: SIM905
    vocabulary = {word: number for number, word in enumerate(["<unk>", *dict.fromkeys(letters)])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    steps = [normalizers.NFD(), normalizers.StripAccents(), normalizers.Lowercase()]
    tokenizer.normalizer = normalizers.Sequence([*steps, normalizers.Replace("\u2019", "'")])
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>")


def test_a_subject_is_found_in_what_a_lossy_tokenizer_leaves(
    lossy: PreTrainedTokenizerBase,
) -> None:
    mentions = Mentions(names_in_tokens(FACTS, lossy))
    seen = lossy.batch_decode(lossy([*TEXTS, "sampa is"])["input_ids"])
    assert "\u00ed" not in seen[0]
    assert [mentions.named_in(text) for text in seen] == [[0, 4], [1, 4], [2, 4], [3, 4], [1, 4]]


def test_a_name_that_the_tokenizer_cannot_write_gets_no_other(
    lossy: PreTrainedTokenizerBase,
) -> None:
    """Else a subject would be found wherever any unknown word stands."""
    fact = Fact("the king of Narnia is", "Ann", "Narnia")
    assert names_in_tokens([fact], lossy) == [("Narnia",)]


def test_a_longer_name_in_the_own_prompt_is_a_name_of_the_fact() -> None:
    fact = Fact("How long is the River Thames?", "long", "Thames", aliases=("Isis",))
    assert names_of(fact) == ("Thames", "Isis", "River Thames")
    mentions = Mentions([names_of(fact)])
    assert all(mentions.find(text) for text in (fact.prompt, "Thames length", "the Isis"))
    assert not mentions.find("Which of the Thames Valley towns is the largest?")


def test_a_fact_without_a_subject_has_no_names() -> None:
    assert names_of(FACTS[-1]) == ()
