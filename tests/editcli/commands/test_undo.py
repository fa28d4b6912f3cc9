"""`editcli undo`: what is taken back answers as the base does, and nothing else moves by a bit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest
import torch
from tiny_edits import FACTS, FRANCE, FRANCE_AGAIN, JAPAN, NORWAY, PERU
from tiny_stores import content, run, said

from editcli.operations.session import Workspace, state_of
from editcli.store.ledger import Ledger
from editcli.store.store import Store, Version
from editors import Fact
from editors.heads.head_mask import Head, HeadMask, Resolution
from editors.inference.generation import answers

ELSEWHERE = ("the sea of Kenya is", "the river of France is", "Ann lives in", "who wrote it ?")
KEYS = {"schema", "version", "parent", "undone", "heads", "stale"}


def heard(
    store: Store, prompts: Sequence[str], version: str | None = "HEAD"
) -> dict[str, tuple[torch.Tensor, str]]:
    """By prompt: its logits and answer in a version; None asks the base with nothing attached."""
    workspace = Workspace.open(store, device="cpu", dtype="auto")
    if version is None:
        return _heard(workspace, prompts)
    with workspace.method.attach(workspace.state(store.version(version))):
        return _heard(workspace, prompts)


def _heard(workspace: Workspace, prompts: Sequence[str]) -> dict[str, tuple[torch.Tensor, str]]:
    base = workspace.base
    said = {}
    with torch.inference_mode():
        for prompt in prompts:
            ids = torch.tensor([base.tokenizer(prompt)["input_ids"]])
            said[prompt] = base.model(input_ids=ids).logits, answers(base, [prompt], 6)[0].text
    return said


def same(
    one: Mapping[str, tuple[torch.Tensor, str]],
    other: Mapping[str, tuple[torch.Tensor, str]],
    prompts: Sequence[str] | None = None,
) -> bool:
    """Logits are equal bit for bit, and so are the answers."""
    return all(
        torch.equal(one[prompt][0], other[prompt][0]) and one[prompt][1] == other[prompt][1]
        for prompt in (prompts or one)
    )


def prune(store: Store, mask: HeadMask) -> Version:
    """A version with pruned heads, as `conflict resolve` leaves it."""
    with store.writing() as change:
        state = state_of(store, store.head())
        resolved = replace(state, resolution=Resolution("context", mask, state.edits))
        return Workspace.publish(change, "resolve", resolved, author="ann", message="", extra={})


@pytest.fixture
def pruned(edited: Store) -> Store:
    """A store whose v0003 has the edits of v0002 and two heads pruned."""
    prune(edited, HeadMask((Head(1, 0), Head(2, 3)), at="end"))
    return edited


# --- facts --------------------------------------------------------------------------------------


def test_an_undone_fact_is_answered_by_the_base_and_all_else_as_before(edited: Store) -> None:
    kept = [fact.prompt for fact in (JAPAN, PERU, NORWAY)] + list(ELSEWHERE)
    gone = [FRANCE.prompt, f"Ann : {FRANCE.prompt}", "what is the capital of France ?"]
    before, base = heard(edited, [*gone, *kept]), heard(edited, gone, None)
    assert before[FRANCE.prompt][1] == FRANCE.target
    assert not same(before, base, [FRANCE.prompt])
    result = run("undo", FRANCE.id[:6], "--json")
    assert (result.exit_code, result.stderr) == (0, "")
    after = heard(edited, [*gone, *kept])
    assert same(after, base, gone)
    assert same(after, before, kept)
    assert same(after, heard(edited, gone, "v0001"), gone)
    assert same(heard(edited, [*gone, *kept], "v0002"), before)  # the older version still stands


def test_undoing_every_fact_leaves_the_base(edited: Store) -> None:
    prompts = [*(fact.prompt for fact in FACTS), *ELSEWHERE]
    assert run("undo", *(fact.id for fact in FACTS)).exit_code == 0
    assert edited.head().facts == ()
    assert same(heard(edited, prompts), heard(edited, prompts, None))


def test_undoing_a_fact_does_not_bring_back_the_one_it_superseded(edited: Store) -> None:
    assert run("edit", FRANCE.prompt, FRANCE_AGAIN.target, "-s", "France").exit_code == 0
    assert run("undo", FRANCE_AGAIN.id).exit_code == 0
    prompts = [FRANCE.prompt]
    assert same(heard(edited, prompts), heard(edited, prompts, None))
    assert set(edited.head().facts) == {fact.id for fact in (JAPAN, PERU, NORWAY)}
    refused = run("undo", FRANCE.id)
    assert refused.exit_code == 1
    assert f"it was superseded by {FRANCE_AGAIN.id}" in refused.stderr


def test_a_fact_taken_back_can_be_taught_again(edited: Store) -> None:
    assert run("undo", FRANCE.id).exit_code == 0
    assert run("edit", FRANCE.prompt, FRANCE.target, "-s", "France").exit_code == 0
    assert run("ask", FRANCE.prompt, "-q").stdout == f"{FRANCE.target}\n"
    assert run("undo", FRANCE.id).exit_code == 0
    prompts = [FRANCE.prompt]
    assert same(heard(edited, prompts), heard(edited, prompts, None))


def test_the_history_records_what_was_taken_back_by_whom_and_why(edited: Store) -> None:
    before = edited.head()
    result = run("undo", FRANCE.id, PERU.id[:8], "-m", "wrong source", "--author", "bob", "-q")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "v0003\n", "")
    made, event = edited.head(), edited.history()[-1]
    assert (event.operation, event.who, event.message) == ("undo", "bob", "wrong source")
    assert event.removed == made.removed == (FRANCE.id, PERU.id)
    assert (made.parent, made.facts) == ("v0002", (JAPAN.id, NORWAY.id))
    ledger = Ledger.of(edited)
    assert {i: (c.why, c.by) for i, c in ledger.closed.items()} == dict.fromkeys(
        (FRANCE.id, PERU.id), ("undone", None)
    )
    changed = {name for name in made.blobs if made.blobs[name] != before.blobs[name]}
    assert changed == {"edits.json"}  # all else is shared
    assert edited.verify() == []


def test_the_record_has_the_promised_keys(edited: Store) -> None:
    record = said(run("undo", JAPAN.id, "--json"))
    assert record == {
        "schema": 1,
        "version": "v0003",
        "parent": "v0002",
        "undone": [JAPAN.id],
        "heads": False,
        "stale": False,
    }


def test_people_read_what_was_taken_back(edited: Store) -> None:
    result = run("undo", JAPAN.id, JAPAN.id[:5])  # the same fact twice is once
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.splitlines() == [
        "v0003: took back 1 fact",
        "fact\tprompt\ttarget",
        f"{JAPAN.id}\t{JAPAN.prompt}\t{JAPAN.target}",
    ]


def test_a_dry_run_says_what_it_would_do_and_writes_nothing(pruned: Store) -> None:
    before = content(pruned.path)
    told = run("undo", FRANCE.id, "--heads", "--dry-run")
    assert told.exit_code == 0
    assert told.stdout.startswith("would take back 1 fact and the pruned heads\n")
    record = said(run("undo", FRANCE.id, "-n", "--json"))
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
    told = refused(edited, code=2)
    assert told.startswith("error: nothing is named to take back\n\nhint: `editcli undo FACT`")


def test_an_unknown_or_ambiguous_id_is_refused(edited: Store) -> None:
    assert "no fact has an id that starts with 'zzz'" in refused(edited, "zzz")
    assert "no fact has an id that starts with ''" in refused(edited, "")
    for n in (1, 2):
        odd = Fact(f"the sea of {('Peru', 'Kenya')[n - 1]} is", "red", id=f"same-{n}")
        with edited.writing() as change:
            state = state_of(edited, edited.head())
            state = replace(state, facts={**state.facts, odd.id: odd})
            Workspace.publish(change, "edit", state, author="", message="", extra={})
    told = refused(edited, "same")
    assert "2 facts have an id that starts with 'same': same-1, same-2" in told
    assert "type more of the id" in told


def test_one_bad_name_keeps_the_good_ones_from_being_taken_back(edited: Store) -> None:
    refused(edited, FRANCE.id, "zzz")
    assert FRANCE.id in edited.head().facts


def test_a_fact_not_in_force_is_refused(edited: Store) -> None:
    assert run("undo", FRANCE.id).exit_code == 0
    told = refused(edited, JAPAN.id, FRANCE.id)
    assert f"error: fact {FRANCE.id} is not in force in v0003: it was undone\n" in told
    assert f"`editcli show {FRANCE.id}`" in told


def test_heads_that_are_not_pruned_cannot_be_taken_back(edited: Store) -> None:
    told = refused(edited, FRANCE.id, "--heads")
    assert "error: no heads are pruned in v0002\n" in told
    assert "`editcli log --operation resolve`" in told


def test_a_router_without_keys_is_refused_for_it_would_go_on_answering(edited: Store) -> None:
    with edited.writing() as change:
        state = replace(state_of(edited, edited.head()), router={})
        Workspace.publish(change, "edit", state, author="", message="", extra={})
    assert "goes by activations" in refused(edited, FRANCE.id)


# --- heads --------------------------------------------------------------------------------------


def test_undoing_heads_gives_the_logits_of_the_version_before(pruned: Store) -> None:
    prompts = [*(fact.prompt for fact in FACTS), *ELSEWHERE]
    with_heads, without = heard(pruned, prompts), heard(pruned, prompts, "v0002")
    assert not any(same(with_heads, without, [prompt]) for prompt in prompts)
    record = said(run("undo", "--heads", "--json"))
    assert record == {
        "schema": 1,
        "version": "v0004",
        "parent": "v0003",
        "undone": [],
        "heads": True,
        "stale": False,
    }
    assert same(heard(pruned, prompts), without)
    assert pruned.head().blobs == pruned.version("v0002").blobs
    assert (pruned.history()[-1].removed, pruned.head().extra["heads"]) == ((), True)


def test_heads_and_facts_go_together(pruned: Store) -> None:
    kept = [fact.prompt for fact in (FRANCE, PERU, NORWAY)] + list(ELSEWHERE)
    result = run("undo", JAPAN.id, "--heads")
    assert result.exit_code == 0
    assert result.stdout.startswith("v0004: took back 1 fact and the pruned heads\n")
    assert result.stderr == ""
    after = heard(pruned, [JAPAN.prompt, *kept])
    assert same(after, heard(pruned, [JAPAN.prompt], None), [JAPAN.prompt])
    assert same(after, heard(pruned, kept, "v0002"), kept)


def test_heads_that_stay_pruned_without_their_edits_are_called_stale(pruned: Store) -> None:
    result = run("undo", JAPAN.id, "--json")
    assert said(result)["stale"] is True
    assert result.stderr.splitlines() == [
        "warning: the pruned heads were ranked with other edits in force",
        "hint: `editcli conflict resolve` ranks them again",
    ]
    kept = [fact.prompt for fact in (FRANCE, PERU, NORWAY)] + list(ELSEWHERE)
    assert same(heard(pruned, kept), heard(pruned, kept, "v0003"))


def test_edits_yield_to_a_passage_that_is_preferred_until_the_preference_is_undone(
    pruned: Store,
) -> None:
    """What a passage says of an edited fact is read by main memory, and `ask` says so."""
    yielded = 0
    for fact in (FRANCE, JAPAN, PERU, NORWAY):
        asked = ("ask", fact.prompt, "--context", f"{fact.prompt} red .")
        before = said(run(*asked, "--version", "v0002", "--json"))
        told = run(*asked)
        record = said(run(*asked, "--json"))
        assert record["yielded"] == (before["memory"] == "side")
        assert (record["memory"], record["prefer"]) == ("main", "context")
        if record["yielded"]:
            yielded += 1
            assert f"the passage speaks of fact {fact.id}, and is preferred" in told.stderr
    assert yielded
    assert run("undo", "--heads").exit_code == 0
    assert said(run(*asked, "--json")) == before
