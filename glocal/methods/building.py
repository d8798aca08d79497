"""A resolved recipe becomes a method."""

from __future__ import annotations

from typing import TYPE_CHECKING

from glocal.methods import method_class
from glocal.methods.base import Method
from glocal.models.backbone import build_backbone

if TYPE_CHECKING:
    from glocal.config import AnyRecipe


def build_method(recipe: AnyRecipe) -> Method:
    """The method of a resolved recipe with its networks, initialised by torch's global generator."""
    assert recipe.data.size is not None  # resolved
    backbone = build_backbone(recipe.model, size=recipe.data.size, mean=recipe.data.mean, std=recipe.data.std)
    method = method_class(recipe.method.name)(backbone, recipe.method)
    method.seed = recipe.seed
    return method
