"""Held-out dialogues -> numbers -> rows.

A *row* is one way to play held-out dialogues: which weights, and who chooses the skills.  All rows
of an evaluation meet the same customers and decode in the same way: the most probable skills and
tokens.  Every reply is judged by what the turn needed, the teacher's skills: an agent that chooses
nothing would otherwise have nothing to get wrong.
The metrics are in metrics.py; rewards are not made here but read from the steps (play.py)."""
from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from sacrebleu.metrics import BLEU

import data
from data import Dataset, Episode, Form, Step, begin
from gopo import Gopo, algorithm_of, load_gopo
from hosted.agents import HostedAgent, HostedExpert
from hosted.enforced import enforced_by
from infra.api import hosted_model
from infra.client import ApiConfig, Client
from infra.domain import as_trained
from infra.locks import refuse_growing
from infra.progress import bar
from infra.runs import read_config
from judge import Judge
from lm.config import BUILT
from metrics import (
    HELD_OUT,
    METRICS,
    TRAINING,
    Metric,
    Numbers,
    completed,
    dialogue_metrics,
    has_tasks,
    interval_of,
    number_of,
    present,
    summary,
    training_row,
)
from perception import reading
from policies import Choose, Silence, by_chance, by_teacher, keyed, with_true_perception
from tse import OVER_TRIALS, bleu, bleu_counts, bleu_tokenizer, of_trials

__all__ = [
    "CHOOSERS", "FORMS", "HELD_OUT", "METRICS", "TRAINING", "Metric", "Numbers", "Row", "RowSpec",
    "at_once", "bleu_interval", "bleu_statistics", "by_weights", "completed", "data_of",
    "dialogue_metrics", "evaluate", "evaluate_run", "has_tasks", "hosted_gopo", "measure",
    "present", "rows_of", "serve_again", "summary", "trained_row",
    "training_row",
]

Row = dict[str, dict[str, float | None]]         # metric -> {mean, low, high}
FORMS = ("gre", "g_eval")                        # what a judge may fill in, apart from Eq. 8


# --- BLEU: of a corpus, not of a dialogue -------------------------------------------------------

def _pairs(episode: Episode) -> list[tuple[str, str]]:
    """(reply, reference) of every turn that has a reference."""
    pairs = [(step.reply, step.seen.labels.reference) for step in episode.steps]
    return [(reply, reference) for reply, reference in pairs if reference]


def bleu_interval(episodes: Sequence[Episode], draws: int = 1000) -> dict[str, float | None]:
    """Corpus BLEU on text with slots, with sacrebleu's own bootstrap interval.

    The bootstrap is over replies.  It is quick, since n-grams are counted only once.  One dialogue
    has no interval.
    """
    pairs = []
    for episode in episodes:
        pairs += _pairs(episode)
    if not any(reply for reply, _ in pairs):
        return {"mean": None, "low": None, "high": None}
    replies, references = map(list, zip(*pairs))
    if len(episodes) < 2:
        return {"mean": bleu(replies, references), "low": None, "high": None}
    metric = BLEU(tokenize=bleu_tokenizer(references))
    drawn = metric.corpus_score(replies, [references], n_bootstrap=draws)
    return {
        "mean": drawn.score / 100,
        "low": (drawn._mean - drawn._ci) / 100,
        "high": (drawn._mean + drawn._ci) / 100,
    }


def bleu_statistics(episodes: Sequence[Episode]) -> list[list[int]] | None:
    """What BLEU is made of, summed over the replies of each dialogue.

    returns  per dialogue [reply words, reference words, right n-grams for n = 1..4, all n-grams for
             n = 1..4]; None without references
    """
    by_dialogue = [_pairs(episode) for episode in episodes]
    references = []
    for pairs in by_dialogue:
        references += [reference for _, reference in pairs]
    if not references:
        return None
    metric = BLEU(tokenize=bleu_tokenizer(references))
    return [bleu_counts(metric, pairs) for pairs in by_dialogue]


# --- held-out dialogues -------------------------------------------------------------------------

def evaluate(
    gopo: Gopo,
    choose: Choose,
    episodes: int,
    seed: int,
    split: str = "test",
    label: str = "",
    second_ear: bool = False,
    with_bleu: bool = True,
    forms: Sequence[str] = FORMS,
    temperature: float | None = 0.0,
) -> tuple[Row, list[Episode]]:
    """Plays held-out dialogues and returns each metric with its interval, and what was played.

    episodes    how many; of logs, at most as many as there are
    label       shown by the progress bar
    second_ear  adds `tse_2nd_ear`, for which the same customers are played again
    forms       what the judge fills in, apart from Eq. 8
    temperature  of the words; 0 = the most probable token, None = as in training
    """
    numbers, played = measure(
        gopo, choose, episodes, seed, split, label, second_ear, forms, temperature)
    row = {}
    for key in numbers[0]:
        row[key] = interval_of(key, [n[key] for n in numbers], seed)
    if with_bleu:
        row["bleu"] = bleu_interval(played)
    return row, played


