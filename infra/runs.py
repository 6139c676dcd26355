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
import hashlib
import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from data import DataError
from infra.devices import here
from infra.files import read_json, refuse_unwritable, whole, whole_folder, write_atomic, write_json
from infra.locks import LOCK, alone_in
from infra.processes import is_main
from infra.terminal import command

KEEP = 2  # checkpoints kept: the last, and one to fall back to


# --- the directory ------------------------------------------------------------------------------

def run_directory(
    held: contextlib.ExitStack,
    output_dir: str | None,
    name: str,
    overwrite: bool,
    needed: Mapping[str, str | None] = MappingProxyType({}),
) -> Path:
    """The new, empty folder of a run, which no other process may use until `held` is closed.

    output_dir  the folder; None = runs/<name>, or runs/<name>-2, -3, ... if that exists
    overwrite   empty the folder if it exists
    needed      flag -> a path that must not be removed: the run's --base, its --dataset
    """
    if not output_dir and not overwrite:
        return _unused(Path("runs") / name, held)
    path = Path(output_dir or Path("runs") / name)
    if overwrite:
        _refuse_needed(path, needed)
    refuse_occupied(path, overwrite)             # before the lock, which makes a file there
    held.enter_context(alone_in(path))
    refuse_occupied(path, overwrite)             # another process may have been faster
    _empty(path)
    return path


def refuse_occupied(path: Path, overwrite: bool) -> None:
    """DataError unless a run may begin in this folder; what is no run directory is never emptied.
    """
    refuse_unwritable("--output_dir", path)
    if not path.exists() or _is_empty(path):
        return
    if not overwrite:
        raise DataError(f"--output_dir {path} exists and is not empty: add --overwrite to replace "
                        f"it, or go on with {command('train.py', '--resume', path)}")
    if not _is_run(path):
        raise DataError(f"--overwrite: {path} holds no config.json of train.py, so it is no run "
                        "directory; nothing was removed")


def _is_empty(path: Path) -> bool:
    return {entry.name for entry in path.iterdir()} <= {LOCK}


def _is_run(path: Path) -> bool:
    """Whether train.py made this folder: a language model has a config.json as well."""
    if not (path / "config.json").is_file():
        return False
    try:
        read_config(path)
    except DataError:
        # damaged, perhaps; then what training writes next tells
        return (path / "dataset.json").exists()
    return True


def read_config(run: Path, flag: str = "") -> dict[str, Any]:
    """config.json of a run directory; a DataError says what is wrong with any other.

    flag  that gave the folder, such as "--resume"
    """
    try:
        config = read_json(run / "config.json")
    except DataError as error:
        raise DataError(f"{flag} {error}".lstrip()) from None
    if not isinstance(config, dict) or not isinstance(config.get("run"), dict):
        raise DataError(f"{run / 'config.json'}: not written by train.py; is {run} a run "
                        "directory of it?")
    return config


def _refuse_needed(path: Path, needed: Mapping[str, str | None]) -> None:
    folder = path.resolve()
    for flag, other in needed.items():
        if other and Path(other).exists() and Path(other).resolve().is_relative_to(folder):
            raise DataError(f"--overwrite would remove {other}, which this run needs as its "
                            f"--{flag}: give another --output_dir")


def _empty(path: Path) -> None:
    """Removes what a run directory holds, its config.json last: so a second try may go on."""
    entries = [entry for entry in path.iterdir() if entry.name != LOCK]
    for entry in sorted(entries, key=lambda entry: entry.name == "config.json"):
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()


def _unused(path: Path, held: contextlib.ExitStack) -> Path:
    """`path`, or the first of `path`-2, `path`-3, ... that does not exist, now made."""
    refuse_unwritable("--output_dir", path.parent)
    path.parent.mkdir(parents=True, exist_ok=True)
    free = path
    number = 1
    while not _made(free):
        number += 1
        free = path.with_name(f"{path.name}-{number}")
    held.enter_context(alone_in(free))
    return free


def _made(folder: Path) -> bool:
    """Whether this process made the folder: of two that try at once only one does."""
    try:
        folder.mkdir()
    except FileExistsError:
        return False
    return True


def device_of(config: dict) -> str:
    """The device of a run, or the CPU where there is no such device."""
    return here(config["device"])


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

def ignored(row: Mapping[str, Any]) -> None:
    """What becomes of a row of which nobody else is told."""


