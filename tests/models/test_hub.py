"""Weights that cannot be had are told in seconds, without the retries of the hub's client."""

import time
from pathlib import Path
from typing import Never

import huggingface_hub
import pytest
import timm

from glocal.config import build_recipe
from glocal.errors import GlocalError
from glocal.methods.building import build_method
from glocal.models import hub
from glocal.models.loading import load_backbone

FOUND = "timm/resnet10t.c3_in1k"


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine that has no weights and reaches no hub; waiting and asking timm are errors."""

    def never(*_: object, **__: object) -> Never:
        raise AssertionError("nothing is tried a second time")

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(hub, "hf_hub_url", lambda *_, **__: "http://127.0.0.1:9/weights")  # where nobody listens
    monkeypatch.setattr(time, "sleep", never)


@pytest.mark.parametrize("settings", [{"pretrained": True}, {"init": "timm:resnet10t"}], ids=str)
def test_a_training_from_weights_out_of_reach_says_what_to_do(settings: dict[str, object]) -> None:
    recipe = build_recipe({"model": {"name": "resnet10t", **settings}}, data_size=32)
    with pytest.raises(GlocalError, match=f"the weights {FOUND} are not on this machine, .* name a file") as caught:
        build_method(recipe)
    assert str(caught.value).startswith("model.")
    assert "\n" not in str(caught.value)


def test_so_does_a_backbone_by_its_name() -> None:
    with pytest.raises(GlocalError, match="^timm:resnet10t: the weights .* are not on this machine"):
        load_backbone("timm:resnet10t")


def test_weights_that_are_here_are_not_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "try_to_load_from_cache", lambda *_, **__: "/somewhere/model.safetensors")
    hub.check_weights_at_hand("resnet10t", "here")
    hub.check_weights_at_hand("resnet10t.c3_in1k", "here")
    assert timm.models.get_pretrained_cfg("resnet10t").hf_hub_id == FOUND
