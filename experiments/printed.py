"""The paper's figures, Tables 1 to 7, as printed (checked cell by cell against its text).

tables.py puts them next to ours.  They come from other data, models and judges: compare orders with
them, never values.
Try it:  python -m experiments.printed        each table's best row per data set; which bold figure
                                              is not the best of its column?  (Table 3 has one)"""
from __future__ import annotations

from typing import NamedTuple

DATASETS = {
    "mgshop": "Mgshop",
    "multiwoz": "Multiwoz",
    "tmallbrand-a": "TmallBrand-A",
    "tmallbrand-b": "TmallBrand-B",
}


class Printed(NamedTuple):
    """A table: of each dataset in turn all metrics, in rows as printed."""
    metrics: tuple[str, ...]
    datasets: tuple[str, ...]
    rows: str


THREE = ("tse", "gre", "bleu")
ALL = ("mgshop", "multiwoz", "tmallbrand-a", "tmallbrand-b")
TWO = ("mgshop", "tmallbrand-a")

PRINTED = {
    1: Printed(THREE, ALL, """
Untrained                 0.7454 5.97 0.091  0.6127 4.53 0.075  0.6791 5.25 0.083  0.6685 5.31 0.082
SFT                       0.8363 6.25 0.187  0.7015 4.92 0.149  0.7689 5.59 0.165  0.7592 5.64 0.163
PPO                       0.8584 7.09 0.190  0.7496 5.68 0.169  0.8040 6.39 0.181  0.8126 6.43 0.183
Memento                   0.8381 7.13 0.188  0.7205 5.75 0.153  0.7793 6.44 0.168  0.7848 6.38 0.169
GOPO(Ours)                0.9243 7.38 0.211  0.7543 6.38 0.172  0.8393 6.88 0.192  0.8417 6.92 0.193
"""),
    2: Printed(THREE, ALL, """
Qwen-235B                 0.9227 7.24 0.182  0.7462 5.57 0.165  0.8327 6.38 0.114  0.8294 6.42 0.166
DeepSeek-R1               0.9381 7.46 0.143  0.7609 6.46 0.138  0.8512 7.44 0.141  0.8489 7.41 0.139
GLM-4.7                   0.9365 7.25 0.150  0.7598 6.13 0.148  0.8487 7.09 0.153  0.8301 6.36 0.151
GPT-5.2                   0.9338 7.54 0.097  0.7561 5.83 0.092  0.8426 6.72 0.095  0.8453 6.71 0.094
Gemini-2.5                0.9287 7.35 0.133  0.7451 6.16 0.129  0.8084 6.91 0.131  0.8116 6.88 0.128
GOPO-Qwen3-14B(Ours)      0.9475 7.63 0.279  0.7699 6.55 0.177  0.8511 7.46 0.186  0.8524 7.43 0.198
"""),
    3: Printed(("g_eval",), ALL, """
Qwen-235B                 3.564  3.353  3.753  3.747
DeepSeek-R1               3.476  3.368  3.728  3.745
GLM-4.7                   3.672  3.381  3.525  3.510
GPT-5.2                   3.529  3.453  3.596  3.517
Gemini-2.5                3.680  3.407  3.653  3.534
GOPO-Qwen3-14B(Ours)      3.688  3.447  3.757  3.761
"""),
    4: Printed(THREE, ALL, """
GOPO-Qwen-7B-Chat         0.9243 7.38 0.211  0.7543 6.38 0.172  0.8393 6.88 0.192  0.8417 6.92 0.193
GOPO-Qwen3-8B             0.9375 7.44 0.242  0.7680 6.51 0.175  0.8507 7.21 0.202  0.8515 7.43 0.208
GOPO-Qwen3-14B            0.9475 7.63 0.279  0.7699 6.55 0.177  0.8511 7.46 0.186  0.8524 7.43 0.198
"""),
    5: Printed(THREE, TWO, """
Full GOPO                 0.9475 7.63 0.279  0.8511 7.46 0.186
GOPO w/o Expert Agent     0.9371 7.16 0.217  0.8023 6.47 0.227
Full Baseline             0.7353 6.92 0.251  0.6371 6.43 0.213
Baseline w/o Expert Agent 0.4327 6.08 0.240  0.1818 5.19 0.182
"""),
    6: Printed(THREE, TWO, """
GOPO-Qwen3-14B            0.9475 7.63 0.279  0.8511 7.46 0.186
Qwen-235B                 0.9352 7.45 0.214  0.8428 7.37 0.201
DeepSeek-R1               0.9453 7.55 0.242  0.8503 7.03 0.245
Gemini-2.5                0.9268 7.52 0.220  0.8025 6.83 0.131
"""),
    7: Printed(THREE, TWO, """
GOPO-Qwen3-14B            0.9475 7.63 0.279  0.8511 7.46 0.186
Qwen-235B                 0.8714 7.40 0.193  0.8291 6.27 0.203
DeepSeek-R1               0.7854 6.73 0.234  0.8395 6.84 0.146
Gemini-2.5                0.7384 5.30 0.251  0.8163 6.55 0.228
"""),
}


def printed(table: int, dataset: str) -> dict[str, dict[str, float]]:
    """The paper's rows of a table for a dataset, in the paper's order; {} where it has none.

    >>> printed(1, "mgshop")["SFT"]
    {'tse': 0.8363, 'gre': 6.25, 'bleu': 0.187}
    """
    metrics, datasets, text = PRINTED[table]
    if dataset not in datasets:
        return {}
    first = datasets.index(dataset) * len(metrics)
    width = len(datasets) * len(metrics)
    rows = {}
    for line in text.split("\n"):
        if line:
            name, *figures = line.rsplit(None, width)
            rows[name] = dict(zip(metrics, map(float, figures[first:])))
    return rows


def print_best() -> None:
    """Each table's best row, per dataset and metric."""
    for number, table in PRINTED.items():
        for dataset, name in DATASETS.items():
            rows = printed(number, dataset)
            for metric in table.metrics if rows else ():
                best = max(rows, key=lambda row: rows[row][metric])
                value = rows[best][metric]
                print(f"Table {number}  {name:13s} {metric:7s} {value:<7g} {best}")


if __name__ == "__main__":
    print_best()
