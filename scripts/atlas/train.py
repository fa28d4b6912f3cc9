"""Train atlas, the embedded model, from the facts and texts in ``datasets/atlas``.

A Llama-shaped decoder of under four million parameters learns every fact in every phrasing, to
stop after the answer, to copy from passages on invented subjects, and to weigh a passage against
what it knows. Deterministic for a given machine and thread count.

It first learns from scratch, then goes on with heads removed by role (see `phases.py` and
`roles.py`), so that several heads of the upper half share the work, as in larger models.

    python scripts/atlas/train.py                          # trains, measures, writes the model
    python scripts/atlas/train.py --start DIR --done N --out DIR  # only what comes after N phases
    python scripts/atlas/train.py --measure-only           # measures what is there
"""

from __future__ import annotations

import argparse
import json
import math
import time
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from random import Random

import torch
from corpus import ATLAS, Corpus, Row, read_jsonl
from forward import PRODUCTS, WIDTH, Forward
from muon import Muon
from phases import PHASES, Phase
from roles import NOTHING, Removed, at_random, by_role, draw
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

VOCABULARY = 3072


def train_tokenizer(corpus: Corpus) -> PreTrainedTokenizerFast:
    """A byte-level BPE over the corpus and every name that a later edit may bring in."""
    rng = Random(0)
    texts = [
        row.prompt + " " + row.answer for row in (corpus.closed_book(rng) for _ in range(40_000))
    ]
    texts += [f" {fact.subject}, {fact.object}" for fact in corpus.facts for _ in range(3)]
    texts += [f" {row['new']}" for row in read_jsonl(ATLAS / "successions.jsonl")]
    texts += corpus.neutral_train
    texts += [row.prompt for row in (corpus.conflict(rng) for _ in range(5_000))]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    specials = ["<|bos|>", "<|eos|>", "<|pad|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=specials,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<|bos|> $A", special_tokens=[("<|bos|>", 0)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<|bos|>",
        eos_token="<|eos|>",
        pad_token="<|pad|>",
        model_max_length=512,
        clean_up_tokenization_spaces=False,
    )


def build_model(tokenizer: PreTrainedTokenizerFast, layers: int, width: int) -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=round(width * 8 / 3 / 64) * 64,
        num_hidden_layers=layers,
        num_attention_heads=8,
        num_key_value_heads=4,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        rms_norm_eps=1e-5,
        initializer_range=0.02,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return LlamaForCausalLM(config)


@dataclass(frozen=True, slots=True)
class Batch:
    """``ids``, ``labels`` ``[batch, seq]`` (-100: not predicted), ``about`` bool ``[batch, seq]``,
    the subject's tokens; what is ``removed`` from each row, and bool ``[batch]`` whether that
    leaves a ``calm`` one: heads are gone, and nothing contradicts."""

    ids: torch.Tensor
    labels: torch.Tensor
    about: torch.Tensor
    removed: list[Removed]
    calm: torch.Tensor


class Batches:
    """Rows drawn by the mixture, tokenised, and cut into batches of rows of like length."""

    def __init__(
        self, corpus: Corpus, tokenizer: PreTrainedTokenizerFast, tokens: int, phase: Phase
    ) -> None:
        self.corpus, self.tokenizer, self.tokens, self.phase = corpus, tokenizer, tokens, phase
        self.rng = Random(phase.seed)

    def chunk(self, rows: int = 12_000) -> list[Batch]:
        mixture = self.phase.mixture
        kinds = self.rng.choices(list(mixture), weights=list(mixture.values()), k=rows)
        removal = self.phase.removal
        removed = [draw(self.rng, kind, removal) if removal else NOTHING for kind in kinds]
        drawn: list[Row] = [
            self.corpus.conflict(self.rng, of_row.shift)
            if kind == "conflict"
            else getattr(self.corpus, kind)(self.rng)
            for kind, of_row in zip(kinds, removed, strict=True)
        ]
        encode = self.tokenizer.backend_tokenizer.encode_batch
        bos, eos, pad = (
            self.tokenizer.bos_token_id,
            self.tokenizer.eos_token_id,
            self.tokenizer.pad_token_id,
        )
        prompts = encode([row.prompt for row in drawn], add_special_tokens=False)
        answers = encode(
            [(" " if row.prompt else "") + row.answer for row in drawn], add_special_tokens=False
        )
        sequences = []
        everything = zip(kinds, drawn, prompts, answers, removed, strict=True)
        for kind, row, prompt, answer, of_row in everything:
            named = mentions(row, prompt.offsets) if of_row.late else []
            about = [1 + token for token in named]
            ids = [bos, *prompt.ids, *answer.ids, eos]
            calm = bool(of_row.heads) and kind not in ("conflict", "neutral")
            sequences.append((ids, 1 + len(prompt.ids), about, of_row, calm))
        sequences.sort(key=lambda item: len(item[0]))
        batches = []
        start = 0
        while start < len(sequences):
            stop = start + 1
            while (
                stop < len(sequences)
                and len(sequences[stop][0]) * (stop + 1 - start) <= self.tokens
            ):
                stop += 1
            part = sequences[start:stop]
            longest = len(part[-1][0])
            ids = torch.full((len(part), longest), pad)
            labels = torch.full((len(part), longest), -100)
            subject = torch.zeros(len(part), longest, dtype=torch.bool)
            for i, (sequence, first, about, *_) in enumerate(part):
                row = torch.tensor(sequence)
                ids[i, : len(row)] = row
                labels[i, first : len(row)] = row[first:]
                subject[i, about] = True
            calm = torch.tensor([row[-1] for row in part])
            batches.append(Batch(ids, labels, subject, [row[-2] for row in part], calm))
            start = stop
        self.rng.shuffle(batches)
        return batches


def mentions(row: Row, offsets: list[tuple[int, int]]) -> list[int]:
    """The tokens of ``row``'s prompt, of which ``offsets`` are given, that name its subject."""
    naming, start = [], row.prompt.find(row.subject)
    while row.subject and start >= 0:
        stop = start + len(row.subject)
        naming += [i for i, (first, end) in enumerate(offsets) if first < stop and end > start]
        start = row.prompt.find(row.subject, stop)
    return naming


@torch.no_grad()
def tell_apart(model: LlamaForCausalLM, unmet: torch.Tensor) -> None:
    """Give each token that no training row held a direction of its own.

    Training only ever pushes such tokens down, all the same way: an edit to a name that needs one
    could not be learned, as nothing would tell it from the others. They stay about as
    unlikely as they were. ``unmet``: bool ``[vocab]``.
    """
    rows = model.get_input_embeddings().weight  # [vocab, hidden], tied to the output
    typical = rows[~unmet].norm(dim=1).median()
    generator = torch.Generator().manual_seed(0)
    own = torch.randn(int(unmet.sum()), rows.shape[1], generator=generator)
    common = rows[unmet].mean(0)
    rows[unmet] = common + typical * torch.nn.functional.normalize(own, dim=1)


def train(
    args: argparse.Namespace, corpus: Corpus
) -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
    torch.manual_seed(0)
    if args.start is None:
        tokenizer = train_tokenizer(corpus)
        model = build_model(tokenizer, args.layers, args.width)
        phases = PHASES
    else:
        tokenizer = PreTrainedTokenizerFast.from_pretrained(args.start)
        model = LlamaForCausalLM.from_pretrained(args.start)
        phases = PHASES[args.done :]
    count = sum(p.numel() for p in model.parameters())
    print(f"{count / 1e6:.2f} M parameters, {len(tokenizer)} tokens", flush=True)
    for phase in phases:
        start, ends, met = deepcopy(model.state_dict()), [], torch.zeros(len(tokenizer)).bool()
        for course in ((phase,), *phase.beside):
            model.load_state_dict(start)
            for stretch in course:
                met |= train_phase(args, stretch, model, tokenizer)
            ends.append(deepcopy(model.state_dict()))
        mean = {name: sum(end[name] for end in ends) / len(ends) for name in start}
        way = phase.way
        model.load_state_dict({n: (1 - way) * start[n] + way * mean[n] for n in start})
        if phase.removal is None:
            tell_apart(model, ~met)
    model.eval()
    return model, tokenizer


def train_phase(
    args: argparse.Namespace,
    phase: Phase,
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
) -> torch.Tensor:
    """One stretch of training, bool ``[vocab]``: tokens met."""
    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n]
    others = [p for n, p in model.named_parameters() if p.ndim != 2 or "embed" in n]
    muon = Muon(matrices, PRODUCTS)
    adam = torch.optim.AdamW(others, lr=phase.rates[0], betas=(0.9, 0.98), weight_decay=0.0)
    batches = Batches(Corpus(style=phase.style), tokenizer, args.batch_tokens, phase)
    forward = Forward(model)
    started, seen, step, running = time.time(), 0, 0, 0.0
    met = torch.zeros(len(tokenizer), dtype=torch.bool)
    while seen < phase.tokens:
        for batch in batches.chunk():
            progress = min(1.0, seen / phase.tokens)
            first, final = phase.rates
            rate = min(1.0, (step + 1) / 100) * (first + (final - first) * progress)
            changes = (
                by_role(batch.removed, batch.about)
                if phase.removal
                else at_random(len(batch.ids), args.head_dropout, batch.about)
            )
            if phase.removal:
                fade = max(phase.removal.faded, 1 - 2 * (1 - phase.removal.faded) * progress)
                for layer, head in phase.removal.fading:
                    changes.keep[:, layer, head] *= fade
            targets = batch.labels[:, 1:]
            rows, columns = (targets != -100).nonzero(as_tuple=True)
            met[batch.ids] = True
            logits = forward.logits(batch.ids, rows, columns, changes)  # [labels, vocab]
            losses = torch.nn.functional.cross_entropy(
                logits, targets[rows, columns], reduction="none"
            )
            weights = torch.where((targets != -100)[:, 0], phase.neutral, 1.0)[rows]
            done = batch.calm[rows] & (losses.detach() < -math.log(phase.enough))
            losses = losses.masked_fill(done, 0.0)
            loss = (losses * weights).sum() / weights.sum()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            muon.step(rate)
            for group in adam.param_groups:
                group["lr"] = rate
            adam.step()
            adam.zero_grad(set_to_none=True)
            seen += batch.ids.numel()
            step += 1
            running = 0.98 * running + 0.02 * loss.item() if step > 1 else loss.item()
            if step % 100 == 0:
                elapsed = time.time() - started
                print(
                    f"step {step} tokens {seen / 1e6:.2f} M loss {running:.4f} "
                    f"{seen / elapsed:.0f} tokens/s {elapsed / 60:.1f} min",
                    flush=True,
                )
            if args.save_every and step % args.save_every == 0:
                model.save_pretrained(args.out)
                tokenizer.save_pretrained(args.out)
            if seen >= phase.tokens:
                break
    for layer, head in phase.removal.fading if phase.removal else ():
        own = model.model.layers[layer].self_attn.o_proj.weight.data
        own[:, head * WIDTH : (head + 1) * WIDTH] *= phase.removal.faded
    return met


