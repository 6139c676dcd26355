"""From measured rows to the paper's tables: means, intervals over seeds and customers, paired differences against GOPO, and whether the paper's orders hold.

`eval.py --paper` leaves one file a row and seed, results/<dataset>/evals/<row>-<seed>.json; this file reads those and curves.jsonl and writes results.json,
tables.md, tables.csv and, through figures.py and report.py, figure1.png, figure3.png, hacking.png and report.html.  Nothing is measured here.
An interval answers: what if other seeds had been trained and other customers had come?  So both are resampled, crossed, for the customers are
the same for every seed (the pigeonhole bootstrap, Owen 2007).  It is rough with few seeds, and then too narrow: three cannot show how much seeds
differ.  So beside each difference stands Student's t over its seeds, and an order counts as found only where both leave 0 out.
Try it:  python tables.py results/mgshop        everything again from the files
         python tables.py results/mgshop --difference ppo single_warm        one row less another
Exercise: leave t out and resample customers only; which of the orders that were undecided are now "agrees", and would another seed believe it?"""
from __future__ import annotations

import argparse
import csv
import io
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from sacrebleu.metrics import BLEU
from scipy.stats import t as student_t

from data import DataError
from experiments import figures, report
from experiments.printed import DATASETS, printed
from experiments.report import NUMBER, OR_NULL, brackets, figure, known, side_of_zero, t_of
from infra.files import write_atomic, write_json

DRAWS = 1000
EAR_TOLERANCE = 0.05                             # as in eval.py: a larger difference of TSE between the two ears is flagged
Interval = dict[str, Any]                        # mean, low, high, over: what was resampled; `seeds`: the value of each; a difference's `t`
Numbers = np.ndarray                             # S seeds, C customers, D draws (draw 0 is the sample itself)


# --- our rows and tables --------------------------------------------------------------------------------------------------------

LOGS, LABELS, JUDGE, END, AGENDA = "logged replies", "teacher labels on-policy", "judge", "success at the end", "the hidden agenda"
OF_LOGS, ALONE, TSE = "teacher labels of the logs", "judge (against the teacher's skills)", "TSE"
IMITATION, GOPO = [LOGS, LABELS, JUDGE], [LOGS, LABELS, JUDGE, END]
ROWS = {                                         # row: (name, what it saw in training)
    "untrained_single": ("Untrained, single agent", []), "untrained_dual": ("Untrained, dual agent (prompted Expert)", []),
    "sft": ("SFT, single agent", [LOGS]), "ppo": ("PPO, single agent", [LOGS, ALONE, END, TSE]), "memento": ("Memento", [LOGS, OF_LOGS, "success"]),
    "imitation": ("Imitation (Expert by cross-entropy)", IMITATION), "gopo": ("GOPO", GOPO), "gopo_tse": ("GOPO + terminal TSE", [*GOPO, TSE]),
    "gopo_soft": ("GOPO, soft constraints (prompt only)", GOPO), "gopo_single": ("GOPO without Expert", [LOGS, ALONE]), "gopo_nano": ("GOPO, smaller LM", GOPO),
    "single_warm": ("Single agent after the warm start", [LOGS]),
    "warm_start": ("Untrained Expert, warm-started LM", [LOGS]), "strategy": ("Expert after the strategy stage, warm-started LM", GOPO),
    "teacher": ("Teacher's skills, GOPO's LM", [AGENDA, *GOPO]), "random": ("Random skills, GOPO's LM", GOPO),
    "cs_warm": ("GOPO's Expert, warm-started LM", GOPO), "cs_untrained": ("GOPO's Expert, untrained LM", GOPO),
    "cs_imitation": ("GOPO's Expert, imitation's LM", GOPO), "cs_other": ("GOPO's Expert, GOPO's LM of another seed", GOPO),
    "ex_untrained": ("Untrained Expert, GOPO's LM", GOPO), "ex_imitation": ("Imitation's Expert, GOPO's LM", GOPO),
    "ex_memento": ("Memento as Expert, GOPO's LM", [*GOPO, OF_LOGS]), "ex_other": ("GOPO's Expert of another seed, GOPO's LM", GOPO),
    "ex_prompted": ("The untrained LM prompted as Expert, GOPO's LM", GOPO)}
