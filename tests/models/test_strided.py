"""Convolutions of a stride larger than their image have the right gradients in bf16."""

import copy

import pytest
import torch
from torch import nn

from glocal.models.strided import StridedConv2d, use_exact_strides


def dirty_memory(like: torch.Tensor) -> None:
    """Leaves large numbers where the next tensors of this shape will lie."""
    for junk in [torch.full_like(like, 1e3, dtype=torch.bfloat16) for _ in range(8)]:
        del junk


@pytest.mark.parametrize(("kernel", "stride", "side"), [(3, 2, 1), (3, 3, 2), (5, 2, 1), (3, 2, 2)])
@pytest.mark.parametrize("autocast", [True, False])
def test_gradients_are_those_in_float64(kernel: int, stride: int, side: int, autocast: bool) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(64, 128, kernel, stride=stride, padding=kernel // 2))
    images = torch.randn(96, 64, side, side)
    exact = copy.deepcopy(network).double()
    exact(images.double()).square().sum().backward()
    use_exact_strides(network)
    assert type(network[0]) is StridedConv2d
    if not autocast:
        network, images = network.bfloat16(), images.bfloat16()
    for _ in range(5):
        network.zero_grad()
        dirty_memory(exact[0].weight)
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            found = network(images)
        assert found.dtype == torch.bfloat16
        found.float().square().sum().backward()
        for ours, reference in zip(network.parameters(), exact.parameters(), strict=True):
            assert ours.grad is not None
            assert reference.grad is not None
            assert float((ours.grad.double() - reference.grad).norm() / reference.grad.norm()) < 0.02


def test_layers_stay_where_optimisers_and_checkpoints_know_them() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2), nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 1, stride=2))
    before, names, said = list(network.parameters()), list(network.state_dict()), repr(network)
    images = torch.randn(2, 3, 16, 16)
    expected = network(images)
    use_exact_strides(network)
    assert [type(layer) for layer in network] == [StridedConv2d, nn.Conv2d, nn.Conv2d]
    assert all(one is other for one, other in zip(network.parameters(), before, strict=True))
    assert (list(network.state_dict()), repr(network)) == (names, said)
    assert torch.equal(network(images), expected)
