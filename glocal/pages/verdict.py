"""A verdict on a run in words: is it healthy, does it still improve, what to try next. Each sentence has its number."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from typing import Literal, NamedTuple

import numpy as np

from glocal.errors import counted
from glocal.evaluation.metrics.structure import LOW_RANK, LOW_SPREAD
from glocal.evaluation.metrics.targets import Targets
from glocal.pages.record import Record

Mood = Literal["good", "bad", "note", "next"]

_PART = 5  # the run's last fifth is held beside the one before
_LEVEL = 0.05  # of the whole range: a change of less is none
_POINTS = 0.5  # of k-NN accuracy in percent: a change of less is noise
_FELL = 1.0  # points below the best, each the median of three measurements
_FELL_OF_FEW = 3.0  # the same where there are fewer than five, of which each counts by itself
_RANK = 0.05  # share of the effective rank by which it has to change
_SLOW = 0.5  # of the usual images a second
_FEW = 10  # lines of metrics.csv that say anything
_KNOWN = 5  # measurements after which one that stands still has levelled off


class Sentence(NamedTuple):
    """A sentence of the verdict: what is well, what is not, what else is known, and what to do.

    Attributes:
        mood: which of these.
        text: the words.
        command: to be typed, where the words end with one.
    """

    mood: Mood
    text: str
    command: str = ""


class Trend(NamedTuple):
    """How a measure moved.

    Attributes:
        before, last: its value four fifths through, and in the end.
        direction: 1 up, −1 down, 0 neither.
    """

    before: float
    last: float
    direction: int


def verdict(record: Record) -> list[Sentence]:
    """The sentences about a run, in the order in which they are read."""
    failed = [Sentence("bad", f"The training could not go on: {record.failed}.")] if record.failed else []
    if record.steps == 0:
        return failed or [Sentence("note", "Nothing has been logged yet.")]
    trends = {name: _of_measure(record, name) for name in ("knn", "effective_rank")}
    loss = _of_loss(record.metrics["loss"])
    found = [
        *failed,
        _progress(record),
        *_health(record, trends["effective_rank"]),
        *_loss(record, loss),
        *_accuracy(record, trends["knn"]),
        *_speed(record),
        *_images(record),
    ]
    return [*found, *_advice(record, trends, loss)]


def _progress(record: Record) -> Sentence:
    epochs, done = record.metrics["epoch"][-1], f"{record.steps:,} of {record.total:,} steps"
    if record.finished:
        done = f"{counted(record.recipe.train.epochs, 'epoch')}, {counted(record.steps, 'step')}"
        return Sentence("good", f"The training is finished: {done}.")
    words = f"{done} are done ({epochs:.1f} of {record.recipe.train.epochs} epochs)"
    if record.running is False and not record.failed:
        words += ". The training is not running: the same command goes on from its last checkpoint"
    return Sentence("note", f"{words}.")


def _health(record: Record, rank: Trend | None) -> Iterator[Sentence]:
    if record.failed:
        return
    spread = _last(record, "spread")
    width = _last(record, "effective_rank")
    targets = _collapsed_targets(record)
    known = len(record.metrics["loss"]) >= _FEW
    if spread is not None and record.measured["spread"][-1, 0] == 0:
        words = f"The untrained network's embeddings have a spread of {spread:.2f} and use {width:.1f} directions"
        yield Sentence("note", f"{words} (effective rank); they were not looked at since.")
    elif spread is None or width is None:
        yield Sentence("note", "The embeddings were not looked at (monitor.collapse_epochs=0).")
    elif spread < LOW_SPREAD:
        yield Sentence("bad", f"The embeddings have collapsed to nearly one point: spread {spread:.3f} (1 is even).")
    elif width < LOW_RANK:
        yield Sentence("bad", f"The embeddings use {width:.1f} directions only (effective rank): they have collapsed.")
    elif targets is not None:
        yield Sentence("bad", f"The targets have collapsed: {targets}.")
    else:
        healthy = "Healthy" if known else "Healthy so far"
        words = f"{healthy}: the embeddings are spread out ({spread:.2f}; 1 is even, 0 is collapse)"
        yield Sentence("good" if known else "note", f"{words} and use {width:.1f} directions (effective rank).")
        if rank is not None and rank.direction < 0:
            words = f"The effective rank fell from {rank.before:.1f} to {rank.last:.1f} in the last fifth"
            yield Sentence("note", f"{words}: fewer directions are in use.")


def _loss(record: Record, trend: Trend | None) -> Iterator[Sentence]:
    if trend is None:
        return
    moved = {1: "is rising", -1: "is still falling", 0: "has levelled off"}[trend.direction]
    numbers = f"{trend.before:.3f} before the last fifth, {trend.last:.3f} in it"
    yield Sentence("note", f"The loss {moved}: {numbers}, {record.metrics['loss'][0]:.3f} at the start.")


def _accuracy(record: Record, trend: Trend | None) -> Iterator[Sentence]:
    if "knn" not in record.measured:
        every = record.recipe.monitor.knn_epochs
        early = 0 < record.metrics["epoch"][-1] < every
        when = f", which get it every {every:g} epochs" if early else ""
        why = f"needs images with labels{when}" if every else "is not measured (monitor.knn_epochs=0)"
        words = f"There is no k-NN accuracy: it {why}."
        yield Sentence("note", f"{words} The effective rank stands in for it: of two runs of a method, more is better.")
        return
    epochs, values = record.measured["knn"].T
    if (best := _fell_from(values)) is not None:
        words = f"k-NN accuracy is {values[-1]:.1f} %, and was {values[best]:.1f} % at epoch {epochs[best]:.0f}"
        yield Sentence("bad", f"{words}: it is falling.")
    elif trend is None:
        yield Sentence("note", f"k-NN accuracy is {values[-1]:.1f} %.")
    elif trend.direction > 0:
        words = f"k-NN accuracy still improves: {trend.before:.1f} % before the last fifth, {trend.last:.1f} % now."
        yield Sentence("good", words)
    else:
        words = f"k-NN accuracy no longer improves: {trend.before:.1f} % before the last fifth, {trend.last:.1f} % now."
        yield Sentence("note", words)


def _fell_from(values: np.ndarray) -> int | None:
    """Where k-NN accuracy was best, if it has fallen since; medians of three, for one measurement is noise."""
    best = int(values.argmax())
    if len(values) < _KNOWN:
        return best if values[best] - values[-1] > _FELL_OF_FEW else None
    smooth = np.median(np.lib.stride_tricks.sliding_window_view(values, 3), axis=1)
    place = int(smooth.argmax())
    fell = smooth[place] - smooth[-1] > _FELL and smooth[place] - values[-1] > _FELL
    return place + int(np.abs(values[place : place + 3] - smooth[place]).argmin()) if fell else None


def _speed(record: Record) -> Iterator[Sentence]:
    rates = record.metrics["images_per_second"]
    usual = float(np.median(rates))
    slow = float((rates < _SLOW * usual).mean())
    words = f"{usual:,.0f} images a second"
    if slow > 0.1 and len(rates) >= _FEW:
        yield Sentence("note", f"{words} as a rule, and less than half of that in {slow:.0%} of the time: look for "
                       "other programs or slow reading.")  # fmt: skip
    else:
        yield Sentence("note", f"{words}.")


def _images(record: Record) -> Iterator[Sentence]:
    if record.broken:
        number = len(record.broken)
        words = "1 image could not be read" if number == 1 else f"{number:,} images could not be read"
        yield Sentence("bad", f"{words}; skipped.txt names them.")


def _advice(record: Record, trends: dict[str, Trend | None], loss: Trend | None) -> Iterator[Sentence]:
    spread, width = _last(record, "spread"), _last(record, "effective_rank")
    if record.failed:
        return
    if (spread is not None and spread < LOW_SPREAD) or (width is not None and width < LOW_RANK):
        words = "a smaller optimizer.lr, a longer optimizer.warmup_epochs, a larger train.batch_size or stronger views"
        yield Sentence("next", f"Against collapse: {words}.")
        return
    if _collapsed_targets(record) is not None:
        words = "a smaller optimizer.lr, or the paper's temperatures and momenta of the targets"
        yield Sentence("next", f"Against collapse: {words}.")
        return
    if not record.finished:
        return
    place = shlex.quote(str(record.folder))
    name = "knn" if "knn" in record.measured else "effective_rank"
    best = trends[name]
    fell = name == "knn" and _fell_from(record.measured[name][:, 1]) is not None
    direction = best.direction if best is not None else -loss.direction if loss is not None else None
    if direction is not None and direction > 0 and not fell:
        epochs = 2 * record.recipe.train.epochs
        command = f"glocal pretrain --out {place} --recipe {place}/recipe.yaml --extend --set train.epochs={epochs}"
        yield Sentence("next", "It was still learning when it ended. Train longer:", command)
    elif fell or (name != "knn" and best is not None and best.direction < 0):
        words = "It got worse towards its end. A smaller optimizer.lr may help; look at what the network is shown:"
        yield Sentence("next", words, f"glocal views --recipe {place}/recipe.yaml --data IMAGES")
    elif best is None or len(record.measured[name]) < _KNOWN:
        yield Sentence("next", "It is too short to say whether it still improves: train for longer (train.epochs).")
    else:
        words = "More epochs of the same would change little. More images, a larger network (model.name) or another"
        yield Sentence("next", f"{words} method may. This lays runs side by side:", "glocal report RUN RUN")
    if not (record.folder / "evaluation").exists():
        command = f"glocal evaluate {place} --train LABELLED --test LABELLED"
        yield Sentence("next", "It has not been evaluated. With some labelled images:", command)


def _collapsed_targets(record: Record) -> Targets | None:
    """The last targets over prototypes, where they were measured and have collapsed."""
    used, information = _last(record, "prototypes_used"), _last(record, "target_information")
    if used is None or information is None:
        return None
    targets = Targets(information, used, getattr(record.recipe.method, "prototypes", 0))
    return targets if targets.collapsed else None


def _last(record: Record, name: str) -> float | None:
    found = record.measured.get(name)
    return None if found is None else float(found[-1, 1])


def _of_loss(loss: np.ndarray) -> Trend | None:
    """The loss in the last fifth beside the fifth before; None of a few lines."""
    if len(loss) < _FEW or not np.isfinite(loss).all():
        return None
    size = len(loss) // _PART
    parts = [float(np.median(part)) for part in np.array_split(loss[-_PART * size :], _PART)]
    change, whole = parts[-1] - parts[-2], max(parts) - min(parts)
    return Trend(parts[-2], parts[-1], 0 if abs(change) <= _LEVEL * whole else int(np.sign(change)))


def _of_measure(record: Record, name: str) -> Trend | None:
    """A measure in the end beside four fifths through; None of fewer than three measurements."""
    found = record.measured.get(name)
    if found is None or len(found) < 3:
        return None
    epochs, values = found.T
    before = float(values[np.abs(epochs - (1 - 1 / _PART) * epochs[-1]).argmin()])
    if before == values[-1]:
        before = float(values[-2])
    change, last = float(values[-1]) - before, float(values[-1])
    least = _POINTS if name == "knn" else _RANK * before
    return Trend(before, last, 0 if abs(change) <= least else int(np.sign(change)))