HOSTED = {                                       # the longest prefix first
    "api_cs_": ("GOPO's Expert, {} hosted", GOPO), "api_ex_": ("{} hosted as Expert, GOPO's LM", GOPO), "api_": ("{} hosted, both agents", [])}
SHARED = ("What all rows share beside the column \"saw\": perception learned the logged intent and emotion labels; every LM was pretrained on talk of mixed "
          "quality that the phrase book made from logged states, and every LM but the untrained ones was warm-started on the logged replies. Before the joint "
          "steps GOPO, imitation and Memento play 300 x 32 customers with the phrase book; single agents cannot. Then GOPO plays 16 customers a step and draws "
          "4 replies to each state, PPO and Memento play 64 and draw one, SFT reads 64 logged dialogues.")
REFERENCES = ("single_warm", "warm_start", "strategy", "teacher", "random")

COLUMNS = [dict(zip(("key", "name", "digits", "better", "help"), c)) for c in (
    ("tse", "TSE", 3, "high", "Task-focused Sequential Engagement, Eq. 11: which tasks were done, and how soon"),
    *((f"I_{i}", f"I{i}", 2, "high", f"share of customers for whom task {i} was done") for i in (1, 2, 3)),
    *((f"N_{i}", f"N{i}", 1, "low", f"the turn it was done in, mean over the customers for whom it was: read it beside I{i}") for i in (1, 2, 3)),
    ("success", "success", 3, "high", "share of customers for whom everything was done"), ("turns", "turns", 1, "", "length of a dialogue"),
    ("gre", "GRE*", 2, "high", "politeness, product appropriateness and action guidance of a reply, 0-10"),
    ("g_eval", "G-Eval", 3, "high", "1-5, from an LLM judge; a dash without one"),
    ("bleu", "BLEU", 3, "high", "of the corpus, on text with slots, by sacrebleu"),
    ("esndcg", "ESNDCG", 3, "high", "Eq. 5: the skills against the teacher's list of the turn; read F1, exact and len beside it"),
    ("f1", "F1", 3, "high", "of the sets of skills"), ("exact", "exact", 2, "high", "share of turns with the teacher's very list"),
    ("length", "len", 1, "", "skills a turn"), ("r_cs", "R^A*", 3, "high", "Eq. 8"), ("vouchers", "vouchers", 2, "low", "given away, a dialogue"),
    ("reply_words", "words", 1, "", "a reply"), ("distinct_2", "distinct-2", 3, "high", "different word pairs among all"),
    ("repeated", "repeated", 3, "low", "replies said before"), ("violations", "violations", 2, "low", "of the hard constraints, a dialogue"),
    ("tse_2nd_ear", "TSE 2nd ear", 3, "high", "TSE when a separately written ear listens"))]


@dataclass(frozen=True)
class Table:
    """rows: ours -> the paper's row beside it; hosted: prefix of further rows; a table that is `optional` needs one of those."""
    number: int
    title: str
    rows: dict[str, str | None]
    hosted: str = ""
    notes: tuple[str, ...] = ()
    optional: bool = False


def without(*rows: str) -> dict[str, None]:
    return dict.fromkeys(rows)


