"""What the tests of Memento share: small case banks and random states."""
from __future__ import annotations

import random

import torch

from baselines.case_bank import CaseBank, MementoConfig
from expert import ExpertConfig, ExpertState
from perception import Perception

POOL = ["w", "x", "y", "z"]
WORDS = [
    *("refund", "sofa", "lamp", "late", "angry", "thanks", "blue", "where", "price", "stock"),
    *("broken", "voucher"),
]


def bank_of(seed: int = 0, history: int = 1, **options) -> CaseBank:
    """An empty bank with a perception that learned nothing."""
    torch.manual_seed(seed)
    perception = Perception(["refund", "other"], ["angry", "neutral"], 16)
    cfg = MementoConfig(**{"memento_read": "cosine", "memento_bank": 200} | options)
    return CaseBank(POOL, perception, ExpertConfig(history=history), cfg)


def random_states(n: int, seed: int = 0) -> list[ExpertState]:
    rng = random.Random(seed)
    return [_random_state(rng) for _ in range(n)]


def _random_state(rng: random.Random) -> ExpertState:
    user = _said(rng)
    history = ((_said(rng), "Yes."),) * rng.randint(0, 1)
    return ExpertState(user, history, tuple(rng.sample(POOL, rng.randint(0, 2))))


def _said(rng: random.Random) -> str:
    return " ".join(rng.choices(WORDS, k=rng.randint(1, 5)))


def random_bank(n: int, seed: int = 0, **options) -> CaseBank:
    """A bank of `random_states`, each of its own dialogue."""
    bank = bank_of(**options)
    rng = random.Random(seed)
    sequences = [tuple(rng.sample(POOL, rng.randint(0, 3))) for _ in range(n)]
    outcomes = [rng.randint(0, 1) for _ in range(n)]
    bank.write(random_states(n, seed), sequences, outcomes, range(n))
    return bank


def write_cases(bank: CaseBank, *cases: tuple[str, tuple[str, ...], int, int]) -> None:
    """Writes cases of (message, skills, outcome, dialogue)."""
    users, sequences, outcomes, dialogues = zip(*cases)
    bank.write([ExpertState(user) for user in users], sequences, outcomes, dialogues)
