"""The figures of a results folder: Figure 1, Figure 3, and signs of reward hacking.

Figure 1 is the bars of Table 1.  Figure 3 is losses and reward over training.  All are drawn by
tables.py and studies.py from numbers that are there already; nothing is measured here.  A figure
without data is removed, so that no old one stays.  Curves are running means over a tenth of a run,
as the figure says: the mean over seeds, with a band from the lowest to the highest seed."""
from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.cells import figure, known
from experiments.reading import NUMBER
from infra.curves import as_text
from infra.files import whole

# Okabe and Ito's colours, which the colour-blind can tell apart, and two more
COLOURS = (
    "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F3C8D", "#555555",
)
DASHES = ("-", "--", ":")
# rows of Table 1 that are not GOPO, and references
PALE = ("#7B90A4", "#CBD3DA")
BARS = ("tse", "gre", "g_eval")
LOSSES = (
    ("loss_expert", "loss of the Expert, Eq. 7"),
    ("loss", "loss of the Customer Service agent, Eq. 9a"),
    ("reward", "joint reward, Eq. 10"),
)
SIGNS = (
    ("r_cs", "R^A"),
    ("tse", "TSE, what the customer got"),
    ("reply_words", "words a reply"),
    ("distinct_2", "distinct-2"),
    ("repeated", "share of repeated replies"),
    ("vouchers", "vouchers a dialogue"),
)
BARS_CAPTION = (
    "Black lines: 95 % intervals; pale: references. Open circles: the paper's figures;\n"
    "other models, judge and, of the shops, other customers: compare orders only. "
    "GRE*: the table says who judged."
)
SIZES_CAPTION = (
    "The same for all sizes: the LM's pretraining, and the choice of its best state on dev"
)
HACKING_CAPTION = (
    "Training dialogues; R^A as it is paid: by the skills chosen, "
    "for agents that choose none by the teacher's"
)


def canvas(rows: int, columns: int, size: tuple[float, float], **how: Any):
    # imported here: it takes a second, and the backend has to be chosen before pyplot is imported
    import matplotlib
    matplotlib.use("Agg")
    from matplotlib import pyplot
    return pyplot.subplots(
        rows, columns, figsize=size, layout="constrained", squeeze=False, **how
    )


def save(drawn: Any, path: Path, caption: str) -> None:
    """Whole or not at all; the caption stands below."""
    from matplotlib import pyplot
    drawn.supxlabel(caption, fontsize=9, color="#444444")
    as_text(drawn)
    with whole(path) as part:
        drawn.savefig(part, dpi=130, format="png")
    pyplot.close(drawn)


def open_frame(axis: Any) -> None:
    """No line at the top and at the right."""
    axis.spines[["top", "right"]].set_visible(False)


# --- bars -------------------------------------------------------------------------------------

def number_of(row: dict[str, Any], cell: dict[str, Any] | None, digits: int) -> str:
    if cell:
        return figure(cell["mean"], digits)
    return "—" if row["cells"] else "not run"


def bar(axis: Any, at: int, row: dict[str, Any], column: dict[str, Any], colour: str) -> None:
    """One row of a panel; its number stands at the right edge, where nothing hides it."""
    key = column["key"]
    cell = known(row, key)
    axis.annotate(
        number_of(row, cell, column["digits"]),
        (1, at),
        (3, 0),
        xycoords=("axes fraction", "data"),
        textcoords="offset points",
        va="center",
        fontsize=8,
    )
    if cell:
        axis.barh(at, cell["mean"], height=0.66, color=colour)
        axis.plot([cell["low"], cell["high"]], [at, at], color="black", linewidth=1.6)
    of_paper = (row["paper"] or {}).get(key)
    if of_paper is not None:
        circle = {"markerfacecolor": "white", "markeredgecolor": "black", "markersize": 6}
        axis.plot(of_paper, at, "o", clip_on=False, **circle)


def colour_of_bar(key: str, references: Sequence[str]) -> str:
    if key == "gopo":
        return COLOURS[0]
    return PALE[key in references]


def metrics_with_bars(table: dict[str, Any]) -> list[dict[str, Any]]:
    """The columns of BARS in which any row has a number."""
    found = []
    for column in table["columns"]:
        key = column["key"]
        if key in BARS and any(known(row, key) for row in table["rows"]):
            found.append(column)
    return found