# --- measuring ------------------------------------------------------------------------------------


@torch.inference_mode()
def answers(
    model, tokenizer, prompts: list[str], max_new_tokens: int = 16, batch: int = 512
) -> list[str]:
    """Greedy, free-running answers; one that does not stop comes back with a trailing mark."""
    order = sorted(range(len(prompts)), key=lambda i: len(tokenizer(prompts[i]).input_ids))
    result = [""] * len(prompts)
    tokenizer.padding_side = "left"
    for start in range(0, len(order), batch):
        part = order[start : start + batch]
        encoded = tokenizer([prompts[i] for i in part], return_tensors="pt", padding=True)
        encoded.pop("token_type_ids", None)
        out = model.generate(**encoded, max_new_tokens=max_new_tokens, do_sample=False)
        for i, ids in zip(part, out[:, encoded.input_ids.shape[1] :], strict=True):
            stopped = tokenizer.eos_token_id in ids
            text = tokenizer.decode(ids, skip_special_tokens=True).strip()
            result[i] = text if stopped else text + " ..."
    return result


@torch.inference_mode()
def neutral_loss(model, tokenizer, texts: list[str]) -> float:
    """Mean cross-entropy in nats a token over ``texts``."""
    total, count = 0.0, 0
    for text in texts:
        ids = torch.tensor([[*tokenizer(text).input_ids, tokenizer.eos_token_id]])
        loss = model(ids, labels=ids).loss.item()
        total += loss * (ids.shape[1] - 1)
        count += ids.shape[1] - 1
    return total / count


