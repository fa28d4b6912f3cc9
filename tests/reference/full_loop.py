"""WISE's two training loops written plainly, to compare the library's trainers with.

Nothing is cached, padded or replayed: in every step each row runs alone through the model's own
forward, from its first token to all logits, with the whole edited weight as a functional parameter.
A mask multiplies the gradient (WISE Eq. 7), so the weight is one matrix and never a list of values.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.func import functional_call

Tokens = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Trained:
    """``weight``: W' ``[out, in]``; the optimizer's steps; the smallest bare-prompt activation."""

    weight: torch.Tensor
    steps: int
    threshold: float = float("inf")


class FullModel:
    """A model whose projection at ``path`` takes its weight ``[out, in]`` as an argument."""

    def __init__(self, model: Any, path: str, *, stored_transposed: bool) -> None:
        self.model, self.path, self.stored_transposed = model, path, stored_transposed

    def weight(self) -> torch.Tensor:
        stored = self.model.get_submodule(self.path).weight.detach().clone()
        return stored.T.contiguous() if self.stored_transposed else stored

    def run(self, ids: Tokens, weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits ``[seq, vocab]``, and what the projection read ``[seq, in]``."""
        read: list[torch.Tensor] = []
        handle = self.model.get_submodule(self.path).register_forward_pre_hook(
            lambda _, args: read.append(args[0])
        )
        stored = weight.T if self.stored_transposed else weight
        parameters = {f"{self.path}.weight": stored}
        inputs = {"input_ids": torch.tensor([ids]), "use_cache": False}
        try:
            logits = functional_call(self.model, parameters, args=(), kwargs=inputs).logits
        finally:
            handle.remove()
        return logits[0], read[0].reshape(len(ids), -1)

    def target_loss(self, row: Any, weight: torch.Tensor) -> torch.Tensor:
        """The summed cross-entropy of the tokens after the prompt."""
        logits, _ = self.run(row.ids, weight)
        log_chances = logits.log_softmax(-1)
        total = torch.zeros(())
        for position in range(row.prompt_length, len(row.ids)):
            total = total - log_chances[position - 1, row.ids[position]]
        return total

    def target_chances(self, row: Any, weight: torch.Tensor) -> list[float]:
        """The probability of each token after the prompt."""
        chances = self.run(row.ids, weight)[0].softmax(-1)
        positions = range(row.prompt_length, len(row.ids))
        return [chances[position - 1, row.ids[position]].item() for position in positions]

    def activation(self, prompt: Tokens, weight: torch.Tensor, main: torch.Tensor) -> torch.Tensor:
        """WISE Eq. 3, as a mean over the prompt's tokens."""
        _, inputs = self.run(prompt, weight)
        norms = []
        for features in inputs:
            moved = (weight - main) @ features
            # The norm's derivative is undefined where nothing moves; there the loss is flat.
            norms.append(moved.norm() if bool(moved.any()) else torch.zeros(()))
        return torch.stack(norms).mean()


def tokens_after_prompts(rows: Sequence[Any]) -> int:
    return sum(len(row.ids) - row.prompt_length for row in rows)


def positive(value: torch.Tensor) -> torch.Tensor:
    return value.clamp(min=0)


def sequentially(
    full: FullModel,
    edits: Sequence[Sequence[Any]],
    irrelevant: Sequence[Any],
    mask: torch.Tensor,
    settings: Any,
    enough: float = 0.02,
) -> Trained:
    """WISE Algorithm 1: edits one after the other, SGD on Eq. 5 and the target's likelihood.

    Rows have ``ids`` and ``prompt_length``; the first row of an edit is its bare prompt.
    """
    main = full.weight()
    weight, steps, threshold = main.clone(), 0, float("inf")
    for rows in edits:
        for _ in range(settings.max_steps):
            weight = weight.detach().requires_grad_()
            edited = [full.activation(r.ids[: r.prompt_length], weight, main) for r in rows]
            quiet = [full.activation(r.ids, weight, main) for r in irrelevant]
            answer = sum(full.target_loss(r, weight) for r in rows) / tokens_after_prompts(rows)
            too_loud = sum(positive(d - settings.alpha) for d in quiet) / len(quiet)
            too_quiet = sum(positive(settings.beta - d) for d in edited) / len(edited)
            gaps = [positive(settings.gamma - (e - q)) for e in edited for q in quiet]
            loss = answer + too_loud + too_quiet + sum(gaps) / len(gaps)
            if loss.item() <= enough:
                break
            (gradient,) = torch.autograd.grad(loss, weight)
            weight = weight.detach() - settings.learning_rate * gradient * mask
            steps += 1
        bare = rows[0].ids[: rows[0].prompt_length]
        threshold = min(threshold, full.activation(bare, weight.detach(), main).item())
    return Trained(weight.detach(), steps, threshold)


