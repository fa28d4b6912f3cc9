"""Teaching the router what it is to ask the same thing in other words.

The base's states at the last prompt token differ between phrasings of one question, and differ
between questions about one subject. Groups of phrasings of known facts show which difference is
which: a linear projection is fitted once for a base, contrastively, so that phrasings of one group
come together and other questions, first of all those on the same subject, move apart. What it has
learned is kept with the edits; nothing in it is about any edit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional as F

from editors.base import Base
from editors.errors import EditorError
from editors.look import last_states
from editors.tokens import encode_prompt

FOLDS = 3  # subjects are split so that thresholds are measured on subjects not fitted on


@dataclass(frozen=True, slots=True)
class Phrasings:
    """Several ways of asking the same thing about ``subject``, and nothing else."""

    subject: str
    prompts: tuple[str, ...]

    @staticmethod
    def from_dict(row: Mapping[str, object]) -> Phrasings:
        """The group that a parsed JSON object describes.

        Raises:
            EditorError: it lacks a subject, or has fewer than two prompts.
        """
        subject, prompts = row.get("subject"), row.get("prompts")
        if not isinstance(subject, str) or not subject:
            raise EditorError(f"a group of phrasings needs a subject: {row!r}")
        if not isinstance(prompts, list) or len(prompts) < 2:
            raise EditorError(f"the phrasings of {subject!r} need at least two prompts")
        return Phrasings(subject, tuple(str(prompt) for prompt in prompts))


@dataclass(frozen=True, slots=True)
class CalibrationSettings:
    """``rank``: width of a key; ``false_open``: share of near misses that may pass a threshold."""

    rank: int = 64
    steps: int = 200
    learning_rate: float = 3e-3
    decay: float = 1e-3
    temperature: float = 0.1
    false_open: float = 0.005


@dataclass(frozen=True, slots=True)
class Calibration:
    """What makes a key of the base's states, and from which nearness on two keys ask the same.

    ``centre``: float32 ``[layers, hidden]``; ``projection``: float32 ``[layers * hidden, rank]``;
    ``named``: the threshold on cosine for a prompt that names the fact's subject; ``unnamed``: for
    facts without a subject, where every prompt is a candidate.
    """

    centre: torch.Tensor
    projection: torch.Tensor
    named: float
    unnamed: float

    def keys(self, states: torch.Tensor) -> torch.Tensor:
        """``[n, layers, hidden]`` -> ``[n, rank]`` of length 1."""
        return F.normalize(_centred(states, self.centre) @ self.projection, dim=-1)

    def tensors(self) -> dict[str, torch.Tensor]:
        return {
            "centre": self.centre,
            "projection": self.projection,
            "calibrated": torch.tensor([self.named, self.unnamed]),
        }

    @staticmethod
    def from_tensors(tensors: Mapping[str, torch.Tensor]) -> Calibration:
        named, unnamed = tensors["calibrated"].tolist()
        return Calibration(tensors["centre"], tensors["projection"], named, unnamed)


def calibrate(
    base: Base,
    groups: Sequence[Phrasings],
    prefixes: Sequence[str],
    settings: CalibrationSettings,
    seed: int,
) -> Calibration:
    """Fit the projection on ``groups`` and set the thresholds.

    ``prefixes``: unrelated beginnings; one phrasing of each group also stands behind one of them.

    Raises:
        EditorError: fewer than ten groups.
    """
    if len(groups) < 10:
        raise EditorError(f"calibration needs at least 10 groups of phrasings, not {len(groups)}")
    width = min(len(group.prompts) for group in groups)
    texts: list[str] = []
    for i, group in enumerate(groups):
        texts += group.prompts[:width]
        texts.append(f"{prefixes[i % len(prefixes)]} {group.prompts[i % width]}")
    states = last_states(base, [encode_prompt(base.tokenizer, t) for t in texts], key_layers(base))
    centre = states.mean(0)
    forms = _centred(states, centre).view(len(groups), width + 1, -1)  # [groups, forms, width]
    subjects = {s: i for i, s in enumerate(dict.fromkeys(group.subject for group in groups))}
    about = torch.tensor([subjects[group.subject] for group in groups])
    named, unnamed = [], []
    for fold in range(FOLDS):
        held = about % FOLDS == fold
        projection = _fit(forms[~held], about[~held], settings, seed)
        near, any_other = _negatives(forms[held] @ projection, about[held])
        named.append(_threshold(near if len(near) else any_other, settings.false_open))
        unnamed.append(_threshold(any_other, settings.false_open))
    projection = _fit(forms, about, settings, seed)
    return Calibration(
        centre, projection, sum(named) / FOLDS, max(sum(unnamed), sum(named)) / FOLDS
    )


def key_layers(base: Base) -> list[int]:
    """The blocks whose states make a key: spread from the first third to the last."""
    last = len(base.architecture.blocks) - 1
    return sorted({round(last * share) for share in (0.3, 0.55, 0.85, 1.0)})


def _centred(states: torch.Tensor, centre: torch.Tensor) -> torch.Tensor:
    """``[n, layers, hidden]`` -> ``[n, layers * hidden]``: centred, each layer of equal length."""
    unit = F.normalize(states - centre, dim=-1)
    flat: torch.Tensor = (unit / unit.shape[1] ** 0.5).flatten(1)
    return flat


def _fit(
    forms: torch.Tensor, about: torch.Tensor, settings: CalibrationSettings, seed: int
) -> torch.Tensor:
    """float32 ``[width, rank]``: InfoNCE over all groups plus InfoNCE within one subject.

    ``forms``: ``[groups, forms, width]``; ``about``: the subject of each group.
    """
    generator = torch.Generator().manual_seed(seed)
    groups, count, width = forms.shape
    rank = min(settings.rank, width)
    start = torch.linalg.qr(torch.randn(width, rank, generator=generator)).Q
    projection = start.clone().requires_grad_()
    optimizer = torch.optim.Adam([projection], lr=settings.learning_rate)
    everyone = torch.arange(groups)
    elsewhere = about[:, None] != about[None, :]
    several = (~elsewhere).sum(1) > 1
    for _ in range(settings.steps):
        one = forms[everyone, torch.randint(count, (groups,), generator=generator)]
        other = forms[everyone, torch.randint(count, (groups,), generator=generator)]
        keys = F.normalize(one @ projection, dim=-1)
        queries = F.normalize(other @ projection, dim=-1)
        scores = queries @ keys.T / settings.temperature  # [groups, groups]
        loss = F.cross_entropy(scores, everyone) + settings.decay * projection.square().sum()
        if bool(several.any()):
            within = scores.masked_fill(elsewhere, float("-inf"))
            loss = loss + F.cross_entropy(within[several], everyone[several])
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
    fitted: torch.Tensor = projection.detach()
    return fitted


def _negatives(projected: torch.Tensor, about: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """For each form, its nearest form in another group: on the same subject, and on any.

    ``projected``: ``[groups, forms, rank]``. Forms without another group are left out.
    """
    keys = F.normalize(projected, dim=-1)
    groups = len(keys)
    scores = torch.einsum("aik,bjk->aibj", keys, keys)  # [groups, forms, groups, forms]
    scores = scores.amax(-1)  # [groups, forms, groups]
    same_group = torch.eye(groups, dtype=torch.bool)[:, None, :]
    elsewhere = (about[:, None] != about[None, :])[:, None, :]
    any_other = scores.masked_fill(same_group, -1.0).amax(-1).flatten()
    near = scores.masked_fill(same_group | elsewhere, -1.0).amax(-1).flatten()
    return near[near > -1], any_other[any_other > -1]


def _threshold(scores: torch.Tensor, false_open: float) -> float:
    """The score that a share ``false_open`` of ``scores`` lies above."""
    rank = min(len(scores) - 1, int(len(scores) * (1 - false_open)))
    return float(scores.sort().values[rank])
