"""Losses over the batch of all processes: two of them find the loss and the gradient of one."""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, multiprocessing
from torch import distributed as dist
from torch.nn.functional import normalize

from glocal.distributed import all_gather, all_gather_with_gradient, process_rank
from glocal.losses import (
    barlow_twins,
    batch_info_nce,
    cancelled_nt_xent,
    decorrelation,
    hard_nt_xent,
    mine,
    nt_xent,
    vicreg,
    view_contrast,
)
from glocal.losses.clustering import sinkhorn

Loss = Callable[[Tensor, Tensor], Tensor]


def gathered(loss: Loss) -> Loss:
    return lambda first, second: loss(all_gather_with_gradient(first), all_gather_with_gradient(second))


def against_keys(first: Tensor, second: Tensor) -> Tensor:
    """MoCo v3's comparison: keys of all processes, no gradient to them."""
    own = process_rank() * len(first) + torch.arange(len(first))
    keys = all_gather(normalize(second.detach(), dim=1))
    return batch_info_nce(normalize(first, dim=1), keys, own, temperature=0.2)


def of_all_pairs(first: Tensor, second: Tensor) -> Tensor:
    """MINE under a fixed bilinear f: this process' rows against those of other images in all processes."""
    everything = all_gather_with_gradient(second)
    own = process_rank() * len(first) + torch.arange(len(first))
    others = torch.ones(len(first), len(everything), dtype=torch.bool)
    others[torch.arange(len(first)), own] = False
    scores = first @ everything.T / 4
    return mine(scores[~others], scores[others])


LOSSES: dict[str, Loss] = {
    "mine": of_all_pairs,
    "nt_xent": lambda first, second: nt_xent(normalize(first, dim=1), normalize(second, dim=1), temperature=0.2),
    "hard_nt_xent": lambda first, second: hard_nt_xent(
        normalize(first, dim=1), normalize(second, dim=1), temperature=0.2, concentration=1.0, prior=0.1
    ),
    "cancelled_nt_xent": lambda first, second: cancelled_nt_xent(
        normalize(torch.stack([first, second, first - second]), dim=2), temperature=0.2, nearest=3, threshold=0.5
    ),
    "view_contrast": lambda first, second: view_contrast(
        normalize(torch.stack([first, second, first - second]), dim=2),
        2,
        temperature=0.2,
        coefficient=0.5,
        target_temperature=0.1,
    ),
    "barlow_twins": gathered(lambda first, second: barlow_twins(first, second, coefficient=0.1)),
    "vicreg": gathered(vicreg),
    "decorrelation": gathered(lambda first, second: decorrelation(torch.cat([first, second]))),
    "batch_info_nce": against_keys,
}


def compute(rows: slice) -> dict[str, Tensor]:
    """Every loss, averaged over the processes, and its gradient to a shared weight, averaged as DDP does."""
    generator = torch.Generator().manual_seed(0)
    first, second = torch.randn(2, 8, 5, generator=generator, dtype=torch.float64)
    start = torch.randn(5, 6, generator=generator, dtype=torch.float64)
    found: dict[str, Tensor] = {"codes": sinkhorn(first[rows] @ start, epsilon=0.5)}
    for name, loss in LOSSES.items():
        weight = start.clone().requires_grad_()
        value = loss(first[rows] @ weight, second[rows] @ weight)
        value.backward()
        assert weight.grad is not None
        for key, tensor in (("loss", value.detach()), ("gradient", weight.grad)):
            if dist.is_initialized():
                dist.all_reduce(tensor)
                tensor /= dist.get_world_size()
            found[f"{name} {key}"] = tensor
    return found


def work(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    torch.save(compute(slice(4 * rank, 4 * rank + 4)), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_two_processes_find_the_losses_and_gradients_of_one(tmp_path: Path) -> None:
    multiprocessing.spawn(work, (str(tmp_path),), nprocs=2)
    alone = compute(slice(0, 8))
    for rank in (0, 1):
        found = torch.load(tmp_path / f"{rank}.pt")
        codes = found.pop("codes")
        assert torch.allclose(codes, alone["codes"][4 * rank : 4 * rank + 4])
        for name, value in found.items():
            assert torch.allclose(value, alone[name], rtol=1e-9), name