def one_edit(
    full: FullModel,
    rows: Sequence[Any],
    irrelevant: Sequence[Any],
    mask: torch.Tensor,
    settings: Any,
    *,
    plateau: float = 1e-4,
    enough: float = 0.02,
) -> Trained:
    """One edit as the public implementation trains it: the rival that speed is measured against.

    All rows in one padded batch; in every step a whole forward of the whole batch, logits at every
    position, and gradients for the whole edited matrix. It stops once the loss is at most
    ``enough`` and has moved by at most ``plateau`` (below 0: never). Weight decay and
    clamping, which change nothing that can be seen, are left out.
    """
    main = full.weight()
    device = main.device
    together = [*rows, *irrelevant]
    longest = max(len(row.ids) for row in together)
    padded = [[*row.ids, *[0] * (longest - len(row.ids))] for row in together]
    ids = torch.tensor(padded, device=device)
    lengths = torch.tensor([len(row.ids) for row in together], device=device)
    prompts = torch.tensor([row.prompt_length for row in together], device=device)
    positions = torch.arange(longest, device=device)
    mask = mask.to(device)
    real, in_prompt = positions < lengths[:, None], positions < prompts[:, None]  # [rows, seq]
    targets = torch.where(real & ~in_prompt, ids, -100)[: len(rows), 1:]
    read: list[torch.Tensor] = []
    handle = full.model.get_submodule(full.path).register_forward_pre_hook(
        lambda _, args: read.append(args[0])
    )
    weight, steps = main.clone(), 0
    earlier, last = float("inf"), float("inf")
    inputs = {"input_ids": ids, "attention_mask": real.long(), "use_cache": False}
    try:
        for _ in range(settings.max_steps):
            weight = weight.detach().requires_grad_()
            read.clear()
            stored = weight.T if full.stored_transposed else weight
            parameters = {f"{full.path}.weight": stored}
            logits = functional_call(full.model, parameters, args=(), kwargs=inputs).logits
            answer = torch.nn.functional.cross_entropy(
                logits[: len(rows), :-1].flatten(0, 1).float(), targets.flatten()
            )
            features = read[0].view(*ids.shape, -1)
            moved = features @ weight.T - features @ main.T  # [rows, seq, out]
            squares = moved.square().sum(-1)
            norms = torch.where(squares > 0, squares.where(squares > 0, 1.0).sqrt(), 0.0)
            activation = torch.where(in_prompt, norms, 0.0).sum(1) / prompts
            edited, quiet = activation[: len(rows)], activation[len(rows) :]
            gaps = edited[:, None] - quiet[None, :]
            loss = answer + positive(quiet - settings.alpha).mean()
            loss = loss + positive(settings.beta - edited).mean()
            loss = loss + positive(settings.gamma - gaps).mean()
            if abs(last - earlier) <= plateau and last <= enough:
                break
            earlier, last = last, loss.item()
            (gradient,) = torch.autograd.grad(loss, weight)
            weight = weight.detach() - settings.learning_rate * gradient * mask
            steps += 1
    finally:
        handle.remove()
    return Trained(weight.detach(), steps)


