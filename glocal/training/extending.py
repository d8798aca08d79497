"""A finished run is trained for longer: what its schedules then do."""

from __future__ import annotations

from glocal.config import AnyRecipe, TrainSettings
from glocal.schedules import Clock


def length_at(step: int, settings: TrainSettings, steps_per_epoch: int) -> int:
    """The steps of the training as its schedules see it at a step.

    A training that was planned for 2 epochs and extended to 4 has followed the schedules of 2; from there on it follows
    those of 4, as if they had been its own from the start. The learning rate jumps up to the longer cosine.
    """
    lengths = (*settings.extended_from, settings.epochs)
    return next((epochs for epochs in lengths if step < epochs * steps_per_epoch), settings.epochs) * steps_per_epoch


def extended(recipe: AnyRecipe, before: tuple[int, ...]) -> AnyRecipe:
    """The recipe that remembers for how many epochs it was planned before."""
    settings = TrainSettings(**{**recipe.train.model_dump(), "extended_from": before})
    return recipe.model_copy(update={"train": settings})


def what_changes(recipe: AnyRecipe, steps_per_epoch: int) -> str:
    """One line about the latest extension: the learning rate before and after it."""
    epochs = recipe.train.extended_from[-1]
    step = epochs * steps_per_epoch
    schedule = recipe.optimizer.lr_schedule(recipe.train.batch_size)
    before, after = (
        schedule.at(Clock(at, steps_per_epoch, length_at(at, recipe.train, steps_per_epoch))) for at in (step - 1, step)
    )
    return (
        f"train.epochs goes from {epochs} to {recipe.train.epochs}: from step {step} on all schedules are those of "
        f"{recipe.train.epochs} epochs; the learning rate goes from {before:.3g} to {after:.3g}"
    )