SUBSTITUTES = "The paper puts hosted models in the agent's place, which needs an API; for the other agents of ours here it has no figures."
NAMESAKES = "The paper's figures stand beside a hosted model of the same name, as DeepSeek-R1."
TABLES = (
    Table(1, "Methods (Table 1)", {"untrained_single": None, "untrained_dual": "Untrained", "sft": "SFT", "ppo": "PPO", "memento": "Memento", "imitation": None,
                                   "gopo": "GOPO(Ours)"} | without("gopo_tse", "gopo_soft", *REFERENCES), notes=(
        "The paper does not say whether its Untrained is one agent or two; its figures stand beside the dual agent here.",
        "Below GOPO's variants stand references, no competitors: stages of GOPO's own training, the teacher (who sees the hidden agenda), and chance.")),
    Table(2, "Hosted models (Table 2)", {"gopo": "GOPO-Qwen3-14B(Ours)"}, "api_", (NAMESAKES,), optional=True),
    Table(3, "Hosted models by G-Eval (Table 3)", {"gopo": "GOPO-Qwen3-14B(Ours)"}, "api_", (NAMESAKES,), optional=True),
    Table(4, "Model sizes (Table 4)", {"gopo_nano": "GOPO-Qwen-7B-Chat", "gopo": "GOPO-Qwen3-14B"}, notes=(
        "The two sizes: {small_model} and {model}; the paper's smallest and largest stand beside them, its 8B has no counterpart.",)),
    Table(5, "With and without the Expert, trained and not (Table 5)", {
        "gopo": "Full GOPO", "gopo_single": "GOPO w/o Expert Agent", "untrained_dual": "Full Baseline", "untrained_single": "Baseline w/o Expert Agent"}),
    Table(6, "GOPO's Expert with other Customer Service agents (Table 6)", {"gopo": "GOPO-Qwen3-14B"} | without(
        "cs_warm", "cs_untrained", "cs_imitation", "cs_other"), "api_cs_", (SUBSTITUTES,)),
    Table(7, "GOPO's Customer Service agent with other Experts (Table 7)", {"gopo": "GOPO-Qwen3-14B"} | without(
        "ex_untrained", "ex_imitation", "ex_memento", "ex_other", "ex_prompted", "teacher", "random"), "api_ex_", (SUBSTITUTES,)))
FIGURE3 = ("gopo", "gopo_nano", "gopo_tse")
ORDERED = ("tse", "gre", "bleu", "g_eval")       # the metrics that the paper orders rows by


# --- reading --------------------------------------------------------------------------------------------------------------------

@dataclass(frozen=True)
class Eval:
    """metrics: name -> [C], NaN = unknown or never; bleu: sacrebleu's statistics [C, 10], or None without references."""
    metrics: dict[str, Numbers]
    bleu: Numbers | None


EVAL = {"row": str, "seed": (int,), "customers": [{"*": OR_NULL}], "bleu?": [[(int,)]], "seconds?": NUMBER}


def load_eval(path: Path) -> tuple[str, int, Eval]:
    found = report.check(report.parse(path.read_bytes(), str(path)), EVAL, str(path))
    row, seed, customers, stats = found["row"], found["seed"], found["customers"], found.get("bleu")
    metrics = {m: np.array([c.get(m) for c in customers], dtype=float) for m in dict.fromkeys(m for c in customers for m in c)}     # None -> NaN
    def refuse_if(wrong: bool, why: str) -> None:
        if wrong:
            raise DataError(f"{path}: {why}; correct it, or evaluate this row again")
    refuse_if(path.name != f"{row}-{seed}.json", f"holds row {row}, seed {seed}, and must be named {row}-{seed}.json")
    refuse_if(not metrics, "no customers, or no numbers of theirs")
    refuse_if(any(np.isinf(v).any() for v in metrics.values()), "a number too large")
    refuse_if(stats is not None and (len(stats) != len(customers) or any(len(s) != 10 or min(s) < 0 for s in stats)),
              "bleu: ten whole numbers, none below 0, are needed for each customer")
    return row, seed, Eval(metrics, None if stats is None else np.array(stats, dtype=float))


def load_evals(folder: Path) -> dict[str, dict[int, Eval]]:
    """row -> seed -> numbers, of all <folder>/evals/*.json; raises DataError naming a file that is broken or that met other customers."""
    evals: dict[str, dict[int, Eval]] = {}
    sizes: dict[int, Path] = {}
    for path in sorted((Path(folder) / "evals").glob("*.json")):
        row, seed, read = load_eval(path)
        evals.setdefault(row, {})[seed] = read
        sizes.setdefault(len(next(iter(read.metrics.values()), ())), path)
        if len(sizes) > 1:
            (n, first), (m, other) = sizes.items()
            raise DataError(f"{other}: {m} customers, but {n} in {first.name}; all rows must meet the same ones: evaluate again, with one number of them")
    if not evals:
        raise DataError(f"{folder}: no evals/*.json in it; python eval.py --paper writes them")
    return {row: dict(sorted(seeds.items())) for row, seeds in evals.items()}


