"""What is watched while a backbone learns: collapse of the embeddings, and k-NN accuracy."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from glocal.data.images import Decoding
from glocal.data.ranges import decode_as
from glocal.data.sources import Source, Subset, open_source
from glocal.errors import GlocalError
from glocal.evaluation.features import extract
from glocal.evaluation.protocols.knn import knn
from glocal.evaluation.structure import effective_rank, spread
from glocal.models.backbone import Backbone
from glocal.views.random import permutation

_LOW_SPREAD = 0.1
_LOW_RANK = 2.0


@dataclass(frozen=True)
class Spread:
    """How far embeddings are from one point and from a line.

    Attributes:
        spread: √D times the mean standard deviation of the coordinates of unit vectors: 1 when they are spread evenly
            over the sphere, 0 when all are the same (Chen and He, SimSiam, section 4.1).
        effective_rank: exp of the entropy of the normalised singular values (Roy and Vetterli, "The effective
            rank", 2007; RankMe, 2023): the number of directions in use, from 1 to D.
        dim: D.
    """

    spread: float
    effective_rank: float
    dim: int

    def warning(self) -> str | None:
        """What is wrong, in words, or None."""
        if self.spread < _LOW_SPREAD:
            return (
                f"the embeddings are collapsing to one point (spread {self.spread:.3f}; 1 is even, 0 is collapse); "
                "try a smaller optimizer.lr, a longer optimizer.warmup_epochs or a larger train.batch_size"
            )
        if self.effective_rank < _LOW_RANK:
            return (
                f"the embeddings use {self.effective_rank:.1f} of {self.dim} directions; "
                "stronger views or a smaller optimizer.lr may help"
            )
        return None


def measure_spread(embedding: Tensor) -> Spread:
    """Spread and effective rank of embeddings (B, D), of any length each."""
    embedding = embedding.detach().float().cpu()
    return Spread(spread(embedding), effective_rank(embedding), embedding.shape[1])


class KNNMonitor:
    """k-NN accuracy of the backbone on labelled images, without touching its training.

    With a test source, the bank are training images and the queries those of the test source; without, a fifth
    of the chosen training images are the queries.

    Args:
        train: labelled images.
        test: the name of a labelled source, or None.
        images: at most this many images in the bank.
        k: neighbours that vote.
        seed: chooses the images.
        decoding: how the images of `test` are decoded; those of `train` are as they are.
    """

    def __init__(
        self, train: Source, test: str | None, *, images: int, k: int, seed: int, decoding: Decoding | None = None
    ) -> None:
        chosen = permutation(len(train), seed, "knn monitor")
        if test is None:
            part = max(1, min(len(train) // 5, images // 4))
            self.bank = Subset(train, chosen[part : part + images])
            self.queries: Source = Subset(train, chosen[:part])
            self.where = "a part of the training images"
        else:
            self.queries = open_source(test)
            if decoding is not None:
                decode_as(self.queries, decoding)
            self.bank = Subset(train, chosen[:images])
            self.where = test
            if self.queries.classes != train.classes:
                raise GlocalError(f"data.test={test} does not have the classes of {train.name}")
        self.k = min(k, len(self.bank))

    def measure(self, backbone: Backbone) -> float:
        """Top-1 accuracy in percent."""
        bank, queries = (extract(backbone, source, progress=False) for source in (self.bank, self.queries))
        assert bank.labels is not None and queries.labels is not None  # noqa: PT018 (the run checked it)
        accuracy = knn(bank.features, bank.labels, queries.features, queries.labels, k=self.k)
        return accuracy[self.k]
