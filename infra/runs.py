"""A run directory: config, metrics, checkpoints, curves.  Every write is atomic; only JSON and safetensors are ever read (no pickle).

`kill -9` at any moment loses at most the steps since the last checkpoint (before the first GOPO step: the stage it was in).  A
checkpoint carries the sha256 of its files; one that is damaged is passed over for the one before it.  On resume metrics.jsonl is
cut back to the checkpoint, so a resumed run's file equals an uninterrupted one's.
Try it:  python runs.py        writes a checkpoint, damages it, and reads the one before"""
from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import shutil
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any, Iterator, Mapping, Sequence

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from data import DataError
from infra.files import whole, whole_folder, write_atomic, write_json
from infra.processes import is_main

KEEP = 2                                         # checkpoints kept: the last, and one to fall back to


def run_directory(output_dir: str | None, name: str, overwrite: bool, keep: str | None = None) -> Path:
    """The folder of a new run: `output_dir`, or runs/<name>, numbered if that exists; never replaces the folder `keep`."""
    if overwrite and keep and Path(output_dir or Path("runs") / name).resolve() == Path(keep).resolve():
        raise DataError(f"--overwrite would remove {keep}, which this run needs as its --base: give another --output_dir")
    if output_dir:
        path = Path(output_dir)
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            if not overwrite:
                raise DataError(f"--output_dir {path} exists and is not empty: add --overwrite to replace it, or --resume {path} to go on")
            if path.is_dir() and not (path / "config.json").exists():
                raise DataError(f"--overwrite: {path} holds no config.json, so it is no run directory; nothing was removed")
            shutil.rmtree(path)
    else:
        path, number = Path("runs") / name, 1
        while path.exists() and not overwrite:
            number += 1
            path = Path("runs") / f"{name}-{number}"
        shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True, exist_ok=True)
    return path


@contextlib.contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """No other process may train into this folder meanwhile; the lock ends with the process, however it ends."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "w", encoding="utf-8") as f:
        try:
            fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DataError(f"{folder}: another process is training there; wait for it, or stop it: what it was asked for goes on where it was") from None
        yield


def versions() -> dict[str, str | None]:
    """What the run was made with."""
    try:
        commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True, check=False).stdout.strip()
    except OSError:                              # no git on this machine
        commit = ""
    return {name: version(name) for name in ("torch", "transformers", "peft")} | {"commit": commit or None}


class Log:
    """metrics.jsonl: one JSON line a step, columns fixed by the first row, no times in it (those stand in timing.jsonl).

    Of several processes the first writes."""

    def __init__(self, path: Path, keep_until: int | None = None):
        self.path = path
        rows = [] if keep_until is None else [r for r in read_rows(path) if r["step"] <= keep_until]
        if is_main():
            write_atomic(path, "".join(json.dumps(r) + "\n" for r in rows))
        self.columns = list(rows[0]) if rows else None

    def write(self, row: Mapping[str, Any]) -> None:
        self.columns = self.columns or list(row)
        if list(row) != self.columns:
            raise ValueError(f"{self.path}: columns changed: {sorted(set(row) ^ set(self.columns))}")
        if is_main():
            with open(self.path, "a", encoding="utf-8") as f:
                f.write(json.dumps(row) + "\n")


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Rows of a .jsonl log; a last line cut short by a crash is dropped."""
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows


UNSCORED = "more than half of the replies have been unscored for 3 steps: Eq. 9b hardly learns, look at the judge's answers"


class Alarms:
    """What goes wrong silently: a judge that fails or whose score has no variance within groups, an Expert without entropy, an LM whose entropy runs away."""

    def __init__(self, patience: int = 20):
        self.patience, self.runs, self.first = patience, {}, None

    def __call__(self, row: dict[str, Any]) -> list[str]:
        entropy = row.get("entropy")
        self.first = self.first or entropy
        signs = {f"{k} has been 0 for {self.patience} steps: this score no longer tells replies apart": row[k] < 1e-6
                 for k in row if k.startswith("std_") and row[k] is not None}
        if row.get("entropy_expert") is not None:
            signs[f"entropy_expert below 0.05 nats for {self.patience} steps: the Expert no longer explores, raise --alpha"] = row["entropy_expert"] < 0.05
        if row.get("tokens") is not None:        # a language model learns
            signs[UNSCORED] = row["unscored"] > 0.5
        raised = [text for text, bad in signs.items() if self._count(text, bad) == (3 if text == UNSCORED else self.patience)]
        if entropy and self._count("runaway", entropy > 4 * self.first) == 1:
            raised.append(f"the LM's entropy rose from {self.first:.2f} to {entropy:.2f} nats: lower --lambda_d or --agent_lr")
        return raised

    def _count(self, sign: str, bad: bool) -> int:
        self.runs[sign] = self.runs.get(sign, 0) + 1 if bad else 0
        return self.runs[sign]


# --- tensors ------------------------------------------------------------------------------------------------------------------

def save_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    with whole(path) as part:
        save_file({k: v.detach().contiguous().cpu() for k, v in tensors.items()}, part)


def load_tensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except FileNotFoundError:
        raise DataError(f"{path}: not found; the run is not complete: go on with python train.py --resume {path.parent}") from None
    except SafetensorError as error:
        raise DataError(f"{path}: damaged ({error}); train again, or resume from a checkpoint") from None


