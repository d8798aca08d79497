"""A training step of each method over the same step put together from lightly's building blocks: time and peak memory.

Both sides train the same backbone (glocal's: timm's ResNet-18 with the stem for small images, or ViT-Tiny/16) on the
same batch of views with heads of the same widths, SGD with momentum (AdamW for the transformer), in fp32; `--precision
bf16` has ours in autocast, as `train.precision=bf16` or `auto` do. lightly's
side follows the examples in its documentation: its heads, losses, memory bank, prototypes and `update_momentum`, and
one forward pass for each view. `glocal pretrain` keeps tensors in channels_last and, on a CPU, freed memory
(`train.keep_memory`); lightly's examples do not, so lightly is measured in both layouts and the ratio is to the better.

Every side runs in a process of its own, which waits while another one takes its step, and the steps alternate, so that
a machine that slows down slows all sides down. Time is the median of the steps after a warm-up; memory is the peak of
the process above what it took after its imports (on a GPU: torch.cuda.max_memory_allocated).

    pip install -e '.[bench]'
    python benchmarks/step_vs_lightly.py [--methods simclr byol] [--batch 256] [--vit-batch 8] [--device cuda]
"""

from __future__ import annotations

import argparse
import copy
import statistics
from collections.abc import Callable
from typing import Any

import torch
from common import PeakMemory, Table, answer_each_line, command_line, in_turn, machine, print_machine, timed, write_json
from torch import Tensor, nn

from glocal.config import build_recipe
from glocal.memory import keep_freed_memory
from glocal.methods import method_class
from glocal.models.architecture import ModelSettings
from glocal.models.backbone import Backbone
from glocal.models.building import build_backbone
from glocal.schedules import Clock
from glocal.training.machine import suit_to_machine
from glocal.training.optimizers import build_optimizers, set_schedules
from glocal.views.batch import Views
from glocal.views.plan import ViewPlan

Loss = Callable[[list[Tensor]], Tensor]
CLOCK = Clock(1000, 10, 10_000)  # past the epochs in which prototypes stand still
SIDES = ("glocal", "lightly", "lightly, channels_last")
OURS: dict[str, dict[str, Any]] = {
    "simclr": {"hidden_dim": 512, "output_dim": 128},
    "moco": {"hidden_dim": 512, "output_dim": 128, "queue_size": 4096, "momentum": 0.99},
    "simsiam": {"output_dim": 2048, "predictor_dim": 512},
    "byol": {"hidden_dim": 1024, "output_dim": 256},
    "barlow_twins": {"output_dim": 2048},
    "swav": {"hidden_dim": 512, "output_dim": 128, "prototypes": 512},
    "dino": {"prototypes": 65536},
}


