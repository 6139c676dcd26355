"""curves.png of a run: what training logged at each step, and what the evaluations found."""
from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from infra.files import whole

Rows = Sequence[Mapping[str, Any]]

# title of a panel -> the columns of metrics.jsonl and evals.jsonl drawn in it
PANELS = {
    "what the dialogues earn": ("reward", "r_expert", "r_cs"),
    "TSE and skills": ("tse", "esndcg", "f1", "success"),
    "losses (Fig. 3)": ("loss_expert", "loss_critic", "loss", "L_p", "L_s"),
    "entropy, nats": ("entropy_expert", "entropy", "entropy_decision"),
    "lengths": ("turns", "length"),
    "judge's scores": ("S_quality", "S_fitness", "S_compliance", "S_diversity"),
    "vouchers: their rate V and price lambda": ("voucher_rate", "lambda"),
    "the customer's own mark, 1 to 5": ("satisfaction",),
}
LEGEND = ("lines: training dialogues, running mean; "
          "dots: held-out customers, greedy, r_cs by the teacher's skills")


def plot_curves(rows: Rows, evaluations: Rows, path: Path, title: str) -> None:
    """Writes the picture: training as thin lines with a running mean, held-out customers as dots.

    rows         of metrics.jsonl: one a step
    evaluations  of evals.jsonl: one every --eval_every steps
    """
    # imported here: it takes a second that `--help` should not cost
    import matplotlib
    matplotlib.use("Agg")
    from matplotlib import pyplot
    panels = logged(rows)
    columns = max(1, math.ceil(len(panels) / 2))
    figure, axes = pyplot.subplots(2, columns, figsize=(5 * columns, 7.5), squeeze=False)
    # margins in inches: a layout that measures all texts would double the time
    width, height = figure.get_size_inches()
    figure.subplots_adjust(
        left=0.5 / width, right=1 - 0.15 / width, top=1 - 0.75 / height, bottom=0.5 / height,
        wspace=0.17, hspace=0.3)
    for axis, (name, keys) in zip(axes.flat, panels.items()):
        for key in keys:
            _draw(axis, key, rows, evaluations)
        axis.set(title=name, xlabel="step")
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)
    for axis in axes.flat[len(panels):]:
        axis.remove()
    figure.suptitle(f"{title}   ({LEGEND})")
    as_text(figure)
    with whole(path) as part:
        figure.savefig(part, dpi=110, format="png")
    pyplot.close(figure)


def logged(rows: Rows) -> dict[str, tuple[str, ...]]:
    """The panels for which training logged something, and of each the columns that it logged.

    >>> logged([{"step": 1, "turns": 4.0, "length": None, "loss": None}])
    {'lengths': ('turns',)}
    """
    found = {}
    for name, keys in PANELS.items():
        there = tuple(key for key in keys if points(rows, key)[1])
        if there:
            found[name] = there
    return found


def _draw(axis: Any, key: str, rows: Rows, evaluations: Rows) -> None:
    """One column in one panel."""
    steps, values = points(rows, key)
    line, = axis.plot(steps, running_mean(values), label=key)
    axis.plot(steps, values, color=line.get_color(), alpha=0.2, linewidth=0.8)
    steps, values = points(evaluations, key)
    if values:
        axis.plot(steps, values, "o", color=line.get_color(), markersize=4)


def as_text(figure: Any) -> None:
    """No name in the figure is read as a formula: a file's may hold a $, or two."""
    from matplotlib.text import Text
    for text in figure.findobj(Text):
        text.set_parse_math(False)


def points(rows: Rows, key: str) -> tuple[list[int], list[float]]:
    """Steps and values of one column; a row that lacks it, or has None there, is left out.

    >>> points([{"step": 1, "tse": 0.5}, {"step": 2, "tse": None}, {"step": 3}], "tse")
    ([1], [0.5])
    """
    kept = [row for row in rows if row.get(key) is not None]
    steps = [row["step"] for row in kept]
    values = [row[key] for row in kept]
    return steps, values


def running_mean(values: Sequence[float]) -> list[float]:
    """The mean of each value and the twentieth of the values (at least one) before it.

    >>> running_mean([1.0, 2.0, 4.0])
    [1.0, 1.5, 3.0]
    """
    window = max(1, len(values) // 20)
    means = []
    for i in range(len(values)):
        near = values[max(0, i - window):i + 1]
        means.append(sum(near) / len(near))
    return means
