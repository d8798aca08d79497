"""What SLURM does with a training whose time is up."""

from __future__ import annotations

import os
import subprocess

from glocal.console import note, warn


def requeue() -> None:
    """Puts the job that this process belongs to back into SLURM's queue, where the same command continues the run.

    It is for SIGUSR1, by which SLURM says that the time is nearly up (`#SBATCH --signal=USR1@120`). SIGTERM is left to
    SLURM: it comes from `scancel` too, and a job that was displaced goes back by itself. A warning where it fails.
    """
    job = os.environ["SLURM_JOB_ID"]
    command = ["scontrol", "requeue", job]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.SubprocessError) as error:
        said = (getattr(error, "stderr", None) or str(error)).strip()
        warn(f"SLURM does not take the job back ({said}); to go on, submit it again")
        return
    note(f"SLURM has taken job {job} back; it goes on when its turn comes")
