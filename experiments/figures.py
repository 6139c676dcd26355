"""The figures of a results folder: Figure 1 (bars of Table 1), Figure 3 (losses and reward over training), and signs of reward hacking.

Drawn by tables.py from numbers that are there already; nothing is measured here.  A figure without data is removed, so that no old one stays.
Curves are running means over a tenth of a run (said in the figure): the mean over seeds, a band from the lowest to the highest seed."""
from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.report import NUMBER, figure, known

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F3C8D", "#555555")      # Okabe and Ito's, told apart by the colour-blind
PALE = ("#7B90A4", "#CBD3DA")                    # rows of Table 1 beside GOPO, and references
BARS = ("tse", "gre", "g_eval")
LOSSES = (("loss_expert", "loss of the Expert, Eq. 7"), ("loss", "loss of the Customer Service agent, Eq. 9a"), ("reward", "joint reward, Eq. 10"))
SIGNS = (("r_cs", "R^A"), ("tse", "TSE, what the customer got"), ("reply_words", "words a reply"), ("distinct_2", "distinct-2"),
         ("repeated", "share of repeated replies"), ("vouchers", "vouchers a dialogue"))


def canvas(rows: int, columns: int, size: tuple[float, float], **how: Any):
    import matplotlib
    matplotlib.use("Agg")
    from matplotlib import pyplot
    return pyplot.subplots(rows, columns, figsize=size, layout="constrained", squeeze=False, **how)


def save(drawn: Any, path: Path, caption: str) -> None:
    """Whole or not at all; the caption stands below."""
    from matplotlib import pyplot
    drawn.supxlabel(caption, fontsize=9, color="#444444")
    part = path.with_name(path.name + ".part")
    drawn.savefig(part, dpi=130, format="png")
    pyplot.close(drawn)
    os.replace(part, path)


def bar(axis: Any, at: int, row: dict[str, Any], key: str, digits: int, colour: str) -> None:
    """One row of a panel; its number stands at the right edge, where nothing hides it."""
    cell, paper = known(row, key), (row["paper"] or {}).get(key)
    text = figure(cell["mean"], digits) if cell else "—" if row["cells"] else "not run"
    axis.annotate(text, (1, at), (3, 0), xycoords=("axes fraction", "data"), textcoords="offset points", va="center", fontsize=8)
    if cell:
        axis.barh(at, cell["mean"], height=0.66, color=colour)
        axis.plot([cell["low"], cell["high"]], [at, at], color="black", linewidth=1.6)
    if paper is not None:
        axis.plot(paper, at, "o", markerfacecolor="white", markeredgecolor="black", markersize=6, clip_on=False)


def bars(table: dict[str, Any], references: Sequence[str], path: Path, dataset: str) -> None:
    """A bar a row with its interval, one panel a metric; the paper's figures as open circles, references pale.

    table  of results.json"""
    rows, metrics = table["rows"][::-1], [c for c in table["columns"] if c["key"] in BARS and any(known(r, c["key"]) for r in table["rows"])]
    if not metrics:
        return path.unlink(missing_ok=True)
    drawn, axes = canvas(1, len(metrics), (3.5 + 4 * len(metrics), 1.8 + 0.34 * len(rows)), sharey=True)
    for axis, column in zip(axes[0], metrics):
        for at, row in enumerate(rows):
            bar(axis, at, row, column["key"], column["digits"], COLOURS[0] if row["key"] == "gopo" else PALE[row["key"] in references])
        axis.set(title=column["name"], yticks=range(len(rows)), yticklabels=[r["name"] for r in rows], xlim=(0, None))
        axis.grid(axis="x", alpha=0.3)
        axis.set_axisbelow(True)
        axis.spines[["top", "right"]].set_visible(False)
    drawn.suptitle(f"{dataset}: {table['title']}")
    save(drawn, path, "Black lines: 95 % intervals; pale: references. Open circles: the paper's figures;\n"
                      "other models, judge and, of the shops, other customers: compare orders only. GRE*: the table says who judged.")


def smooth(values: Sequence[float]) -> list[float]:
    """Running means over a tenth of the run, centred; at the ends over what there is of it.

    >>> smooth([0, 3, 0, 0] + [0] * 26)[:4]
    [1.5, 1.0, 1.0, 0.0]
    """
    half = len(values) // 20
    return [float(np.mean(values[max(0, i - half):i + half + 1])) for i in range(len(values))]


def seeds_of(rows: Sequence[dict[str, Any]], method: str, key: str) -> tuple[np.ndarray, np.ndarray]:
    """(steps [T], smoothed values [S, T]); NaN where a seed has no such step."""
    lines: dict[int, dict[float, float]] = {}
    for r in sorted(rows, key=lambda r: r["step"]):
        if r["method"] == method and type(r.get(key)) in NUMBER:
            lines.setdefault(r["seed"], {})[r["step"]] = r[key]
    smoothed = [dict(zip(line, smooth(list(line.values())))) for line in lines.values()]
    steps = sorted({s for line in smoothed for s in line})
    return np.array(steps), np.array([[line.get(s, np.nan) for s in steps] for line in smoothed])


