"""The command line in processes of its own that find torch loaded: forked from one that has done nothing else.

Loading torch takes seconds of computing, most of what a small command takes. Signals, exit codes, standard output and
everything a command changes in its process are as real as in a process started afresh.
"""

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Everything is loaded; nothing has run, and so no thread been started, before a fork.
_PARENT = """
import faulthandler, json, os, signal, sys
import matplotlib.pyplot, torch.utils.tensorboard
import glocal.embeddings.making, glocal.evaluation, glocal.training.run
from glocal.cli import main
for line in sys.stdin:
    task = json.loads(line)
    if "end" in task:  # the pipe's end is not seen where another process has inherited it
        break
    if "wait" in task:
        ended, status = os.waitpid(task["wait"], os.WNOHANG)
        print(os.waitstatus_to_exitcode(status) if ended else "runs", flush=True)
        continue
    process = os.fork()
    if process == 0:
        os.setsid()
        signal.signal(signal.SIGHUP, signal.SIG_DFL)  # also where the tests run under nohup
        for number, (name, flags) in enumerate(task["files"]):
            os.dup2(os.open(name, flags, 0o644), number)
        faulthandler.enable()  # one that crashes says where
        os.environ.update(task["environment"])
        sys.argv = ["glocal", *task["arguments"]]
        exec(task["before"], {"__name__": "before"})
        main()
        sys.exit()
    print(process, flush=True)
"""
NO_PICTURES = "from glocal.training import run; run.draw_views = run.draw_loss = lambda *_, **__: None\n"
"""For `before`: what the fixture `no_pictures` does in a test's own process."""

_WRITE = os.O_WRONLY | os.O_CREAT | os.O_TRUNC


class Preloaded:
    """Starts commands; what they print lies in `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.started = folder, 0
        self.commands: list[Command] = []
        self.parent = subprocess.Popen(
            [sys.executable, "-c", _PARENT],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def start(self, *arguments: str, before: str = "", environment: Mapping[str, str] | None = None) -> "Command":
        """`glocal ARGUMENTS` in a session of its own, after the Python code `before`."""
        place = self.folder / str(self.started)
        self.started += 1
        files = [(os.devnull, os.O_RDONLY), (f"{place}.out", _WRITE), (f"{place}.err", _WRITE)]
        task = {"arguments": arguments, "files": files, "before": before, "environment": dict(environment or {})}
        self.commands.append(Command(self, int(self.ask(task)), place))
        return self.commands[-1]

    def run(self, *arguments: str, before: str = "") -> subprocess.CompletedProcess[bytes]:
        """The same, to its end."""
        return self.start(*arguments, before=before).finish()

    def ask(self, task: Mapping[str, Any], timeout: float = 120) -> str:
        assert self.parent.stdin is not None
        assert self.parent.stdout is not None
        self.parent.stdin.write(json.dumps(task) + "\n")
        self.parent.stdin.flush()
        assert select.select([self.parent.stdout], [], [], timeout)[0], f"no answer in {timeout} s: {task}"
        return self.parent.stdout.readline().strip()

    def close(self) -> None:
        """Ends the parent, and what a test that was interrupted has left."""
        for command in self.commands:
            if command.running():
                os.killpg(command.pid, signal.SIGKILL)
        assert self.parent.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self.parent.stdin.write(json.dumps({"end": True}) + "\n")
            self.parent.stdin.close()
        self.parent.wait(timeout=20)


@dataclass
class Command:
    """One that runs: its process is the first of its group."""

    of: Preloaded
    pid: int
    place: Path

    code: int | None = None

    def running(self) -> bool:
        if self.code is None and (answer := self.of.ask({"wait": self.pid})) != "runs":
            self.code = int(answer)
        return self.code is None

    def finish(self, timeout: float = 120) -> subprocess.CompletedProcess[bytes]:
        """Waits for its end; what takes longer than `timeout` seconds is killed."""
        deadline = time.monotonic() + timeout
        while self.running():
            if time.monotonic() > deadline:
                os.killpg(self.pid, signal.SIGKILL)
            time.sleep(0.02)
        assert self.code is not None
        out, err = (Path(f"{self.place}.{end}").read_bytes() for end in ("out", "err"))
        return subprocess.CompletedProcess([], self.code, out, err)
