"""Batch normalisation by all processes' images."""

import copy

import pytest
import torch
from timm.layers import BatchNormAct2d
from torch import nn

from glocal.models.batch_norm import normalise_together

LAYERS = {
    "rows": (nn.BatchNorm1d(5), (6, 5)),
    "rows without scale": (nn.BatchNorm1d(5, affine=False), (6, 5)),
    "images": (nn.BatchNorm2d(5), (4, 5, 3, 2)),
    "volumes": (nn.BatchNorm3d(5, momentum=None), (4, 5, 2, 3, 2)),
    "with its activation": (BatchNormAct2d(5), (4, 5, 3, 2)),
    "without running numbers": (nn.BatchNorm2d(5, track_running_stats=False), (4, 5, 3, 2)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_of_one_process_it_is_torchs_own(name: str) -> None:
    layer, shape = LAYERS[name]
    torch.manual_seed(0)
    plain = copy.deepcopy(layer).double()
    for parameter in plain.parameters():
        nn.init.normal_(parameter, 1.0)
    together = nn.Sequential(copy.deepcopy(plain))
    normalise_together(together)
    assert type(together[0]) is not type(plain)
    for _ in range(2):
        images = (3 * torch.randn(shape, dtype=torch.float64) + 2).requires_grad_()
        twin = images.detach().clone().requires_grad_()
        weight = torch.randn(shape, dtype=torch.float64)
        found, wanted = together(twin), plain(images)
        (found * weight).sum().backward()
        (wanted * weight).sum().backward()
        torch.testing.assert_close(found, wanted)
        torch.testing.assert_close(twin.grad, images.grad)
    for (key, value), other in zip(plain.state_dict().items(), together[0].state_dict().values(), strict=True):
        torch.testing.assert_close(other, value, msg=key)
    for one, other in zip(plain.parameters(), together.parameters(), strict=True):
        torch.testing.assert_close(other.grad, one.grad)
    torch.testing.assert_close(together.eval()(images), plain.eval()(images))


def test_half_precision_keeps_its_statistics_in_full() -> None:
    images = (torch.randn(64, 5, 8, 8) + 30).bfloat16()
    plain = nn.BatchNorm2d(5)
    together = nn.Sequential(copy.deepcopy(plain))
    normalise_together(together)
    torch.testing.assert_close(together(images), plain(images))
    torch.testing.assert_close(together[0].running_var, plain.running_var)
