"""A compiled backbone is compiled in the first step and never again."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend

import glocal
from glocal.training import loop
from tests.methods.cases import VIT_RUN


@pytest.mark.usefixtures("no_pictures")
def test_nothing_is_compiled_after_the_first_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("eager")  # graphs are what counts, not what runs them
    compiled, real, graphs = nn.Module.compile, loop._optimise, []

    def step(*args: Any) -> torch.Tensor:
        losses = real(*args)
        graphs.append(counter.frame_count)
        return losses

    monkeypatch.setattr(nn.Module, "compile", lambda self, **options: compiled(self, backend=counter, **options))
    monkeypatch.setattr(loop, "_optimise", step)
    settings = {
        **VIT_RUN,
        "method.name": "dino",
        "method.prototypes": 64,
        "data.lane": "resident",
        "train.batch_size": 32,
        "train.epochs": 2,
        "train.precision": "fp32",
        "train.compile": True,
        "monitor.knn_epochs": 1,
    }
    glocal.pretrain("shapes:train:128", tmp_path / "a", overrides=settings, progress=False)
    assert graphs == [3] * 8  # the teacher's views, the student's large ones and its small ones
    torch._dynamo.reset()