# --- intervals --------------------------------------------------------------------------------------------------------------------

@cache
def resample(seeds: int, customers: int, draws: int, seed: int) -> tuple[Numbers, Numbers]:
    """How often each draw takes each seed [1 + D, S] and each customer [1 + D, C]; draw 0 takes each once.  Customers are drawn first: any S meets the same."""
    rng = np.random.default_rng(seed)
    drawn = [np.vstack([np.ones(n), rng.multinomial(n, np.full(n, 1 / n), draws)]) for n in (customers, seeds)]
    return drawn[1], drawn[0]


def mean_of(values: Numbers, of_seeds: Numbers, of_customers: Numbers) -> Numbers:
    """values [S, C], how often each seed [D, S] and customer [D, C] counts -> [D]: the mean over customers of the mean of what is known of each."""
    there = ~np.isnan(values)
    times = of_seeds @ there                                             # (D, C) how often something is known of a customer
    each = of_seeds @ np.where(there, values, 0) / np.maximum(times, 1)
    weight = of_customers * (times > 0)
    total = weight.sum(1)
    return np.where(total > 0, (weight * each).sum(1) / np.maximum(total, 1), np.nan)


def bleu_of(stats: Numbers, of_seeds: Numbers, of_customers: Numbers) -> Numbers:
    """stats [S, C, 10] -> [D]: the mean over seeds of corpus BLEU in [0, 1], which sacrebleu computes from the sum of the customers' statistics."""
    sums = np.einsum("dc,sck->dsk", of_customers, stats, optimize=True).astype(int).tolist()
    scores = [[BLEU.compute_bleu(k[2:6], k[6:], k[0], k[1], smooth_method="exp").score / 100 for k in draw] for draw in sums]     # the method of corpus_bleu
    return (of_seeds * np.array(scores)).sum(1) / of_seeds.sum(1)


def interval(drawn: Numbers, seeds: int) -> Interval:
    """The sample's own value (draw 0) and the 95 % percentile interval of the others; one seed: customers only, and `over` says so."""
    if np.isnan(drawn[0]):
        return {"mean": None, "low": None, "high": None, "over": None}
    low, high = np.nanpercentile(drawn[1:], [2.5, 97.5])
    return {"mean": float(drawn[0]), "low": float(low), "high": float(high), "over": "seeds and customers" if seeds > 1 else "customers"}


def bootstrap(values: Numbers, draws: int = DRAWS, seed: int = 0, statistic: Callable[..., Numbers] = mean_of) -> Interval:
    """values [S, C] (`bleu_of`: [S, C, 10]), NaN = unknown -> mean over seeds and customers with its interval; seeds and customers resampled, crossed."""
    return interval(statistic(values, *resample(*values.shape[:2], draws, seed)), len(values))


def paired(a: Numbers, b: Numbers, draws: int = DRAWS, seed: int = 0, statistic: Callable[..., Numbers] = mean_of) -> Interval:
    """a - b of two rows with the same seeds and customers: every draw takes the same ones of both."""
    if a.shape != b.shape:
        raise ValueError(f"paired rows need the same seeds and customers, got {a.shape[:2]} and {b.shape[:2]}")
    weights = resample(*a.shape[:2], draws, seed)
    return interval(statistic(a, *weights) - statistic(b, *weights), len(a))


def student(values: Sequence[float]) -> list[float] | None:
    """[low, high]: the 95 % interval of Student's t for the mean over seeds, one number each; None for one seed, which says nothing about others."""
    if len(values) < 2:
        return None
    half = student_t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / len(values) ** 0.5
    return [float(np.mean(values) - half), float(np.mean(values) + half)]


