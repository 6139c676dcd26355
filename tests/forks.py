"""Commands in processes of their own that begin at once: forked, with everything imported.

What wide runs (tests/wide_*.py) start, stop, kill and look at."""
from __future__ import annotations

import hashlib
import importlib
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

COMMANDS = {
    "train": "train",
    "eval": "eval",
    "label": "hosted.label",
    "memory": "lm.memory",
}
# so small that a command takes seconds
QUICK = [
    "--replies", "template", "--steps", "1", "--strategy_steps", "1", "--eval_episodes", "2",
    "--dialogues", "2", "--strategy_dialogues", "2", "--expert_warm", "1", "--width", "16"]
LM = [
    "--steps", "6", "--strategy_steps", "2", "--eval_episodes", "2", "--dialogues", "2",
    "--strategy_dialogues", "2", "--expert_warm", "1", "--width", "16", "--group", "2",
    "--pretrain_steps", "2", "--warm_steps", "2", "--sft_batch", "4", "--max_new_tokens", "8",
    "--model", "nano", "--eval_every", "3", "--save_every", "2"]


class Done(NamedTuple):
    """A command that has ended."""
    status: int                                  # negative: ended by that signal
    out: str
    err: str

    @property
    def clean(self) -> bool:
        """It worked, or said in a few lines why not."""
        return self.status in (0, 2, 3, 130) and "Traceback" not in self.out + self.err


class Forked:
    """A command under way."""

    def __init__(self, name: str, argv: Sequence[str], folder: Path):
        main = importlib.import_module(COMMANDS[name]).main
        self.files = [folder / f".{stream}" for stream in ("out", "err")]
        self.status: int | None = None
        sys.stdout.flush()
        sys.stderr.flush()
        self.id = os.fork()
        if not self.id:
            _child(main, argv, folder, self.files)

    def kill(self) -> None:
        os.kill(self.id, signal.SIGKILL)

    def stop(self) -> None:
        """Ctrl-C, twice: at once."""
        for _ in range(2):
            os.kill(self.id, signal.SIGINT)
            time.sleep(0.05)

    @property
    def living(self) -> bool:
        if self.status is None:
            found, status = os.waitpid(self.id, os.WNOHANG)
            if found:
                self.status = os.waitstatus_to_exitcode(status)
        return self.status is None

    def wait(self, seconds: float = 120) -> Done:
        """The ended command; one that takes longer is killed."""
        end = time.monotonic() + seconds
        while self.living:
            if time.monotonic() > end:
                self.kill()
            time.sleep(0.01)
        return Done(self.status, *(file.read_text(errors="replace") for file in self.files))


def _child(main: Callable, argv: Sequence[str], folder: Path, files: Sequence[Path]) -> None:
    """Runs `main` and ends the process; never returns."""
    status = 70
    try:
        os.chdir(folder)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        for number, file in enumerate(files, 1):
            os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
        sys.stdout = os.fdopen(1, "w", encoding="utf-8", closefd=False)
        sys.stderr = os.fdopen(2, "w", encoding="utf-8", closefd=False)
        status = main(list(argv))
    except SystemExit as stop:
        status = stop.code
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status or 0)


def run(name: str, argv: Sequence[str], folder: Path, seconds: float = 120) -> Done:
    return Forked(name, argv, folder).wait(seconds)


# --- what is trained on, and what is compared ---------------------------------------------------

SAID = {"greet": "Hello there.", "price": "It costs {price}.", "sorry": "I am sorry for that."}


def write_logs(path: Path, dialogues: int = 24, labelled: bool = True) -> None:
    """Logs of two turns a dialogue, and their skill pool."""
    rows = []
    for number in range(dialogues):
        turns = []
        for at in range(2):
            skill = list(SAID)[(number + at) % len(SAID)]
            price = f"{number + 10} euros"
            reply = SAID[skill].format(price=price)
            turn = {"user": f"I want to {skill} {number}.", "context": {"price": price}}
            turn |= {"reply": reply, "intent": skill, "emotion": "calm" if at else "angry"}
            turns.append(turn | ({"skills": [skill]} if labelled else {}))
        rows.append(json.dumps({"id": f"d{number}", "turns": turns}))
    path.write_text("\n".join(rows) + "\n")
    pool = [{"id": name, "examples": [reply]} for name, reply in SAID.items()]
    path.with_name(f"{path.stem}.skills.json").write_text(json.dumps(pool))


def digests(folder: Path, leave: Sequence[str] = ()) -> dict[str, str]:
    """File -> sha256 of everything in a folder but the files named, which hold times or paths."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and path.name not in leave and not path.name.startswith("."):
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found
