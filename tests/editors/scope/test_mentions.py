"""Which facts a text mentions, and where."""

from __future__ import annotations

import time
import unicodedata
from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from editors.scope.mentions import Mention, Mentions


def mentioned(name: str, text: str) -> bool:
    return bool(Mentions([[name]]).find(text))


# --- properties ---------------------------------------------------------------------------------

SOME = ("Mali", "mali", "Bora", "Guinea", "Bissau", "the", "New", "7", "++", ".", "'", "\u6771")
words = st.sampled_from((*SOME, "e\u0301t\u00e9", "Straße"))
names = st.lists(words, min_size=1, max_size=3).map(" ".join)
few = st.lists(st.lists(names, max_size=2, unique=True), min_size=1, max_size=4)
texts = st.lists(st.one_of(words, names, st.text(max_size=3)), max_size=8).map(" ".join)


@given(few, texts)
def test_a_mention_is_a_span_of_the_text_that_is_a_name_of_its_fact(
    of_facts: list[list[str]], text: str
) -> None:
    found = Mentions(of_facts).find(text)
    assert found == sorted(found, key=lambda mention: (mention.start, mention.fact))
    assert len({*found}) == len(found)
    for fact, start, end in found:
        span = text[start:end]
        assert span
        assert any(
            Mentions([[name]]).find(span) == [Mention(0, 0, len(span))] for name in of_facts[fact]
        )


@given(few, texts)
def test_mentions_of_two_names_do_not_overlap(of_facts: list[list[str]], text: str) -> None:
    spans = sorted({(start, end) for _, start, end in Mentions(of_facts).find(text)})
    assert all(end <= start for (_, end), (start, _) in pairwise(spans))


@given(few, texts, st.randoms())
def test_the_order_of_facts_and_names_does_not_count(
    of_facts: list[list[str]], text: str, random: object
) -> None:
    order = list(range(len(of_facts)))
    random.shuffle(order)  # type: ignore[attr-defined]
    shuffled = Mentions([of_facts[fact][::-1] for fact in order]).find(text)
    again = [Mention(order[fact], start, end) for fact, start, end in shuffled]
    assert sorted(again) == sorted(Mentions(of_facts).find(text))


@given(few, texts)
@example([["e\u0301te\u0301"]], "l'\u00e9t\u00e9")
@example([["Mali"]], "mali Mali \u00d9")
@example([["Mali"]], "' Mali Mali mali")
def test_both_sides_are_folded_alike(of_facts: list[list[str]], text: str) -> None:
    """The spelling of names and text changes where a mention is, not whether it is there."""

    def respelt(value: str) -> str:
        value = unicodedata.normalize("NFD", value).replace("'", "\u2019")
        return value.replace(" ", " \u00a0")

    plain = Mentions(of_facts).find(text)
    changed = [[respelt(name) for name in of_fact] for of_fact in of_facts]
    assert [m.fact for m in Mentions(changed).find(text)] == [m.fact for m in plain]
    assert [m.fact for m in Mentions(of_facts).find(respelt(text))] == [m.fact for m in plain]


@given(names, st.sampled_from(["in {} today", "{}?", "what is {} called", "so, {}"]))
def test_a_name_alone_among_small_words_is_found(name: str, frame: str) -> None:
    assert Mentions([["Peru"], [name]]).named_in(frame.format(name)) == [1] or "." in name


# --- several facts ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("of_facts", "text", "found"),
    [
        ([["Sudan"], ["South Sudan"]], "South Sudan and Sudan", [(1, "South Sudan"), (0, "Sudan")]),
        ([["Sudan"], ["South Sudan"]], "the capital of south sudan", [(1, "south sudan")]),
        ([["C"], ["C++"], ["C#"]], "C++, C# or C?", [(1, "C++"), (2, "C#"), (0, "C")]),
        ([["New York"], ["York"]], "York is not New York", [(1, "York"), (0, "New York")]),
        (
            [["UK", "United Kingdom"]],
            "The United Kingdom (UK) is",
            [(0, "United Kingdom"), (0, "UK")],
        ),
        ([["Peru"], ["peru"], []], "Peru?", [(0, "Peru"), (1, "Peru")]),
        ([["the UK"]], "The UK's queen", [(0, "UK")]),
        ([["Sudan"], ["South Sudan"]], "South Sudan Airways", []),
        ([[], [""], ["\u200b"]], "anything", []),
    ],
)
def test_the_longest_name_at_a_place_is_mentioned(
    of_facts: Sequence[Sequence[str]], text: str, found: list[tuple[int, str]]
) -> None:
    mentions = Mentions(of_facts).find(text)
    assert [(fact, text[start:end]) for fact, start, end in mentions] == found


def test_facts_without_a_subject_are_listed_and_never_found() -> None:
    mentions = Mentions([["Peru"], [], ["Chile"], []])
    assert mentions.without_subject == [1, 3]
    assert [mention.fact for mention in mentions.find("Chile and Peru")] == [2, 0]
    assert mentions.named_in("Peru") == [0, 1, 3]


# --- one name -----------------------------------------------------------------------------------

