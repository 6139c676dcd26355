"""`--report_to tensorboard` or `trackio`: a run is watched live, elsewhere than in its own files.

Metrics of each step, evaluations, and two dialogues a step to read.  Both packages are optional,
and nothing is sent anywhere: tensorboard writes into the run directory, to be seen with
`tensorboard --logdir RUN`, and trackio into its own store on this machine (`trackio show`).  Of
several processes the main one reports.  A resumed run goes on in the same log; tensorboard then
drops what lies beyond the checkpoint, trackio keeps it."""
from __future__ import annotations

import importlib
import secrets
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from data import DataError, Episode, fill
from infra.files import read_json, write_json
from infra.processes import is_main

DIALOGUES = 2                                    # of a step
PROJECT = "gopo"
Row = Mapping[str, Any]


def refuse_missing(kind: str) -> None:
    """DataError if the package is not installed."""
    if kind == "none":
        return
    try:
        importlib.import_module(kind)
    except ImportError:
        raise DataError(
            f"--report_to {kind} needs the package {kind}: pip install {kind}") from None


class Watch:
    """Reports nothing; what reports is built on it."""

    def rows(self, group: str) -> Callable[[Row], None]:
        """Who is told of each row of a log: group "train" reports tse as train/tse."""
        def tell(row: Row) -> None:
            numbers = {}
            for name, value in row.items():
                if name != "step" and isinstance(value, (int, float)):
                    numbers[f"{group}/{name}"] = float(value)
            self.numbers(row["step"], numbers)
        return tell

    def dialogues(self, group: str, step: int, played: Sequence[Episode]) -> None:
        """The first dialogues of a step, to read."""
        for number, episode in enumerate(played[:DIALOGUES], 1):
            self.text(step, f"{group}/dialogue {number}", written(episode))

    def numbers(self, step: int, numbers: Mapping[str, float]) -> None:
        pass

    def text(self, step: int, name: str, text: str) -> None:
        pass

    def close(self) -> None:
        pass


SILENT = Watch()


class TensorBoard(Watch):
    """RUN/tensorboard/STAGE; a stage has a folder of its own, for its steps begin at 1 again."""

    def __init__(self, run: Path, stage: str, start: int):
        from torch.utils.tensorboard import SummaryWriter
        self.writer = SummaryWriter(run / "tensorboard" / stage, purge_step=start + 1)

    def numbers(self, step: int, numbers: Mapping[str, float]) -> None:
        for name, value in numbers.items():
            self.writer.add_scalar(name, value, step)
        self.writer.flush()                      # a run may be killed at any moment

    def text(self, step: int, name: str, text: str) -> None:
        self.writer.add_text(name, text, step)

    def close(self) -> None:
        self.writer.close()


class Trackio(Watch):
    """A run of the project "gopo"; its name is kept in the run directory, for a resumed run."""

    def __init__(self, run: Path, stage: str, start: int):
        import trackio
        self.trackio = trackio
        kept = run / "trackio.json"
        if not kept.exists():
            write_json(kept, {"project": PROJECT, "name": f"{run.name}-{secrets.token_hex(3)}"})
        # one run for all stages, whose groups bear other names
        trackio.init(**read_json(kept), resume="allow", embed=False)

    def numbers(self, step: int, numbers: Mapping[str, float]) -> None:
        self.trackio.log(dict(numbers), step=step)

    def text(self, step: int, name: str, text: str) -> None:
        self.trackio.log({name: self.trackio.Markdown(text)}, step=step)

    def close(self) -> None:
        self.trackio.finish()


def watch(kind: str, run: Path, stage: str, start: int = 0) -> Watch:
    """Who reports a stage of a run; nobody in any process but the main one.

    start  the last step that an earlier process did
    """
    if kind == "none" or not is_main():
        return SILENT
    return {"tensorboard": TensorBoard, "trackio": Trackio}[kind](run, stage, start)


def written(episode: Episode) -> str:
    """A dialogue in Markdown: what was said, with the skills of each turn."""
    lines = [f"customer {episode.number}, success: {episode.seen.outcome.success}"]
    for number, step in enumerate(episode.steps, 1):
        skills = ", ".join(step.skills) or "(none)"
        teacher = "(unknown)" if step.teacher is None else ", ".join(step.teacher)
        lines += [
            f"**{number}. customer:** {step.state.user}",
            f"**skills:** {skills} (teacher: {teacher})",
            f"**agent:** {fill(step.reply, step.seen.context)}",
            f"R_t {step.R_t:.2f}",
        ]
    return "\n\n".join(lines)
