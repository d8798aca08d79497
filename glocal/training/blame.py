"""Which image a loss that is no number comes from."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from glocal.checkpoints import newest_checkpoint
from glocal.distributed import all_objects, each_by_itself
from glocal.errors import in_a_line
from glocal.methods.base import Method
from glocal.methods.building import build_method
from glocal.schedules import Clock
from glocal.training.building import Training
from glocal.training.extending import length_at
from glocal.training.machine import place
from glocal.views.batch import Views
from glocal.views.geometry import ViewGeometry

_NAMED = 3  # images in a message
_MANY = 8  # after so many, no more are looked for


def who_is_to_blame(training: Training, step: int) -> str:
    """The images of a step whose loss alone is no number, in words; says so where no single one is to blame.

    The step's views are made again. With the weights of the newest checkpoint, or those that the training began with,
    the loss of each image is computed by itself, as that of a batch of twice the same: without gradient, by statistics
    that were kept, in float32. Of several processes each looks at its own share; all come here.

    Args:
        training: that has failed, whose own weights may be no numbers any more.
        step: counted from 1.

    Returns:
        A part of a message. Never an error: what cannot be found out is said.
    """
    found: _Found | str
    try:
        with each_by_itself():
            found = _found(training, step)
    except Exception as error:  # of whatever fails after a failure, the first is to be told
        found = f"which image is to blame could not be found out ({in_a_line(error)})"
    shares = all_objects(found)
    for one in shares:
        if isinstance(one, str):
            return one
    return _in_words([one for one in shares if not isinstance(one, str)])


class _Found(NamedTuple):
    """What a process has found in its share of a batch.

    Attributes:
        bad: names of images, up to eight.
        many: more of the share may be so.
        when: of which time the weights were.
    """

    bad: list[str]
    many: bool
    when: str


def _found(training: Training, step: int) -> _Found:
    method, when = _weights_before(training)
    order, settings = training.order, training.recipe.train
    method.before_step(Clock(step - 1, order.steps_per_epoch, length_at(step - 1, settings, order.steps_per_epoch)))
    bad: list[int] = []
    count = 0
    for views in training.lane.batches(step - 1, step):
        count += len(views.index)
        rows = _alone(lambda few, views=views: _is_finite(method, views, few), len(views.index))  # type: ignore[misc]
        bad += views.index[rows].tolist()
    return _Found([str(training.source.keys[index]) for index in bad], len(bad) == min(count, _MANY), when)


def _in_words(shares: list[_Found]) -> str:
    bad, when = [name for one in shares for name in one.bad], shares[0].when
    if not bad:
        return f"no single image is to blame: with the weights {when}, each image's loss alone is a number"
    if all(one.many for one in shares):
        return f"no single image is to blame: with the weights {when}, many images' loss alone is no number"
    more = f" and {len(bad) - _NAMED} more" if len(bad) > _NAMED else ""
    return f"of the images in the batch, the loss of {', '.join(bad[:_NAMED])}{more} alone is no number"


def _weights_before(training: Training) -> tuple[Method, str]:
    """The method as it was before the failure, ready to be evaluated, and since when."""
    state = newest_checkpoint(training.folder / "checkpoints")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(training.recipe.seed)
        method = build_method(training.recipe, weights=state is None)
    if state is not None:
        method.load_state_dict(state["method"])
    place(method, training.source, training.fabric.device)
    return method.eval(), "at the start" if state is None else f"of step {state['step']}"


def _alone(finite: Callable[[Tensor], bool], count: int) -> Tensor:
    """The rows that are not finite by themselves, up to eight: halves are halved as long as they are not."""
    found: list[int] = []
    groups = [torch.arange(count)]
    while groups and len(found) < _MANY:
        rows = groups.pop()
        if finite(rows):
            continue
        if len(rows) == 1:
            found.append(int(rows))
        else:
            groups += reversed(rows.tensor_split(2))
    return torch.tensor(found, dtype=torch.int64)


@torch.no_grad()
def _is_finite(method: Method, views: Views, rows: Tensor) -> bool:
    """Whether all losses of a step with some images of a batch only, or with one of them twice, are numbers."""
    rows = rows.repeat(2) if len(rows) == 1 else rows
    chosen = Views(
        tuple(image[rows.to(image.device)] for image in views.images),
        tuple(ViewGeometry(its.box[rows], its.flipped[rows]) for its in views.geometry),
        views.index[rows],
    )
    return all(bool(method(chosen, phase).isfinite()) for phase in method.phases)