def of_each(rows: Sequence[Numbers], statistic: Callable[..., Numbers]) -> list[float]:
    """The statistic of every seed by itself."""
    return [float(statistic(v[None], np.ones((1, 1)), np.ones((1, len(v))))[0]) for v in rows]


class Measured:
    """Cells and differences of the rows of a folder, each computed once; None where there is nothing to compute from."""

    def __init__(self, evals: dict[str, dict[int, Eval]]):
        self.evals, self.cell, self.difference = evals, cache(self._cell), cache(self._difference)
        self.seeds = max(map(len, evals.values()))                       # of the row with the most

    def values(self, row: str, metric: str) -> dict[int, Numbers]:
        """seed -> numbers [C] (BLEU: [C, 10]), of the seeds where any is known."""
        found = {s: e.bleu if metric == "bleu" else e.metrics.get(metric) for s, e in self.evals.get(row, {}).items()}
        return {s: v for s, v in found.items() if v is not None and not np.isnan(v).all()}

    def _cell(self, row: str, metric: str) -> Interval | None:
        values, statistic = self.values(row, metric), bleu_of if metric == "bleu" else mean_of
        each = of_each(list(values.values()), statistic)
        return bootstrap(np.stack(list(values.values())), statistic=statistic) | {"seeds": each} if values else None

    def _difference(self, row: str, other: str, metric: str) -> Interval | None:
        """row - other, over the seeds that both have.  N_i: of the two means, each over the customers who completed."""
        a, b = self.values(row, metric), self.values(other, metric)
        both, statistic = [s for s in a if s in b], bleu_of if metric == "bleu" else mean_of
        if not both:
            return None
        each = np.subtract(*(of_each([v[s] for s in both], statistic) for v in (a, b))).tolist()
        return paired(*(np.stack([v[s] for s in both]) for v in (a, b)), statistic=statistic) | {"seeds": each, "t": student(each)}


# --- the tables -------------------------------------------------------------------------------------------------------------------

def hosted_rows(prefix: str, evals: dict[str, Any]) -> list[str]:
    """The rows of hosted models whose longest prefix is this one."""
    return sorted(r for r in evals if prefix and next((p for p in HOSTED if r.startswith(p)), None) == prefix)


def paper_row(table: Table, row: str, dataset: str) -> tuple[str | None, dict[str, float]]:
    """(the paper's row beside ours, its figures); a hosted model is found by its name, api_deepseek-r1 as DeepSeek-R1."""
    figures, plain = printed(table.number, dataset), lambda name: "".join(filter(str.isalnum, name.casefold()))
    wanted = table.rows[row] if row in table.rows else next((n for n in figures if plain(n) == plain(row.removeprefix(table.hosted))), None)
    return (wanted, figures[wanted]) if wanted in figures else (None, {})


def build_row(table: Table, row: str, dataset: str, columns: Sequence[dict], measured: Measured) -> dict[str, Any]:
    name, saw = ROWS.get(row) or (HOSTED[table.hosted][0].format(row.removeprefix(table.hosted)), HOSTED[table.hosted][1])
    beside, paper = paper_row(table, row, dataset)
    keys, ran = [c["key"] for c in columns], row in measured.evals
    cells = {k: measured.cell(row, k) for k in keys} if ran else None
    differences = {k: measured.difference(row, "gopo", k) for k in keys} if ran and row != "gopo" else None
    ears = [measured.cell(row, k) for k in ("tse", "tse_2nd_ear")]
    remarks = [beside and f"paper: {beside}", "" if ran else "not run",
               ran and len(measured.evals[row]) == 1 < measured.seeds and "one seed: intervals over customers only",
               ran and row != "gopo" and "gopo" in measured.evals and not set(measured.evals[row]) & set(measured.evals["gopo"]) and "no seed shared with GOPO",
               all(ears) and abs(ears[0]["mean"] - ears[1]["mean"]) > EAR_TOLERANCE and "FLAG: it may please one ear only"]
    return {"key": row, "name": name, "saw": saw, "note": "; ".join(filter(None, remarks)) or None, "cells": cells, "difference": differences,
            "paper": {k: paper[k] for k in keys if k in paper} or None}


