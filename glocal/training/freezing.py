"""The first epochs of a training that begins with weights: only the heads learn."""

from __future__ import annotations

from glocal.methods.base import Method


class Freeze:
    """Keeps the parameters of a method's backbone as they are for a number of steps.

    New heads begin with large and random gradients, from which a trained backbone is spared so. It stays in training
    mode: its batch normalisation takes the statistics of the batch, so that heads learn from what they will see
    afterwards, and its running statistics follow the new images. A momentum teacher that began as a copy of it stays
    one, for the average of two equal numbers is that number.

    Args:
        method: already on its device and, where there are several, with its hooks for the exchange of gradients.
        steps: so many at the training's beginning.
    """

    def __init__(self, method: Method, steps: float) -> None:
        self._steps = steps
        self._frozen = False
        # Others stand still by the method's own choice (MoCo v3's projection of patches).
        self._parameters = [parameter for parameter in method.backbone.parameters() if parameter.requires_grad]

    def at(self, step: int) -> None:
        """Brings the parameters into the state of a step."""
        frozen = step < self._steps
        if frozen != self._frozen:
            for parameter in self._parameters:
                parameter.requires_grad_(not frozen)
            self._frozen = frozen