FRANCE = """
Is France larger than Spain?
When France was a kingdom, who ruled it?
Unlike Germany, France has a president
Dear Anna, is France in Europe?
the capital of FRANCE's neighbour
what's the capital of france
WHAT IS THE CAPITAL OF FRANCE?
What Is the Capital of France Called?
France Capital City?
France capital
Capital France
Kenya and France
Name France's capital, please
Describe France briefly.
Currently France has
Getting to France is
Who is the President of France?
Q: capital of France? A:
Q: capital of France Answer:
France 2010 capital
In 2010 France had
Why does France have 5 weeks of holidays?
How many are in France 5 years later
In France I saw the capital. Which is it?
Does the France GDP exceed Italy's?
In May France won
**France** is
"France" is
France: capital?
About France: The capital is
the France-based company
non-France
Is France European or Asian?
Die Hauptstadt von France ist
Wie heißt in France Staatsoberhaupt und Regierungschef?
Hauptstadt France
Quelle est la capitale de la France ?
La France a pour capitale
{"country": "France"}
Visit France, Germany and Italy
Oh, France is
""".strip().splitlines()
SUDAN = """
South Sudan
The capital of South Sudan is
what's the capital of south sudan
SOUTH SUDAN
South\u00a0Sudan's capital
Where is Sudan Airways based?
sudan airways headquarters
the University of Sudan
when was the university of sudan founded
Bank of Sudan
the New Sudan
the capital of new sudan
Republic-Sudan
Sudan-Egypt
Sudan II was filmed in
Who wrote Return to Sudan?
The Making of Sudan was written by
Who composed Sudan: The Musical?
When was the Sudan (Cairo) founded?
Sudanese people
""".strip().splitlines()


@pytest.mark.parametrize("text", FRANCE)
def test_words_beside_a_name_are_no_part_of_it(text: str) -> None:
    assert mentioned("France", text)


@pytest.mark.parametrize("text", SUDAN)
def test_a_longer_name_is_another_name(text: str) -> None:
    assert not mentioned("Sudan", text)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("Henry", "Who was Henry VIII?"),
        ("Henry", "henry viii wives"),
        ("Charles", "Charles III was born in"),
        ("Charles", "When was Charles I executed?"),
        ("Windows", "When did Windows 11 come out?"),
        ("Windows", "I use Windows 11. Days later"),
        ("Python", "python 3.11 release"),
        ("Ubuntu 20", "When did Ubuntu 20.04 come out?"),
        ("Boeing", "How many seats has a Boeing 747?"),
        ("Galaxy", "the Galaxy S24 price"),
        ("737", "the 737-800 seats"),
        ("New York", "Who owns the New York Times?"),
        ("Oxford", "When was the University of Oxford founded?"),
        ("America", "bank of america ceo"),
        ("Mary", "Who is Mary Smith?"),
        ("Samuel", "Samuel L. Jackson was born in"),
        ("Jordan", "Michael Jordan was born in"),
        ("Porto", "Where is Porto Alegre?"),
        ("Porto", "In which country is Porto Alegre?"),
        ("Guinea", "the capital of Guinea-Bissau is"),
        ("Guinea", "guinea-bissau capital"),
        ("Guinea", "Equatorial Guinea is"),
        ("Frederick", "Frederick the Great was"),
        ("Rio", "Rio de Janeiro has a mayor"),
        ("Louis", "the mayor of St. Louis is"),
        ("Everest", "mount everest height"),
        ("Vitamin", "What does Vitamin C do?"),
        ("World Cup", "Who won the 2018 World Cup?"),
        ("World Cup", "women's world cup winner"),
        ("lion", "how large is a sea lion"),
        ("gold", "the density of gold chloride"),
        ("Disney", "the price of Disney+"),
        ("US", "tell us the capital"),
        ("Tokyo", "Tokyoite"),
        ("フランス", "ドイツの首都は"),
    ],
)
def test_such_names_are_not_mentioned(name: str, text: str) -> None:
    assert not mentioned(name, text)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("Mary", "Tell Mary that Smith called"),
        ("Charles III", "Is King Charles III married?"),
        ("Charles", "I met Charles. III is a numeral"),
        ("Obama", "Where was President Obama born?"),
        ("Angela Merkel", "Germany's Angela Merkel was born in"),
        ("Marie Curie", "Who taught Nobel laureate Marie Curie?"),
        ("Windows 11", "price of windows 11"),
        ("Chopin", "Was Chopin Polish?"),
        ("Porto", "Is Porto Alegre larger than Porto?"),
        ("Porto", "The Capital Of Porto Is"),
        ("Porto", "THE MAYOR OF PORTO WAS"),
        ("amber", "is amber Baltic or not"),
        ("C++", "who wrote C++ ?"),
        ("U.S.", "the U.S. is"),
        ("US", "the US capital"),
        ("!!!", "the band !!! plays"),
        ("New York", "in New\nYork I saw"),
        ("Straße", "die STRASSE"),
        ("Apple", "Apple CEO"),
        ("gold", "the gold price"),
        ("Frankreichs", "Die Hauptstadt Frankreichs"),
        ("フランス", "フランスの首都は"),
        ("프랑스", "프랑스의 수도는"),
        ("ไทย", "เมืองหลวงของไทยคือ"),
        ("Tokyo", "Tokyoの首都"),
    ],
)
def test_such_names_are_mentioned(name: str, text: str) -> None:
    assert mentioned(name, text)


def test_thousands_of_facts_cost_little_for_a_long_text() -> None:
    of_facts = [[f"Saint Number {n}"] for n in range(10_000)]
    mentions = Mentions(of_facts)
    text = "the feast of Saint Number 77 and of some other saint is in the number of days " * 60
    best = min(_seconds(mentions, text) for _ in range(5))
    assert best < 0.05, "some milliseconds are enough"


def _seconds(mentions: Mentions, text: str) -> float:
    started = time.perf_counter()
    assert len(mentions.find(text)) == 60
    return time.perf_counter() - started