def compare(rows: Sequence[dict[str, Any]], measured: Measured) -> tuple[list[dict[str, Any]], list[str]]:
    """(the pairs that the paper orders, the higher one `above`, and whether ours agrees; notes on pairs that share no seed)."""
    orders, notes = [], []
    for metric in ORDERED:
        ranked = sorted((r for r in rows if metric in (r["paper"] or {})), key=lambda r: -r["paper"][metric])
        for above, below in combinations(ranked, 2):
            if above["paper"][metric] == below["paper"][metric]:
                continue
            lead = measured.difference(above["key"], below["key"], metric)
            if lead is None and known(above, metric) and known(below, metric):
                notes.append(f"{above['name']} and {below['name']} share no seed: not compared in {metric}.")
                continue
            side = side_of_zero(lead) if lead else 0
            ours = None if side == 0 else side > 0
            orders.append({"metric": metric, "above": above["name"], "below": below["name"], "paper": True, "ours": ours})
    return orders, notes


def alone_in_paper(table: Table, rows: Sequence[dict[str, Any]], dataset: str) -> list[str]:
    """A note with the paper's rows that stand beside none of ours, so that its table is whole."""
    beside = {paper_row(table, r["key"], dataset)[0] for r in rows}
    left = {name: figures for name, figures in printed(table.number, dataset).items() if name not in beside}
    told = "; ".join(f"{name} {', '.join(f'{metric.upper()} {value:g}' for metric, value in figures.items())}" for name, figures in left.items())
    return [f"Rows of the paper without a counterpart here: {told}."] if told else []


def build_table(table: Table, dataset: str, measured: Measured, made: dict[str, Any]) -> dict[str, Any]:
    logs = not any(measured.values(row, "success") for row in measured.evals)        # a logged customer cannot be served to the end
    columns = [c | ({"name": c["name"].replace("TSE", "TSE-replay")} if logs else {}) for c in COLUMNS if table.number != 3 or c["key"] == "g_eval"]
    rows = [build_row(table, row, dataset, columns, measured) for row in [*table.rows, *hosted_rows(table.hosted, measured.evals)]]
    orders, unpaired = compare(rows, measured)
    one = ["One seed: intervals over customers only."] * (measured.seeds == 1)
    judge = made.get("judge") or "Scored by the rule judge, which is also the training reward; every row by the skills that the teacher would use"
    sizes = {name: made.get(name, "unknown") for name in ("model", "small_model")}
    notes = [*one, *(n.format(**sizes) for n in table.notes), *alone_in_paper(table, rows, dataset), *unpaired, *([SHARED] if table.number == 1 else []),
             f"* {judge}; the paper's GRE comes from another judge.",
             f"Intervals: 95 %, seeds and customers resampled together, {DRAWS} draws. Differences to GOPO: on the same draws, over the seeds that both have; "
             "t: Student's interval over the seeds' differences, wider where seeds are few. An order agrees or differs where both leave 0 out; where "
             "two rows share one seed, there is no t, and the customers of that seed decide."]
    return {"id": f"table{table.number}", "title": table.title, "columns": columns, "rows": rows, "orders": orders, "notes": notes}


def perception(dialogues: Sequence[dict[str, Any]]) -> str:
    """How often u_t and e_t were perceived as they were, in the teacher's dialogues that are kept to read: an Expert reads both, so both bound it."""
    turns = [t for d in dialogues if d["method"] == "teacher" for t in d["turns"] if t.get("perceived") and t.get("truth")]
    if not turns:
        return ""
    intent, emotion = (100 * np.mean([t["perceived"].get(kind) == t["truth"].get(kind) for t in turns]) for kind in ("intent", "emotion"))
    return (f"Perception named the intent rightly in {intent:.0f} % and the emotion in {emotion:.0f} % of the {len(turns)} turns with the teacher's skills "
            "that are kept to read.")


