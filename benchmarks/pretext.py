"""How well a run answers its method's questions about images that it has not seen, beside chance and before training.

    python benchmarks/pretext.py RUN --data photos/val [--images 2000] [--json pretext.json]

The method of the newest checkpoint gets views of held-out images, drawn as training draws them, in batches of the run's
size. Batch normalisation takes each batch's own statistics, as in training. `solved` is the share of questions with the
right answer, for methods that have such (`Method.solved`: rotation, jigsaw); chance is one over the number of answers.
The untrained network is that of the same recipe and seed before its first step.

A method that keeps a vector or a label of every training image (a memory bank, clusters) has no place for held-out ones
and is refused. Colorization weighs colours by how rare they were in training: the untrained network's loss has the same
weights as the trained one's, so that the two can be compared.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from common import Table, command_line, machine, print_machine, write_json

from glocal.checkpoints import load_weights, newest_checkpoint
from glocal.config import AnyRecipe, build_recipe, load_mapping
from glocal.data.ranges import open_by
from glocal.methods.base import Method
from glocal.methods.building import build_method
from glocal.methods.colorization import Colorization
from glocal.models.loading import choose_device
from glocal.models.memory import MemoryBank
from glocal.report.preview import open_views
from glocal.schedules import Clock
from glocal.views.batch import Views


def prepared(recipe: AnyRecipe) -> Method:
    """The method as it was before its first step."""
    torch.manual_seed(recipe.seed)
    method = build_method(recipe)
    banks = any(isinstance(module, MemoryBank) for module in method.modules())
    if banks or method.needs_labels or method.refresh_epochs:
        raise SystemExit(f"method {recipe.method.name} asks about images of its training only")
    return method


def both(recipe: AnyRecipe, run: Path) -> dict[str, Method]:
    """The untrained and the trained method, whose losses are one function of what the network says."""
    before, after = prepared(recipe), trained(recipe, run)
    if isinstance(before, Colorization) and isinstance(after, Colorization):
        before.prior.copy_(after.prior)
    return {"untrained": before, "trained": after}


def trained(recipe: AnyRecipe, run: Path) -> Method:
    """The method as the run's newest checkpoint has it."""
    state = newest_checkpoint(run / "checkpoints")
    if state is None:
        raise SystemExit(f"{run} has no checkpoint")
    method = prepared(recipe)
    load_weights(method, state["method"], what=str(run))
    return method


@torch.no_grad()
def measure(method: Method, recipe: AnyRecipe, data: str, images: int, device: torch.device) -> dict[str, Any]:
    """The mean loss over batches of held-out images, and the share of solved questions; None where there are none."""
    source = open_by(data, recipe.data.model_dump(mode="json"), {})
    batch = min(recipe.train.batch_size, len(source))
    steps = max(1, min(images, len(source)) // batch)
    losses, shares = [], []
    method.train().to(device)
    for step, views in enumerate(open_views(source, recipe, batch).batches(0, steps)):
        method.before_step(Clock(step, steps, steps))
        here = Views(tuple(image.to(device) for image in views.images), views.geometry, views.index)
        losses.append(float(method(here, method.phases[-1])))
        if method.solved is not None:
            shares.append(float(method.solved))
    solved = sum(shares) / len(shares) if shares else None
    seen = {"images": steps * batch, "held_out": len(source)}
    return {"loss": sum(losses) / len(losses), "solved": solved, **seen, "chance": method.chance}


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument("run", type=Path, help="a finished run")
    parser.add_argument("--data", required=True, help="images that it was not trained on")
    parser.add_argument("--images", type=int, default=2000, help="how many of them, in whole batches")
    parser.add_argument("--device", default="auto")
    arguments = parser.parse_args()
    recipe = build_recipe(load_mapping(arguments.run / "recipe.yaml"))
    device = torch.device(choose_device(arguments.device))
    described = machine(device)
    print_machine(described)
    rows = {
        name: measure(method, recipe, arguments.data, arguments.images, device)
        for name, method in both(recipe, arguments.run).items()
    }
    table = Table({"network": 12, "loss": 10, "solved": 16, "images": 16})
    for name, row in rows.items():
        table.row(name, f"{row['loss']:.3f}", share(row["solved"]), f"{row['images']} of {row['held_out']}")
    chance = rows["trained"]["chance"]
    if chance is not None:
        solved = None if rows["trained"]["solved"] is None else math.exp(-chance)
        table.row("chance", f"{chance:.3f}", share(solved), "")
    write_json(arguments.json, described, method=recipe.method.name, run=str(arguments.run), **rows)


def share(solved: float | None) -> str:
    return "none to solve" if solved is None else f"{solved:.1%}"


if __name__ == "__main__":
    main()
