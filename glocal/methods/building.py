"""A resolved recipe becomes a method."""

from __future__ import annotations

from typing import TYPE_CHECKING

from glocal.methods import method_class
from glocal.methods.base import Method
from glocal.models.backbone import build_backbone

if TYPE_CHECKING:
    from glocal.config import AnyRecipe


def build_method(recipe: AnyRecipe, *, weights: bool = True) -> Method:
    """The method of a resolved recipe with its networks, initialised by torch's global generator.

    Args:
        recipe: resolved.
        weights: take pretrained weights where the recipe says so; they are not needed where a checkpoint follows.
    """
    assert recipe.data.size is not None  # resolved
    model = recipe.model if weights else recipe.model.model_copy(update={"pretrained": False})
    backbone = build_backbone(model, size=recipe.data.size, mean=recipe.data.mean, std=recipe.data.std)
    method = method_class(recipe.method.name)(backbone, recipe.method)
    method.seed = recipe.seed
    return method