def jointly(
    full: FullModel,
    rows: Sequence[Any],
    mask: torch.Tensor,
    settings: Any,
    seed: int,
    *,
    batch_size: int = 32,
    batch_tokens: int = 2048,
) -> Trained:
    """All rows together by Adam, in rounds over batches of rows of like length, each of so many
    rows and so many tokens, padded, at most.

    In each round the rows that are not likely enough yet are put in batches, and each batch takes a
    step. After four steps for each batch of all rows, and once none is left, rows that dropped out
    and that later steps have spoilt come back. In the second half of the steps 0.9 is likely
    enough.
    """
    main = full.weight()
    scale = main.pow(2).mean().sqrt().item()
    weight = main.clone().requires_grad_()
    optimizer = torch.optim.Adam([weight], lr=settings.learning_rate * scale, betas=(0.7, 0.95))
    by_length = sorted(rows, key=lambda row: len(row.ids))

    def batched(some: Sequence[Any]) -> list[list[Any]]:
        batches: list[list[Any]] = []
        for row in sorted(some, key=lambda row: len(row.ids)):
            more = len(batches[-1]) + 1 if batches else 1
            tokens = more * len(row.ids)
            if not batches or more > batch_size or tokens > batch_tokens:
                batches.append([])
            batches[-1].append(row)
        return batches

    generator = torch.Generator().manual_seed(seed)

    def unlikely(batch: Sequence[Any], wanted: float) -> list[Any]:
        final = weight.detach()
        return [row for row in batch if min(full.target_chances(row, final)) < wanted]

    unfinished, steps, checked_at = by_length, 0, 0
    while unfinished and steps < settings.max_steps:
        wanted = settings.confidence
        if steps >= settings.max_steps // 2:
            wanted = min(wanted, 0.9)
        batches, unsure = batched(unfinished), []
        for turn in torch.randperm(len(batches), generator=generator).tolist():
            batch = batches[turn]
            weak = unlikely(batch, wanted)
            if not weak:
                continue
            if steps >= settings.max_steps:
                break
            unsure += weak
            share = steps / settings.max_steps
            optimizer.param_groups[0]["lr"] = settings.learning_rate * scale * (1 - 0.9 * share)
            loss = sum(full.target_loss(r, weight) for r in batch) / tokens_after_prompts(batch)
            (gradient,) = torch.autograd.grad(loss, weight)
            weight.grad = gradient * mask
            optimizer.step()
            steps += 1
        unfinished = [row for row in by_length if row in unsure]
        if not unfinished or steps - checked_at >= 4 * len(batched(by_length)):
            checked_at = steps
            spoilt = unlikely(by_length, wanted)
            unfinished = [row for row in by_length if row in unfinished or row in spoilt]
    return Trained(weight.detach(), steps)


def fine_tuned(full: FullModel, rows: Sequence[Any], settings: Any, seed: int) -> Trained:
    """All rows by Adam on one dense change, each entry of which is cut to a bound after each step.

    In rounds over batches of at most 32 rows of like length; a batch whose rows are all likely
    enough takes no step.
    """
    main = full.weight()
    scale = main.pow(2).mean().sqrt().item()
    delta = torch.zeros_like(main).requires_grad_()
    optimizer = torch.optim.Adam([delta], lr=settings.learning_rate * scale)
    by_length = sorted(rows, key=lambda row: len(row.ids))
    batches = [by_length[start : start + 32] for start in range(0, len(by_length), 32)]
    generator = torch.Generator().manual_seed(seed)
    steps, unfinished = 0, True
    while unfinished and steps < settings.max_steps:
        unfinished = False
        for turn in torch.randperm(len(batches), generator=generator).tolist():
            batch, weight = batches[turn], main + delta
            chances = [full.target_chances(row, weight.detach()) for row in batch]
            if steps == settings.max_steps or min(map(min, chances)) >= settings.confidence:
                continue
            loss = sum(full.target_loss(r, weight) for r in batch) / tokens_after_prompts(batch)
            (delta.grad,) = torch.autograd.grad(loss, delta)
            optimizer.step()
            with torch.no_grad():
                delta.clamp_(-settings.bound * scale, settings.bound * scale)
            steps, unfinished = steps + 1, True
    return Trained((main + delta).detach(), steps)
