"""NPID: every image is a class of its own in a memory bank."""

import math
from pathlib import Path

import pytest
import torch
from torch import distributed as dist
from torch import multiprocessing
from torch.nn.functional import normalize

from glocal.config import build_recipe
from glocal.errors import GlocalError
from glocal.losses.memory import instance_nce, instance_softmax, log_partition
from glocal.models.memory import MemoryBank
from glocal.views.batch import Views
from glocal.views.random import uniform
from tests.methods.cases import RESNET_RUN, MethodCase, make, views

CASE = MethodCase(
    trained={"loss": {"backbone", "projector"}},
    run={**RESNET_RUN, "method.negatives": 256},
    small={"images": 32, "negatives": 16},
    budget={
        "method.negatives": None,
        "method.temperature": 0.2,
        "method.momentum": 0.2,
        "optimizer.lr": 0.12,
        "train.epochs": 10,
    },
    # The loss rises at first, when rows of the bank are no longer random but alike.
    falls={"method.momentum": 1.0, "method.negatives": None},
)


def test_the_loss_is_nce_with_rows_drawn_for_the_step() -> None:
    method, fresh = make("npid"), make("npid")
    batch = views(method)
    rows = fresh.memory.rows
    query = normalize(fresh.projector(fresh.backbone(batch.images[0])), dim=1)
    noise = rows[(uniform(0, "noise", 0, torch.arange(16)) * 32).long()]
    log_z = log_partition(query, noise, temperature=0.07, images=32)
    expected = instance_nce(query, rows[:8], noise, temperature=0.07, log_normaliser=log_z, images=32)
    assert method(batch).item() == pytest.approx(expected.item(), rel=1e-5)


def test_the_normaliser_is_that_of_the_first_batch() -> None:
    method = make("npid")
    method(views(method))
    first = method.log_normaliser.clone()
    assert first.isfinite()
    method(Views((3 + views(method).images[0],), (), torch.arange(8)))
    assert torch.equal(method.log_normaliser, first)


def test_without_negatives_it_is_the_softmax_over_all_images() -> None:
    method, fresh = make("npid", negatives=None), make("npid", negatives=None)
    batch = views(method)
    query = normalize(fresh.projector(fresh.backbone(batch.images[0])), dim=1)
    expected = instance_softmax(query, fresh.memory.rows, batch.index, temperature=0.07)
    assert method(batch).item() == pytest.approx(expected.item(), rel=1e-5)


def test_after_a_step_the_rows_of_the_images_have_moved_and_no_others() -> None:
    method = make("npid", momentum=0.25)
    before, batch = method.memory.rows.clone(), views(method)
    shown = Views(batch.images, batch.geometry, torch.arange(8) * 3)
    method(shown)
    seen = method.embedding
    method.after_step()
    moved = normalize(0.25 * before[::3][:8] + 0.75 * seen, dim=1)
    assert torch.allclose(method.memory.rows[shown.index], moved, atol=1e-6)
    others = torch.ones(32, dtype=torch.bool)
    others[shown.index] = False
    assert torch.equal(method.memory.rows[others], before[others])
    assert method.new_rows == []


def test_of_two_views_each_is_classified_and_the_bank_gets_their_mean() -> None:
    method, fresh = (make("npid", negatives=None, momentum=0.0) for _ in range(2))
    one = views(method)
    images = (one.images[0], one.images[0].flip(3))
    query = normalize(fresh.projector(fresh.backbone(torch.cat(images))), dim=1)
    expected = instance_softmax(query, fresh.memory.rows, torch.arange(8).repeat(2), temperature=0.07)
    assert method(Views(images, (), one.index)).item() == pytest.approx(expected.item(), rel=1e-5)
    method.after_step()
    assert torch.allclose(method.memory.rows[:8], normalize(query[:8] + query[8:], dim=1), atol=1e-5)


def test_the_bank_has_a_row_for_each_image_of_the_run() -> None:
    settings = build_recipe({}, {"method.name": "npid"}).method.fit_to(1000)
    assert (settings.images, settings.negatives) == (1000, 1000)
    assert build_recipe({}, {"method.name": "npid", "method.negatives": None}).method.fit_to(1000).negatives is None
    with pytest.raises(GlocalError, match="method.images is not set"):
        make("npid", images=None)
    method = make("npid", images=4, negatives=2)
    with pytest.raises(GlocalError, match="method.images is 4, but there is an image with index 7"):
        method(views(method))


def work(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    torch.manual_seed(0)
    bank, query = MemoryBank(10, 3), normalize(torch.randn(4, 3), dim=1)
    own = slice(2 * rank, 2 * rank + 2)
    estimate = log_partition(query[own], bank.rows[:5], temperature=0.1, images=10)
    bank.update(torch.tensor([7, 1, 4, 0])[own], query[own], momentum=0.5)
    torch.save({"rows": bank.rows, "estimate": estimate}, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.slow  # in less time, `tests/training/test_sharing.py` trains it on two
def test_two_processes_keep_one_bank_and_one_normaliser(tmp_path: Path) -> None:
    multiprocessing.spawn(work, (str(tmp_path),), nprocs=2)
    torch.manual_seed(0)
    bank, query = MemoryBank(10, 3), normalize(torch.randn(4, 3), dim=1)
    estimate = log_partition(query, bank.rows[:5], temperature=0.1, images=10)
    bank.update(torch.tensor([7, 1, 4, 0]), query, momentum=0.5)
    for rank in (0, 1):
        found = torch.load(tmp_path / f"{rank}.pt")
        assert torch.equal(found["rows"], bank.rows)
        assert math.isclose(found["estimate"].item(), estimate.item(), rel_tol=1e-5)