def measure(
    gopo: Gopo,
    choose: Choose,
    episodes: int,
    seed: int,
    split: str = "test",
    label: str = "",
    second_ear: bool = False,
    forms: Sequence[str] = FORMS,
    temperature: float | None = 0.0,
) -> tuple[list[Numbers], list[Episode]]:
    """As `evaluate`, but returns the numbers of each dialogue."""
    dataset = gopo.dataset
    if not dataset.environment:
        episodes = min(episodes, len(getattr(dataset, split)))
    customers = begin(dataset.play, split, range(episodes), seed)
    played = _play(
        gopo, choose, customers, seed, judge_by="needed", label=label, temperature=temperature)
    for form in forms:
        if not isinstance(gopo.speaker, Silence):        # nothing was said
            _fill_in(gopo.judge, form, played)
    numbers = [dialogue_metrics(gopo, episode) for episode in played]
    if second_ear and dataset.cross_check:
        customers = begin(dataset.cross_check, split, range(episodes), seed)
        label = f"{label}, second ear"
        heard = _play(
            gopo, choose, customers, seed, judge_by="nobody", label=label, temperature=temperature)
        for row, episode in zip(numbers, heard):
            row["tse_2nd_ear"] = number_of("tse", gopo, episode)
    return numbers, played


def _play(
    gopo: Gopo, choose: Choose, customers: list[Episode], seed: int, *, judge_by: str, label: str,
    temperature: float | None = 0.0,
) -> list[Episode]:
    """Plays `customers`, as many in lockstep as memory allows.

    temperature  0: the most probable tokens; None: as in training
    """
    size = at_once(gopo, len(customers))
    draws = keyed(seed)
    played = bar(f"evaluating {label}", len(customers), unit="dialogue", leave=False)
    with played, reading(gopo.expert):           # every text is read once
        for first in range(0, len(customers), size):
            part = customers[first:first + size]
            gopo.play(
                part, choose, temperature=temperature, draws=draws, judge_by=judge_by,
                progress=played.update)
    return customers


# --- the same customers again and again ---------------------------------------------------------

def serve_again(
    gopo: Gopo,
    chooser: Callable[[Gopo, int], Choose],
    episodes: int,
    seed: int,
    trials: int,
    label: str = "",
) -> list[list[Numbers]]:
    """The numbers of each trial, of each customer: success and those of OVER_TRIALS.

    In each trial every test customer comes anew, with the same wishes and the same luck.
    """
    gained = []
    for trial in range(trials):
        own = 1_000 * (seed + 1) + trial
        customers = begin(gopo.dataset.play, "test", range(episodes), seed)
        said = f"{label}, trial {trial + 1} of {trials}"
        played = _play(
            gopo, chooser(gopo, own), customers, own, judge_by="nobody", label=said,
            temperature=None)
        gained.append([_trial(gopo, episode) for episode in played])
    return gained


def _trial(gopo: Gopo, episode: Episode) -> Numbers:
    return {key: number_of(key, gopo, episode) for key in ("success", *OVER_TRIALS)}


def at_once(gopo: Gopo, dialogues: int) -> int:
    """How many dialogues are played in lockstep.

    A large model writes no more replies at once than in a training step: lm/memory.py counts those.
    """
    if not gopo.agent or gopo.agent.lm.model in BUILT:
        return dialogues
    return max(1, gopo.size * gopo.agent.cfg.group)


def _fill_in(judge: Judge, form: str, played: Sequence[Episode]) -> None:
    """Fills in a form (gre, g_eval) for all replies at once: a hosted judge answers in parallel.

    Rules know no G-Eval.
    """
    if not hasattr(judge, form):
        return
    steps: list[Step] = []
    for episode in played:
        steps += episode.steps
    fill_in = getattr(judge, form)
    answers: list[Form | None] = fill_in([step.judged for step in steps])
    for step, answer in zip(steps, answers):
        setattr(step, form, answer)


# --- the rows of a run --------------------------------------------------------------------------

class RowSpec(NamedTuple):
    """How a row of a run is made: which weights play, and who chooses the skills."""
    expert: str = "expert.safetensors"
    agent: str = "csagent"
    chooser: str = "policy"


def _policy(gopo: Gopo, seed: int) -> Choose:
    return gopo.chooser(greedy=True)


def _sampled_policy(gopo: Gopo, seed: int) -> Choose:
    return gopo.chooser(keyed(seed))


def _informed_policy(gopo: Gopo, seed: int) -> Choose:
    return with_true_perception(_policy(gopo, seed))


def _teacher(gopo: Gopo, seed: int) -> Choose:
    return by_teacher


def _chance(gopo: Gopo, seed: int) -> Choose:
    return by_chance(list(gopo.dataset.skills), seed)


# the seed is that of what is drawn
CHOOSERS: Mapping[str, Callable[[Gopo, int], Choose]] = {
    "policy": _policy,
    "sampled": _sampled_policy,
    "true_perception": _informed_policy,
    "teacher": _teacher,
    "random": _chance,
}


