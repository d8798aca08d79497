"""kill -9 at any moment, again and again: is the end the same, bit for bit?

Each case is trained once to its end, and then again in a folder where it is killed at random and started anew with the
same command until it ends; when it has ended before the kills are used up, another folder follows. Half of the kills
come after a random time, from the first moment of the start on; the other half wait for the temporary file of a
checkpoint and strike while it is written, or just after. The victim is any process of the training: with workers often
one that decodes, of two processes either. In the end weights, optimisers and logged losses must equal those of the run
that was never stopped, and no start may have met a checkpoint that it could not read.

Trainings are forked from this process, which has loaded everything and computed nothing: no start has to load torch.

    OMP_NUM_THREADS=1 python benchmarks/kills.py [--kills 100] [--cases resident …] [--seed 0] [--json out.json]
"""

from __future__ import annotations

import csv
import os
import random
import signal
import socket
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

# Loaded once, before any fork.
import matplotlib.pyplot  # noqa: F401
import torch
import torch.utils.tensorboard
from common import Table, command_line, machine, print_machine, write_json
from PIL import Image

import glocal.training.run  # noqa: F401
from glocal.checkpoints import newest_checkpoint
from glocal.cli import main as glocal_command
from glocal.data.sources.shapes import Shapes

IMAGES, EPOCHS = 192, 20  # 12 steps an epoch
SETTINGS: dict[str, Any] = {
    "model.options": "{channels: [8, 8, 16, 16], layers: [1, 1, 1, 1]}",
    "model.stem": "standard",
    "method.queue_size": 64,
    "train.batch_size": 16,
    "train.epochs": EPOCHS,
    "train.checkpoint_steps": 3,
    "train.log_steps": 1,
    "train.precision": "fp32",
    "monitor.knn_epochs": 0,
}
STREAMING = {"data.lane": "streaming", "data.workers": 2}
CASES: dict[str, dict[str, Any]] = {
    "resident": {"method.name": "sce"},
    "streaming": {"method.name": "sce", **STREAMING},
    "clim": {"method.name": "clim", "method.refresh_epochs": 1},
    "clim-streaming": {"method.name": "clim", "method.refresh_epochs": 1, **STREAMING},
    "two-processes": {"method.name": "sce", "train.devices": 2, "train.device": "cpu"},
}
LONGEST = 2.0  # seconds from a start to a kill that waits for no checkpoint
PATIENCE = 60.0  # seconds for which what is left of a training may go on


@dataclass
class Found:
    """What happened to one case."""

    case: str
    kills: int = 0
    while_writing: int = 0  # a temporary file of a checkpoint was left
    of_workers: int = 0  # the victim was not the first process
    lingered: int = 0  # a part of the training had to be ended
    runs: int = 0
    unreadable: int = 0  # starts that met a checkpoint which could not be read
    failed: list[str] = field(default_factory=list)  # last lines of starts that ended in an error of their own
    different: list[str] = field(default_factory=list)  # names of what was not equal in the end


class Training:
    """The command in processes of their own group, started and killed."""

    def __init__(self, data: Path, out: Path, settings: dict[str, Any]) -> None:
        words = [f"--set={key}={value}" for key, value in settings.items()]
        places = ["--data", str(data), "--out", str(out)]
        self.arguments = ["glocal", "pretrain", *places, "--no-report", "--quiet", *words]
        self.said, self.checkpoints = out.with_suffix(".err"), out / "checkpoints"
        self.processes = int(settings.get("train.devices", 1))
        self.pids: list[int] = []

    def start(self) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = str(free.getsockname()[1])
        meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(self.processes), "NODE_RANK": "0"}
        self.said.write_text("")
        self.pids = []
        for rank in map(str, range(self.processes)):
            pid = os.fork()
            if pid == 0:
                self._be(meeting | {"RANK": rank, "LOCAL_RANK": rank} if self.processes > 1 else {})
            self.pids.append(pid)

    def _be(self, environment: dict[str, str]) -> None:
        try:
            os.setpgid(0, self.pids[0] if self.pids else 0)
            for stream in (1, 2):
                os.dup2(os.open(self.said, os.O_WRONLY | os.O_APPEND), stream)
            os.environ.update(environment)
            sys.argv = self.arguments
            glocal_command()
            os._exit(0)
        except SystemExit as end:
            sys.stdout.flush()
            os._exit(end.code if isinstance(end.code, int) else 1)
        except BaseException as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
            os._exit(70)

    def members(self) -> list[int]:
        """All its processes, those that decode too."""
        found = []
        for pid in self.pids:
            found.append(pid)
            try:
                found += map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
            except OSError:
                continue
        return found

    def ended(self) -> list[int] | None:
        """Exit codes, if all processes that were started have ended."""
        look = os.WEXITED | os.WNOHANG | os.WNOWAIT
        if any(os.waitid(os.P_PID, pid, look) is None for pid in self.pids):
            return None
        return [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in self.pids]

    def wait(self, seconds: float) -> list[int] | None:
        until = time.monotonic() + seconds
        while (codes := self.ended()) is None and time.monotonic() < until:
            time.sleep(0.005)
        return codes

    def half_written(self) -> set[Path]:
        """Temporary files of checkpoints."""
        return set(self.checkpoints.glob(".step-*.part"))

    def kill_all(self) -> None:
        os.killpg(self.pids[0], signal.SIGKILL)
        for pid in self.pids:
            os.waitpid(pid, 0)