def bars(table: dict[str, Any], references: Sequence[str], path: Path, dataset: str) -> None:
    """A bar a row with its interval, one panel a metric.

    The paper's figures are open circles, references are pale.

    table  of results.json
    """
    rows = table["rows"][::-1]
    metrics = metrics_with_bars(table)
    if not metrics:
        return path.unlink(missing_ok=True)
    size = (3.5 + 4 * len(metrics), 1.8 + 0.34 * len(rows))
    drawn, axes = canvas(1, len(metrics), size, sharey=True)
    names = [row["name"] for row in rows]
    for axis, column in zip(axes[0], metrics):
        for at, row in enumerate(rows):
            bar(axis, at, row, column, colour_of_bar(row["key"], references))
        axis.set(title=column["name"], xlim=(0, None))
        axis.set(yticks=range(len(rows)), yticklabels=names)
        axis.grid(axis="x", alpha=0.3)
        axis.set_axisbelow(True)
        open_frame(axis)
    drawn.suptitle(f"{dataset}: {table['title']}")
    save(drawn, path, BARS_CAPTION)


# --- curves -----------------------------------------------------------------------------------

def smooth(values: Sequence[float]) -> list[float]:
    """Running means over a tenth of the run, centred; at the ends over what there is of it.

    >>> smooth([0, 3, 0, 0] + [0] * 26)[:4]
    [1.5, 1.0, 1.0, 0.0]
    """
    half = len(values) // 20
    means = []
    for i in range(len(values)):
        window = values[max(0, i - half) : i + half + 1]
        means.append(float(np.mean(window)))
    return means


def seeds_of(
    rows: Sequence[dict[str, Any]], method: str, key: str
) -> tuple[np.ndarray, np.ndarray]:
    """(steps [T], smoothed values [S, T]); NaN where a seed has no such step."""
    lines: dict[int, dict[float, float]] = {}
    for row in sorted(rows, key=lambda row: row["step"]):
        if row["method"] == method and type(row.get(key)) in NUMBER:
            lines.setdefault(row["seed"], {})[row["step"]] = row[key]
    smoothed = []
    for line in lines.values():
        smoothed.append(dict(zip(line, smooth(list(line.values())))))
    steps = sorted(set().union(*smoothed))
    values = []
    for line in smoothed:
        values.append([line.get(step, np.nan) for step in steps])
    return np.array(steps), np.array(values)


def order_of_methods(rows: Sequence[dict[str, Any]], names: dict[str, str]) -> list[str]:
    """GOPO first, then those that have a name, then the others: the same colours everywhere."""
    present = {row["method"] for row in rows}
    named = [method for method in names if method in present and method != "gopo"]
    first = ["gopo"] if "gopo" in present else []
    return [*first, *named, *sorted(present - set(names))]


def kinds_present(
    rows: Sequence[dict[str, Any]], kinds: Sequence[tuple[str, str]], methods: Sequence[str]
) -> list[tuple[str, str]]:
    """The kinds of numbers that these methods have."""
    shown = [row for row in rows if row["method"] in methods]
    found = []
    for key, name in kinds:
        if any(type(row.get(key)) in NUMBER for row in shown):
            found.append((key, name))
    return found