def rows_of(run: Path, dataset: Dataset) -> dict[str, RowSpec]:
    """Row name -> how it is made, for every row that this run can show."""
    config = read_config(run)
    speaks = config["run"]["replies"] == "lm"
    single = config["gopo"]["no_expert"]
    rows = {"untrained": RowSpec("untrained.safetensors", "untrained")}
    if speaks:
        rows["warm_start"] = RowSpec("untrained.safetensors", "warm_start")
    if speaks and not single and (run / "strategy.safetensors").exists():
        rows["strategy"] = RowSpec("strategy.safetensors", "warm_start")
    rows[trained_row(config)] = RowSpec()
    if algorithm_of(config)[0].samples:
        rows[f"{trained_row(config)}_sampled"] = RowSpec(chooser="sampled")
    if single:
        return rows
    if dataset.environment:
        rows["true_perception"] = RowSpec(chooser="true_perception")
    rows["teacher"] = RowSpec(chooser="teacher")
    rows["random"] = RowSpec(chooser="random")
    if speaks:
        rows["untrained_lm_teacher"] = RowSpec(agent="untrained", chooser="teacher")
    return rows


def trained_row(config: dict) -> str:
    """The name of the row of the trained agents: the algorithm."""
    return config["run"].get("algo", "gopo")


def hosted_gopo(
    run: Path,
    dataset: Dataset,
    judge: Judge,
    expert: str | None,
    cs_agent: str | None,
    api: ApiConfig,
    constraints: str = "soft",
) -> tuple[Gopo, Choose]:
    """Hosted models in place of one agent of the run, or of both (Tables 2, 3, 6, 7).

    constraints  "hard": enforced by the server of the --cs_agent, as far as it does that; "soft":
                 only asked for, as in the paper's tables
    """
    speaker = None
    if cs_agent:
        client = Client(hosted_model(cs_agent, "--cs_agent", "nothing"), api)
        way = enforced_by(client) if constraints == "hard" else None
        speaker = HostedAgent(client, dataset, enforced=way)
    gopo = load_gopo(run, dataset, judge=judge, speaker=speaker)
    if not expert:
        return gopo, gopo.chooser(greedy=True)
    client = Client(hosted_model(expert, "--expert", "nothing"), api)
    return gopo, HostedExpert(client, dataset, gopo.expert.perception)


def evaluate_run(
    run: Path,
    dataset: Dataset,
    episodes: int,
    seed: int,
    judge: Judge,
    only: Sequence[str] = (),
    more: Mapping[str, Callable[[], tuple[Gopo, Choose]]] = MappingProxyType({}),
    look: Callable[[str, Gopo, Choose, list[Episode]], None] | None = None,
    trials: int = 0,
) -> dict[str, Row]:
    """The rows of a run, or `only` some of them, and always the rows in `more`.

    more    row name -> what makes it; measured first, since a server may refuse
    look    is called after each row with its name, its agents and the dialogues played
    trials  also adds tse.of_trials to the run's own rows
    """
    specs = rows_of(run, dataset)
    chosen = {name: spec for name, spec in specs.items() if not only or name in only}
    # The rows that the second ear hears as well.
    checked = (trained_row(read_config(run)), "teacher")
    table: dict[str, Row] = {}

    def row(name: str, gopo: Gopo, choose: Choose, temperature: float | None = 0.0) -> None:
        table[name], played = evaluate(
            gopo, choose, episodes, seed, label=name, second_ear=name in checked,
            temperature=temperature)
        if look:
            look(name, gopo, choose, played)

    for name, make in more.items():
        row(name, *make())
    for (expert, agent), names in by_weights(chosen).items():
        # The last weights are freed first: two large models would not fit.
        gopo = None
        gopo = load_gopo(run, dataset, expert, agent, judge)
        for name in names:
            chooser = CHOOSERS[chosen[name].chooser]
            temperature = 0.0
            if chosen[name].chooser == "sampled" and gopo.cfg.no_expert:
                temperature = None               # an agent that decides in words is drawn with them
            row(name, gopo, chooser(gopo, 0), temperature)
            if trials:
                gained = serve_again(gopo, chooser, episodes, seed, trials, name)
                table[name] |= of_trials(gained, seed)
    return {name: table[name] for name in [*more, *chosen]}


def by_weights(rows: Mapping[str, RowSpec]) -> dict[tuple[str, str], list[str]]:
    """Rows grouped by the weights that they need, so that each pair of weights is loaded once."""
    groups: dict[tuple[str, str], list[str]] = {}
    for name, spec in rows.items():
        groups.setdefault((spec.expert, spec.agent), []).append(name)
    return groups


def data_of(run: Path, name: str | None, data_dir: str | None) -> Dataset:
    """The dataset of the run, or another with the same skills and labels: transfer."""
    config = read_config(run)
    path = Path(name or config["run"]["dataset"])
    if path.name.endswith(".jsonl"):
        refuse_growing(path)
    if not name or name == config["run"]["dataset"]:
        return as_trained(data.load_used(config["run"], data_dir), run)
    other = data.load(name, data_dir or config["run"]["data_dir"])
    return as_trained(other, run)
