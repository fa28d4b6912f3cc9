"""`editcli undo`: what is taken back answers as the base does, and nothing else moves by a bit."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_edits import FACTS, FRANCE, FRANCE_AGAIN, JAPAN, NORWAY, PERU, SETTINGS
from tiny_stores import content, in_force, json_of, run, save_facts

from editcli.cli.options import Invocation
from editcli.operations.session import Session
from editcli.store.edits import edits_of
from editcli.store.records import Version
from editcli.store.store import Store
from editors import Fact, FactClosure
from editors.heads.pruning import Head, HeadMask, HeadPruning
from editors.inference.edited_model import EditedModel
from editors.inference.generation import answers
from editors.methods.edit_state import EditState

ELSEWHERE = ("the sea of Kenya is", "the river of France is", "Ann lives in", "who wrote it ?")
KEYS = {
    *("schema", "version", "parent", "dry_run", "undone", "returned", "unpruned", "stale"),
    *("failed", "purged"),
}

Outcomes = Mapping[str, tuple[torch.Tensor, str]]
"""By prompt: its logits and its answer."""


def outcomes(store: Store, prompts: Sequence[str], version: str | None = "HEAD") -> Outcomes:
    """What a version makes of prompts; None is the base with nothing attached."""
    session = Session.open(Invocation(device="cpu"), store)
    if version is None:
        return outcomes_of(EditedModel.unedited(session.base), prompts)
    with session.method.attach(session.state(version)) as model:
        return outcomes_of(model, prompts)


def outcomes_of(model: EditedModel, prompts: Sequence[str]) -> Outcomes:
    base, by_prompt = model.base, {}
    with torch.inference_mode():
        for prompt in prompts:
            ids = torch.tensor([base.tokenizer(prompt)["input_ids"]])
            logits = base.model(input_ids=ids).logits
            by_prompt[prompt] = logits, answers(model, [prompt], 6)[0].text
    return by_prompt


def same(one: Outcomes, other: Outcomes, prompts: Sequence[str] | None = None) -> bool:
    """Logits are equal bit for bit, and so are the answers."""
    return all(
        torch.equal(one[prompt][0], other[prompt][0]) and one[prompt][1] == other[prompt][1]
        for prompt in (prompts or one)
    )


def publish(store: Store, operation: str, state: EditState) -> Version:
    """`state` as the next version."""
    session = Session.open(Invocation(device="cpu"), store)
    before = session.state()
    with store.writing() as change:
        return session.publish(change, operation, before, session.method.open(state), who="ann")


@pytest.fixture
def pruned(edited: Store) -> Store:
    """A store whose v0003 has the edits of v0002 and two heads pruned, as `conflict resolve`
    leaves it."""
    state = edits_of(edited, whole=True)
    mask = HeadMask((Head(1, 0), Head(2, 3)), at="end")
    publish(edited, "resolve", replace(state, pruning=HeadPruning("context", mask, state.edits)))
    return edited


# --- facts --------------------------------------------------------------------------------------


def test_an_undone_fact_is_answered_by_the_base_and_all_else_as_before(edited: Store) -> None:
    others = [fact.prompt for fact in (JAPAN, PERU, NORWAY)] + list(ELSEWHERE)
    gone = [FRANCE.prompt, f"Ann : {FRANCE.prompt}", "what is the capital of France ?"]
    before, base = outcomes(edited, [*gone, *others]), outcomes(edited, gone, None)
    assert before[FRANCE.prompt][1] == FRANCE.target
    assert not same(before, base, [FRANCE.prompt])
    result = run("undo", FRANCE.id[:6], "--json")
    assert (result.exit_code, result.stderr) == (0, "")
    after = outcomes(edited, [*gone, *others])
    assert same(after, base, gone)
    assert same(after, before, others)
    assert same(after, outcomes(edited, gone, "v0001"), gone)
    assert same(
        outcomes(edited, [*gone, *others], "v0002"), before
    )  # the older version still stands


def test_undoing_every_fact_leaves_the_base(edited: Store) -> None:
    prompts = [*(fact.prompt for fact in FACTS), *ELSEWHERE]
    assert run("undo", *(fact.id for fact in FACTS)).exit_code == 0
    assert in_force(edited) == ()
    assert same(outcomes(edited, prompts), outcomes(edited, prompts, None))


def test_undoing_a_fact_does_not_bring_back_the_one_it_superseded(edited: Store) -> None:
    assert run("edit", FRANCE.prompt, FRANCE_AGAIN.target, "-s", "France").exit_code == 0
    assert run("undo", FRANCE_AGAIN.id).exit_code == 0
    prompts = [FRANCE.prompt]
    assert same(outcomes(edited, prompts), outcomes(edited, prompts, None))
    assert set(in_force(edited)) == {fact.id for fact in (JAPAN, PERU, NORWAY)}
    refused = run("undo", FRANCE.id)
    assert refused.exit_code == 1
    assert f"it was superseded by {FRANCE_AGAIN.id}" in refused.stderr


def test_a_fact_taken_back_can_be_taught_again(edited: Store) -> None:
    assert run("undo", FRANCE.id).exit_code == 0
    assert run("edit", FRANCE.prompt, FRANCE.target, "-s", "France").exit_code == 0
    assert run("ask", FRANCE.prompt, "-q").stdout == f"{FRANCE.target}\n"
    assert run("undo", FRANCE.id).exit_code == 0
    prompts = [FRANCE.prompt]
    assert same(outcomes(edited, prompts), outcomes(edited, prompts, None))


def test_the_history_records_what_was_taken_back_by_whom_and_why(edited: Store) -> None:
    before = edited.blobs(edited.head())
    result = run("undo", FRANCE.id, PERU.id[:8], "-m", "wrong source", "--author", "bob", "-q")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "v0003\n", "")
    made, (event, message) = edited.head(), edited.history()[-1]
    assert (event.operation, event.who, message) == ("undo", "bob", "wrong source")
    assert made.changes == event.changes == {"added": 0, "removed": 2, "superseded": 0}
    removed = [(change.kind, change.fact) for change in edited.changes(event.seq)]
    assert removed == [("removed", FRANCE), ("removed", PERU)]
    assert (made.parent, in_force(edited)) == ("v0002", (JAPAN.id, NORWAY.id))
    assert edits_of(edited).closed == dict.fromkeys((FRANCE.id, PERU.id), FactClosure("undone"))
    assert edited.blobs(made) == before
    assert edited.verify() == []


def test_the_record_has_the_promised_keys(edited: Store) -> None:
    record = json_of(run("undo", JAPAN.id, "--json"))
    assert record == {
        "schema": 2,
        "version": "v0003",
        "parent": "v0002",
        "dry_run": False,
        "undone": [JAPAN.id],
        "returned": [],
        "unpruned": False,
        "stale": False,
        "failed": [],
        "purged": None,
    }


def test_people_read_what_was_taken_back(edited: Store) -> None:
    result = run("undo", JAPAN.id, JAPAN.id[:5])  # the same fact twice is once
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.splitlines() == [
        "v0003: took back 1 fact",
        "fact\tchange\tprompt\ttarget",
        f"{JAPAN.id}\tundone\t{JAPAN.prompt}\t{JAPAN.target}",
    ]


def test_a_dry_run_says_what_it_would_do_and_writes_nothing(pruned: Store) -> None:
    before = content(pruned.path)
    result = run("undo", FRANCE.id, "--heads", "--dry-run")
    assert result.exit_code == 0
    assert result.stdout.startswith("would take back 1 fact and the pruned heads\n")
    record = json_of(run("undo", FRANCE.id, "-n", "--json"))
    assert set(record) == KEYS
    assert (record["version"], record["parent"], record["stale"]) == (None, "v0003", True)
    assert run("undo", FRANCE.id, "-n", "-q").stdout == f"{FRANCE.id}\n"
    with pruned.writing("editcli apply"):  # a look needs no lock
        assert run("undo", FRANCE.id, "-n").exit_code == 0
        assert "editcli apply" in run("undo", FRANCE.id).stderr
    assert content(pruned.path) == before


# --- what is refused ----------------------------------------------------------------------------


def refused(store: Store, *words: str, code: int = 1) -> str:
    """What `undo` says on standard error; it must have written nothing."""
    before = content(store.path)
    result = run("undo", *words)
    assert (result.exit_code, result.stdout) == (code, "")
    assert content(store.path) == before
    return result.stderr


def test_naming_nothing_is_a_usage_error(edited: Store) -> None:
    sentence = refused(edited, code=2)
    assert sentence.startswith("error: no fact was given\n\nhint: `editcli undo FACT`")


def test_an_unknown_or_ambiguous_id_is_refused(edited: Store) -> None:
    assert "no fact or version is called 'zzz'" in refused(edited, "zzz")
    assert "no fact has an id that starts with 'zzz'" in refused(edited, FRANCE.id, "zzz")
    assert "no fact or version is called ''" in refused(edited, "")
    state = edits_of(edited, whole=True)
    for number, name in ((1, "Peru"), (2, "Kenya")):
        odd = Fact(f"the sea of {name} is", "red", id=f"same-{number}")
        state = replace(state, facts={**state.facts, odd.id: odd})
    publish(edited, "edit", state)
    sentence = refused(edited, "same")
    assert "2 facts have an id that starts with 'same': same-1, same-2" in sentence
    assert "type more of the id" in sentence


def test_one_bad_name_keeps_the_good_ones_from_being_taken_back(edited: Store) -> None:
    refused(edited, FRANCE.id, "zzz")
    assert FRANCE.id in in_force(edited)


def test_a_fact_not_in_force_is_refused(edited: Store) -> None:
    assert run("undo", FRANCE.id).exit_code == 0
    sentence = refused(edited, JAPAN.id, FRANCE.id)
    assert f"error: fact {FRANCE.id} is not in force in v0003: it was undone\n" in sentence
    assert f"`editcli show {FRANCE.id}`" in sentence


def test_heads_that_are_not_pruned_cannot_be_taken_back(edited: Store) -> None:
    sentence = refused(edited, FRANCE.id, "--heads")
    assert "error: no heads are pruned in v0002\n" in sentence
    assert "`editcli log --operation resolve`" in sentence


def test_scope_by_activation_is_refused_for_it_would_go_on_answering(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model_folder: Path, calibration: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = [f"--set={pair}" for pair in ("profile=paper", "prefixes=0", "max_steps=1")]
    made = run("init", str(model_folder), "--calibration", str(calibration), *settings)
    assert made.exit_code == 0, made.stderr
    run("edit", FRANCE.prompt, FRANCE.target, "-s", "France")
    store = Store.open(tmp_path / ".editcli")
    assert in_force(store) == (FRANCE.id,)
    for words in ((), ("--dry-run",)):
        sentence = refused(store, FRANCE.id, *words)
        assert "routes by activations, so single facts cannot be taken back" in sentence
        assert "`editcli checkout V`" in sentence


# --- heads --------------------------------------------------------------------------------------


def test_undoing_heads_gives_the_logits_of_the_version_before(pruned: Store) -> None:
    prompts = [*(fact.prompt for fact in FACTS), *ELSEWHERE]
    with_heads, without = outcomes(pruned, prompts), outcomes(pruned, prompts, "v0002")
    assert not any(same(with_heads, without, [prompt]) for prompt in prompts)
    record = json_of(run("undo", "--heads", "--json"))
    assert record == {
        "schema": 2,
        "version": "v0004",
        "parent": "v0003",
        "dry_run": False,
        "undone": [],
        "returned": [],
        "unpruned": True,
        "stale": False,
        "failed": [],
        "purged": None,
    }
    assert same(outcomes(pruned, prompts), without)
    assert pruned.blobs(pruned.head()) == pruned.blobs(pruned.version("v0002"))
    assert (pruned.head().changes["removed"], pruned.head().extra["heads"]) == (0, True)


def test_heads_and_facts_go_together(pruned: Store) -> None:
    others = [fact.prompt for fact in (FRANCE, PERU, NORWAY)] + list(ELSEWHERE)
    result = run("undo", JAPAN.id, "--heads")
    assert result.exit_code == 0
    assert result.stdout.startswith("v0004: took back 1 fact and the pruned heads\n")
    assert result.stderr == ""
    after = outcomes(pruned, [JAPAN.prompt, *others])
    assert same(after, outcomes(pruned, [JAPAN.prompt], None), [JAPAN.prompt])
    assert same(after, outcomes(pruned, others, "v0002"), others)


def test_heads_that_stay_pruned_without_their_edits_are_called_stale(pruned: Store) -> None:
    result = run("undo", JAPAN.id, "--json")
    assert json_of(result)["stale"] is True
    assert result.stderr.splitlines() == [
        "warning: the pruned heads were ranked with other edits in force",
        "hint: `editcli conflict resolve` ranks them again",
    ]
    others = [fact.prompt for fact in (FRANCE, PERU, NORWAY)] + list(ELSEWHERE)
    assert same(outcomes(pruned, others), outcomes(pruned, others, "v0003"))


def test_edits_yield_to_a_passage_that_is_preferred_until_the_preference_is_undone(
    pruned: Store,
) -> None:
    """What a passage says of an edited fact is answered by the base, and `ask` says so."""
    yielded = 0
    for fact in (FRANCE, JAPAN, PERU, NORWAY):
        words = ("ask", fact.prompt, "--context", f"{fact.prompt} red .")
        before = json_of(run(*words, "--version", "v0002", "--json"))
        result = run(*words)
        record = json_of(run(*words, "--json"))
        assert record["yielded"] == before["edited"]
        assert (record["edited"], record["prefer"]) == (False, "context")
        assert result.stderr.endswith("\npruned to prefer context: 2 heads\n")
        if record["yielded"]:
            yielded += 1
            assert (
                f"the passage speaks of fact {fact.id}, and this version prefers" in result.stderr
            )
    assert yielded
    assert run("undo", "--heads").exit_code == 0
    assert json_of(run(*words, "--json")) == before


# --- by retraining ------------------------------------------------------------------------------


def test_by_retraining_the_rest_answers_as_if_the_fact_had_never_been_applied(
    edited_by: Callable[[str], Store], model_folder: Path
) -> None:
    store = edited_by("ft-m")
    others = [JAPAN, PERU, NORWAY]
    before = outcomes(store, [fact.prompt for fact in FACTS])
    assert [before[fact.prompt][1] for fact in FACTS] == [fact.target for fact in FACTS]
    result = run("undo", FRANCE.id, "-m", "wrong", "--author", "bob", "--json")
    assert (result.exit_code, result.stderr) == (0, "")
    assert json_of(result)["undone"] == [FRANCE.id]
    after = outcomes(store, [fact.prompt for fact in FACTS])
    assert [after[fact.prompt][1] for fact in others] == [fact.target for fact in others]
    assert after[FRANCE.prompt][1] != FRANCE.target

    settings = [f"--set={key}={value}" for key, value in SETTINGS["ft-m"].items()]
    never = ["--store", str(Path("never"))]
    assert run("init", str(model_folder), "--method", "ft-m", *settings, *never).exit_code == 0
    assert run("apply", str(save_facts(Path("others.jsonl"), others)), *never).exit_code == 0
    delta = "delta.safetensors"
    other = Store.open(Path("never").absolute())
    assert store.blobs(store.head())[delta].digest == other.blobs(other.head())[delta].digest
    assert same(outcomes(store, [FRANCE.prompt], "v0002"), before, [FRANCE.prompt])


def test_by_retraining_a_fact_alone_gives_the_base_back(
    edited_by: Callable[[str], Store],
) -> None:
    store = edited_by("ft-m")
    prompts = [*(fact.prompt for fact in FACTS), *ELSEWHERE]
    base = outcomes(store, prompts, None)
    assert not same(outcomes(store, prompts), base)  # always on
    assert run("undo", *(fact.id for fact in FACTS[1:])).exit_code == 0
    assert outcomes(store, [FRANCE.prompt])[FRANCE.prompt][1] == FRANCE.target
    assert run("undo", FRANCE.id).exit_code == 0
    assert same(outcomes(store, prompts), base)
    assert (in_force(store), store.verify()) == ((), [])


def test_by_retraining_the_history_records_the_same_as_without_a_model(
    edited_by: Callable[[str], Store],
) -> None:
    store = edited_by("ft-m")
    assert run("undo", JAPAN.id, "-m", "wrong source", "--author", "bob", "-q").stdout == "v0003\n"
    made, (event, message) = store.head(), store.history()[-1]
    assert (event.operation, event.who, message) == ("undo", "bob", "wrong source")
    assert [change.fact for change in store.changes(event.seq)] == [JAPAN]
    assert in_force(store) == (FRANCE.id, PERU.id, NORWAY.id)
    iterations = made.extra["iterations"]
    assert made.extra == {"heads": False, "stale": False, "iterations": iterations, "failed": []}


def test_by_retraining_as_many_threads_compute_as_are_named(
    edited_by: Callable[[str], Store],
) -> None:
    edited_by("ft-m")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        assert run("undo", FRANCE.id, "--threads", "2").exit_code == 0
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_by_retraining_a_dry_run_needs_no_model_and_writes_nothing(
    edited_by: Callable[[str], Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = edited_by("ft-m")
    before = content(store.path)
    monkeypatch.setattr("editcli.operations.session.load_store_base", None)
    result = run("undo", FRANCE.id, "--dry-run")
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.startswith("would take back 1 fact\n")
    assert content(store.path) == before


def test_by_retraining_pruned_heads_stay_until_they_are_named(
    edited_by: Callable[[str], Store],
) -> None:
    store = edited_by("ft-m")
    state = edits_of(store, whole=True)
    mask = HeadMask((Head(1, 0), Head(2, 3)))
    publish(store, "resolve", replace(state, pruning=HeadPruning("memory", mask, state.edits)))
    assert json_of(run("undo", FRANCE.id, "--json"))["stale"] is True
    pruning = edits_of(store).pruning
    assert pruning is not None
    assert pruning.mask.heads == mask.heads
    assert json_of(run("undo", JAPAN.id, "--heads", "--json"))["stale"] is False
    assert edits_of(store).pruning is None
    assert set(in_force(store)) == {PERU.id, NORWAY.id}


def test_by_retraining_what_cannot_be_loaded_takes_nothing_back(
    edited_by: Callable[[str], Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = edited_by("ft-m")
    monkeypatch.setenv("EDITCLI_MODEL", "no such folder")
    assert "the base of this store cannot be found" in refused(store, FRANCE.id)


def test_a_fact_put_before_prompts_is_taken_back_exactly(
    edited_by: Callable[[str], Store],
) -> None:
    store = edited_by("in-context")
    others = [fact.prompt for fact in (JAPAN, PERU, NORWAY)] + list(ELSEWHERE)
    prompts = [FRANCE.prompt, *others]
    before, base = outcomes(store, prompts), outcomes(store, [FRANCE.prompt], None)
    assert before[FRANCE.prompt][1] != base[FRANCE.prompt][1]
    assert run("undo", FRANCE.id).exit_code == 0
    after = outcomes(store, prompts)
    assert same(after, base, [FRANCE.prompt])
    assert same(after, before, others)


# --- versions -----------------------------------------------------------------------------------


def test_the_last_version_is_taken_back_without_a_model_bit_for_bit(
    edited: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it superseded answers again."""
    prompts = [*(fact.prompt for fact in FACTS), *ELSEWHERE]
    before = outcomes(edited, prompts)
    assert run("edit", FRANCE.prompt, FRANCE_AGAIN.target, "-s", "France").exit_code == 0
    with monkeypatch.context() as patch:
        patch.setattr("editcli.operations.session.load_store_base", None)
        record = json_of(run("undo", "--last", "--json"))
    assert (record["undone"], record["returned"]) == ([FRANCE_AGAIN.id], [FRANCE.id])
    assert same(outcomes(edited, prompts), before)
    assert edited.blobs(edited.head()) == edited.blobs(edited.version("v0002"))
    assert set(in_force(edited)) == {fact.id for fact in FACTS}
    assert edited.verify() == []
    again = json_of(run("undo", "--last", "--json"))  # an undo can be undone
    assert (again["undone"], again["returned"]) == ([FRANCE.id], [FRANCE_AGAIN.id])


