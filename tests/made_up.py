"""A results folder of made-up numbers, for the tests of tables, figures and studies."""
import json
import math

import numpy as np
from sacrebleu.metrics import BLEU

REPLIES = [
    "your lamp arrives on monday",
    "i am sorry to hear that , let me look",
    "it costs {price_1} with free delivery",
    "shall i order it for you now ?",
    "your lamp arrives soon",
]
REFERENCES = [
    "your lamp will arrive on monday",
    "i am sorry to hear that",
    "it costs {price_1} and delivery is free",
    "shall i order it for you ?",
    "your lamp arrives on friday",
]
# row -> about its mean TSE
LEVEL = {
    "untrained_single": 0.15,
    "untrained_dual": 0.25,
    "sft": 0.45,
    "ppo": 0.55,
    "memento": 0.5,
    "imitation": 0.7,
    "gopo": 0.72,
    "gopo_tse": 0.76,
    "gopo_nano": 0.6,
    "gopo_single": 0.52,
    "warm_start": 0.4,
    "strategy": 0.68,
    "teacher": 0.85,
    "random": 0.3,
    "cs_warm": 0.65,
    "ex_other": 0.72,
}
CURVES = ("gopo", "gopo_nano", "gopo_tse", "ppo", "imitation")


def statistics(replies, references):
    """sacrebleu's sentence statistics, summed."""
    found = []
    metric = BLEU(tokenize="13a", smooth_method="none")
    for reply, reference in zip(replies, references):
        score = metric.corpus_score([reply], [[reference]])
        found.append([score.sys_len, score.ref_len, *score.counts, *score.totals])
    return np.sum(found, 0).tolist()


def customer(row, tse):
    """A customer's numbers, all made from one; the second ear hears less of gopo_tse."""
    second_ear = None
    if row in ("gopo", "gopo_tse"):
        second_ear = tse - 0.1 * (row == "gopo_tse")
    numbers = {"tse": tse}
    for k in (1, 2, 3):
        done = tse > 0.2 * k
        numbers[f"I_{k}"] = float(done)
        numbers[f"N_{k}"] = k + 1 if done else None
    return numbers | {
        "turns": 6,
        "success": float(tse > 0.6),
        "gre": 4 + 4 * tse,
        "g_eval": None,
        "r_cs": tse,
        "tse_2nd_ear": second_ear,
    }


def curve(i, step, rng):
    """A row of curves.jsonl of the method at place i."""
    rise = 1 - math.exp(-step / (20 + 5 * i))
    return {
        "loss_expert": 1.2 - 0.2 * rise + rng.normal(0, 0.1),
        "loss": -0.5 * rise + rng.normal(0, 0.1),
        "reward": 0.4 + 0.4 * rise + rng.normal(0, 0.04),
        "r_cs": 0.5 + 0.3 * rise,
        "tse": 0.2 + (0.5 - 0.1 * i) * rise + rng.normal(0, 0.04),
        "reply_words": 12 + 5 * rise * i,
        "distinct_2": 0.5 - 0.1 * rise,
        "repeated": None,
    }


def write_curves(path, seeds):
    lines = []
    for i, method in enumerate(CURVES):
        for seed in seeds:
            rng = np.random.default_rng([i, seed])
            for step in range(1, 81):
                row = {"method": method, "seed": seed, "step": step} | curve(i, step, rng)
                lines.append(json.dumps(row) + "\n")
    path.write_text("".join(lines))


def made_up(folder, rows=LEVEL, seeds=(0, 1, 2), customers=40, curves=True):
    """A results folder of random numbers with some order in them."""
    (folder / "evals").mkdir(parents=True)
    of_customer = np.random.default_rng(0).normal(0, 0.15, customers)
    stats = [statistics([reply], [reference]) for reply, reference in zip(REPLIES, REFERENCES)]
    for i, (row, level) in enumerate(rows.items()):
        for seed in seeds:
            rng = np.random.default_rng([i, seed])
            of_seed = rng.normal(0, 0.02)
            served = np.clip(level + of_customer + of_seed + rng.normal(0, 0.05, customers), 0, 1)
            found = {
                "row": row,
                "seed": seed,
                "customers": [customer(row, tse) for tse in served.tolist()],
            }
            drawn = rng.integers(0, len(stats), customers)
            found |= {"bleu": [stats[n] for n in drawn], "seconds": 1.0}
            (folder / f"evals/{row}-{seed}.json").write_text(json.dumps(found))
    if curves:
        write_curves(folder / "curves.jsonl", seeds)
    return folder
