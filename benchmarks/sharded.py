"""Bytes that each process of a training of DINO holds, whole and sharded (`train.sharded`), and what a step keeps.

Measured on the CPU by real steps of processes that talk by gloo: of every parameter (student and teacher), gradient and
AdamW's two states, the bytes of what lies in the process; of the weights in blocks and outside, the most that was whole
at one time; of activations, what autograd keeps of the forward pass for the backward pass (`train.recompute`), with the
rounded copies of weights that bf16 makes. With --count, weights, gradients and states of larger networks are counted on
the meta device, by the same function that shards them, for a number of processes that are not there.

    python benchmarks/sharded.py [--model vit_small] [--processes 2] [--images 2] [--json found.json]
    python benchmarks/sharded.py --count vit_large_patch14_dinov2 vit_giant_patch14_dinov2 --processes 8

No time is taken: processes on one machine say nothing of those on several.
"""

from __future__ import annotations

import os
import socket
from typing import Any

import torch
from common import Table, command_line, machine, print_machine, write_json
from growth_steps import EPOCH, bytes_of, kept_tensors, views_of
from torch import Tensor, distributed, multiprocessing, nn
from torch.distributed.tensor import DTensor
from torch.multiprocessing.spawn import spawn

from glocal.config import AnyRecipe, build_recipe
from glocal.distributed import own_part
from glocal.methods.base import Method
from glocal.methods.building import build_method
from glocal.models.building import build_backbone
from glocal.schedules import Clock
from glocal.training.machine import suit_to_machine
from glocal.training.optimizers import build_optimizers
from glocal.training.rehearsal import shadow
from glocal.training.sharded import shard

CPU = torch.device("cpu")
WAYS = (False, True, "blocks")
HELD = ("parameters", "gradients", "optimiser")


def recipe_of(model: str, images: int, **train: Any) -> AnyRecipe:
    settings = {
        "data.size": 224,
        "method.name": "dino",
        "model.name": model,
        "optimizer.name": "adamw",
        "train": {"batch_size": max(2, images), "epochs": EPOCH + 1, **train},
    }
    return build_recipe({}, settings)


def part_of(tensors: Any) -> int:
    """Bytes of what lies in this process."""
    parts = [own_part(tensor) for tensor in tensors if isinstance(tensor, Tensor)]
    return sum(part.numel() * part.element_size() for part in parts)


def step(method: Method, recipe: AnyRecipe) -> dict[str, int]:
    """One step; what the process holds in it, in bytes."""
    [(_, optimizer)] = build_optimizers(method, recipe.optimizer, fused=True).items()
    most = 0

    def look(*_: Any) -> None:
        nonlocal most
        whole = [parameter for parameter in method.parameters() if not isinstance(parameter, DTensor)]
        most = max(most, bytes_of(whole))

    for layer in method.modules():
        if isinstance(layer, nn.Linear):
            layer.register_forward_pre_hook(look)
    method.before_step(Clock(EPOCH, 1, EPOCH + 1))
    method(views_of(recipe, CPU)).backward()
    found = {"whole at once": most}
    found["gradients"] = part_of(parameter.grad for parameter in method.parameters())
    optimizer.step()
    optimizer.zero_grad()
    method.after_step()
    found["parameters"] = part_of(method.parameters())
    found["optimiser"] = part_of(value for state in optimizer.state.values() for value in state.values())
    return found


def measure(rank: int, processes: int, port: int, settings: dict[str, Any], answers: Any) -> None:
    torch.set_num_threads(1)
    recipe = recipe_of(**settings)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    distributed.init_process_group("gloo", rank=rank, world_size=processes)
    torch.manual_seed(0)
    method = build_method(recipe)
    if recipe.train.sharded:
        shard(method, CPU)
    answers.put((rank, step(suit_to_machine(method, recipe.train, CPU), recipe)))
    distributed.barrier()
    distributed.destroy_process_group()


def in_processes(processes: int, **settings: Any) -> dict[str, int]:
    """What the process holds that holds most."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    answers = multiprocessing.get_context("spawn").SimpleQueue()
    spawn(measure, (processes, port, settings, answers), nprocs=processes)
    return max((answers.get()[1] for _ in range(processes)), key=lambda found: found["parameters"])


def kept(model: str, images: int, way: bool | str, precision: str) -> int:
    """Bytes that autograd keeps of the backbone's forward pass."""
    recipe = recipe_of(model, images, recompute=way, precision=precision)
    backbone: Any = build_backbone(recipe.model, size=224)
    suit_to_machine(backbone, recipe.train, CPU)
    with kept_tensors() as tensors, torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        features = backbone(torch.randn(images, 3, 224, 224))
    found = bytes_of(tensors)
    del features
    return found


def counted(model: str) -> dict[str, int]:
    """The same of the first of the processes that are not there, in which every tensor has its most rows."""
    method: Any = shadow(recipe_of(model, 2))
    blocks = method.backbone.network.blocks
    inside = [*blocks.parameters(), *method.distiller.teacher_backbone.network.blocks.parameters()]
    rest = part_of(method.parameters()) - part_of(inside)
    one = part_of(blocks[0].parameters())
    shard(method, CPU)
    trained = part_of(parameter for parameter in method.parameters() if parameter.requires_grad)
    return {
        "parameters": part_of(method.parameters()),
        "gradients": trained,
        "optimiser": 2 * trained,
        "whole at once": rest + one,
    }


def gigabytes(found: dict[str, int], *names: str) -> list[str]:
    return [f"{found[name] / 1e9:.3f}" for name in names]


def headed(what: str, *columns: str) -> Table:
    return Table({what: 36, **dict.fromkeys(columns, 16)})


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument("--model", default="vit_small")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--images", type=int, default=2, help="in a step of each process")
    parser.add_argument("--count", nargs="*", metavar="MODEL", help="count these instead")
    given = parser.parse_args()
    described, found = machine(), {}
    print_machine(described)
    columns = (*HELD, "whole at once")
    if given.count:
        from torch.testing._internal.distributed.fake_pg import FakeStore

        distributed.init_process_group("fake", rank=0, world_size=given.processes, store=FakeStore())
        table = headed(f"GB in each of {given.processes} processes", *columns)
        for model in given.count:
            found[model] = counted(model)
            table.row(model, *gigabytes(found[model], *columns))
        distributed.destroy_process_group()
        write_json(given.json, described, found=found)
        return
    table = headed(f"GB in each of {given.processes} processes", *columns)
    measured = {"processes": given.processes, "model": given.model, "images": given.images}
    for name, sharded in (("whole", False), ("sharded", True)):
        found[name] = in_processes(**measured, sharded=sharded)
        table.row(name, *gigabytes(found[name], *columns))
    table = headed(f"GB kept of {given.images} images", "fp32", "bf16")
    for way in WAYS:
        found[f"recompute={way}"] = {each: kept(given.model, given.images, way, each) for each in ("fp32", "bf16")}
        table.row(f"train.recompute={way}", *gigabytes(found[f"recompute={way}"], "fp32", "bf16"))
    write_json(given.json, described, found=found)


if __name__ == "__main__":
    main()