def build(folder: Path, dataset: str, made: dict[str, Any]) -> dict[str, Any]:
    """The content of results.json from <folder>/evals; `made`: what report.py says about how it was made, seeds and episodes are taken from the files.

    made["judge"]               who scored GRE and R^A, if not the rule judge
    made["model", "small_model"]  of Table 4"""
    measured = Measured(load_evals(folder))
    evals = measured.evals
    tables = [build_table(t, dataset, measured, made) for t in TABLES if not t.optional or hosted_rows(t.hosted, evals)]
    shown = {r["key"] for t in tables for r in t["rows"]}
    first = next(iter(next(iter(evals.values())).values()))
    note = ["" if made.get("train_on", dataset) == dataset else f"Trained on {made['train_on']}, tested on {dataset}.",
            "" if dataset not in DATASETS else "Compare orders with the paper, not values: other models and another judge" + (
                "." if dataset == "multiwoz" else f", and simulated customers, for the paper's {DATASETS[dataset]} is not public."),
            "" if hosted_rows("api_", evals) else "Tables 2 and 3, hosted models as both agents, are left out: no API was given.",
            perception(report.read_lines(folder / "dialogues.jsonl", report.DIALOGUE)),
            f"Evaluated, but in no table: {', '.join(sorted(set(evals) - shown))}." if set(evals) - shown else ""]
    return {"dataset": dataset, "note": " ".join(filter(None, note)), "tables": tables,
            "made": made | {"seeds": sorted({s for seeds in evals.values() for s in seeds}), "episodes": len(next(iter(first.metrics.values())))}}


# --- tables.md, tables.csv ----------------------------------------------------------------------------------------------------------

def markdown_row(row: dict[str, Any], columns: Sequence[dict]) -> list[str]:
    lead, *others = columns
    name = row["name"] + (f" ({row['note']})" if row["note"] else "")
    spread = [f"{figure(cell['mean'], lead['digits'], sign)} {brackets(cell, lead['digits'], sign)}" if cell else "—"
              for part, sign in (("cells", ""), ("difference", "+")) for cell in [known(row, lead["key"], part)]]
    spread.append(brackets(t_of(known(row, lead["key"], "difference")), lead["digits"], "+") or "—")
    means = [figure((known(row, c["key"]) or {}).get("mean"), c["digits"]) for c in others]
    return [name, *spread, figure((row["paper"] or {}).get(lead["key"]), lead["digits"] + (lead["key"] == "tse")), *means, ", ".join(row["saw"]) or "nothing"]


def markdown_table(table: dict[str, Any]) -> str:
    columns, view = table["columns"], report.view_table(table, 0)
    lead = columns[0]["name"]
    head = ["", f"{lead} [95 %]", f"{lead} − GOPO's", "t", f"{lead}, paper", *(c["name"] for c in columns[1:]), "saw in training"]
    lines = [head, ["---"] * len(head), *(markdown_row(r, columns) for r in table["rows"])]
    body = "\n".join("| " + " | ".join(cell.replace("|", "\\|").replace("*", "\\*") for cell in line) + " |" for line in lines)
    orders = "\n".join(f"- {v['metric']}: {o['above']} > {o['below']}: {v['word']}".replace("*", "\\*") for o, v in zip(table["orders"], view["orders"]))
    tally = f"The paper's orders ({view['tally']}):\n\n{orders}" if orders else "The paper orders no two of these rows here."
    return f"## {table['title']}\n\n{body}\n\n{tally}\n\n" + "\n\n".join(n.replace("*", "\\*") for n in table["notes"])


def markdown(results: dict[str, Any]) -> str:
    made = results["made"]
    head = f"# {results['dataset']}: {made['episodes']} test customers, training seeds {', '.join(map(str, made['seeds']))}\n\n{results['note']}"
    by = "Made by " + ", then ".join(f"`{c}`" for c in made.get("commands") or ["python tables.py"])
    head += f"\n\n{by}" + (f", {made['wall_seconds'] / 60:.0f} minutes in all." if "wall_seconds" in made else ".")
    return "\n\n".join([head, *map(markdown_table, results["tables"])]) + "\n"


