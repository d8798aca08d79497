"""What is watched while a backbone learns: collapse of the embeddings, and k-NN accuracy."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from glocal.config import AnyRecipe
from glocal.console import warn
from glocal.data.decoding.rules import Decoding
from glocal.data.lanes.readings import PATIENCE
from glocal.data.ranges import decode_alike
from glocal.data.sources.base import Source, Subset
from glocal.data.sources.labelled import labelled_part
from glocal.data.sources.opening import open_source
from glocal.errors import GlocalError
from glocal.evaluation.features.bench import classes_by_name
from glocal.evaluation.features.extraction import extract
from glocal.evaluation.metrics.structure import LOW_RANK, LOW_SPREAD, effective_rank, spread
from glocal.evaluation.protocols.knn import knn
from glocal.models.backbone import Backbone
from glocal.views.random import permutation

_FEWEST = 20  # labelled images of which a fifth says anything


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
        if self.spread < LOW_SPREAD:
            return (
                f"the embeddings are collapsing to one point (spread {self.spread:.3f}; 1 is even, 0 is collapse); "
                "try a smaller optimizer.lr, a longer optimizer.warmup_epochs or a larger train.batch_size"
            )
        if self.effective_rank < LOW_RANK:
            return (
                f"the embeddings use {self.effective_rank:.1f} of {self.dim} directions; "
                "stronger views or a smaller optimizer.lr may help"
            )
        return None


def measure_spread(embedding: Tensor) -> Spread:
    """Spread and effective rank of embeddings (B, D), of any length each."""
    embedding = embedding.detach().float().cpu()
    return Spread(spread(embedding), effective_rank(embedding), embedding.shape[1])


def is_measured(source: Source, recipe: AnyRecipe) -> bool:
    """Whether a recipe's k-NN accuracy is measured on a run's images: enough of them have labels, and it is wanted."""
    return _learned_from(source, recipe) is not None


def _learned_from(source: Source, recipe: AnyRecipe) -> Source | None:
    """The images with labels, those of training or, where these have none, those of `data.test`."""
    if not recipe.monitor.knn_epochs:
        return None
    train = labelled_part(source)
    if train is None and recipe.data.test:
        try:  # a run that was begun when data.test was ignored here shall go on
            test = open_source(recipe.data.test, values=recipe.data.decoding.channels is not None)
            decode_alike([test], recipe.data.decoding)
            train = labelled_part(test)
        except GlocalError as error:
            warn(f"data.test: {error}; no k-NN accuracy is measured")
            return None
        if train is None:
            warn(f"data.test={recipe.data.test} has no labels, nor has training; no k-NN accuracy is measured")
    return None if train is None or len(train) < _FEWEST else train


def knn_monitor(source: Source, recipe: AnyRecipe) -> KNNMonitor | None:
    """What a recipe has measured of a run's images, on those with labels; None where it is too few or not wanted.

    Raises:
        GlocalError: the images of `data.test` have no labels, or a class that training lacks.
    """
    train, test = _learned_from(source, recipe), recipe.data.test
    if train is None:
        return None
    if test and labelled_part(source) is None:
        test = None  # it is measured within the test images
    settings = recipe.monitor
    monitor = KNNMonitor(
        train,
        test,
        images=settings.knn_images,
        k=settings.knn_k,
        seed=recipe.seed,
        decoding=recipe.data.decoding,
        patience=recipe.data.patience,
    )
    if test is None and recipe.data.test:
        monitor.where = f"a part of {recipe.data.test}, for the training images have no labels"
    some = (
        ""
        if train is source or test != recipe.data.test
        else f", with the {len(train):,} of {len(source):,} images that have labels"
    )
    often = "every epoch" if settings.knn_epochs == 1 else f"every {settings.knn_epochs} epochs"
    often = "after the last epoch" if settings.knn_epochs >= recipe.train.epochs else often
    monitor.about = f"k-NN accuracy is measured {often} on {monitor.where}{some}"
    return monitor


class KNNMonitor:
    """k-NN accuracy of the backbone on labelled images, without touching its training.

    With a test source, the bank are training images and the queries those of the test source, whose classes go by name;
    without, a fifth of the chosen training images are the queries.

    Args:
        train: labelled images.
        test: the name of a labelled source, or None.
        images: at most this many images in the bank.
        k: neighbours that vote.
        seed: chooses the images.
        decoding: how the images of `test` are decoded; those of `train` are as they are.
        patience: seconds that reading one image may take; 0: any number.

    Raises:
        GlocalError: the test source has no labels, or a class that training lacks.
    """

    def __init__(
        self,
        train: Source,
        test: str | None,
        *,
        images: int,
        k: int,
        seed: int,
        decoding: Decoding | None = None,
        patience: float = PATIENCE,
    ) -> None:
        chosen = permutation(len(train), seed, "knn monitor")
        self._numbers: Tensor | None = None  # of the test source's classes among those of training, (C,) int64
        if test is None:
            part = max(1, min(len(train) // 5, images // 4))
            self.bank = Subset(train, chosen[part : part + images])
            self.queries: Source = Subset(train, chosen[:part])
            self.where = "a part of the training images"
        else:
            source = open_source(test, values=decoding is not None and decoding.channels is not None)
            if decoding is not None:
                decode_alike([source], decoding)
            queries = labelled_part(source)
            if queries is None or queries.classes is None:
                raise GlocalError(
                    f"data.test={test} has no labels, on which k-NN accuracy could be measured; give labelled images, "
                    "or monitor.knn_epochs=0"
                )
            self.queries = queries
            self.bank = Subset(train, chosen[:images])
            self.where = test
            self._numbers = classes_by_name(train.classes or (), queries.classes, f"data.test={test}")
        self.k = min(k, len(self.bank))
        self.patience = patience
        self.about = ""  # what it measures, in words

    def measure(self, backbone: Backbone, device: torch.device | str = "cpu") -> float:
        """Top-1 accuracy in percent.

        Args:
            backbone: on its device.
            device: where neighbours are searched.
        """
        bank, queries = (
            extract(backbone, source, progress=False, patience=self.patience) for source in (self.bank, self.queries)
        )
        assert bank.labels is not None and queries.labels is not None  # noqa: PT018 (the run checked it)
        truth = queries.labels if self._numbers is None else self._numbers[queries.labels]
        accuracy = knn(bank.features, bank.labels, queries.features.to(device), truth, k=self.k)
        return accuracy[self.k]
