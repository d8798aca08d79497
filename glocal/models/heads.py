"""Projection and prediction heads."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity, normalize, softplus

from glocal.distributed import whole_tensor
from glocal.losses.affinity import AffinityForm


def mlp(widths: Sequence[int], *, norm: bool, last_norm: bool = False, last_bias: bool = True) -> nn.Sequential:
    """A multi-layer perceptron with ReLU between its layers.

    Args:
        widths: input, hidden and output widths: `[512, 512, 256]` has two layers.
        norm: batch normalisation after every hidden layer; these layers then have no bias of their own.
        last_norm: batch normalisation without learned scale and shift after the last layer (SimSiam's projector).
        last_bias: give the last layer a bias where no normalisation follows it.

    >>> [type(layer).__name__ for layer in mlp([8, 4, 2], norm=True)]
    ['Linear', 'BatchNorm1d', 'ReLU', 'Linear']
    """
    layers: list[nn.Module] = []
    for number, (before, after) in enumerate(pairwise(widths), start=2):
        last = number == len(widths)
        layers.append(nn.Linear(before, after, bias=last_bias and not last_norm if last else not norm))
        if last and last_norm:
            layers.append(nn.BatchNorm1d(after, affine=False))
        if not last:
            layers += [nn.BatchNorm1d(after), nn.ReLU(inplace=True)] if norm else [nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)


class AffinityRegressor(nn.Module):
    """LoGo's f_d: how alike two local crops are, learned from their representations.

    Zhang et al., "Leverage Your Local and Global Representations", CVPR 2022, section 3.2 and supplement: an MLP with
    two hidden layers on the concatenation. `softplus` has a scalar output, `printed` and `mine` its softplus, as the
    paper's f is positive (section 5); `cosine` compares an output of the representation's width with the second
    representation.

    Args:
        dim: width of a representation.
        hidden: width of the hidden layers.
        form: `softplus`, `printed`, `cosine` or `mine`.
    """

    def __init__(self, dim: int, *, hidden: int = 256, form: AffinityForm = "softplus") -> None:
        super().__init__()
        self.form = form
        self.layers = mlp([2 * dim, hidden, hidden, dim if form == "cosine" else 1], norm=True)

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """f_d of each pair: (B, D), (B, D) → (B,)."""
        output = self.layers(torch.cat([first, second], dim=1)).float()
        if self.form == "cosine":
            return cosine_similarity(second.float(), output, dim=1)
        return softplus(output[:, 0]) if self.form in ("printed", "mine") else output[:, 0]


class PrototypeHead(nn.Module):
    """DINO's head: a three-layer MLP with GELU to a bottleneck, unit length, and K weight-normalised prototypes.

    Caron et al., "Emerging Properties in Self-Supervised Vision Transformers", ICCV 2021, section 3.2 and appendix C.
    The K logits of a row are `head(row) @ head.prototypes().T`; losses take them in chunks.

    Args:
        dim: width of the features.
        prototypes: K.
        hidden: width of the hidden layers.
        bottleneck: width before the prototypes.
        learned_length: let the prototypes' length be learned; 1 otherwise.
    """

    def __init__(
        self, dim: int, prototypes: int, *, hidden: int = 2048, bottleneck: int = 256, learned_length: bool = False
    ) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, hidden), nn.GELU(), nn.Linear(hidden, bottleneck)
        )
        for layer in self.layers:
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)
        self.directions = nn.Parameter(nn.init.trunc_normal_(torch.empty(prototypes, bottleneck), std=0.02))
        self.length = nn.Parameter(torch.ones(prototypes, 1), requires_grad=learned_length)

    def forward(self, features: Tensor) -> Tensor:
        """Unit rows of the bottleneck: (…, dim) → (…, bottleneck)."""
        return normalize(self.layers(features).float(), dim=-1)

    def prototypes(self) -> Tensor:
        """The last layer's weights, (K, bottleneck)."""
        return normalize(self.directions, dim=1) * self.length

    def logits(self, rows: Tensor) -> Tensor:
        """`rows @ prototypes().T` without a copy of the last layer: (n, bottleneck) → (n, K)."""
        directions, length = whole_tensor(self.directions), whole_tensor(self.length)
        norm = torch.linalg.vector_norm(directions, dim=1).clamp_min(1e-12)
        return (rows @ directions.T).mul_(length[:, 0] / norm)