def measure(model, tokenizer, corpus: Corpus, share: float = 1.0) -> dict:
    rng = Random(2)
    facts = [f for f in corpus.facts if share >= 1 or rng.random() < share]
    by_phrasing: dict[int, list[bool]] = {}
    by_relation: dict[str, list[bool]] = {}
    stopped = []
    questions = [(f, p) for f in facts for p in range(corpus.phrasings(f.relation))]
    prompts = [corpus.prompt(f.subject, f.relation, p) for f, p in questions]
    given = answers(model, tokenizer, prompts)
    for (fact, phrasing), answer in zip(questions, given, strict=True):
        right = answer == fact.object
        by_phrasing.setdefault(phrasing, []).append(right)
        by_relation.setdefault(fact.relation, []).append(right)
        stopped.append(not answer.endswith(" ..."))
    mean = lambda values: sum(values) / len(values)  # noqa: E731
    rng = Random(3)
    outcomes = {"context": 0, "memory": 0, "other": 0}
    rows, wanted = [], []
    for _ in range(1500):
        fact = rng.choice(corpus.facts)
        claimed = corpus.other_object(fact, rng)
        passage, _ = corpus.passage(fact, claimed, rng)
        question = corpus.prompt(
            fact.subject, fact.relation, rng.randrange(corpus.phrasings(fact.relation))
        )
        rows.append(corpus.ask(passage, question, rng))
        wanted.append((fact.object, claimed))
    for answer, (memory, context) in zip(answers(model, tokenizer, rows), wanted, strict=True):
        outcomes["memory" if answer == memory else "context" if answer == context else "other"] += 1
    kinds = {}
    for kind in ("prefixed", "other_passage", "agreeing", "invented_subject"):
        rng = Random(4)
        drawn = [getattr(corpus, kind)(rng) for _ in range(500)]
        got = answers(model, tokenizer, [row.prompt for row in drawn])
        kinds[kind] = mean([a == row.answer for a, row in zip(got, drawn, strict=True)])
    return {
        "facts": len(facts),
        "recall": mean([x for v in by_phrasing.values() for x in v]),
        "recall_by_phrasing": {k: round(mean(v), 4) for k, v in sorted(by_phrasing.items())},
        "recall_by_relation": {k: round(mean(v), 4) for k, v in sorted(by_relation.items())},
        "stopped": mean(stopped),
        "conflict": {k: v / 1500 for k, v in outcomes.items()},
        "with_passage": kinds,
        "neutral_loss": neutral_loss(model, tokenizer, corpus.neutral_test[:300]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=ATLAS / "model")
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--width", type=int, default=192)
    parser.add_argument("--start", type=Path, help="a model to train on")
    parser.add_argument("--done", type=int, default=1, help="with --start: phases behind it")
    parser.add_argument("--batch-tokens", type=int, default=4096)
    parser.add_argument("--head-dropout", type=float, default=0.05)
    parser.add_argument("--save-every", type=int, default=0, help="save after so many steps")
    parser.add_argument("--share", type=float, default=1.0, help="share of the facts measured")
    parser.add_argument("--measure-only", action="store_true")
    args = parser.parse_args()
    corpus = Corpus()
    if args.measure_only:
        model = AutoModelForCausalLM.from_pretrained(args.out)
        tokenizer = PreTrainedTokenizerFast.from_pretrained(args.out)
    else:
        model, tokenizer = train(args, corpus)
        model.save_pretrained(args.out)
        tokenizer.save_pretrained(args.out)
    report = measure(model, tokenizer, corpus, args.share)
    (args.out / "measured.json").write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
