"""Peak memory and time of DINO with 65,536 prototypes over DINO as its authors' code is built.

The plain side follows the description of the paper (Caron et al., ICCV 2021, Algorithm 1, section 3.2, appendix C): one
pass of the backbone for each resolution, one pass of the head for all views, a weight-normalised last layer, the logits
of all views of the student and of the teacher's two as whole tables, and one cross-entropy after another for each pair
of a teacher's and another view of the student. Both sides have the same ViT-Tiny/16, 2×224 + 8×96 pixels, AdamW with
fused kernels, and give freed memory back to the system (`train.keep_memory=false`), so that the peak is what is needed.

`held` is the plain side with the attention of their repository, which is older than fused attention and holds the
attention of all pairs of tokens; `plain` has the fused attention that ours has.

Two parts: the whole step, and head and loss alone on given features, as behind a backbone of any kind. Every side runs
in a process of its own; memory is the peak of the process above what it took after its imports (on a GPU:
torch.cuda.max_memory_allocated), time the least of the steps after the first.

Ratios are to the plain side in the same precision. bf16 is autocast, on either side. The authors train on GPUs in
autocast to float16, and on a CPU in fp32.

    python benchmarks/large_heads_vs_plain.py [--batches 2 4 8] [--head-batches 8 32] [--device cuda] [--json out.json]
"""

from __future__ import annotations

import argparse
import copy
import json
import warnings
from collections.abc import Callable
from typing import Any

import step_vs_lightly as steps
import torch
from common import PeakMemory, Table, command_line, in_own_process, machine, print_machine, seconds_of, write_json
from timm.layers import Attention
from torch import Tensor, nn
from torch.nn.functional import log_softmax, normalize, softmax

from glocal.losses.distillation import distill
from glocal.losses.tokens import pair_tokens
from glocal.models.architecture import ModelSettings
from glocal.models.building import build_backbone
from glocal.models.heads import PrototypeHead

PROTOTYPES, DIM, TEACHERS, VIEWS = 65536, 192, 2, 10
TEMPERATURES = {"teacher_temperature": 0.04, "student_temperature": 0.1}
SIDES = ("glocal", "glocal bf16", "plain", "plain bf16", "held", "held bf16")


