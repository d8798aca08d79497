"""Work for a GPU that goes on beside the training."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from glocal.views.batch import Views


def stream_beside(device: torch.device) -> torch.cuda.Stream | None:
    """A GPU's stream for the views of a whole training: memory that was freed in a stream serves that stream only."""
    return torch.cuda.Stream(device) if device.type == "cuda" else None


def made_beside(batches: Iterator[Views], beside: torch.cuda.Stream | None) -> Iterator[Views]:
    """The same views, made on a GPU while it is still at the step before.

    The host runs ahead of the GPU. What it asks for in the training's own stream begins when the last step ends; in a
    stream beside it, copies and the many small kernels of the views fill what the training leaves idle. On other
    devices the batches pass as they are.
    """
    if beside is None:
        yield from batches
        return
    training = torch.cuda.current_stream(beside.device)
    beside.wait_stream(training)  # images that lie on the GPU were put there by it
    while True:
        with torch.cuda.stream(beside):
            views = next(batches, None)
        if views is None:
            return
        training.wait_stream(beside)
        for image in views.images:
            image.record_stream(training)  # its memory is not given to the next views before the step is done
        yield views
