"""`editcli conflict resolve`: heads pruned so that one source wins, as a version of its own."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from json_keys import wrong_keys
from tiny_edits import FACTS, FRANCE, JAPAN
from tiny_models import build, build_tokenizer
from tiny_stores import content, json_of, place_of, run
from typer.testing import Result

from editcli.cli.options import Invocation
from editcli.operations.conflicts import prune_heads
from editcli.operations.session import Session
from editcli.store.edits import edits_of
from editcli.store.store import Store

Rows = list[dict[str, Any]]
Save = Callable[[Rows], None]
Sentence = Callable[[Result], str]

SPLITS = ("locate", "dev", "test")
BASELINE = ("conflict", "resolve", "c.jsonl", "--by", "cad")
RESOLVE = ("conflict", "resolve", "c.jsonl", "--neutral", "neutral.txt")
FORCED = (*RESOLVE, "--prefer", "memory", "--heads", "2", "--force")


def conflict(*words: str) -> Result:
    return run("conflict", *words)


def session(store: Store) -> Session:
    """The store with its base."""
    return Session.open(Invocation(), store)


def logits(store: Store, version: str = "HEAD", texts: Sequence[str] = ()) -> list[torch.Tensor]:
    """What the model of a version makes of some prompts, edited ones among them."""
    from editors.model.tokenization import encode_prompt

    opened = session(store)
    by_prompt = []
    with opened.method.attach(opened.state(version)) as model, torch.inference_mode():
        for text in (*texts, *(fact.prompt for fact in FACTS), "the sea of Kenya is"):
            ids = torch.tensor([encode_prompt(model.base.tokenizer, text)])
            by_prompt.append(model.base.model(input_ids=ids).logits)
    return by_prompt


def same(one: list[torch.Tensor], other: list[torch.Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_resolve_needs_a_source_to_prefer(store: Store) -> None:
    result = run(*RESOLVE)
    assert result.exit_code == 2
    assert "--prefer" in result.stderr
    assert run(*RESOLVE, "--prefer", "edits").exit_code == 2


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("--heads", "0"), "--heads takes auto or a number above 0, not '0'"),
        (("--heads", "-1"), "--heads takes auto or a number above 0, not '-1'"),
        (("--heads", "some"), "--heads takes auto or a number above 0, not 'some'"),
        (("--scale", "nan"), "--scale takes a number, not nan"),
        (("--scale", "inf"), "--scale takes a number, not inf"),
        (("--neutral", "absent.txt"), "cannot read absent.txt: no such file or directory"),
        (("--neutral", "blank.txt"), "blank.txt holds no text"),
        (("--neutral", "latin.txt"), "latin.txt is not UTF-8: invalid continuation byte"),
    ],
)
def test_resolve_refuses_what_cannot_be(
    store: Store, words: tuple[str, ...], reason: str, sentence_of: Sentence
) -> None:
    Path("blank.txt").write_text('\n{"text": " "}\n')
    Path("latin.txt").write_bytes("un caf\xe9 noir\n".encode("latin-1"))
    before = content(store.path)
    result = run(*RESOLVE, "--prefer", "memory", *words)
    assert result.exit_code == 2
    assert sentence_of(result) == reason
    assert content(store.path) == before


MEASURED = {
    *("rows", "memory", "context", "other", "ci95", "memorization_ratio", "several_named"),
    *("first_token", "by_kind", "by_relation", "bcu", "ccu"),
}
REPORT = {
    *("file", "digest", "rows", "locating", "pruning", "grid", "rule", "heads"),
    *("overlap_with_base", "next_token", "reversible", "base", "tokenizer", "seconds"),
}


def test_beyond_the_limits_nothing_is_saved_and_the_exit_code_is_3(
    store: Store, sentence_of: Sentence
) -> None:
    before = content(store.path)
    result = run(*RESOLVE, "--prefer", "memory", "--heads", "2", "--json")
    assert result.exit_code == 3
    record = json_of(result)
    assert set(record) == {
        *("schema", "version", "parent", "dry_run", "prefer", "by", "missed", "pruned"),
        *("resolved", "locality_checks", "report"),
    }
    assert wrong_keys(record) == []
    assert (record["version"], record["parent"]) == (None, "v0002")
    assert set(record["resolved"]["before"]) >= MEASURED
    assert set(record["report"]) == REPORT
    checks = record["locality_checks"]
    lost, refused = checks["lost"], checks["refused"]
    assert refused
    assert record["missed"] == [f"{name} lost {lost[name]:.3f}" for name in refused]
    assert checks["reversible"] is True
    told = run(*RESOLVE, "--prefer", "memory", "--heads", "2")
    assert told.exit_code == 3
    assert sentence_of(told).startswith("nothing is saved: locality lost more than its limits: ")
    assert all(problem in told.stderr for problem in record["missed"])
    assert content(store.path) == before


@pytest.mark.slow
def test_the_report_holds_all_that_the_choice_was_made_from(
    resolved: tuple[Store, dict[str, Any]],
) -> None:
    store, record = resolved
    report = record["report"]
    assert report["rows"] == dict.fromkeys(SPLITS, 5)
    assert report["locating"]["seed"] == 0
    rules = {trial["rule"] for trial in report["grid"]}
    assert rules <= {"top_k", "exclusive", "screened", "by_value"}
    assert report["rule"] in rules
    assert record["pruned"] in [trial["heads"] for trial in report["grid"]]
    assert len(report["heads"]) == 12
    assert report["base"] == store.config.fingerprint
    assert set(report["overlap_with_base"]) == {"memory", "context"}
    blob = json.loads(place_of(store, "head_mask.json").read_bytes())
    assert blob["heads"] == record["pruned"]
    assert (blob["prefer"], blob["edits"]) == ("memory", edits_of(store).edits)
    assert blob["report"]["grid"] == report["grid"]
    assert blob["report"]["locality"] == record["locality_checks"]
    shown = json_of(run("show", "--json"))
    assert shown["extra"]["forced"] is True
    assert shown["extra"]["pruned"] == record["pruned"]
    heads = [f"{layer}.{head}" for layer, head in record["pruned"]]
    about = {"prefer": "memory", "scale": 0.0, "positions": "all"}
    assert shown["pruning"] == {**about, "heads": heads}


def test_a_forced_version_prunes_its_heads_wherever_it_is_attached(
    resolved: tuple[Store, dict[str, Any]], rows: Rows
) -> None:
    from editors.heads.head_mask import pruning_heads
    from editors.heads.pruning import Head, HeadMask
    from editors.inference.generation import answers

    store, record = resolved
    assert record["version"] == store.head().id == "v0003"
    mask = HeadMask(tuple(Head(*pair) for pair in record["pruned"]))
    opened = session(store)
    state = opened.state()
    assert state.pruning is not None
    assert state.pruning.mask == mask
    prompts = [f"{row['context']} {row['question']}" for row in rows]
    assert not same(logits(store, texts=prompts), logits(store, "v0002", prompts))
    with (
        pruning_heads(opened.base, mask),
        opened.method.attach(replace(state, pruning=None)) as model,
    ):
        # The router looks at the base with the mask on; these prompts name no edited subject.
        wanted = answers(model, prompts, 6)
    for prompt, answer in list(zip(prompts, wanted, strict=True))[:3]:
        result = run("ask", prompt, "--max-new-tokens", "6")
        assert result.stdout == f"{answer.text}\n"
        assert result.stderr.endswith("\npruned to prefer memory: 2 heads\n")
        assert json_of(run("ask", prompt, "--json"))["prefer"] == "memory"
    measured = json_of(conflict("measure", "c.jsonl", "--split", "test", "--json"))
    after = json.loads(place_of(store, "head_mask.json").read_bytes())["report"]["after"]
    assert {k: measured[k] for k in MEASURED} == {k: after[k] for k in MEASURED}


def test_checkout_takes_it_back_bit_for_bit(resolved: tuple[Store, dict[str, Any]]) -> None:
    store, _ = resolved
    before = logits(store, "v0002")
    pruned = logits(store)
    assert run("checkout", "v0002").exit_code == 0
    assert same(logits(store), before)
    assert run("checkout", "v0003").exit_code == 0
    assert same(logits(store), pruned)
    assert not same(pruned, before)


def test_edits_after_it_keep_the_pruned_heads_and_say_that_they_are_stale(
    resolved: tuple[Store, dict[str, Any]],
) -> None:
    store, _ = resolved
    mask = place_of(store, "head_mask.json").read_bytes()
    result = run("edit", FRANCE.prompt, "Lima", "-s", "France")
    assert "warning: the pruned heads were ranked with other edits in force\n" in result.stderr
    assert "`editcli conflict resolve`" in result.stderr
    assert store.head().id == "v0004"
    assert place_of(store, "head_mask.json").read_bytes() == mask
    state = edits_of(store)
    assert state.stale
    again = run("edit", FRANCE.prompt, "Lima", "-s", "France")
    assert "warning" not in again.stderr, "nothing was changed"


@pytest.mark.slow
def test_resolving_again_starts_without_the_pruned_heads(
    resolved: tuple[Store, dict[str, Any]],
) -> None:
    store, before = resolved
    after = json_of(run(*FORCED, "--json"))
    assert (after["version"], after["parent"]) == ("v0004", "v0003")
    for key in ("pruned", "resolved", "locality_checks"):
        assert after[key] == before[key]
    assert same(logits(store, "v0004"), logits(store, "v0003"))


@pytest.mark.slow
def test_what_was_measured_on_an_older_version_is_not_saved(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def meanwhile(*arguments: Any) -> Any:
        result = find_heads(*arguments)
        assert run("undo", JAPAN.id).exit_code == 0  # nobody is kept out while heads are ranked
        return result

    find_heads = prune_heads.find_heads
    monkeypatch.setattr(prune_heads, "find_heads", meanwhile)
    result = run(*FORCED)
    assert (result.exit_code, result.stdout) == (1, "")
    assert "ranked in v0002, but the store is now at v0003" in result.stderr
    assert (store.head().id, store.head().operation) == ("v0003", "undo")


@pytest.mark.slow
@pytest.mark.parametrize("prefer", ["memory", "context"])
def test_states_that_are_kept_change_no_choice_beside_edits(
    store: Store, prefer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = (*RESOLVE, "--prefer", prefer, "--force", "--dry-run", "--json")
    kept = json_of(run(*words))
    monkeypatch.setattr("editors.conflicts.resolve.STATE_BYTES", 0)
    whole = json_of(run(*words))
    assert kept["pruned"] == whole["pruned"]
    for one, other in zip(kept["report"]["grid"], whole["report"]["grid"], strict=True):
        assert one["heads"] == other["heads"]
        assert one["lost"] == pytest.approx(other["lost"], abs=1e-5)


def test_the_bar_moves_in_every_stage(store: Store, stages: list[list[Any]]) -> None:
    assert run(*FORCED, "--dry-run").exit_code == 0
    moved = {label: (total, done) for label, total, done in stages}
    del moved["memory's answers"]  # the rows have them
    assert [*moved] == ["ranking heads", "choosing heads", "testing"]
    assert all(done > 0 for _, done in moved.values())
    total, done = moved["testing"]
    assert total == done


def test_a_dry_run_needs_no_lock_and_writes_nothing(store: Store) -> None:
    before = content(store.path)
    with store.writing("editcli apply facts.jsonl"):
        result = run(*FORCED, "--dry-run", "--json")
    assert (result.exit_code, json_of(result)["version"]) == (0, None)
    assert content(store.path) == before


def test_where_nothing_is_lost_the_version_is_saved_without_force(store: Store) -> None:
    result = run(*RESOLVE, "--prefer", "context", "--heads", "1", "--scale", "1", "-m", "as is")
    assert result.exit_code == 0, result.stderr
    assert "BEYOND" not in result.stdout
    assert "with the heads put back, logits are the same bit for bit" in result.stdout
    assert "`editcli undo --heads`" in result.stderr
    assert (store.head().id, store.head().operation) == ("v0003", "resolve")
    assert store.head().message == "as is"
    assert same(logits(store), logits(store, "v0002"))


@pytest.mark.slow
def test_means_are_kept_with_the_version(store: Store) -> None:
    words = ("--ablation", "mean", "--at", "end", "--unit", "group", "--heads", "1", "--force")
    result = run(*RESOLVE, "--prefer", "memory", *words, "--json")
    assert result.exit_code == 0, result.stderr
    mask = session(store).state().pruning.mask
    assert len(mask.heads) == 2, "the query heads of one key-value head"
    assert mask.at == "end"
    assert [list(head) for head in mask.heads] == json_of(result)["pruned"]
    assert set(mask.fill) == set(mask.heads)


@pytest.mark.slow
def test_labels_of_the_test_split_change_no_choice(
    resolved: tuple[Store, dict[str, Any]], rows: Rows, save: Save
) -> None:
    _, before = resolved
    swapped = [
        {**row, "context_answer": row["memory_answer"], "memory_answer": row["context_answer"]}
        if row["split"] == "test"
        else row
        for row in rows
    ]
    save(swapped)
    after = json_of(run(*FORCED, "--dry-run", "--json"))
    assert after["pruned"] == before["pruned"]
    assert after["report"]["grid"] == before["report"]["grid"]
    now, then = after["resolved"]["before"], before["resolved"]["before"]
    assert now["memory"] == then["context"] != then["memory"]


@pytest.mark.parametrize("prefer", ["context", "memory"])
def test_contrastive_decoding_is_measured_and_leaves_no_version(store: Store, prefer: str) -> None:
    before = content(store.path)
    result = run(*BASELINE, "--prefer", prefer, "--json")
    assert result.exit_code == 0, result.stderr
    record = json_of(result)
    assert record["version"] is None
    assert record["settings"]["by"] == "cad"
    assert wrong_keys(record) == []
    resolved = record["resolved"]
    assert resolved["before"]["rows"] == resolved["after"]["rows"] == 5
    assert record["times_as_slow"] > 0
    assert content(store.path) == before


@pytest.mark.parametrize(
    "given",
    [
        ("--heads", "2"),
        ("--ablation", "mean"),
        ("--at", "end"),
        ("--scale", "0.5"),
        ("--corruption", "both"),
        ("--unit", "group"),
        ("--neutral", "neutral.txt"),
        ("--force",),
        ("--seed", "0"),
        ("--message", "why"),
        ("--author", "Ann"),
    ],
)
def test_a_decoding_baseline_takes_no_option_of_pruning(
    store: Store, given: tuple[str, ...]
) -> None:
    before = content(store.path)
    result = run(*BASELINE, "--prefer", "context", *given)
    assert result.exit_code == 2
    assert f"{given[0]} is an option of pruning, and --by cad prunes no heads" in result.stderr
    assert content(store.path) == before


# --- what cannot be resolved ------------------------------------------------------------------


def bad_files(rows: Rows, mixed: dict[str, Rows]) -> dict[str, tuple[Rows, int, str]]:
    """Rows, the exit code and the sentence."""
    agree = [{**rows[0], "context_answer": rows[0]["memory_answer"].upper()}, *rows[1:]]
    collide = [
        {**row, "memory_answer": f"{row['context_answer']} far"}
        if row["split"] == "locate"
        else row
        for row in rows
    ]

    def won(source: str) -> Rows:
        return [{**row, "split": split} for split in SPLITS for row in mixed[source][:3]]

    def silenced(split: str) -> Rows:
        calm = {**rows[0], "split": split, "kind": "irrelevant"}
        return [row for row in rows if row["split"] != split] + [calm]

    return {
        "the passage says what memory says": (
            agree,
            4,
            "1 line is refused in c.jsonl\nc.jsonl:1: context_answer: "
            f"{agree[0]['context_answer']!r} is the memory answer, so nothing conflicts",
        ),
        "answers begin alike": (
            collide,
            1,
            "the memory and the context answer begin with the same token in all 5 rows",
        ),
        "memory always wins": (won("memory"), 1, "the model answers all 3 rows from memory, so"),
        "the passage always wins": (
            won("context"),
            1,
            "the model answers all 3 rows from the passage, so",
        ),
        "a split without a conflict": (
            silenced("dev"),
            2,
            "no conflicting row of c.jsonl is in the split 'dev'",
        ),
        "no rows": ([], 2, "c.jsonl holds no rows"),
    }


@pytest.mark.parametrize(
    "case",
    [
        "the passage says what memory says",
        "answers begin alike",
        "memory always wins",
        "the passage always wins",
        "a split without a conflict",
        "no rows",
    ],
)
def test_rows_that_show_nothing_are_named_and_nothing_is_written(
    store: Store, rows: Rows, mixed: dict[str, Rows], case: str, save: Save, sentence_of: Sentence
) -> None:
    bad, code, sentence = bad_files(rows, mixed)[case]
    save(bad)
    before = content(store.path)
    result = run(*FORCED)
    assert (result.exit_code, result.stdout) == (code, "")
    sentence_of(result)
    assert f"error: {sentence}" in result.stderr
    assert "\nhint: " in result.stderr
    assert content(store.path) == before
    if code == 1:
        assert sentence in sentence_of(conflict("locate", "c.jsonl"))


@pytest.mark.parametrize("split", SPLITS)
def test_a_split_that_the_model_agrees_with_is_named(
    store: Store, rows: Rows, split: str, save: Save, sentence_of: Sentence
) -> None:
    """Whether a row conflicts is known only once the model has answered."""
    from editors.conflicts.cases import Conflict
    from editors.conflicts.measure import with_memory
    from editors.model.base_model import Base

    base = Base.of(build("llama"), build_tokenizer())
    silent = [Conflict(row["question"], "x", "y") for row in rows]
    memory = [case.memory for case in with_memory(base, silent)]
    agreeing = [
        {**row, "memory_answer": None, "context_answer": alone} if row["split"] == split else row
        for row, alone in zip(rows, memory, strict=True)
    ]
    calm = {"question": "the sea of Kenya is", "context": "Ann works .", "kind": "irrelevant"}
    before = content(store.path)
    for more, sentence in (
        ([{**calm, "split": split}], f"in the split '{split}' of c.jsonl no row is left on which"),
        ([], "no row is left on which passage and memory differ"),
    ):
        save([*agreeing, *more])
        for words in (FORCED, (*BASELINE, "--prefer", "context")):
            assert sentence_of(run(*words)).startswith(sentence)
    assert content(store.path) == before


def test_bad_lines_may_be_left_out(store: Store, rows: Rows) -> None:
    with Path("c.jsonl").open("a") as file:
        file.write("{\n")
    for words in (("measure", "c.jsonl"), ("locate", "c.jsonl"), RESOLVE[1:]):
        prefer = ("--prefer", "memory", "--dry-run") if "resolve" in words else ()
        result = conflict(*words, *prefer)
        assert result.exit_code == 4
        assert "\nc.jsonl:16: not JSON" in result.stderr
    assert json_of(conflict("measure", "c.jsonl", "--skip-bad", "--json"))["rows"] == 15