class PlainHead(nn.Module):
    """The MLP of three layers, unit length, and a weight-normalised layer whose output is held."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = PrototypeHead(DIM, 1).layers
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # the form of the year in which DINO was published
            last: Any = nn.utils.weight_norm(nn.Linear(256, PROTOTYPES, bias=False))
        last.weight_g.data.fill_(1)
        last.weight_g.requires_grad_(False)
        self.last = last

    def forward(self, features: Tensor) -> Tensor:
        return self.last(normalize(self.layers(features), dim=-1))  # type: ignore[no-any-return]


def plain_loss(student: Tensor, teacher: Tensor, center: Tensor) -> Tensor:
    """The cross-entropies of all pairs of different views, one after another: (V·B, K), (G·B, K)."""
    predictions = (student.float() / TEMPERATURES["student_temperature"]).chunk(VIEWS)
    targets = softmax((teacher.float() - center) / TEMPERATURES["teacher_temperature"], dim=-1).detach().chunk(TEACHERS)
    losses = [
        torch.sum(-target * log_softmax(prediction, dim=-1), dim=-1).mean()
        for g, target in enumerate(targets)
        for v, prediction in enumerate(predictions)
        if g != v
    ]
    return torch.stack(losses).mean()


def plain_step(batch: int, device: torch.device, rounded: bool, held: bool) -> Callable[[], None]:
    backbone = build_backbone(ModelSettings(name="vit_tiny"), size=224).to(device)
    for module in backbone.modules():
        if isinstance(module, Attention):
            module.fused_attn = not held
    student = nn.ModuleList([backbone, PlainHead().to(device)])
    teacher = nn.ModuleList([copy.deepcopy(backbone), PlainHead().to(device)]).requires_grad_(False)
    teacher.load_state_dict(student.state_dict())
    center = torch.zeros(1, PROTOTYPES, device=device)
    optimizer = torch.optim.AdamW((p for p in student.parameters() if p.requires_grad), lr=1e-4, fused=True)
    large, small = (
        torch.randn(count * batch, 3, size, size, device=device).chunk(count) for count, size in ((2, 224), (8, 96))
    )

    def step() -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=rounded):
            with torch.no_grad():
                target = teacher[1](teacher[0](torch.cat(large)))
            features = torch.cat([student[0](torch.cat(large)), student[0](torch.cat(small))])
            loss = plain_loss(student[1](features), target, center)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        with torch.no_grad():
            center.lerp_(target.float().mean(dim=0, keepdim=True), 0.1)
            for mine, theirs in zip(teacher.parameters(), student.parameters(), strict=True):
                mine.mul_(0.996).add_((1 - 0.996) * theirs.detach())

    return step


def plain_head(batch: int, device: torch.device, rounded: bool) -> Callable[[], None]:
    student, teacher = PlainHead().to(device), PlainHead().to(device).requires_grad_(False)
    rows = torch.randn(VIEWS * batch, DIM, device=device)
    center = torch.zeros(1, PROTOTYPES, device=device)

    def step() -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=rounded):
            with torch.no_grad():
                target = teacher(rows[: TEACHERS * batch])
            loss = plain_loss(student(rows), target, center)
        loss.backward()
        student.zero_grad(set_to_none=True)

    return step


def our_head(batch: int, device: torch.device, rounded: bool) -> Callable[[], None]:
    student = PrototypeHead(DIM, PROTOTYPES).to(device)
    teacher = PrototypeHead(DIM, PROTOTYPES).to(device).requires_grad_(False)
    rows = torch.randn(VIEWS * batch, DIM, device=device)
    center = torch.zeros(PROTOTYPES, device=device)
    pairs = pair_tokens(None, batch=batch, teachers=TEACHERS, tokens=[1] * VIEWS).to(device)

    def step() -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=rounded):
            with torch.no_grad():
                target = teacher(rows[: TEACHERS * batch])
            loss = distill(
                target[pairs.teacher],
                student(rows)[pairs.student],
                pairs,
                center=center,
                prototypes=(teacher.directions, student.directions),
                lengths=(teacher.length, student.length),
                **TEMPERATURES,
            )
        loss.backward()
        student.zero_grad(set_to_none=True)

    return step


def work(part: str, side: str, batch: int, device: torch.device, count: int) -> None:
    """Takes the steps of one side and prints its seconds and gigabytes."""
    memory = PeakMemory(device)
    torch.manual_seed(0)
    rounded = side.endswith("bf16")
    if part == "head":
        step = (our_head if side.startswith("glocal") else plain_head)(batch, device, rounded)
    elif not side.startswith("glocal"):
        step = plain_step(batch, device, rounded, held=side.startswith("held"))
    else:
        step = steps.steps_of("dino", "glocal", batch, device, False, "bf16" if rounded else "fp32")
    seconds = min(seconds_of(step, device, count)[1:])
    print(json.dumps({"seconds": seconds, "gigabytes": memory.gigabytes}))


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument("--batches", type=int, nargs="*", default=[2, 4, 8])
    parser.add_argument("--head-batches", type=int, nargs="*", default=[8, 32])
    parser.add_argument("--steps", type=int, default=4, help="the first is not counted")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--work", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.steps < 2:
        parser.error("--steps: take two or more, for the first is not counted")
    device = torch.device(arguments.device)
    if arguments.work:
        part, side, batch = arguments.work
        work(part, side, int(batch), device, arguments.steps)
        return
    described = machine(arguments.device)
    print_machine(described)
    print(f"K = {PROTOTYPES}; ratios to plain")
    command = [__file__, "--device", arguments.device, "--steps", arguments.steps, "--work"]
    rows = {}
    for part, batch in [*(("step", b) for b in arguments.batches), *(("head", b) for b in arguments.head_batches)]:
        found = {
            side: in_own_process(*command, part, side, batch)
            for side in SIDES
            if part == "step" or not side.startswith("held")
        }
        rows[f"{part} {batch}"] = found
        table = Table({f"{part}, batch {batch}": 16, "s": 8, "GB": 8, "time": 8, "memory": 8})
        for side, numbers in found.items():
            reference = found["plain bf16" if side.endswith("bf16") else "plain"]
            time, memory = (f"{numbers[key] / reference[key]:.2f}" for key in ("seconds", "gigabytes"))
            table.row(side, f"{numbers['seconds']:.3f}", f"{numbers['gigabytes']:.2f}", time, memory)
    write_json(arguments.json, described, **rows)


if __name__ == "__main__":
    main()
