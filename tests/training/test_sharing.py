"""Several processes train every method as one does on the same batches: the same losses and weights, in float64."""

import json
import socket
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor

from glocal import Run
from glocal.checkpoints import newest_checkpoint
from tests.methods.cases import cases
from tests.preloaded import Preloaded

CASES = cases()
RUN = "import sys; from pathlib import Path; from tests.training.sharing import train_each; import json; "
# Each exchanges something of its own: pairs and keys, positives, codes, rows of a bank.
FEW = ["logo", "clim", "swav", "npid"]


def settings(name: str) -> dict[str, object]:
    """The method's own settings, with queues that are filled more than once."""
    own = dict(CASES[name].run)
    if name in ("clim", "moco", "nnclr", "ressl", "sce", "swav"):
        own["method.queue_size"] = 32
    if name == "logo":
        own["method.base"] = {"name": "moco", "queue_size": 32}
    return own


def train(preloaded: Preloaded, folder: Path, runs: Mapping[str, Mapping[str, object]], processes: int) -> Path:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    given, out = json.dumps(runs), folder / str(processes)
    before = f"{RUN} train_each(Path({str(out)!r}), json.loads({given!r})); sys.exit()"
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(processes), "NODE_RANK": "0"}
    ranks = [{**meeting, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(processes)]
    started = [preloaded.start("", before=before, environment=rank if processes > 1 else {}) for rank in ranks]
    done = [one.finish(timeout=600) for one in started]
    assert [one.returncode for one in done] == [0] * processes, b"".join(one.stderr for one in done).decode()
    return out


def assert_same(one: Path, several: Path) -> None:
    alone, together = (newest_checkpoint(run / "checkpoints") for run in (one, several))
    assert alone is not None
    assert together is not None
    assert alone["step"] == together["step"] == 6
    assert alone["method"].keys() == together["method"].keys()
    for name, value in alone["method"].items():
        assert getattr(value, "dtype", None) != torch.float32, name
        other = together["method"][name]
        if name == "base.queue.keys":  # LoGo's come by pairs of views within each process
            value, other = in_order(value), in_order(other)
        torch.testing.assert_close(other, value, rtol=1e-8, atol=1e-8, msg=lambda text, name=name: f"{name}: {text}")
    torch.testing.assert_close(Run(several).metrics["loss"], Run(one).metrics["loss"], rtol=1e-8, atol=1e-8)


def in_order(rows: Tensor) -> Tensor:
    return rows[rows[:, 0].argsort()]


def test_two_processes_train_as_one_does(preloaded: Preloaded, tmp_path: Path) -> None:
    runs = {name: settings(name) for name in FEW}
    # Its local crops are used again after the regressor's update.
    runs["weighted push"] = {**settings("logo"), "method.name": "logo", "method.dissimilarity_weight": 0.5}
    one, two = (train(preloaded, tmp_path, runs, processes) for processes in (1, 2))
    for name in runs:
        assert_same(one / name, two / name)


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, 4])
def test_several_processes_train_every_method_as_one_does(preloaded: Preloaded, tmp_path: Path, processes: int) -> None:
    runs = {name: settings(name) for name in CASES}
    one, several = (train(preloaded, tmp_path, runs, number) for number in (1, processes))
    for name in CASES:
        assert_same(one / name, several / name)
