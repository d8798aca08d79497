"""Un-Mix: mixtures of the batch and its reverse find the keys of both."""

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from glocal.schedules import Clock
from tests.methods.cases import RESNET_RUN, MethodCase, make, views

CASE = MethodCase(
    slow=True,
    trained={"loss": {"backbone", "moco.projector"}},
    run={**RESNET_RUN, "method.queue_size": 128, "method.momentum": 0.95},
)


def contrast(queries: Tensor, keys: Tensor, queue: Tensor) -> Tensor:
    logits = torch.cat([(queries * keys).sum(dim=1, keepdim=True), queries @ queue.T], dim=1) / 0.2
    return cross_entropy(logits, torch.zeros(len(queries), dtype=torch.long))


@pytest.mark.parametrize("mixup", [0.0, 1.0])
def test_it_is_moco_and_the_mixtures_in_both_orders_by_their_shares(mixup: float) -> None:
    method, fresh = make("unmix", mixup=mixup), make("unmix").moco
    batch = views(method)
    mixed, share = method._mixed(batch.images[0])
    part = float(share[0])
    assert torch.equal(share, share[:1].expand(8))
    keys = normalize(fresh.teacher.chain(batch.images[1]), dim=1)
    plain, both = (normalize(fresh.projector(fresh.backbone(x)), dim=1) for x in (batch.images[0], mixed))
    expected = contrast(plain, keys, fresh.queue.keys) + part * contrast(both, keys, fresh.queue.keys)
    expected += (1 - part) * contrast(both.flip(0), keys, fresh.queue.keys)
    assert method(batch).item() == pytest.approx(expected.item(), rel=1e-5)
    assert torch.equal(method.moco.new_keys[0], keys)


def of_regions(mixed: Tensor) -> bool:
    """Whether every pixel of mixtures of black and white images is one of the two."""
    return bool(((mixed == 0) | (mixed == 1)).all())


def test_a_mixture_has_its_share_of_both_images() -> None:
    one, two = torch.zeros(4, 3, 16, 16), torch.ones(4, 3, 16, 16)
    for mixup in (0.0, 1.0):
        method, seen = make("unmix", mixup=mixup), set()
        for step in range(6):
            method.before_step(Clock(step, 10, 100))
            mixed, share = method._mixed(torch.cat([one, two]))  # in reverse order the ones come first
            assert torch.allclose(mixed[:4].mean(dim=(1, 2, 3)), 1 - share[:4], atol=1e-6)
            assert torch.allclose(mixed[4:].mean(dim=(1, 2, 3)), share[4:], atol=1e-6)
            assert of_regions(mixed) == (mixup == 0.0)
            seen.add(round(float(share[0]), 6))
        assert len(seen) == 6  # a new share in every step


def test_steps_are_of_both_kinds_and_depend_on_their_number_alone() -> None:
    method = make("unmix", momentum=1.0)
    image = torch.zeros(2, 3, 16, 16)
    image[1] = 1

    def kinds() -> list[bool]:
        found = []
        for step in range(20):
            method.before_step(Clock(step, 10, 100))
            found.append(of_regions(method._mixed(image)[0]))
        return found

    assert kinds() == kinds()
    assert 4 <= sum(kinds()) <= 16
    batch = views(method)
    assert method(batch).item() == method(batch).item()