def panels(rows: Sequence[dict[str, Any]], names: dict[str, str], kinds: Sequence[tuple[str, str]], path: Path, title: str, only: Sequence[str] = (),
           caption: str = "") -> None:
    """Small multiples of what kinds of numbers there are, a colour a method (the same in every figure); `only` some methods: a thin line a seed too."""
    present = {r["method"] for r in rows}
    order = [*(["gopo"] if "gopo" in present else []), *(m for m in names if m in present and m != "gopo"), *sorted(present - set(names))]
    kinds = [(k, n) for k, n in kinds if any(type(r.get(k)) in NUMBER for r in rows if r["method"] in (only or order))]
    if not kinds:
        return path.unlink(missing_ok=True)
    columns = 2 if len(kinds) == 4 else min(3, len(kinds))
    height = -(-len(kinds) // columns)
    drawn, axes = canvas(height, columns, (4.6 * columns, 3.4 * height + 1.2))
    for axis in axes.flat[len(kinds):]:
        axis.set_visible(False)
    for axis, (key, name) in zip(axes.flat, kinds):
        for n, method in enumerate(order):
            steps, values = seeds_of(rows, method, key)
            if not len(steps) or (only and method not in only):
                continue
            style = {"color": COLOURS[n % len(COLOURS)], "linestyle": ("-", "--", ":")[n // len(COLOURS) % 3]}
            axis.plot(steps, np.nanmean(values, 0), label=names.get(method, method), linewidth=2, **style)
            if len(values) > 1:
                axis.fill_between(steps, np.nanmin(values, 0), np.nanmax(values, 0), color=style["color"], alpha=0.1, linewidth=0)
            for line in values if only and len(values) > 1 else ():
                axis.plot(steps, line, alpha=0.35, linewidth=0.6, **style)
        axis.set_title(name, fontsize=10)
        axis.set_xlabel("training step", fontsize=9)
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
    handles = {label: handle for axis in axes.flat for handle, label in zip(*axis.get_legend_handles_labels())}
    columns = 2 if max(map(len, handles)) > 40 else min(4, len(handles))
    drawn.legend(handles.values(), handles.keys(), loc="outside upper center", ncols=columns, fontsize=9, frameon=False, title=title)
    seeds = sorted({r["seed"] for r in rows})
    bands = "Thick: mean over seeds; band: lowest to highest seed" + "; thin: each seed" * bool(only)
    save(drawn, path, f"{caption or 'Training dialogues'}; running means over a tenth of the run.\n{bands if len(seeds) > 1 else f'One seed, {seeds[0]}'}")


def sizes(found: Sequence[dict[str, Any]], path: Path, title: str) -> None:
    """TSE before and after the joint steps against the size of the warm start; sizes at even distances, for the first is 0."""
    drawn, axes = canvas(1, 1, (7, 4.2))
    axis, places = axes[0, 0], range(len(found))
    for (key, name), colour, shift in zip((("before", "before the joint steps"), ("after", "after them (GOPO)")), COLOURS, (-0.04, 0.04)):
        means, lows, highs = ([r[key][k] for r in found] for k in ("mean", "low", "high"))
        spread = [[m - low for m, low in zip(means, lows)], [high - m for m, high in zip(means, highs)]]
        axis.errorbar([x + shift for x in places], means, spread, color=colour, label=name, marker="o", capsize=3, linewidth=2)
    axis.set_xticks(list(places), [str(r["dialogues"]) for r in found])
    axis.set(xlabel="dialogues that the warm start read", ylabel="TSE", ylim=(0, None), title=title)
    axis.grid(alpha=0.3)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False)
    seeds = len(found[0]["before"]["seeds"]) if found else 0
    save(drawn, path, f"Mean and 95 % interval over {f'{seeds} seeds and the customers' if seeds > 1 else 'the customers of one seed'}.\n"
                      "The same for all sizes: the LM's pretraining, and the choice of its best state on dev")


def losses(rows: Sequence[dict[str, Any]], names: dict[str, str], variants: Sequence[str], path: Path, dataset: str) -> None:
    """As the paper's Figure 3: losses of both agents and the reward, per variant of GOPO."""
    panels(rows, names, LOSSES, path, f"{dataset}: GOPO over training (Figure 3)", variants)


def hacking(rows: Sequence[dict[str, Any]], names: dict[str, str], path: Path, dataset: str) -> None:
    """What the judge pays beside what the customer got, and how replies change meanwhile: R^A that rises alone is a bad sign."""
    panels(rows, names, SIGNS, path, f"{dataset}: does a policy please the judge only?",
           caption="Training dialogues; R^A as it is paid: by the skills chosen, for agents that choose none by the teacher's")
