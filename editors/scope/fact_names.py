"""The names by which the subject of a fact is found in prompts."""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from editors.facts import Fact
from editors.scope.mentions import Mentions
from editors.text_matching.longer_names import longer_name
from editors.text_matching.names import folded_name, whole_word_spans
from editors.text_matching.surroundings import Surroundings


def names_of(fact: Fact) -> tuple[str, ...]:
    """The subject of ``fact`` and its aliases; empty without a subject.

    Where a prompt of the fact itself has the subject in a longer name only, as "the River Thames"
    has Thames, that name is one of the fact, too.
    """
    if fact.subject is None:
        return ()
    names = [fact.subject, *fact.aliases]
    for prompt in (fact.prompt, *fact.variants):
        spans = whole_word_spans(fact.subject, prompt)
        if spans and not Mentions([names]).find(prompt):
            longer = longer_name(Surroundings(prompt), *spans[0], fact.subject)
            if longer is not None:
                names.append(prompt[slice(*longer)])
    return tuple(names)


def names_in_tokens(
    facts: Sequence[Fact], tokenizer: PreTrainedTokenizerBase
) -> list[tuple[str, ...]]:
    """For each fact, its names, and these as they are after the way through the tokenizer.

    Some tokenizers drop case or accents, so that decoded prompts have them no more. A name with a
    token for unknown text stands for other names as well, so it is left as it is.
    """
    names = [names_of(fact) for fact in facts]
    texts = sorted({name for of_fact in names for name in of_fact})
    if not texts:
        return names
    ids = tokenizer(texts, add_special_tokens=False)["input_ids"]
    decoded = dict(zip(texts, tokenizer.batch_decode(ids, skip_special_tokens=True), strict=True))
    unknown = {
        text for text, of_text in zip(texts, ids, strict=True) if tokenizer.unk_token_id in of_text
    }

    def seen(name: str) -> list[str]:
        again = decoded[name].strip()
        lossless = folded_name(again) in ("", folded_name(name))
        return [] if lossless or name in unknown else [again]

    return [(*of_fact, *(again for name in of_fact for again in seen(name))) for of_fact in names]
