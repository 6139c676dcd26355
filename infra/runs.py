"""A run directory: its config, its logs, its checkpoints, and alarms for what fails silently.

Every file appears whole or not at all (infra/files.py).  Only JSON and safetensors are ever read:
loading a pickle would run whatever code is in it.

After `kill -9` at any moment at most the steps since the last checkpoint are lost.  Before the
first GOPO step, that is the stage under way.  A checkpoint carries the sha256 of its files.  If
one of them is damaged, the checkpoint before is used.  On resume metrics.jsonl is cut back to the
checkpoint, and the file of a resumed run equals that of an uninterrupted one.
Try it:  python -m infra.runs
         writes two checkpoints, damages the second, and reads the first"""
from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from data import DataError
from infra.files import whole, whole_folder, write_atomic, write_json
from infra.processes import is_main

KEEP = 2  # checkpoints kept: the last, and one to fall back to


# --- the directory ------------------------------------------------------------------------------

def run_directory(
    output_dir: str | None, name: str, overwrite: bool, keep: str | None = None
) -> Path:
    """The new, empty folder of a run.

    output_dir  the folder; None = runs/<name>, or runs/<name>-2, -3, ... if that exists
    overwrite   replace the folder if it exists
    keep        a folder that must not be replaced: the run's --base
    """
    wanted = Path(output_dir or Path("runs") / name)
    if overwrite and keep and wanted.resolve() == Path(keep).resolve():
        raise DataError(f"--overwrite would remove {keep}, which this run needs as its --base: "
                        "give another --output_dir")
    if output_dir:
        path = Path(output_dir)
        if path.exists():
            _clear(path, overwrite)
    else:
        path = wanted if overwrite else _unused(wanted)
        shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True, exist_ok=True)
    return path


def _clear(path: Path, overwrite: bool) -> None:
    """Removes a run directory if that is allowed; never removes what is no run directory."""
    if path.is_dir() and not any(path.iterdir()):
        return
    if not overwrite:
        raise DataError(f"--output_dir {path} exists and is not empty: "
                        f"add --overwrite to replace it, or --resume {path} to go on")
    if path.is_dir() and not (path / "config.json").exists():
        raise DataError(f"--overwrite: {path} holds no config.json, so it is no run directory; "
                        "nothing was removed")
    shutil.rmtree(path)


def _unused(path: Path) -> Path:
    """`path`, or the first of `path`-2, `path`-3, ... that does not exist."""
    free = path
    number = 1
    while free.exists():
        number += 1
        free = path.with_name(f"{path.name}-{number}")
    return free


@contextlib.contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Within the block no other process may train into this folder.

    The system removes the lock when the process ends, however it ends.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "w", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DataError(f"{folder}: another process is training there; wait for it, or stop "
                            "it and give its command again, which goes on from there") from None
        yield


def device_of(config: dict) -> str:
    """The device of a run, or the CPU where there is no such device."""
    return config["device"] if torch.cuda.is_available() else "cpu"


def versions() -> dict[str, str | None]:
    """The versions of the libraries, and the commit of this code (None without git)."""
    command = ["git", "rev-parse", "HEAD"]
    here = Path(__file__).parent
    try:
        said = subprocess.run(command, cwd=here, capture_output=True, text=True, check=False).stdout
    except OSError:
        # no git on this machine
        said = ""
    used = {name: version(name) for name in ("torch", "transformers", "peft")}
    return used | {"commit": said.strip() or None}


# --- logs ---------------------------------------------------------------------------------------

