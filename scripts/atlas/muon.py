"""Muon for many small matrices at once.

``torch.optim.Muon`` takes one matrix after the other; for atlas, whose matrices come in three
shapes, stacking them halves the time of a step.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch

MOMENTUM, STEPS = 0.95, 5
A, B, C = 3.4445, -4.775, 2.0315  # Keller Jordan's quintic: singular values of all sizes go to 1


class Muon:
    """Orthogonalised momentum (Jordan et al. 2024), scaled to the root mean square of AdamW."""

    def __init__(
        self,
        matrices: Iterable[torch.nn.Parameter],
        products: torch.dtype = torch.float32,
        decay: float = 0.01,
    ) -> None:
        """``products``: what matrices are multiplied in."""
        self._products, self._decay = products, decay
        self._groups: dict[tuple[int, int], list[torch.nn.Parameter]] = {}
        for matrix in matrices:
            self._groups.setdefault((min(matrix.shape), max(matrix.shape)), []).append(matrix)
        self._momenta = {
            shape: [torch.zeros_like(p) for p in group] for shape, group in self._groups.items()
        }

    @torch.no_grad()
    def step(self, rate: float) -> None:
        """One step along the gradients, which are then dropped."""
        for shape, group in self._groups.items():
            gradients = [p.grad for p in group]
            torch._foreach_lerp_(self._momenta[shape], gradients, 1 - MOMENTUM)
            updates = torch._foreach_lerp(gradients, self._momenta[shape], MOMENTUM)
            x = torch.stack([u if u.shape[0] == shape[0] else u.T for u in updates])
            x = x / x.norm(dim=(1, 2), keepdim=True).clamp_min(1e-7)
            x = x.to(self._products)
            for _ in range(STEPS):
                gram = x @ x.mT
                x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=B, alpha=C), x, beta=A)
            x = x.float()
            scale = 0.2 * shape[1] ** 0.5
            for p, u in zip(group, x, strict=True):
                p.mul_(1 - rate * self._decay)
                p.add_(u if p.shape[0] == shape[0] else u.T, alpha=-rate * scale)
                p.grad = None