def test_an_older_version_is_taken_back_and_what_came_later_stays(edited: Store) -> None:
    assert run("edit", FRANCE.prompt, FRANCE_AGAIN.target, "-s", "France").exit_code == 0
    assert run("undo", JAPAN.id).exit_code == 0
    result = run("undo", "v0003", "--json")
    assert (result.exit_code, result.stderr) == (0, "")
    record = json_of(result)
    assert (record["undone"], record["returned"]) == ([FRANCE_AGAIN.id], [FRANCE.id])
    assert run("ask", FRANCE.prompt, "-q").stdout == f"{FRANCE.target}\n"
    assert set(in_force(edited)) == {FRANCE.id, PERU.id, NORWAY.id}
    assert "nothing that v0003 did" in refused(edited, "v0003")


def test_a_version_is_not_taken_back_over_a_newer_answer(edited: Store) -> None:
    assert run("undo", FRANCE.id).exit_code == 0
    assert run("edit", FRANCE.prompt, FRANCE_AGAIN.target, "-s", "France").exit_code == 0
    assert f"newer facts answer the same prompts: {FRANCE_AGAIN.id}" in refused(edited, "v0003")


def test_what_is_taken_back_is_one_thing(edited: Store) -> None:
    assert "nothing is before it" in refused(edited, "v0001")
    for words in (["v0002", FRANCE.id], ["--last", "--heads"], ["--last", "v0002"]):
        assert run("undo", *words).exit_code != 0
    assert "no fact or version is called 'frist'" in refused(edited, "frist")


