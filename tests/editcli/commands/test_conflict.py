"""`editcli conflict`: measure, locate and resolve, on a model that says what it happens to say.

A tiny random model follows some passages and not others; the rows are chosen by what it does.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_edits import FACTS, FRANCE, JAPAN
from tiny_models import build, build_tokenizer
from tiny_stores import content, run, said
from typer.testing import Result

from editcli.operations import prune_heads as resolve
from editcli.operations.session import Workspace
from editcli.store.store import Store

Rows = list[dict[str, Any]]
NEUTRAL = "Ann lives in Oslo .\nthe sea of Kenya is red and blue .\n"
SPLITS = ("locate", "dev", "test")
RIVAL = ("conflict", "resolve", "c.jsonl", "--by", "cad")
RESOLVE = ("conflict", "resolve", "c.jsonl", "--neutral", "neutral.txt")
FORCED = (*RESOLVE, "--prefer", "memory", "--heads", "2", "--force")


@pytest.fixture(scope="session")
def mixed() -> dict[str, Rows]:
    """By who wins, "memory" or "context": rows on subjects without edits."""
    from editors.conflicts.cases import next_probabilities
    from editors.model.base_model import Base

    base = Base.of(build("llama"), build_tokenizer())
    asked = ("sea", "river", "capital", "leader", "language", "author")
    subjects, ends = ("Kenya", "Spain", "Italy", "Egypt"), ("", " Ann works .")
    answers = ("Paris", "Rome", "Madrid", "Tokyo", "Lima", "Oslo", "Cairo", "red", "green", "Ann")
    rows = [
        {
            "question": f"the {what} of {subject} is",
            "context": f"the {what} of {subject} is {answer} .{end}",
            "context_answer": answer,
            "subject": subject,
            "relation": what,
        }
        for what, subject, answer, end in product(asked, subjects, answers, ends)
    ]

    def guesses(key: str) -> list[str]:
        prompts = [f"{row['context']} {row['question']}" for row in rows]
        texts = prompts if key == "told" else [row["question"] for row in rows]
        tokens = next_probabilities(base, texts).argmax(-1).tolist()
        return [base.tokenizer.decode([token]) for token in tokens]

    found: dict[str, Rows] = {"memory": [], "context": []}
    for row, told, alone in zip(rows, guesses("told"), guesses("alone"), strict=True):
        if told == alone != row["context_answer"]:
            found["memory"].append({**row, "memory_answer": alone})
        elif told == row["context_answer"] != alone:
            found["context"].append({**row, "memory_answer": alone})
    assert len(found["context"]) >= 6
    assert len({row["subject"] for row in found["memory"]}) > 2
    return found


def some(mixed: dict[str, Rows]) -> Rows:
    """Fifteen rows: in each split two that the passage wins and three that memory does."""
    return [
        {**row, "split": split}
        for number, split in enumerate(SPLITS)
        for row in mixed["context"][number::3][:2] + mixed["memory"][number::11][:3]
    ]


@pytest.fixture
def rows(mixed: dict[str, Rows]) -> Rows:
    return some(mixed)


@pytest.fixture
def store(edited: Store, rows: Rows) -> Store:
    """The edited store, beside `c.jsonl` with the rows and `neutral.txt`."""
    save(rows)
    Path("neutral.txt").write_text(NEUTRAL)
    return edited


@pytest.fixture(scope="session")
def _made_resolved(
    tmp_path_factory: pytest.TempPathFactory, _made_edited: Path, mixed: dict[str, Rows]
) -> Path:
    folder = tmp_path_factory.mktemp("resolved")
    path = shutil.copytree(_made_edited, folder / "store")
    (folder / "neutral.txt").write_text(NEUTRAL)
    save(some(mixed), folder / "c.jsonl")
    place = ("--store", str(path), "--neutral", str(folder / "neutral.txt"))
    words = ("--prefer", "memory", "--heads", "2", "--force", "-m", "believe memory", "--json")
    result = run("conflict", "resolve", str(folder / "c.jsonl"), *place, *words)
    assert result.exit_code == 0, result.stderr
    (folder / "said.json").write_text(result.stdout)
    return folder


@pytest.fixture
def resolved(store: Store, _made_resolved: Path) -> tuple[Store, dict[str, Any]]:
    """The store with a v0003 that prunes heads, and what `resolve --json` said of it."""
    shutil.rmtree(store.path)
    shutil.copytree(_made_resolved / "store", store.path)
    return Store.open(store.path), json.loads((_made_resolved / "said.json").read_text())


def save(rows: Sequence[dict[str, Any]], path: Path = Path("c.jsonl")) -> str:
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return str(path)


def conflict(*words: str) -> Result:
    return run("conflict", *words)


def failed(result: Result) -> str:
    """The one line that a command ended with, which must be a sentence and no traceback."""
    assert result.exception is None or isinstance(result.exception, SystemExit)
    assert result.exit_code != 0
    errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, result.stderr
    return errors[0].removeprefix("error: ")


def logits(store: Store, version: str = "HEAD", texts: Sequence[str] = ()) -> list[torch.Tensor]:
    """What the model of a version makes of some prompts, edited ones among them."""
    from editors.model.tokenization import encode_prompt

    workspace = Workspace.open(store, device="auto", dtype="auto")
    base = workspace.base
    found = []
    with (
        workspace.method.attach(workspace.state(store.version(version))),
        torch.inference_mode(),
    ):
        for text in (*texts, *(fact.prompt for fact in FACTS), "the sea of Kenya is"):
            ids = torch.tensor([encode_prompt(base.tokenizer, text)])
            found.append(base.model(input_ids=ids).logits)
    return found


def edits_of(store: Store) -> Any:
    return Workspace.open(store, device="auto", dtype="auto").state()


def same(one: list[torch.Tensor], other: list[torch.Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


# --- measure ----------------------------------------------------------------------------------

RATES = {"rows", "memory", "context", "other", "ci95"}
MEASURED = RATES | {
    *("memorization_ratio", "several_named", "first_token", "by_kind", "by_relation"),
    *("bcu", "ccu"),
}


def test_measure_tells_who_wins(store: Store, rows: Rows) -> None:
    result = conflict("measure", "c.jsonl", "--json")
    assert (result.exit_code, result.stderr) == (0, "")
    record = said(result)
    assert set(record) == {"schema", "version", "split"} | MEASURED
    assert (record["version"], record["split"], record["rows"]) == ("v0002", "all", 15)
    assert record["first_token"] == {"memory": 0.6, "context": 0.4, "other": 0.0}
    # A memory answer is the model's first word, so that it is named wherever the model says it.
    assert (record["memory"], record["context"]) == pytest.approx((0.6, 0.4))
    assert record["memorization_ratio"] == pytest.approx(0.6)
    assert set(record["by_kind"]) == {"substitution"}
    assert set(record["by_kind"]["substitution"]) == RATES | {"bcu", "ccu"}
    assert set(record["by_relation"]) == {row["relation"] for row in rows}
    assert sum(part["rows"] for part in record["by_relation"].values()) == 15
    assert all(0 <= low <= high <= 1 for low, high in record["ci95"].values())


def test_measure_asks_for_memory_s_answers_where_they_are_missing(store: Store, rows: Rows) -> None:
    given = said(conflict("measure", "c.jsonl", "--json"))
    save([{k: v for k, v in row.items() if k != "memory_answer"} for row in rows])
    asked = said(conflict("measure", "c.jsonl", "--json"))
    assert asked["first_token"] == given["first_token"], "what it says begins with the same word"
    assert asked["context"] == given["context"]


def test_measure_takes_a_split_a_number_of_rows_and_a_row_s_outcome(
    store: Store, rows: Rows
) -> None:
    record = said(conflict("measure", "c.jsonl", "--split", "dev", "--json", "--per-row"))
    assert record["rows"] == 5
    assert [row["question"] for row in record["per_row"]] == [
        row["question"] for row in rows if row["split"] == "dev"
    ]
    assert {row["outcome"] for row in record["per_row"]} == {"memory", "context"}
    assert said(conflict("measure", "c.jsonl", "--limit", "2", "--json"))["rows"] == 2
    save([row for row in rows if row["split"] == "dev"])
    assert "no row of c.jsonl is in the split 'test'" in failed(
        conflict("measure", "c.jsonl", "--split", "test")
    )


def test_measure_tells_rows_about_edits_apart_by_what_the_passage_says(store: Store) -> None:
    """Property 12."""
    told = {"agrees": "Rome", "stale": None, "third": "Lima", "irrelevant": ""}
    base = said(run("ask", FRANCE.prompt, "--base", "--json"))["answer"]
    before = " ".join(base.split()[:5])
    save(
        [
            {
                "question": FRANCE.prompt,
                "context": f"so {before if answer is None else answer or 'far'} .",
                "context_answer": before if answer is None else answer,
                "kind": "substitution" if answer != "" else "irrelevant",
            }
            for answer in told.values()
        ]
    )
    record = said(conflict("measure", "c.jsonl", "--json"))
    assert record["rows"] == 2, "the stale passage and the third answer speak against the edit"
    edited = record["edited"]
    assert edited["rows"] == 4
    assert set(edited["by_state"]) == set(told)
    for part in (edited, *edited["by_state"].values()):
        shares = [part[name] for name in ("edit", "context", "before", "other")]
        assert sum(shares) == pytest.approx(1.0)
    assert edited["router"]["opened_without_passage"] == 1.0
    assert 0.0 <= edited["router"]["opened_with_passage"] <= 1.0
    lines = conflict("measure", "c.jsonl").stdout.splitlines()
    assert "passage\trows\tedit\tcontext\tbefore\tother" in lines
    older = said(conflict("measure", "c.jsonl", "--version", "v0001", "--json"))
    assert "edited" not in older, "before any edit there is none to tell"


def test_people_read_a_table(store: Store) -> None:
    result = conflict("measure", "c.jsonl")
    lines = result.stdout.splitlines()
    assert lines[0] == "v0002: 15 rows, 15 conflicting"
    assert lines[1].split("\t") == [
        *("rows", "memory", "context", "other", "n", "95 % memory", "BCU", "CCU")
    ]
    assert lines[2].startswith("all conflicting\t0.600\t0.400\t0.000\t15\t")
    assert lines[-1].startswith("memorization ratio 0.600, BCU 0.400, CCU ")


def test_where_nothing_conflicts_ratios_are_undefined(store: Store, rows: Rows) -> None:
    save([{**rows[0], "kind": "irrelevant"}])
    record = said(conflict("measure", "c.jsonl", "--json"))
    assert (record["rows"], record["memory"], record["memorization_ratio"]) == (0, None, None)
    assert record["by_kind"]["irrelevant"]["rows"] == 1
    assert "memorization ratio undefined" in conflict("measure", "c.jsonl").stdout


# --- locate -----------------------------------------------------------------------------------


def test_locate_ranks_every_head(store: Store) -> None:
    result = conflict("locate", "c.jsonl", "--json")
    assert (result.exit_code, result.stderr) == (0, "")
    record = said(result)
    assert set(record) == {"schema", "version", "edits", "rows", "settings", "seconds", "heads"}
    assert record["rows"] == {"memory": 3, "context": 2, "collided": 0}
    assert record["settings"] == {
        "corruption": "each",
        "mlps": "recomputed",
        "unit": "head",
        "seed": 0,
        "split": "locate",
    }
    heads = record["heads"]
    assert {(h["layer"], h["head"]) for h in heads} == set(product(range(3), range(4)))
    for head in heads:
        assert set(head) == {"layer", "head", "memory", "context", "joint", "stable"}
        assert all(0 <= share <= 1 for share in head["stable"].values())
    best = [max(h["memory"], h["context"]) for h in heads]
    assert best == sorted(best, reverse=True)
    groups = said(conflict("locate", "c.jsonl", "--unit", "group", "--json"))["heads"]
    assert {(h["layer"], h["head"]) for h in groups} == set(product(range(3), range(2)))


def test_locate_lists_the_heads_above_zero_best_first(store: Store) -> None:
    heads = said(conflict("locate", "c.jsonl", "--json"))["heads"]
    result = conflict("locate", "c.jsonl")
    lines = result.stdout.splitlines()
    for score in ("memory", "context"):
        at = lines.index(f"{score} heads\tmemory\tcontext\tjoint\tstable")
        ranked = sorted((h for h in heads if h[score] > 0), key=lambda h: -h[score])[:10]
        shown = [line.split("\t")[0] for line in lines[at + 1 : at + 1 + len(ranked)]]
        assert shown == [f"{h['layer']}.{h['head']}" for h in ranked]
        assert f" of these {len(ranked)} are among the ten best" in result.stderr
    quiet = conflict("locate", "c.jsonl", "-q").stdout.split()
    assert quiet == [f"{h['layer']}.{h['head']}" for h in heads]


def test_locate_is_a_function_of_rows_and_seed(store: Store) -> None:
    def heads(*words: str) -> Any:
        return said(conflict("locate", "c.jsonl", "--split", "all", "--json", *words))["heads"]

    plain = heads()
    assert heads() == plain
    assert heads("--corruption", "both") != plain
    assert heads("--mlps", "frozen") != plain


def test_measuring_and_locating_change_nothing(store: Store) -> None:
    before = content(store.path)
    conflict("measure", "c.jsonl")
    conflict("locate", "c.jsonl")
    assert content(store.path) == before


# --- resolve ----------------------------------------------------------------------------------


def test_resolve_must_be_told_whom_to_prefer(store: Store) -> None:
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
def test_resolve_refuses_what_cannot_be(store: Store, words: tuple[str, ...], reason: str) -> None:
    Path("blank.txt").write_text('\n{"text": " "}\n')
    Path("latin.txt").write_bytes("un caf\xe9 noir\n".encode("latin-1"))
    before = content(store.path)
    result = run(*RESOLVE, "--prefer", "memory", *words)
    assert result.exit_code == 2
    assert failed(result) == reason
    assert content(store.path) == before


REPORT = {
    *("file", "digest", "rows", "locating", "pruning", "grid", "listing", "heads"),
    *("overlap_with_base", "next_token", "reversible", "base", "tokenizer", "seconds"),
}


def test_beyond_the_gates_nothing_is_saved_and_the_exit_code_is_3(store: Store) -> None:
    before = content(store.path)
    result = run(*RESOLVE, "--prefer", "memory", "--heads", "2", "--json")
    assert result.exit_code == 3
    record = said(result)
    assert set(record) == {
        *("schema", "version", "parent", "prefer", "by", "pruned", "before", "after"),
        *("locality", "report"),
    }
    assert (record["version"], record["parent"]) == (None, "v0002")
    assert set(record["before"]) >= MEASURED
    assert set(record["report"]) == REPORT
    lost, refused = record["locality"]["lost"], record["locality"]["refused"]
    assert refused
    assert failed(result).startswith("nothing is saved: beyond the gates of locality: ")
    assert all(f"{name} lost {lost[name]:.3f}" in result.stderr for name in refused)
    assert record["locality"]["reversible"] is True
    assert content(store.path) == before


def test_the_report_says_all_that_the_choice_was_made_from(
    resolved: tuple[Store, dict[str, Any]],
) -> None:
    """Property 9."""
    store, record = resolved
    report = record["report"]
    assert report["rows"] == dict.fromkeys(SPLITS, 5)
    assert report["locating"]["seed"] == 0
    assert {trial["listing"] for trial in report["grid"]} <= {"kind", "only", "screened", "worth"}
    assert record["pruned"] in [trial["heads"] for trial in report["grid"]]
    assert len(report["heads"]) == 12
    assert report["base"] == store.config.fingerprint
    assert set(report["overlap_with_base"]) == {"memory", "context"}
    kept = store.head()
    blob = json.loads(store.read(kept, "head_mask.json"))
    assert blob["heads"] == record["pruned"]
    assert (blob["prefer"], blob["edits"]) == ("memory", edits_of(store).edits)
    assert blob["report"]["grid"] == report["grid"]
    assert blob["report"]["locality"] == record["locality"]
    shown = said(run("show", "--json"))
    assert shown["extra"]["forced"] is True
    assert shown["extra"]["pruned"] == record["pruned"]


def test_a_forced_version_prunes_its_heads_wherever_it_is_attached(
    resolved: tuple[Store, dict[str, Any]], rows: Rows
) -> None:
    from editors.heads.head_mask import Head, HeadMask
    from editors.inference.generation import answers

    store, record = resolved
    assert record["version"] == store.head().id == "v0003"
    heads = tuple(Head(*pair) for pair in record["pruned"])
    workspace = Workspace.open(store, device="auto", dtype="auto")
    state = workspace.state()
    assert state.resolution is not None
    assert state.resolution.mask == HeadMask(heads)
    prompts = [f"{row['context']} {row['question']}" for row in rows]
    pruned = logits(store, texts=prompts)
    assert not same(pruned, logits(store, "v0002", prompts))
    base = workspace.base
    with (
        HeadMask(heads).attached(base),
        workspace.method.attach(replace(state, resolution=None)),
    ):
        # The router looks at the base with the mask on; these prompts name no edited subject.
        wanted = answers(base, prompts, 6)
    for prompt, answer in list(zip(prompts, wanted, strict=True))[:3]:
        record = said(run("ask", prompt, "--max-new-tokens", "6", "--json"))
        assert record["answer"] == answer.text
    measured = said(conflict("measure", "c.jsonl", "--split", "test", "--json"))
    told = json.loads(store.read(store.head(), "head_mask.json"))["report"]["after"]
    assert {k: measured[k] for k in MEASURED} == {k: told[k] for k in MEASURED}


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
    mask = store.read(store.head(), "head_mask.json")
    result = run("edit", FRANCE.prompt, "Lima", "-s", "France")
    assert "warning: the pruned heads were ranked with other edits in force\n" in result.stderr
    assert "`editcli conflict resolve`" in result.stderr
    assert store.head().id == "v0004"
    assert store.read(store.head(), "head_mask.json") == mask
    state = edits_of(store)
    assert state.stale
    again = run("edit", FRANCE.prompt, "Lima", "-s", "France")
    assert "warning" not in again.stderr, "nothing was changed"


def test_resolving_again_starts_without_the_pruned_heads(
    resolved: tuple[Store, dict[str, Any]],
) -> None:
    store, before = resolved
    after = said(run(*FORCED, "--json"))
    assert (after["version"], after["parent"]) == ("v0004", "v0003")
    for key in ("pruned", "before", "after", "locality"):
        assert after[key] == before[key]
    assert same(logits(store, "v0004"), logits(store, "v0003"))


def test_what_was_measured_on_an_older_version_is_not_saved(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def meanwhile(*arguments: Any) -> Any:
        found = find(*arguments)
        assert run("undo", JAPAN.id).exit_code == 0  # nobody is kept out while heads are ranked
        return found

    find = resolve.find
    monkeypatch.setattr(resolve, "find", meanwhile)
    result = run(*FORCED)
    assert (result.exit_code, result.stdout) == (1, "")
    assert "ranked in v0002, and the store is at v0003 by now" in result.stderr
    assert (store.head().id, store.head().operation) == ("v0003", "undo")


def test_a_dry_run_needs_no_lock_and_writes_nothing(store: Store) -> None:
    before = content(store.path)
    with store.writing("editcli apply facts.jsonl"):
        result = run(*FORCED, "--dry-run", "--json")
    assert (result.exit_code, said(result)["version"]) == (0, None)
    assert content(store.path) == before


def test_where_nothing_is_lost_the_version_is_saved_without_force(store: Store) -> None:
    result = run(*RESOLVE, "--prefer", "context", "--heads", "1", "--scale", "1", "-m", "as is")
    assert result.exit_code == 0, result.stderr
    assert "BEYOND" not in result.stdout
    assert "taken off again, logits are the same bit for bit" in result.stdout
    assert "`editcli undo --heads`" in result.stderr
    assert (store.head().id, store.head().operation) == ("v0003", "resolve")
    assert store.head().message == "as is"
    assert same(logits(store), logits(store, "v0002"))


def test_means_are_kept_with_the_version(store: Store) -> None:
    words = ("--ablation", "mean", "--at", "end", "--unit", "group", "--heads", "1", "--force")
    result = run(*RESOLVE, "--prefer", "memory", *words, "--json")
    assert result.exit_code == 0, result.stderr
    mask = edits_of(store).resolution.mask
    assert len(mask.heads) == 2, "the query heads of one key-value head"
    assert mask.at == "end"
    assert [list(head) for head in mask.heads] == said(result)["pruned"]
    assert set(mask.fill) == set(mask.heads)


def test_labels_of_the_test_split_have_no_say(
    resolved: tuple[Store, dict[str, Any]], rows: Rows
) -> None:
    """Property 9."""
    _, before = resolved
    swapped = [
        {**row, "context_answer": row["memory_answer"], "memory_answer": row["context_answer"]}
        if row["split"] == "test"
        else row
        for row in rows
    ]
    save(swapped)
    after = said(run(*FORCED, "--dry-run", "--json"))
    assert after["pruned"] == before["pruned"]
    assert after["report"]["grid"] == before["report"]["grid"]
    assert after["before"]["memory"] == before["before"]["context"] != before["before"]["memory"]


@pytest.mark.parametrize("prefer", ["context", "memory"])
def test_contrastive_decoding_is_measured_and_leaves_no_version(store: Store, prefer: str) -> None:
    before = content(store.path)
    result = run(*RIVAL, "--prefer", prefer, "--json")
    assert result.exit_code == 0, result.stderr
    record = said(result)
    assert record["version"] is None
    assert record["settings"]["by"] == "cad"
    assert record["before"]["rows"] == record["after"]["rows"] == 5
    assert record["cost"] > 0
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
def test_a_rival_takes_no_option_of_pruning(store: Store, given: tuple[str, ...]) -> None:
    before = content(store.path)
    result = run(*RIVAL, "--prefer", "context", *given)
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
    store: Store, rows: Rows, mixed: dict[str, Rows], case: str
) -> None:
    bad, code, sentence = bad_files(rows, mixed)[case]
    save(bad)
    before = content(store.path)
    result = run(*FORCED)
    assert (result.exit_code, result.stdout) == (code, "")
    failed(result)
    assert f"error: {sentence}" in result.stderr
    assert "\nhint: " in result.stderr
    assert content(store.path) == before
    if code == 1:
        assert sentence in failed(conflict("locate", "c.jsonl"))


@pytest.mark.parametrize("split", SPLITS)
def test_a_split_that_the_model_agrees_with_is_named(store: Store, rows: Rows, split: str) -> None:
    """Whether a row conflicts is known only once the model has been asked."""
    from editors.conflicts.cases import Conflict, with_memory
    from editors.model.base_model import Base

    base = Base.of(build("llama"), build_tokenizer())
    silent = [Conflict(row["question"], "x", "y") for row in rows]
    memory = [asked.memory for asked in with_memory(base, silent)]
    agreeing = [
        {**row, "memory_answer": None, "context_answer": said_alone}
        if row["split"] == split
        else row
        for row, said_alone in zip(rows, memory, strict=True)
    ]
    calm = {"question": "the sea of Kenya is", "context": "Ann works .", "kind": "irrelevant"}
    before = content(store.path)
    for more, sentence in (
        ([{**calm, "split": split}], f"in the split '{split}' of c.jsonl no row is left on which"),
        ([], "no row is left on which passage and memory differ"),
    ):
        save([*agreeing, *more])
        for words in (FORCED, (*RIVAL, "--prefer", "context")):
            assert failed(run(*words)).startswith(sentence)
    assert content(store.path) == before


def test_bad_lines_may_be_left_out(store: Store, rows: Rows) -> None:
    with Path("c.jsonl").open("a") as file:
        file.write("{\n")
    for words in (("measure", "c.jsonl"), ("locate", "c.jsonl"), RESOLVE[1:]):
        prefer = ("--prefer", "memory", "--dry-run") if "resolve" in words else ()
        result = conflict(*words, *prefer)
        assert result.exit_code == 4
        assert "\nc.jsonl:16: not JSON" in result.stderr
    assert said(conflict("measure", "c.jsonl", "--skip-bad", "--json"))["rows"] == 15


def test_a_passage_longer_than_the_context_is_an_error(store: Store, rows: Rows) -> None:
    for length, room in ((130, 1), (117, 6)):
        long = {**rows[0], "context": "red " * length}
        save([long, *rows])
        result = conflict("measure", "c.jsonl")
        assert result.exit_code == 1
        told = f"a prompt has {length + 6} tokens, its answer up to {room}, and the model takes 128"
        assert failed(result).startswith(told)
    save([{"question": "red " * 112 + "is", "context": "Ann .", "context_answer": "red"}])
    assert "its answer up to 16, and the model takes 128" in failed(conflict("measure", "c.jsonl"))