class Log:
    """A .jsonl file with one row a step; the first row fixes the columns.

    Of several processes only the main one writes.  metrics.jsonl holds no times, which differ from
    run to run; those are in timing.jsonl.
    """

    def __init__(self, path: Path, keep_until: int | None = None):
        """keep_until: keep the rows up to this step, of an earlier process; None = keep none."""
        self.path = path
        rows = []
        if keep_until is not None:
            rows = [row for row in read_rows(path) if row["step"] <= keep_until]
        if is_main():
            write_atomic(path, "".join(json.dumps(row) + "\n" for row in rows))
        self.columns = list(rows[0]) if rows else None

    def write(self, row: Mapping[str, Any]) -> None:
        """Appends the row; ValueError if its columns are not those of the first."""
        self.columns = self.columns or list(row)
        if list(row) != self.columns:
            changed = sorted(set(row) ^ set(self.columns))
            raise ValueError(f"{self.path}: columns changed: {changed}")
        if is_main():
            with open(self.path, "a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Rows of a .jsonl log; a last line that a crash cut short is dropped."""
    if not path.exists():
        return []
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows


# --- alarms -------------------------------------------------------------------------------------

FLAT = "{key} has been 0 for {steps} steps: this score no longer tells replies apart"
CERTAIN = ("entropy_expert below 0.05 nats for {steps} steps: "
           "the Expert no longer explores, raise --alpha")
UNSCORED = ("more than half of the replies have been unscored for 3 steps: "
            "Eq. 9b hardly learns, look at the judge's answers")
RUNAWAY = ("the LM's entropy rose from {first:.2f} to {now:.2f} nats: "
           "lower --lambda_d or --agent_lr")


class Alarms:
    """Looks at each row of metrics.jsonl for four failures that raise no error.

    - a score of the judge has no variance within the groups of replies;
    - the Expert's policy has lost its entropy;
    - the judge fails, and most replies get no score;
    - the entropy of the language model runs away.

    Each is reported once, when it has lasted for `patience` steps (unscored replies: 3 steps, the
    runaway: 1), and again only after it has stopped in between.
    """

    def __init__(self, patience: int = 20):
        self.patience = patience
        # what goes wrong -> for how many steps in a row
        self.lasted: dict[str, int] = {}
        # the language model's entropy in the first row that has one
        self.first: float | None = None

    def __call__(self, row: dict[str, Any]) -> list[str]:
        """The messages that this row gives reason to print."""
        raised = []
        for message, bad, patience in self._signs(row):
            if self._steps(message, bad) == patience:
                raised.append(message)
        entropy = row.get("entropy")
        self.first = self.first or entropy
        if entropy and self._steps("runaway", entropy > 4 * self.first) == 1:
            raised.append(RUNAWAY.format(first=self.first, now=entropy))
        return raised

    def _signs(self, row: dict[str, Any]) -> Iterator[tuple[str, bool, int]]:
        """(message, whether this row shows it, for how many steps it may)."""
        for key, value in row.items():
            if key.startswith("std_") and value is not None:
                yield FLAT.format(key=key, steps=self.patience), value < 1e-6, self.patience
        if row.get("entropy_expert") is not None:
            certain = row["entropy_expert"] < 0.05
            yield CERTAIN.format(steps=self.patience), certain, self.patience
        # only where a language model learns
        if row.get("tokens") is not None:
            yield UNSCORED, row["unscored"] > 0.5, 3

    def _steps(self, sign: str, bad: bool) -> int:
        """For how many steps in a row `sign` has been bad, with this one."""
        self.lasted[sign] = self.lasted.get(sign, 0) + 1 if bad else 0
        return self.lasted[sign]


# --- tensors ------------------------------------------------------------------------------------

def save_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """One safetensors file, whole or not at all."""
    kept = {name: tensor.detach().contiguous().cpu() for name, tensor in tensors.items()}
    with whole(path) as part:
        save_file(kept, part)


def load_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a file of a run directory; a DataError says what to do if there are none."""
    try:
        return load_file(path)
    except FileNotFoundError:
        raise DataError(f"{path}: not found; the run is not complete: "
                        f"go on with python train.py --resume {path.parent}") from None
    except SafetensorError as error:
        raise DataError(f"{path}: damaged ({error}); "
                        "train again, or resume from a checkpoint") from None


def load_into(module: torch.nn.Module, tensors: Mapping[str, Tensor], where: str) -> None:
    """Gives the module these weights.

    where   the file they are from
    raises  DataError if the file is whole, but of a module with other layers: another code's
    """
    try:
        module.load_state_dict(tensors)
    except torch.OutOfMemoryError:
        # a RuntimeError as well, but not about layers
        raise
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise DataError(f"{where}: does not fit this code's {type(module).__name__} ({reason}); "
                        "was the data changed since (skills, intents, emotions)? restore it; else "
                        "use the commit that the run's config.json names, "
                        "or remove the run directory and train again") from error


def adam_state(optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """An Adam's state as flat tensors for safetensors: "3.exp_avg" belongs to parameter 3."""
    flat = {}
    for number, state in optimiser.state_dict()["state"].items():
        for name, value in state.items():
            flat[f"{number}.{name}"] = value.clone()
    return flat


def load_adam_state(optimiser: torch.optim.Optimizer, flat: Mapping[str, Tensor]) -> None:
    """The inverse of `adam_state`; the step sizes and other settings stay the optimiser's."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in flat.items():
        number, name = key.split(".")
        state.setdefault(int(number), {})[name] = value
    optimiser.load_state_dict(optimiser.state_dict() | {"state": state})


# --- checkpoints --------------------------------------------------------------------------------

def save_checkpoint(run: Path, step: int, parts: Mapping[str, Mapping[str, Tensor]]) -> Path:
    """Writes checkpoint/step-000050/ with one safetensors file a part, whole or not at all.

    Removes all checkpoints but the last two.
    """
    folder = run / "checkpoint" / f"step-{step:06d}"
    with whole_folder(folder) as part:
        for name, tensors in parts.items():
            save_tensors(tensors, part / f"{name}.safetensors")
        digests = {path.name: _digest(path) for path in sorted(part.glob("*.safetensors"))}
        write_json(part / "state.json", {"step": step, "sha256": digests})
    for old in _checkpoints(run)[:-KEEP]:
        shutil.rmtree(old)
    return folder


def load_checkpoint(run: Path) -> tuple[int, dict[str, dict[str, Tensor]]] | None:
    """(step, parts) of the newest checkpoint that is not damaged; None if there is none.

    Each damaged one is named on the way.
    """
    for folder in reversed(_checkpoints(run)):
        try:
            return _read_checkpoint(folder)
        except _Changed as error:
            reason = str(error)
        except (OSError, ValueError, KeyError, TypeError, AttributeError,
                SafetensorError) as error:
            reason = f"{type(error).__name__}: {error}"
        print(f"checkpoint {folder} is damaged ({reason}); falling back to the one before")
    return None


class _Changed(Exception):
    """Files whose sha256 is not the one that was written down."""


def _read_checkpoint(folder: Path) -> tuple[int, dict[str, dict[str, Tensor]]]:
    state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
    digests = state["sha256"]
    changed = [name for name, digest in digests.items() if _digest(folder / name) != digest]
    if changed:
        raise _Changed(f"{', '.join(changed)} changed")
    return state["step"], {Path(name).stem: load_file(folder / name) for name in digests}


def _checkpoints(run: Path) -> list[Path]:
    """Oldest first; a part that was never completed has another name."""
    return sorted((run / "checkpoint").glob("step-??????"))


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _demo() -> None:
    import tempfile
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder)
        for step in (1, 2):
            weights = {"expert": {"w": torch.full((2,), float(step))}}
            print("written", save_checkpoint(run, step, weights).name)
        (run / "checkpoint/step-000002/expert.safetensors").write_bytes(b"damaged")
        step, found = load_checkpoint(run)
        print(f"read step {step}: w = {found['expert']['w'].tolist()}")


if __name__ == "__main__":
    _demo()