def comma_separated(results: dict[str, Any]) -> str:
    """One line a table, row and metric, six significant digits, empty where nothing is known; `seeds` counts those of the mean."""
    out = io.StringIO()
    writer, digits = csv.writer(out, lineterminator="\n"), lambda x: "" if x is None else f"{x:.6g}"
    writer.writerow("table row metric mean low high difference diff_low diff_high seeds paper diff_t_low diff_t_high".split())
    for table in results["tables"]:
        for row in table["rows"]:
            for key in (c["key"] for c in table["columns"]):
                cell, delta = (known(row, key, part) or {} for part in ("cells", "difference"))
                numbers = [*(x.get(k) for x in (cell, delta) for k in ("mean", "low", "high")), len(cell.get("seeds", ())), (row["paper"] or {}).get(key)]
                writer.writerow([table["id"], row["key"], key, *map(digits, [*numbers, *map(t_of(delta).get, ("low", "high"))])])
    return out.getvalue()


# --- the folder ---------------------------------------------------------------------------------------------------------------------

def write(folder: str | Path, dataset: str | None = None, made: dict[str, Any] | None = None) -> Path:
    """All files of a results folder, each whole or not at all; the page's path.  What is not given stays what results.json says, else the folder's name."""
    folder = Path(folder)
    before = report.read_results(folder) if (folder / "results.json").is_file() else {}
    results = build(folder, dataset or before.get("dataset") or folder.resolve().name, before.get("made") or {} if made is None else made)
    curves = report.read_lines(folder / "curves.jsonl", report.CURVE)
    write_json(folder / "results.json", results)
    write_atomic(folder / "tables.md", markdown(results))
    write_atomic(folder / "tables.csv", comma_separated(results))
    names = {row: name for row, (name, _) in ROWS.items()}
    shown = {t["id"]: t for t in results["tables"]}
    figures.bars(shown.get("table2", shown["table1"]), REFERENCES, folder / "figure1.png", results["dataset"])
    figures.losses(curves, names, FIGURE3, folder / "figure3.png", results["dataset"])
    figures.hacking(curves, names, folder / "hacking.png", results["dataset"])
    return report.write(folder)


def difference_in_words(folder: Path, row: str, other: str) -> str:
    """row - other, a line for every column where both have numbers: the paired difference, Student's interval, and each seed's own."""
    measured = Measured(load_evals(folder))
    if unknown := {row, other} - set(measured.evals):
        raise DataError(f"--difference {sorted(unknown)[0]}: no such row in {folder}/evals; there are {', '.join(measured.evals)}")
    lines = []
    for key, name, digits in ((c["key"], c["name"], c["digits"]) for c in COLUMNS):
        if delta := measured.difference(row, other, key):
            over_seeds = brackets(t_of(delta), digits, "+")
            lines.append(f"{name:12} {figure(delta['mean'], digits, '+')} {brackets(delta, digits, '+')}" + (f"  t {over_seeds}" if over_seeds else "")
                         + f"  each seed {' '.join(figure(x, digits, '+') for x in delta['seeds'])}")
    return "\n".join([f"{row} - {other}, 95 % intervals", *lines])


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Tables, figures and page of a results folder, from its evals/ and curves.jsonl.", allow_abbrev=False)
    parser.add_argument("folder", nargs="?", type=Path, help="a folder written by eval.py --paper, e.g. results/mgshop")
    parser.add_argument("--difference", nargs=2, metavar=("ROW", "OTHER"),
                        help="write nothing, but print ROW - OTHER in every column, paired, by the names of evals/, e.g. ppo single_warm")
    args = parser.parse_args(argv)
    folder = args.folder
    try:
        if folder is None:
            raise DataError("name a results folder: python tables.py results/mgshop")
        if args.difference:
            print(difference_in_words(folder, *args.difference))
        else:
            print(f"written: results.json, tables.md, tables.csv, the figures and {write(folder)}")
    except (DataError, OSError) as error:
        print(f"tables.py: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