def lightly_side(name: str, backbone: Backbone) -> tuple[nn.Module, Loss]:
    """The modules that lightly's example trains and its forward pass up to the loss."""
    from lightly import loss as losses
    from lightly.models import modules as heads
    from lightly.models.utils import deactivate_requires_grad, update_momentum

    device, dim = next(backbone.parameters()).device, backbone.dim

    def momentum_copy(*parts: nn.Module) -> list[nn.Module]:
        copies = [copy.deepcopy(part) for part in parts]
        for part in copies:
            deactivate_requires_grad(part)
        return copies

    trained = nn.ModuleDict({"backbone": backbone})
    if name == "simclr":
        head = trained["head"] = heads.SimCLRProjectionHead(dim, 512, 128).to(device)
        criterion = losses.NTXentLoss(temperature=0.1).to(device)
        return trained, lambda views: criterion(*(head(backbone(view)) for view in views))
    if name == "moco":
        head = trained["head"] = heads.MoCoProjectionHead(dim, 512, 128).to(device)
        slow, slow_head = momentum_copy(backbone, head)
        criterion = losses.NTXentLoss(temperature=0.2, memory_bank_size=(4096, 128)).to(device)

        def moco(views: list[Tensor]) -> Tensor:
            update_momentum(backbone, slow, m=0.99)
            update_momentum(head, slow_head, m=0.99)
            query = head(backbone(views[0]))
            with torch.no_grad():
                key = slow_head(slow(views[1]))
            return criterion(query, key)

        return trained, moco
    if name == "simsiam":
        head = trained["head"] = heads.SimSiamProjectionHead(dim, 2048, 2048).to(device)
        predictor = trained["predictor"] = heads.SimSiamPredictionHead(2048, 512, 2048).to(device)
        criterion = losses.NegativeCosineSimilarity()

        def simsiam(views: list[Tensor]) -> Tensor:
            z = [head(backbone(view)) for view in views]
            p = [predictor(each) for each in z]
            return 0.5 * (criterion(p[0], z[1].detach()) + criterion(p[1], z[0].detach()))

        return trained, simsiam
    if name == "byol":
        head = trained["head"] = heads.BYOLProjectionHead(dim, 1024, 256).to(device)
        predictor = trained["predictor"] = heads.BYOLPredictionHead(256, 1024, 256).to(device)
        slow, slow_head = momentum_copy(backbone, head)
        criterion = losses.NegativeCosineSimilarity()

        def byol(views: list[Tensor]) -> Tensor:
            update_momentum(backbone, slow, m=0.99)
            update_momentum(head, slow_head, m=0.99)
            p = [predictor(head(backbone(view))) for view in views]
            with torch.no_grad():
                z = [slow_head(slow(view)) for view in views]
            return 0.5 * (criterion(p[0], z[1]) + criterion(p[1], z[0]))

        return trained, byol
    if name == "barlow_twins":
        head = trained["head"] = heads.BarlowTwinsProjectionHead(dim, 2048, 2048).to(device)
        criterion = losses.BarlowTwinsLoss()
        return trained, lambda views: criterion(*(head(backbone(view)) for view in views))
    if name == "swav":
        head = trained["head"] = heads.SwaVProjectionHead(dim, 512, 128).to(device)
        prototypes = trained["prototypes"] = heads.SwaVPrototypes(128, n_prototypes=512).to(device)
        criterion = losses.SwaVLoss()

        def swav(views: list[Tensor]) -> Tensor:
            prototypes.normalize()
            scores = [prototypes(nn.functional.normalize(head(backbone(view)), dim=1, p=2)) for view in views]
            return criterion(scores[:2], scores[2:])

        return trained, swav
    head = trained["head"] = heads.DINOProjectionHead(dim, 2048, 256, 65536, norm_last_layer=True).to(device)
    [slow] = momentum_copy(backbone)
    slow_head = heads.DINOProjectionHead(dim, 2048, 256, 65536).to(device)  # its weight norm cannot be copied
    deactivate_requires_grad(slow_head)
    criterion = losses.DINOLoss(output_dim=65536).to(device)

    def dino(views: list[Tensor]) -> Tensor:
        update_momentum(backbone, slow, m=0.99)
        update_momentum(head, slow_head, m=0.99)
        with torch.no_grad():
            teacher = [slow_head(slow(view)) for view in views[:2]]
        return criterion(teacher, [head(backbone(view)) for view in views], teacher_temp=0.04)

    return trained, dino


def steps_of(
    name: str, side: str, batch: int, device: torch.device, keep_memory: bool = True, precision: str = "fp32"
) -> Callable[[], None]:
    """A function that takes one training step of one side; the precision is that of our side."""
    torch.manual_seed(0)
    transformer = name == "dino"
    size = 224 if transformer else 32
    layout = torch.contiguous_format if side == "lightly" else torch.channels_last
    kind = method_class(name)
    model = ModelSettings(name="vit_tiny") if transformer else ModelSettings(name="resnet18", stem="small")
    backbone = build_backbone(model, size=size).to(device).to(memory_format=layout)
    optimizer_settings = {"optimizer.name": "adamw" if transformer else "sgd", "method.name": name}
    recipe = build_recipe({}, {**optimizer_settings, "data.size": size, "method": {**OURS[name], "name": name}})
    plan = ViewPlan(recipe.views or [])
    images = [
        torch.randn(batch, 3, view.size, view.size, device=device).contiguous(memory_format=layout)
        for view in plan.views
    ]
    if side == "glocal":
        if device.type == "cpu" and keep_memory:
            keep_freed_memory()  # as `glocal pretrain` does
        method = kind(backbone, recipe.method).to(device).to(memory_format=layout)
        method = suit_to_machine(method, recipe.train, device)
        geometry = plan.draw_geometry(torch.tensor([size, size]), 0, 0, torch.arange(batch))
        views = Views(tuple(images), tuple(geometry.view(n) for n in range(len(plan))), torch.arange(batch))
        [optimizer] = build_optimizers(method, recipe.optimizer, fused=True).values()  # as `glocal pretrain` does

        def step() -> None:
            method.before_step(CLOCK)
            set_schedules(optimizer, recipe.optimizer, batch, CLOCK)
            with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
                loss = method(views)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            method.after_step()

        return step
    trained, loss = lightly_side(name, backbone)
    trained.to(memory_format=layout)
    # Fused as on our side: the optimiser is not what is compared.
    theirs: torch.optim.Optimizer = (
        torch.optim.AdamW(trained.parameters(), lr=1e-4, fused=True)
        if transformer
        else torch.optim.SGD(trained.parameters(), lr=0.06, momentum=0.9, weight_decay=5e-4, fused=True)
    )

    def their_step() -> None:
        loss(images).backward()
        theirs.step()
        theirs.zero_grad()

    return their_step


