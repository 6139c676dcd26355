"""Starts scripts of this project as a user would: by accelerate, in several processes."""
from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent.parent
LAUNCH = [
    sys.executable, "-m", "accelerate.commands.launch",
    "--multi_gpu",
    "--num_processes", "2",
    "--num_machines", "1",
    "--mixed_precision", "no",
    "--dynamo_backend", "no",
    "--main_process_port", "0",
]
TIMEOUT = 280  # s


def run(command: list[str], **environment: str) -> subprocess.CompletedProcess[str]:
    """The finished process of a command that was run at the root of the project."""
    return subprocess.run(command, cwd=HERE, env=os.environ | environment, capture_output=True,
                          text=True, timeout=TIMEOUT)


def launch(*arguments: str, processes: int = 2) -> str:
    """Output of a script with its arguments, in two processes or in one; it has to succeed."""
    start = LAUNCH if processes > 1 else [sys.executable]
    done = run([*start, *arguments], PYTHONPATH=str(HERE))
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    return done.stdout
