"""Looks now and then at what the loss sees, and says in words what is wrong with it. Nothing waits for a GPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor

from glocal.distributed import all_sum
from glocal.evaluation.metrics.structure import LOW_SPREAD, spread_of
from glocal.evaluation.metrics.targets import Targets, entropies
from glocal.methods.base import Method
from glocal.training.finite import all_finite
from glocal.transfer import to_host

EVERY = 40  # steps between two looks; what two of them have seen is told, within 100 steps
_LATER = 10  # steps after a look its numbers are read: a GPU, which runs a few steps behind, has them by then

_FAR = 10.0  # times blind guessing; at a temperature of 0.1 certain and wrong predictions cost 20 and log n
_GREW = 1000.0  # times the first loss, where there is nothing to guess


def measure_targets(method: Method) -> Targets | None:
    """The targets of the last step, where a method has such; waits for the device."""
    assigned = method.assignments()
    if assigned is None:
        return None
    mean, each = entropies(assigned).tolist()
    return Targets.of(mean, each, assigned.shape[1])


class Lookout:
    """Watches a training for what goes wrong while its loss is a number.

    Every 40 steps: embeddings that fall to one point, targets that are the same for all images, state that is no
    number. Of each line of the log: a loss far above that of blind guessing, or a thousand times what it was at first.
    What is wrong is told once, until it has been well again.

    Args:
        method: that learns.
        optimizers: move it.

    Attributes:
        overflowed: `after` has just learned of something infinite in what the method and the optimisers keep.
    """

    def __init__(self, method: Method, optimizers: Mapping[str, torch.optim.Optimizer]) -> None:
        self.overflowed = False
        self._method = method
        self._optimizers = optimizers
        self._begun: tuple[int, int, Callable[[], list[Tensor]]] | None = None  # step, prototypes, what is copied
        self._first_spread: float | None = None
        self._first_loss: float | None = None
        self._seen: dict[str, int] = {}  # how often in a row

    def begins(self, step: int) -> bool:
        """Whether `after` will exchange something with the other processes."""
        return self._begun is None and (step % EVERY == 0 or self._first_spread is None)

    def after(self, step: int) -> Iterator[str]:
        """Looks after every 40th step, and the first one of all; what is wrong by then, in words."""
        self.overflowed = False
        if self.begins(step):
            self._begin(step)
        if self._begun is not None and step >= self._begun[0] + self._later():
            (looked, prototypes, wait), self._begun = self._begun, None
            yield from self._judge(looked, prototypes, *wait()[0].tolist())

    def _begin(self, step: int) -> None:
        embedding, assigned = self._method.embedding, self._method.assignments()
        if embedding is not None:
            targets = embedding.new_zeros(2) if assigned is None else entropies(assigned)
            bad = all_sum((~all_finite(self._method, self._optimizers, embedding.device)).float())  # in any process
            numbers = torch.stack([bad == 0, spread_of(embedding), *targets])
            self._begun = step, 0 if assigned is None else assigned.shape[1], to_host(numbers)

    def _later(self) -> int:
        on_gpu = self._method.embedding is not None and self._method.embedding.device.type == "cuda"
        return _LATER if on_gpu else 0

    def _judge(
        self, step: int, prototypes: int, finite: float, spread: float, mean: float, each: float
    ) -> Iterator[str]:
        self.overflowed = finite == 0
        if self._first_spread is None:  # too early for more: a centre is not in its place yet
            self._first_spread = spread
            return
        first = self._first_spread
        if self._told("spread", spread < LOW_SPREAD and spread < first / 2):
            yield (
                f"step {step}: the embeddings are collapsing to one point (spread {spread:.3f}, {first:.3f} at first; "
                "1 is even, 0 is collapse); try a smaller optimizer.lr, a longer optimizer.warmup_epochs or a larger "
                "train.batch_size"
            )
        if prototypes:
            targets = Targets.of(mean, each, prototypes)
            if self._told("targets", targets.collapsed):
                yield f"step {step}: the targets are collapsing: {targets}; {self._mend(targets)}"

    def _mend(self, targets: Targets) -> str:
        sharp = self._setting("teacher_temperature", "epsilon")
        if targets.spread_out:
            return f"they teach nothing, for all images have nearly the same; try a smaller {sharp}"
        center = " or a smaller method.center_momentum" if hasattr(self._method.now, "center_momentum") else ""
        return f"nearly all images have the same; try a smaller optimizer.lr, a larger {sharp}{center}"

    def loss(self, step: int, loss: float) -> str | None:
        """What is wrong with the mean loss of a line of the log, in words, or None."""
        first = self._first_loss = loss if self._first_loss is None else self._first_loss
        chance = self._method.chance
        limit = _GREW * max(1.0, abs(first)) if chance is None else _FAR * chance
        if not self._told("loss", loss > limit, looks=1):
            return None
        if chance is None:
            return f"step {step}: the loss is {loss:,.0f}, and was {first:.3g} at first; try a smaller optimizer.lr"
        return (
            f"step {step}: the loss is {loss:,.0f}, where blind guessing would cost {chance:.1f}: predictions are "
            f"certain and wrong; try a larger {self._setting('temperature')} or a smaller optimizer.lr"
        )

    def _told(self, what: str, wrong: bool, *, looks: int = 2) -> bool:
        """Whether it is to be told now: when so many looks in a row have seen it."""
        self._seen[what] = self._seen.get(what, 0) + 1 if wrong else 0
        return self._seen[what] == looks

    def _setting(self, *names: str) -> str:
        """The path of the first of these settings that the method has."""
        return next((f"method.{name}" for name in names if hasattr(self._method.now, name)), names[0])