def style_of(place: int) -> dict[str, str]:
    """Colour and dashes of the method at this place."""
    colour = COLOURS[place % len(COLOURS)]
    dashes = DASHES[place // len(COLOURS) % len(DASHES)]
    return {"color": colour, "linestyle": dashes}


def curve(
    axis: Any, steps: np.ndarray, values: np.ndarray, place: int, label: str, each_seed: bool
) -> None:
    """The mean over seeds, with a band and, if asked for, a thin line of each seed."""
    style = style_of(place)
    axis.plot(steps, np.nanmean(values, 0), label=label, linewidth=2, **style)
    if len(values) < 2:
        return
    low, high = np.nanmin(values, 0), np.nanmax(values, 0)
    axis.fill_between(steps, low, high, color=style["color"], alpha=0.1, linewidth=0)
    if each_seed:
        for line in values:
            axis.plot(steps, line, alpha=0.35, linewidth=0.6, **style)


def grid_for(panels: int) -> tuple[Any, list[Any]]:
    """A figure with so many panels: two columns for four, else at most three."""
    columns = 2 if panels == 4 else min(3, panels)
    height = -(-panels // columns)
    drawn, axes = canvas(height, columns, (4.6 * columns, 3.4 * height + 1.2))
    flat = list(axes.flat)
    for axis in flat[panels:]:
        axis.set_visible(False)
    return drawn, flat


def legend(drawn: Any, axes: Sequence[Any], title: str) -> None:
    """One legend for all panels, above them."""
    handles = {}
    for axis in axes:
        for handle, label in zip(*axis.get_legend_handles_labels()):
            handles[label] = handle
    columns = 2 if max(map(len, handles)) > 40 else min(4, len(handles))
    drawn.legend(
        handles.values(),
        handles.keys(),
        loc="outside upper center",
        ncols=columns,
        fontsize=9,
        frameon=False,
        title=title,
    )


def caption_of(rows: Sequence[dict[str, Any]], caption: str, each_seed: bool) -> str:
    seeds = sorted({row["seed"] for row in rows})
    if len(seeds) > 1:
        spread = "Thick: mean over seeds; band: lowest to highest seed"
        spread += "; thin: each seed" if each_seed else ""
    else:
        spread = f"One seed, {seeds[0]}"
    return f"{caption}; running means over a tenth of the run.\n{spread}"


def panels(
    rows: Sequence[dict[str, Any]],
    names: dict[str, str],
    kinds: Sequence[tuple[str, str]],
    path: Path,
    title: str,
    only: Sequence[str] = (),
    caption: str = "Training dialogues",
) -> None:
    """Small multiples, one for each kind of number that there is, a colour a method.

    only  these methods alone, with a thin line for each seed; their colours stay the same
    """
    order = order_of_methods(rows, names)
    kinds = kinds_present(rows, kinds, only or order)
    if not kinds:
        return path.unlink(missing_ok=True)
    drawn, axes = grid_for(len(kinds))
    for axis, (key, name) in zip(axes, kinds):
        for place, method in enumerate(order):
            if only and method not in only:
                continue
            steps, values = seeds_of(rows, method, key)
            if len(steps):
                curve(axis, steps, values, place, names.get(method, method), bool(only))
        axis.set_title(name, fontsize=10)
        axis.set_xlabel("training step", fontsize=9)
        axis.grid(alpha=0.3)
        open_frame(axis)
    legend(drawn, axes, title)
    save(drawn, path, caption_of(rows, caption, bool(only)))


def losses(
    rows: Sequence[dict[str, Any]],
    names: dict[str, str],
    variants: Sequence[str],
    path: Path,
    dataset: str,
) -> None:
    """As the paper's Figure 3: losses of both agents and the reward, per variant of GOPO."""
    panels(rows, names, LOSSES, path, f"{dataset}: GOPO over training (Figure 3)", variants)


def hacking(
    rows: Sequence[dict[str, Any]], names: dict[str, str], path: Path, dataset: str
) -> None:
    """What the judge pays, what the customer got, and how replies change in the meantime.

    R^A that rises alone is a bad sign."""
    title = f"{dataset}: does a policy please the judge only?"
    panels(rows, names, SIGNS, path, title, caption=HACKING_CAPTION)


# --- sizes of the warm start ------------------------------------------------------------------

def with_bars(
    axis: Any, at: Sequence[float], cells: Sequence[dict], name: str, colour: str
) -> None:
    """Means with their intervals, joined by a line."""
    means = [cell["mean"] for cell in cells]
    below = [cell["mean"] - cell["low"] for cell in cells]
    above = [cell["high"] - cell["mean"] for cell in cells]
    style = {"marker": "o", "capsize": 3, "linewidth": 2}
    axis.errorbar(at, means, [below, above], color=colour, label=name, **style)


def sizes(found: Sequence[dict[str, Any]], path: Path, title: str) -> None:
    """TSE before and after the joint steps against the size of the warm start.

    The sizes stand at even distances, because the first is 0."""
    drawn, axes = canvas(1, 1, (7, 4.2))
    axis = axes[0, 0]
    places = list(range(len(found)))
    lines = (
        ("before", "before the joint steps", COLOURS[0], -0.08),
        ("after", "after them, the Expert learning (GOPO)", COLOURS[1], 0.0),
        ("fixed", "after them, the Expert fixed", COLOURS[2], 0.08),
    )
    for key, name, colour, shift in lines:
        at = [x + shift for x in places if found[x][key]]
        cells = [row[key] for row in found if row[key]]
        if cells:
            with_bars(axis, at, cells, name, colour)
    axis.set_xticks(places, [str(r["dialogues"]) for r in found])
    axis.set(xlabel="dialogues that the warm start read", ylabel="TSE", title=title)
    axis.set(ylim=(0, None))
    axis.grid(alpha=0.3)
    open_frame(axis)
    axis.legend(frameon=False)
    seeds = len(found[0]["before"]["seeds"]) if found else 0
    over = f"{seeds} seeds and the customers" if seeds > 1 else "the customers of one seed"
    save(drawn, path, f"Mean and 95 % interval over {over}.\n{SIZES_CAPTION}")