def work(name: str, side: str, batch: int, device: torch.device, keep_memory: bool, precision: str) -> None:
    """Takes a step for each line of the standard input and answers with its seconds and the peak of memory so far."""
    import lightly.loss  # noqa: F401  # the imports of all sides come before the memory's zero

    memory = PeakMemory(device)
    step = steps_of(name, side, batch, device, keep_memory, precision)
    answer_each_line(lambda: {"seconds": timed(step, device)[0], "gigabytes": memory.gigabytes})


def compare(
    name: str, batch: int, device: str, warm_up: int, steps: int, extra: list[str]
) -> dict[str, dict[str, float]]:
    """Median seconds and peak gigabytes of every side, steps taken in turn."""
    command = [__file__, "--device", device, "--batch", batch, "--work", name, *extra]
    sides = [
        side for side in SIDES if name != "dino" or side != "lightly, channels_last"
    ]  # a transformer has one layout
    answers = in_turn({side: [*command, "--side", side] for side in sides}, warm_up + steps)
    return {
        side: {
            "seconds": statistics.median(answer["seconds"] for answer in found[warm_up:]),
            "gigabytes": found[-1]["gigabytes"],
        }
        for side, found in answers.items()
    }


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument("--methods", nargs="+", default=list(OURS), choices=list(OURS))
    parser.add_argument("--batch", type=int, default=256, help="of the ResNet-18 at 32 × 32")
    parser.add_argument("--vit-batch", type=int, default=8, help="of the ViT-Tiny/16 at 2 × 224 + 8 × 96")
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--warm-up", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--release-memory", action="store_true", help="our side with train.keep_memory=false")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32", help="of our side")
    parser.add_argument("--work", help=argparse.SUPPRESS)
    parser.add_argument("--side", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.work:
        work(
            arguments.work,
            arguments.side,
            arguments.batch,
            torch.device(arguments.device),
            not arguments.release_memory,
            arguments.precision,
        )
        return
    described = machine(arguments.device, "lightly")
    print_machine(described)
    table = Table({"": 14, **dict.fromkeys(SIDES, 24), "time": 7, "memory": 8})
    rows = {}
    for name in arguments.methods:
        batch = arguments.vit_batch if name == "dino" else arguments.batch
        extra = ["--precision", arguments.precision, *(["--release-memory"] if arguments.release_memory else [])]
        found = compare(name, batch, arguments.device, arguments.warm_up, arguments.steps, extra)
        ratio = {
            key: found["glocal"][key] / min(side[key] for label, side in found.items() if label != "glocal")
            for key in ("seconds", "gigabytes")
        }
        rows[name] = {"batch": batch, **found, "ratio": ratio}
        sides = [found.get(side) for side in SIDES]
        shown = [f"{side['seconds']:.3f} s {side['gigabytes']:>5.2f} GB" if side else "" for side in sides]
        table.row(name, *shown, f"{ratio['seconds']:.2f}", f"{ratio['gigabytes']:.2f}")
    write_json(arguments.json, described, **rows)


if __name__ == "__main__":
    main()