def wait_for_checkpoint(training: Training, draw: random.Random) -> list[int] | None:
    """Until one of the next checkpoints is being written, and a moment more; exit codes where the training ended."""
    wanted, before = draw.randint(1, 3), training.half_written()
    while (codes := training.ended()) is None:
        writing = training.half_written() - before
        if writing:
            before |= writing
            wanted -= 1
            if wanted == 0:
                time.sleep(draw.choice([0, 0, 0.001, 0.003]))
                return None
        time.sleep(0.0002)
    return codes


def be_killed(training: Training, found: Found, draw: random.Random) -> bool:
    """Starts the training and kills it; False where it ended before."""
    before = training.half_written()
    training.start()
    aimed = draw.random() < 0.5
    codes = wait_for_checkpoint(training, draw) if aimed else training.wait(draw.uniform(0, LONGEST))
    if codes is not None:
        _look(training, codes, found)
        return False
    members = training.members()
    victim = draw.choice(members)
    try:
        os.kill(victim, signal.SIGKILL)
    except ProcessLookupError:
        victim = members[0]
        os.kill(victim, signal.SIGKILL)
    found.kills += 1
    found.of_workers += victim not in training.pids
    if training.wait(PATIENCE) is None:
        found.lingered += 1
        training.kill_all()
    found.while_writing += bool(training.half_written() - before)
    found.unreadable += "no readable checkpoint" in training.said.read_text()
    return True


def _look(training: Training, codes: list[int], found: Found) -> None:
    if any(codes):
        found.failed.append(training.said.read_text().strip().rpartition("\n")[2])


def finish(training: Training, found: Found) -> None:
    training.start()
    codes = training.wait(3600)
    assert codes is not None
    _look(training, codes, found)
    found.unreadable += "no readable checkpoint" in training.said.read_text()


def differences(whole: Path, killed: Path) -> list[str]:
    """The names of what is not the same, bit for bit, in two runs that have ended."""
    ends = [newest_checkpoint(run / "checkpoints") for run in (whole, killed)]
    if None in ends:
        return ["no checkpoint"]
    found = ["step"] if ends[0]["step"] != ends[1]["step"] else []  # type: ignore[index]
    for part in ("method", "optimizers"):
        found += _different(part, *(end[part] for end in ends))  # type: ignore[index]
    losses = [[row["loss"] for row in csv.DictReader((run / "metrics.csv").open())] for run in (whole, killed)]
    return found + (["losses"] if losses[0] != losses[1] else [])


def _different(name: str, a: Any, b: Any) -> list[str]:
    if isinstance(a, torch.Tensor):
        return [] if a.dtype == b.dtype and torch.equal(a, b) else [name]
    if isinstance(a, dict):
        if a.keys() != b.keys():
            return [name]
        return [one for key in a for one in _different(f"{name}.{key}", a[key], b[key])]
    if isinstance(a, list | tuple):
        pairs = enumerate(zip(a, b, strict=True))
        return [one for number, pair in pairs for one in _different(f"{name}.{number}", *pair)]
    return [] if a == b else [name]


def measure(case: str, kills: int, seed: int, room: Path) -> Found:
    """Kills one case so many times, in as many runs as that takes."""
    draw, found = random.Random(f"{seed} {case}"), Found(case)
    settings = {**SETTINGS, **CASES[case]}
    finish(Training(room / "images", room / f"{case}-whole", settings), found)
    while found.kills < kills:
        out = room / f"{case}-{found.runs}"
        training = Training(room / "images", out, settings)
        while found.kills < kills and be_killed(training, found, draw):
            print(f"  {case}: {found.kills} of {kills}", end="\r", file=sys.stderr, flush=True)
        finish(training, found)
        found.runs += 1
        found.different += differences(room / f"{case}-whole", out)
    return found


def draw_images(folder: Path) -> None:
    """PNG files of one size, so that the lane is a choice."""
    folder.mkdir()
    for number, image in enumerate(Shapes("train", IMAGES).images()):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / f"{number:04d}.png")


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument("--kills", type=int, default=100, help="of each case")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    described = machine()
    print_machine(described)
    columns = ("kills", "in a write", "of a decoder", "runs", "unreadable", "lingered", "failed", "equal")
    table = Table({"case": 16, **dict.fromkeys(columns, 13)})
    found = []
    with tempfile.TemporaryDirectory() as folder:
        room = Path(folder)
        if (process := os.fork()) == 0:  # tensors are made there alone: what has computed must not be forked
            draw_images(room / "images")
            os._exit(0)
        os.waitpid(process, 0)
        for case in arguments.cases:
            one = measure(case, arguments.kills, arguments.seed, room)
            found.append(one)
            equal = "yes" if not one.different else f"no: {one.different[0]}"
            table.row(
                case,
                *(one.kills, one.while_writing, one.of_workers, one.runs, one.unreadable, one.lingered),
                *(len(one.failed), equal),
            )
            write_json(arguments.json, described, seed=arguments.seed, cases=[asdict(each) for each in found])
    if any(one.different or one.failed or one.unreadable for one in found):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
