"""A resolved recipe becomes a method."""

from __future__ import annotations

from typing import TYPE_CHECKING

from glocal.console import note
from glocal.methods import method_class
from glocal.methods.base import Method
from glocal.models.building import build_backbone
from glocal.models.fitting import load_into
from glocal.models.weights import Weights, read_weights

if TYPE_CHECKING:
    from glocal.config import AnyRecipe


def build_method(recipe: AnyRecipe, *, weights: bool | Weights = True) -> Method:
    """The method of a resolved recipe with its networks, initialised by torch's global generator.

    Args:
        recipe: resolved.
        weights: begin with the weights that the recipe names, if any, which may be read already; they are not needed
            where a checkpoint follows.

    Raises:
        GlocalError: these cannot be had or do not fit.
    """
    model = recipe.model if weights else recipe.model.untrained()
    data = recipe.data
    assert data.size is not None  # resolved
    backbone = build_backbone(model, size=data.size, mean=data.mean, std=data.std, channels=data.stored_channels)
    if model.init is not None and not model.known_to_timm:  # before teachers are copied from it
        read = weights if isinstance(weights, Weights) else read_weights(model.init)
        note(load_into(backbone.network, read, label=model.name))
    backbone.keep_statistics = model.keep_statistics  # and so will the teachers' that are copied from it
    backbone.train()
    method = method_class(recipe.method.name)(backbone, recipe.method)
    method.seed = recipe.seed
    return method
