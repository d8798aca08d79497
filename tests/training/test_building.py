"""What trains is built whole."""

import copy

import pytest
import timm
import torch

from glocal.training.building import synchronised


@pytest.mark.parametrize("name", ["tf_efficientnet_lite0", "resnet18"])
def test_a_network_of_several_gpus_is_the_same_network(name: str) -> None:
    network = timm.create_model(name, num_classes=0).eval()
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    converted = synchronised(copy.deepcopy(network), torch.device("cuda"))
    layers = [one for one in converted.modules() if isinstance(one, torch.nn.modules.batchnorm._BatchNorm)]
    assert layers
    assert all(isinstance(one, torch.nn.SyncBatchNorm) for one in layers)
    with torch.no_grad():
        torch.testing.assert_close(converted(images), network(images))
