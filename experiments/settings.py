"""What a study was begun with, and where its files lie.

A results folder and a folder of runs each keep the settings they were begun with.  A later call has
to agree with them; only the number of seeds may grow."""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from data import DataError
from infra.files import read_json, write_json
from lm.precision import pick_precision

# joint steps of --paper; train.py's own default is 25
STEPS = 30
# dialogues that the warm start reads; the last size is all that a shop has
SIZES = (0, 30, 100, 300, 1000)
# sizes with which the joint steps are also made with a fixed Expert
FIXED = (30, 100, 1000)
# the size with which the parts of Eq. 9a and the constraints are taken away
PARTS = 100


@dataclass(frozen=True)
class Settings:
    """What a results folder was made with.

    small_model       of Table 4
    cs_agent, expert  hosted models that take the place of our agents
    study             paper, warm_start or hacking
    trials            times that the agents of one seed serve each customer, see trials.py
    """
    dataset: str
    train_on: str
    seeds: int
    episodes: int
    judge: str = "rules"
    precision: str = "auto"
    steps: int = STEPS
    model: str = "tiny"
    small_model: str = "nano"
    cs_agent: str | None = None
    expert: str | None = None
    study: str = "paper"
    trials: int = 0

    @property
    def root(self) -> Path:
        """The folder of the runs."""
        return Path("runs") / f"paper-{self.train_on}"

    @property
    def results(self) -> Path:
        """The folder of the tables; a study other than the paper's has one inside it."""
        name = self.dataset
        if self.dataset != self.train_on:
            name = f"{self.train_on}-to-{self.dataset}"
        tables = Path("results") / name
        return tables if self.study == "paper" else tables / self.study

    def run(self, job: str, seed: int) -> Path:
        return self.root / f"{job}-{seed}"

    def row_file(self, row: str, seed: int) -> Path:
        return self.results / "evals" / f"{row}-{seed}.json"

    def trials_file(self, row: str, seed: int) -> Path:
        return self.results / "trials" / f"{row}-{seed}.json"

    def curves_file(self, seed: int) -> Path:
        return self.results / "evals" / f"curves-{seed}.jsonl"


# Settings that the runs depend on; the others concern what is measured.
TRAINED_WITH = ("train_on", "steps", "model", "small_model")
# Settings in which a later call for the same results may differ.
MAY_DIFFER = ("seeds", "precision", "cs_agent", "expert", "trials")


def agree(s: Settings) -> Settings:
    """The settings with the precision of an earlier call, and its seeds and trials if more.

    Raises DataError if an earlier call for these results or these runs had other settings."""
    of_results = [name for name in asdict(s) if name not in MAY_DIFFER]
    earlier = refuse_change(s, s.results, of_results)
    s = replace(s, precision=earlier["precision"], seeds=max(s.seeds, earlier["seeds"]))
    if s.trials and earlier["trials"] not in (0, s.trials):
        raise DataError(
            f"{s.results} was begun with --trials {earlier['trials']}, now {s.trials}: use the "
            "same, or remove its trials/ and settings.json")
    s = replace(s, trials=max(s.trials, earlier["trials"]))
    earlier = refuse_change(s, s.root, TRAINED_WITH)
    s = replace(s, precision=earlier["precision"])
    if s.precision == "auto":
        # kept: the folder may be gone on with on another machine
        s = replace(s, precision=pick_precision())
    for folder in (s.results, s.root):
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / "settings.json", asdict(s))
    return s


def refuse_change(s: Settings, folder: Path, names: Sequence[str]) -> dict[str, Any]:
    """The settings that a folder was begun with, which must be these in `names`."""
    path = folder / "settings.json"
    kept = read_json(path) if path.exists() else {}
    earlier = asdict(s) | kept
    for name in names:
        if earlier[name] != getattr(s, name):
            raise DataError(
                f"{folder} was begun with --{name} {earlier[name]}, now {getattr(s, name)}: "
                "use the same, or move the folder away"
            )
    return earlier