# --- purging ------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["wise", "in-context", "ft-m"])
def test_a_purged_fact_is_nowhere_and_the_rest_answers(
    edited_by: Callable[[str], Store], method: str
) -> None:
    store = edited_by(method)
    assert run("undo", JAPAN.id, "-m", f"{JAPAN.target} was wrong").exit_code == 0
    others = (FRANCE, PERU, NORWAY)
    answered = {fact.prompt: run("ask", fact.prompt, "-q").stdout for fact in others}
    result = run("undo", JAPAN.id, "--purge", "--json")
    assert result.exit_code == 0, result.stderr
    assert json_of(result)["purged"]["texts"] == 1
    for text in (JAPAN.id, JAPAN.prompt, JAPAN.target):
        for path in store.path.rglob("*"):
            assert not path.is_file() or text.encode() not in path.read_bytes(), path
    assert run("verify").exit_code == 0
    for prompt, answer in answered.items():
        assert run("ask", prompt, "-q").stdout == answer
    assert "purged" in run("ask", FRANCE.prompt, "--version", "v0002").stderr
    assert "purged" in run("checkout", "v0002").stderr
    listed = run("log").stdout
    assert "(purged)" in listed
    assert JAPAN.target not in listed
    for words in (["facts", "list", "--state", "all"], ["report", "out.html"], ["diff", "v2"]):
        assert run(*words).exit_code == 0


def test_a_purge_whose_message_tells_the_fact_is_refused(edited: Store) -> None:
    sentence = refused(edited, JAPAN.id, "--purge", "-m", f"no more {JAPAN.target}")
    assert "the message holds text that is to be purged" in sentence
