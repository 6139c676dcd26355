"""What a dataset measures of its own when held-out dialogues were played, besides the common table.

MultiWOZ has Inform, Success, BLEU and Combined (corpora/woz_rows.py) of every row that speaks.
With `--replies template` nobody speaks there: nothing is measured, and nothing is said.
Exercise: the row `teacher` reads the human's own acts.  Which of its four figures gain by that?"""
from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from corpora import woz_rows
from corpora.multiwoz import files_in, split_of
from corpora.woz_tally import Tally, tally
from data import Dataset, Episode
from gopo import Gopo
from infra.files import write_atomic
from infra.runs import read_config
from measure import trained_row
from policies import Silence

OWN_FILE = woz_rows.FILE                         # in a run directory


class OwnMeasures:
    """Of a dataset that has none: keeps nothing, and says nothing."""

    def keep(self, name: str, gopo: Gopo, played: Sequence[Episode]) -> None:
        """Takes note of a row of the table: its name, its agents, and the dialogues played."""

    def write(self, path: Path) -> None:
        """Writes the numbers of each dialogue, if there are any."""

    def tell(self) -> None:
        """Prints the table, if there is one."""


class OfMultiwoz(OwnMeasures):
    """Inform, Success, BLEU and Combined."""

    def __init__(self, config: Mapping[str, Any], dataset: Dataset, data_dir: str | Path):
        """config: of the run."""
        self.config = config
        self.dataset = dataset
        self.data_dir = data_dir
        self.replies: dict[str, dict[str, list[str]]] = {}
        self.tallied: dict[str, Tally] = {}
        self.test: woz_rows.Test | None = None   # read when something is to be measured

    def keep(self, name: str, gopo: Gopo, played: Sequence[Episode]) -> None:
        if isinstance(gopo.speaker, Silence):
            return
        said = {}
        for episode in played:
            said[woz_rows.key_of(self.dataset.test[episode.number])] = episode.replies
        self.replies[name] = said

    @property
    def trained_on(self) -> str:
        """How many dialogues of which split; of a warm start with fewer, how many it read."""
        count = len(self.dataset.train)
        said = f"{count:,} dialogues of the {split_of(files_in(self.data_dir))} split"
        read = self.config.get("warm", {}).get("warm_dialogues")
        if read is not None and read < count:
            said += f" ({read:,} of them in the warm start)"
        return said

    def rows(self) -> dict[str, Tally]:
        """Every row that spoke, measured; {} if none did."""
        if self.replies and self.test is None:
            self.test = woz_rows.test_of(self.data_dir)
        for name, said in self.replies.items():
            if name not in self.tallied:
                self.tallied[name] = tally(said, *self.test)
        return self.tallied

    def write(self, path: Path) -> None:
        rows = self.rows()
        if rows:
            kept = {
                "row": self._trained(), "trained_on": self.trained_on,
                "woz_slots": self.config["run"].get("woz_slots"), "rows": rows}
            # indented it would have a line for each count
            write_atomic(path, json.dumps(kept, ensure_ascii=False) + "\n")

    def _trained(self) -> str:
        """The row of the trained agents; where it was not measured, the first."""
        name = trained_row(self.config)
        return name if name in self.replies else next(iter(self.replies))

    def tell(self) -> None:
        rows = self.rows()
        if not rows:
            return
        ids = list(next(iter(self.replies.values())))
        simple = woz_rows.simple_rows(self.test, ids)
        print(f"\n{woz_rows.table(simple | rows, self.trained_on)}")


def own_measures(run: Path, dataset: Dataset, data_dir: str | Path | None) -> OwnMeasures:
    """What is measured of this run's rows besides the common table.

    data_dir  where corpora lie; None: where the run had them
    """
    if dataset.name != "multiwoz":
        return OwnMeasures()
    config = read_config(run)
    return OfMultiwoz(config, dataset, data_dir or config["run"]["data_dir"])