class Log:
    """A .jsonl file with one row a step; the first row fixes the columns.

    Of several processes only the main one writes.  metrics.jsonl holds no times, which differ from
    run to run; those are in timing.jsonl.
    """

    def __init__(
        self, path: Path, keep_until: int | None = None, also: Callable[[Mapping], None] = ignored
    ):
        """
        keep_until  keep the rows up to this step, of an earlier process; None = keep none
        also        is told of each row, in the main process
        """
        self.path = path
        self.also = also
        rows = []
        if keep_until is not None:
            rows = [row for row in read_rows(path) if row["step"] <= keep_until]
        if is_main():
            write_atomic(path, "".join(map(json_line, rows)))
        self.columns = list(rows[0]) if rows else None

    def write(self, row: Mapping[str, Any]) -> None:
        """Appends the row; ValueError if its columns are not those of the first."""
        self.columns = self.columns or list(row)
        if list(row) != self.columns:
            changed = sorted(set(row) ^ set(self.columns))
            raise ValueError(f"{self.path}: columns changed: {changed}")
        if is_main():
            with open(self.path, "a", encoding="utf-8") as file:
                file.write(json_line(row))
            self.also(row)


def json_line(row: Mapping[str, Any]) -> str:
    return json.dumps(row, ensure_ascii=False) + "\n"


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Rows of a .jsonl log; a last line that a crash cut short is dropped."""
    if not path.exists():
        return []
    rows = []
    # bytes: a crash may cut a character in two, and U+2028 within a text ends no line
    for line in path.read_bytes().split(b"\n")[:-1]:
        try:
            rows.append(json.loads(line))
        except ValueError:
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


# a row -> (message, whether this row shows it, for how many steps it may)
Signs = Callable[[Mapping[str, Any]], list[tuple[str, bool, int]]]


class Alarms:
    """Looks at each row of metrics.jsonl for four failures that raise no error.

    - a score of the judge has no variance within the groups of replies;
    - the Expert's policy has lost its entropy;
    - the judge fails, and most replies get no score;
    - the entropy of the language model runs away.

    Each is reported once, when it has lasted for `patience` steps (unscored replies: 3 steps, the
    runaway: 1), and again only after it has stopped in between.
    """

    def __init__(self, patience: int = 20, more: Signs | None = None):
        """more: the signs that the algorithm itself knows."""
        self.patience = patience
        self.more = more
        # what goes wrong -> for how many steps in a row
        self.lasted: dict[str, int] = {}
        # the language model's entropy in the first row that has one
        self.first: float | None = None

    def __call__(self, row: dict[str, Any]) -> list[str]:
        """The messages that this row gives reason to print."""
        raised = []
        signs = list(self._signs(row))
        if self.more:
            signs += self.more(row)
        for message, bad, patience in signs:
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

# A weight that is larger has been ruined by a step size, whatever it was to be.
LARGEST = 1e6


def refuse_ruined(tensors: Mapping[str, Tensor], whose: str, flag: str) -> None:
    """FloatingPointError that names the first tensor which no training means to have.

    whose  "the Expert"
    flag   the step size that most likely did it
    """
    for name, tensor in tensors.items():
        if not tensor.is_floating_point():
            continue
        largest = float(tensor.abs().max()) if tensor.numel() else 0.0
        if not largest <= LARGEST:               # NaN as well
            raise FloatingPointError(
                f"the weights of {whose} are ruined ({name} reaches {largest:g}) and were not "
                f"saved; most likely --{flag} is too large")


@contextlib.contextmanager
def system_errors(path: Path) -> Iterator[None]:
    """What Rust libraries raise when a file cannot be written becomes an OSError with its number.

    safetensors has an exception of its own for it, tokenizers raises Exception itself; both say
    "(os error 28)" as Rust does.
    """
    try:
        yield
    except OSError:
        raise
    except Exception as error:
        number = re.search(r"\(os error (\d+)\)", str(error))
        if not number:
            raise
        code = int(number[1])
        raise OSError(code, os.strerror(code), str(path)) from error


def save_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """One safetensors file, whole or not at all."""
    kept = {name: tensor.detach().contiguous().cpu() for name, tensor in tensors.items()}
    with whole(path) as part, system_errors(path):
        save_file(kept, part)


def load_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a file of a run directory; a DataError says what to do if there are none."""
    try:
        return load_file(path)
    except FileNotFoundError:
        raise DataError(f"{path}: not found; the run is not complete: "
                        f"go on with {command('train.py', '--resume', path.parent)}") from None
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


def last_step(run: Path) -> int:
    """The step of the newest checkpoint, which may be damaged; 0 if there is none."""
    folders = _checkpoints(run)
    return int(folders[-1].name.removeprefix("step-")) if folders else 0


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