def load_into(module: torch.nn.Module, tensors: Mapping[str, Tensor], where: str) -> None:
    """`module` takes the tensors; `where` they are from is named if they are of another code's module: whole, but of other layers."""
    try:
        module.load_state_dict(tensors)
    except RuntimeError as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        raise DataError(f"{where}: does not fit this code's {type(module).__name__} ({' '.join(str(error).split())[:200]}); use the commit that the run's "
                        "config.json names, or remove the run directory and train again") from error


def adam_state(optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """An Adam's state as flat tensors for safetensors: "3.exp_avg" belongs to parameter 3."""
    return {f"{i}.{name}": value.clone() for i, state in optimiser.state_dict()["state"].items() for name, value in state.items()}


def load_adam_state(optimiser: torch.optim.Optimizer, flat: Mapping[str, Tensor]) -> None:
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in flat.items():
        number, name = key.split(".")
        state.setdefault(int(number), {})[name] = value
    optimiser.load_state_dict(optimiser.state_dict() | {"state": state})


# --- checkpoints --------------------------------------------------------------------------------------------------------------

def _digest(path: Path) -> str:
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def save_checkpoint(run: Path, step: int, parts: Mapping[str, Mapping[str, Tensor]]) -> Path:
    """checkpoint/step-000050/ with one safetensors file a part; appears whole or not at all."""
    folder = run / "checkpoint" / f"step-{step:06d}"
    with whole_folder(folder) as part:
        for name, tensors in parts.items():
            save_tensors(tensors, part / f"{name}.safetensors")
        digests = {p.name: _digest(p) for p in sorted(part.glob("*.safetensors"))}
        write_json(part / "state.json", {"step": step, "sha256": digests})
    for old in sorted(folder.parent.glob("step-??????"))[:-KEEP]:
        shutil.rmtree(old)
    return folder


def load_checkpoint(run: Path) -> tuple[int, dict[str, dict[str, Tensor]]] | None:
    """The newest checkpoint whose files are what was written; damaged ones are named and passed over.  None if there is none."""
    for folder in sorted((run / "checkpoint").glob("step-??????"), reverse=True):
        try:
            state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
            wrong = [name for name, digest in state["sha256"].items() if _digest(folder / name) != digest]
            if not wrong:
                return state["step"], {Path(name).stem: load_file(folder / name) for name in state["sha256"]}
            reason = f"{', '.join(wrong)} changed"
        except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
            reason = f"{type(error).__name__}: {error}"
        print(f"checkpoint {folder} is damaged ({reason}); falling back to the one before")
    return None


# --- curves -------------------------------------------------------------------------------------------------------------------

PANELS = (("what the dialogues earn", ("reward", "r_expert", "r_cs")), ("TSE and skills", ("tse", "esndcg", "f1", "success")),
          ("losses (Fig. 3)", ("loss_expert", "loss_critic", "loss", "L_p", "L_s")), ("entropy, nats", ("entropy_expert", "entropy")),
          ("lengths", ("turns", "length")), ("judge's scores", ("S_quality", "S_fitness", "S_compliance", "S_diversity")))


def plot_curves(rows: Sequence[Mapping[str, Any]], evaluations: Sequence[Mapping[str, Any]], path: Path, title: str) -> None:
    """curves.png: training as thin lines with a running mean, held-out customers as dots."""
    import matplotlib
    matplotlib.use("Agg")
    from matplotlib import pyplot
    figure, axes = pyplot.subplots(2, 3, figsize=(15, 7.5), layout="constrained")
    for axis, (name, keys) in zip(axes.flat, PANELS):
        for key in keys:
            points = [(r["step"], r[key]) for r in rows if r.get(key) is not None]
            if not points:
                continue
            steps, values = zip(*points)
            window = max(1, len(values) // 20)
            smooth = [sum(values[max(0, i - window):i + 1]) / len(values[max(0, i - window):i + 1]) for i in range(len(values))]
            line, = axis.plot(steps, smooth, label=key)
            axis.plot(steps, values, color=line.get_color(), alpha=0.2, linewidth=0.8)
            seen = [(e["step"], e[key]) for e in evaluations if e.get(key) is not None]
            if seen:
                axis.plot(*zip(*seen), "o", color=line.get_color(), markersize=4)
        axis.set(title=name, xlabel="GOPO step")
        axis.grid(alpha=0.3)
        if axis.lines:
            axis.legend(fontsize=8)
    figure.suptitle(f"{title}   (lines: training dialogues, running mean; dots: held-out customers, greedy, r_cs by the teacher's skills)")
    with whole(path) as part:
        figure.savefig(part, dpi=110, format="png")
    pyplot.close(figure)


if __name__ == "__main__":
    import tempfile
    with tempfile.TemporaryDirectory() as folder:
        demo = Path(folder)
        for n in (1, 2):
            print("written", save_checkpoint(demo, n, {"expert": {"w": torch.full((2,), float(n))}}).name)
        (demo / "checkpoint/step-000002/expert.safetensors").write_bytes(b"damaged")
        number, found = load_checkpoint(demo)
        print(f"read step {number}: w = {found['expert']['w'].tolist()}")
