"""The reasoning tasks of MORE's Sec. 3.2: which are drawn, what a sentence earns, what is read.

    r_e(y) = 1 if the sentence states the answer, else 0; and a little for its form
    J_scaffold = E[lambda_mac r_e^MAC + lambda_pnr r_e^PNR]

MAC asks for a value of the customer's profile, PNR for one that follows from it by rule.  Tasks are
*sentences of a reply*: the bare value as an answer moved no number in the replies of a small model.
A group of sentences to one task is of one kind, and Eq. 1 divides its scale out: so lambda_mac and
lambda_pnr weigh the advantages here, or they would do nothing (the paper does not say).
A task whose sentences are all right, or all wrong, teaches nothing.  So keys of tasks are drawn in
proportion to how often their groups were mixed, and never less than LEAST of the most.
Knows no model.
Exercise: set LEAST to 1, and follow `mixed` in scaffold.jsonl."""
from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from data import Dataset, Reply, Request
from systems.more import LEAST_STD, centred
from systems.more_config import MoreConfig
from systems.more_rewards import scaffold_format, scaffold_reward

# S tasks, M sentences to each

LEAST = 0.2
DECAY = 0.9                                      # of the running share of mixed groups
KINDS = ("mac", "pnr")

Task = Any                                       # what a dataset's `tasks` makes: shop.sale.Task


def fixed_tasks(dataset: Dataset, split: str, count: int) -> list[Task]:
    """The same tasks at every call."""
    rng = random.Random(f"fixed tasks/{split}")
    return [dataset.tasks(split, rng) for _ in range(count)]


def task_pairs(dataset: Dataset, count: int, seed: int) -> list[tuple[Request, str]]:
    """(request, right sentence) of training tasks, for a warm start."""
    rng = random.Random(f"task pairs/{seed}")
    found = [dataset.tasks("train", rng) for _ in range(count)]
    return [(task.request, task.sentence) for task in found]


def is_right(task: Task, text: str) -> float:
    """r_e of a sentence: 1 or 0."""
    return scaffold_reward(text, task.answer, task.form, task.given)


def accuracy(tasks: Sequence[Task], texts: Sequence[str]) -> float:
    """RA, the share of right sentences, one a task."""
    return sum(map(is_right, tasks, texts)) / len(tasks)


class Tasks:
    """Training tasks, drawn by how much their keys still have to teach."""

    def __init__(self, make: Callable[..., Task], cfg: MoreConfig):
        """make: (split, rng) -> a task."""
        self.make = make
        self.cfg = cfg
        # key -> running share of groups that were mixed
        self.mixed: dict[str, float] = {}

    def draw(self, count: int, *key: int) -> list[Task]:
        """Tasks that `key` and what was learned so far decide."""
        rng = random.Random("/".join(map(str, ("tasks", *key))))
        return [self._draw(rng) for _ in range(count)]

    def _draw(self, rng: random.Random) -> Task:
        most = max(self.mixed.values(), default=1.0) or 1.0
        while True:
            task = self.make("train", rng)
            share = self.mixed.get(task.key, most) / most
            if rng.random() < max(LEAST, share):
                return task

    def rewards(self, tasks: Sequence[Task], replies: Sequence[Sequence[Reply]]) -> Tensor:
        """r_e and the reward for form, [S, M]."""
        rows = []
        for task, group in zip(tasks, replies, strict=True):
            rows.append([self._reward(task, reply.text) for reply in group])
        return torch.tensor(rows)

    def _reward(self, task: Task, text: str) -> float:
        form = scaffold_format(text, task.form, task.given)
        return is_right(task, text) + self.cfg.more_scaffold_format * form

    def learned(self, tasks: Sequence[Task], rewards: Tensor) -> None:
        """Takes note of which groups were mixed; rewards [S, M]."""
        spread = centred(rewards).abs().amax(1) > LEAST_STD
        for task, mixed in zip(tasks, spread.tolist()):
            before = self.mixed.get(task.key, 1.0)
            self.mixed[task.key] = DECAY * before + (1 - DECAY) * mixed

    def weights(self, tasks: Sequence[Task]) -> Tensor:
        """[S] lambda_mac or lambda_pnr of each task, as a multiple of their mean."""
        mean = (self.cfg.more_mac + self.cfg.more_pnr) / 2
        of_kind = {"mac": self.cfg.more_mac / mean, "pnr": self.cfg.more_pnr / mean}
        return torch.tensor([of_kind[task.kind] for task in tasks])

    # --- checkpoints ----------------------------------------------------------------------------

    def state(self) -> dict[str, Tensor]:
        """What a checkpoint keeps, as tensors."""
        kept = {}
        for key, share in self.mixed.items():
            kept[f"mixed.{key}"] = torch.tensor(share, dtype=torch.float64)
        return kept

    def load(self, state: dict[str, Tensor]) -> None:
        self.mixed = {}
        for name, share in state.items():
            if name.startswith("mixed."):
                self.mixed[name.removeprefix("mixed.")] = float(share)
