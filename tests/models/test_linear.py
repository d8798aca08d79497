"""Linear layers by oneDNN are torch's linear layers."""

import copy
import warnings

import torch
from torch import nn

from glocal.models.linear import OneDNNLinear, use_onednn


def test_layers_and_their_gradients_are_those_in_float64() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(48, 96), nn.GELU(), nn.Linear(96, 24, bias=False))
    exact = copy.deepcopy(network).double()
    use_onednn(network)
    assert [type(layer) for layer in network] == [OneDNNLinear, nn.GELU, OneDNNLinear]
    rows = torch.randn(6, 17, 48).transpose(0, 1).requires_grad_()  # (17, 6, 48), not contiguous
    theirs = rows.detach().double().requires_grad_()
    found, expected = network(rows), exact(theirs)
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=1e-5)
    for output in (found, expected):
        output.square().sum().backward()
    for ours, reference in ((rows, theirs), *zip(network.parameters(), exact.parameters(), strict=True)):
        assert ours.grad is not None
        torch.testing.assert_close(ours.grad.double(), reference.grad, rtol=1e-5, atol=1e-4)


def test_parameters_stay_where_optimisers_and_checkpoints_know_them() -> None:
    network = nn.Sequential(nn.Linear(4, 4), nn.Sequential(nn.Linear(4, 2)))
    before, names = list(network.parameters()), list(network.state_dict())
    use_onednn(network)
    assert all(one is other for one, other in zip(network.parameters(), before, strict=True))
    assert list(network.state_dict()) == names
    assert "OneDNN" not in repr(network)  # by which features of a backbone are known again


def test_autocast_and_few_rows_take_torch_s_own_layer() -> None:
    layer = nn.Linear(8, 8)
    network = nn.Sequential(copy.deepcopy(layer))
    use_onednn(network)
    few, many = torch.randn(2, 8), torch.randn(64, 8)
    assert torch.equal(network(few), layer(few))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(network(many), layer(many))
        assert network(many).dtype == torch.bfloat16


def test_hooks_and_normalised_weights_work_on() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        network = nn.Sequential(
            nn.utils.weight_norm(nn.Linear(8, 8)), nn.utils.parametrizations.weight_norm(nn.Linear(8, 4))
        )
    seen: list[tuple[int, ...]] = []
    network[0].register_forward_hook(lambda module, given, output: seen.append(tuple(output.shape)))
    rows = torch.randn(64, 8)
    expected = network(rows)
    use_onednn(network)
    torch.testing.assert_close(network(rows), expected)
    assert seen == [(64, 8)] * 2
