"""Held-out dialogues -> numbers -> rows.

`METRICS` is the one table of metrics.  The training rows of metrics.jsonl, the evaluation of held-out dialogues and the printed tables
all read it.  A metric takes the values it finds in one dialogue; a dialogue's number is their mean, a training row's number is the mean of
the values of all dialogues.
Every row of an evaluation meets the same customers and decodes in the same way: the most probable skills and tokens.  Every reply is
judged by what the turn needed, the teacher's skills: an agent that chooses nothing would otherwise have nothing to get wrong.
Rewards are not made here; they stand in the steps (gopo.py)."""
from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from sacrebleu.metrics import BLEU
from tqdm import tqdm

import data
from data import DataError, Dataset, Episode, Form, Step, base, begin, slots
from gopo import Gopo, load_gopo
from hosted.agents import HostedAgent, HostedExpert
from hosted.judge import hosted_model
from infra.client import ApiConfig, Client
from infra.domain import read_domain
from infra.files import read_json
from infra.processes import all_mean
from judge import Judge
from lm.constraints import violations
from lm.models import BUILT
from policies import Choose, by_chance, by_teacher, keyed, with_true_perception, writes_itself
from rewards import DIMENSIONS, dialogue_return, expert_weight
from tse import (
    Turns,
    bleu,
    bleu_tokenizer,
    distinct_2,
    g_eval,
    gre,
    interval,
    repeated,
    replay_turns,
    skill_f1,
    tse,
)

Row = dict[str, dict[str, float | None]]         # metric -> {mean, low, high}
Numbers = dict[str, float | None]                # metric -> the number of one dialogue
FORMS = ("gre", "g_eval")                        # what a judge may fill in beside Eq. 8


# --- one dialogue -> the values of a metric -----------------------------------------------------

def completed(gopo: Gopo, episode: Episode) -> Turns:
    """(N_1, N_2, N_3): from the simulated customer; on logs by TSE-replay, from the policy's own skills (and slots, if it speaks)."""
    if gopo.dataset.environment:
        return episode.seen.outcome.completed
    return replay_turns([_covered(gopo, step) for step in episode.steps])


def _covered(gopo: Gopo, step: Step) -> set[int]:
    """The tasks that a logged turn covers: those of the teacher's skills that the policy chose itself and whose facts it states."""
    spoken = writes_itself(gopo.speaker)
    said = {base(slot) for slot in slots(step.reply)}
    available = {base(slot) for slot in step.seen.context}
    tasks = set()
    for name in step.skills:
        skill = gopo.dataset.skills[name]
        if name not in (step.teacher or ()) or not skill.task:
            continue
        known = set(skill.needs) & available
        if not spoken or not known or known & said:
            tasks.add(skill.task)
    return tasks


def has_tasks(gopo: Gopo) -> bool:
    return any(skill.task for skill in gopo.dataset.skills.values())


def _tse(gopo: Gopo, episode: Episode) -> list[float]:
    if not has_tasks(gopo):
        return []
    return [tse(completed(gopo, episode), gamma=gopo.cfg.tse_gamma)]


def _done(task: int) -> Callable[[Gopo, Episode], list]:
    def values(gopo: Gopo, episode: Episode) -> list[float]:
        return [float(completed(gopo, episode)[task] is not None)] if has_tasks(gopo) else []

    return values


def _turn_done(task: int) -> Callable[[Gopo, Episode], list]:
    def values(gopo: Gopo, episode: Episode) -> list[int]:
        return present([completed(gopo, episode)[task]]) if has_tasks(gopo) else []

    return values


def present(values: Sequence[Any]) -> list[Any]:
    """The values that are not None."""
    return [value for value in values if value is not None]


def _labelled(gopo: Gopo, episode: Episode) -> list[Step]:
    """The turns whose skills can be compared with the teacher's.  A single agent chose none."""
    if gopo.cfg.no_expert:
        return []
    return [step for step in episode.steps if step.teacher is not None]


def _success(gopo: Gopo, episode: Episode) -> list[float]:
    return [float(episode.seen.outcome.success)] if gopo.dataset.environment else []


def _r_cs(gopo: Gopo, episode: Episode) -> list[float]:
    return [r for step in episode.steps for r in present(step.R_A)]


def _w_expert(gopo: Gopo, episode: Episode) -> list[float]:
    turns = range(1, len(episode.steps) + 1)
    return [expert_weight(turn, gopo.dataset.horizon) for turn in turns]


def _return(gopo: Gopo, episode: Episode) -> list[float]:
    if not gopo.dataset.environment:
        return []
    rewards = [step.R_t for step in episode.steps]
    success = episode.seen.outcome.success
    return [dialogue_return(rewards, gopo.dataset.horizon, gopo.gamma, success)]


def _reply_words(gopo: Gopo, episode: Episode) -> list[float]:
    return [float(len(r.text.split())) for step in episode.steps for r in step.replies]


def _unscored(gopo: Gopo, episode: Episode) -> list[float]:
    return [float(s is None) for step in episode.steps for s in step.scores]


def _violations(gopo: Gopo, episode: Episode) -> list[float]:
    found = [violations(step.reply, step.prepared.constraints) for step in episode.steps]
    return [float(sum(map(len, found)))]


def _score(i: int) -> Callable[[Gopo, Episode], list[float]]:
    def values(gopo: Gopo, episode: Episode) -> list[float]:
        return [s[i] for step in episode.steps for s in present(step.scores)]

    return values


def _spread(i: int) -> Callable[[Gopo, Episode], list[float]]:
    def values(gopo: Gopo, episode: Episode) -> list[float]:
        if gopo.group == 1:
            return []
        scored = [present(step.scores) for step in episode.steps]
        return [np.std([s[i] for s in group]) for group in scored if group]

    return values


class Metric(NamedTuple):
    """One metric: how it is named, printed and found."""
    key: str                                     # in metrics.jsonl, results.json and --json
    name: str                                    # in tables
    digits: int
    better: str                                  # "high", "low", or "": neither
    help: str
    how: Callable[[Gopo, Episode], list]         # the values that one dialogue holds


def _metrics() -> tuple[Metric, ...]:
    table = [
        Metric("tse", "TSE", 3, "high", "Task-focused Sequential Engagement, Eq. 11: which tasks were done, and how soon", _tse),
        Metric("success", "success", 2, "high", "share of customers for whom everything was done", _success),
        Metric("turns", "turns", 1, "", "length of a dialogue", lambda g, e: [len(e.steps)]),
        Metric("reward", "R_t", 3, "high", "joint reward of a turn, Eq. 10", lambda g, e: [s.R_t for s in e.steps]),
        Metric("r_expert", "R^E", 3, "high", "reward of the Expert, Eq. 6", lambda g, e: present([s.R_E for s in e.steps])),
        Metric("r_cs", "R^A*", 3, "high", "reward of the Customer Service Agent, Eq. 8", _r_cs),
        Metric("w_expert", "w^E", 2, "", "weight of R^E in Eq. 10", _w_expert),
        Metric("esndcg", "ESNDCG", 3, "high", "Eq. 5: the skills against the teacher's list of the turn", lambda g, e: [s.esndcg for s in _labelled(g, e)]),
        Metric("f1", "F1", 3, "high", "skills as sets against the teacher's", lambda g, e: [skill_f1(s.skills, s.teacher) for s in _labelled(g, e)]),
        Metric("exact", "exact", 2, "high", "share of turns with exactly the teacher's list", lambda g, e: [float(s.skills == s.teacher) for s in _labelled(g, e)]),
        Metric("length", "len", 1, "", "skills chosen per turn", lambda g, e: [float(len(s.skills)) for s in e.steps]),
        Metric("reply_words", "words", 1, "", "words per reply", _reply_words),
        Metric("distinct_2", "distinct-2", 3, "high", "different word pairs over all word pairs of a dialogue's replies", lambda g, e: present([distinct_2(e.replies)])),
        Metric("repeated", "repeated", 3, "low", "share of replies that stood word for word before", lambda g, e: [repeated(e.replies)]),
        Metric("vouchers", "vouch.", 2, "", "vouchers per dialogue", lambda g, e: present([e.seen.outcome.vouchers])),
        Metric("unscored", "unscored", 3, "low", "share of replies that the judge could not score", _unscored),
        Metric("gre", "GRE*", 2, "high", "politeness, product appropriateness, guidance: mean, 0-10", lambda g, e: present([gre([s.gre for s in e.steps])])),
        Metric("g_eval", "G-Eval*", 2, "high", "coherence, completeness, emotion: mean, 1-5; needs an LLM judge", lambda g, e: present([g_eval([s.g_eval for s in e.steps])])),
        Metric("return", "return", 2, "high", "Eq. 1 with its absorbing end", _return),
        Metric("mood", "mood", 2, "high", "of the simulated customer at the end, 0-1", lambda g, e: present([e.seen.outcome.mood])),
        Metric("violations", "viol.", 2, "low", "broken constraints per dialogue", _violations),
    ]
    for i in range(3):
        table.append(Metric(f"I_{i + 1}", f"I{i + 1}", 2, "high", f"share of dialogues with task {i + 1} of Eq. 11 done", _done(i)))
        table.append(Metric(f"N_{i + 1}", f"N{i + 1}", 1, "low", f"turn in which task {i + 1} was done", _turn_done(i)))
    for i, name in enumerate(DIMENSIONS):
        table.append(Metric(f"S_{name}", f"S {name}", 3, "high", f"score {i + 1} of Eq. 8", _score(i)))
        table.append(Metric(f"std_{name}", f"std {name}", 3, "", f"spread of score {i + 1} among the replies to a state", _spread(i)))
    return tuple(table)


METRICS = {metric.key: metric for metric in _metrics()}

TRAINING = (
    "tse", "success", "turns", "reward", "r_expert", "r_cs", "w_expert", "esndcg", "f1", "exact", "length",
    "reply_words", "distinct_2", "repeated", "vouchers", "unscored",
    *(f"{kind}_{name}" for name in DIMENSIONS for kind in ("S", "std")),
)
HELD_OUT = (
    "tse", "I_1", "I_2", "I_3", "N_1", "N_2", "N_3", "turns", "success", "gre", "g_eval", "unscored", "esndcg",
    "f1", "exact", "length", "r_cs", "return", "mood", "vouchers", "reply_words", "distinct_2", "repeated",
    "violations",
)


def summary(gopo: Gopo, played: Sequence[Episode]) -> dict[str, float | None]:
    """What a training step's dialogues were like, those of all processes: columns of metrics.jsonl."""
    row = {}
    for key in TRAINING:
        found = [METRICS[key].how(gopo, episode) for episode in played]
        row[key] = all_mean([value for values in found for value in values])
    if not gopo.dataset.environment:
        row["tse"] = None                        # a log goes on whatever was replied
    return row


def training_row(
    number: int, gopo: Gopo, played: Sequence[Episode], learned: dict[str, float | None]
) -> dict[str, float | None]:
    """A row of metrics.jsonl.  Supervised steps play nothing and have only what they learned."""
    if type(gopo).plays:
        return {"step": number} | summary(gopo, played) | learned
    return {"step": number} | learned


def dialogue_metrics(gopo: Gopo, episode: Episode) -> Numbers:
    """One dialogue as numbers; None where the data does not say."""
    return {key: _number(METRICS[key].how(gopo, episode)) for key in HELD_OUT}


def _number(values: list) -> float | None:
    if len(values) < 2:
        return values[0] if values else None
    return float(np.mean(values))


# --- BLEU: of a corpus, not of a dialogue -------------------------------------------------------

def _pairs(episode: Episode) -> list[tuple[str, str]]:
    """(reply, reference) of every turn that has a reference."""
    pairs = [(step.reply, step.seen.labels.reference) for step in episode.steps]
    return [(reply, reference) for reply, reference in pairs if reference]


def bleu_interval(episodes: Sequence[Episode], draws: int = 1000) -> dict[str, float | None]:
    """Corpus BLEU on text with slots, and sacrebleu's own bootstrap interval (over replies; it counts n-grams once, so it is quick)."""
    pairs = [pair for episode in episodes for pair in _pairs(episode)]
    if not any(reply for reply, _ in pairs):
        return {"mean": None, "low": None, "high": None}
    replies, references = map(list, zip(*pairs))
    metric = BLEU(tokenize=bleu_tokenizer(references))
    drawn = metric.corpus_score(replies, [references], n_bootstrap=draws)
    return {
        "mean": bleu(replies, references),
        "low": (drawn._mean - drawn._ci) / 100,
        "high": (drawn._mean + drawn._ci) / 100,
    }


def bleu_statistics(episodes: Sequence[Episode]) -> list[list[int]] | None:
    """What BLEU is made of, summed over each dialogue's replies.

    returns  per dialogue [reply words, reference words, n-grams right (n = 1..4), n-grams (n = 1..4)]; None without references
    """
    by_dialogue = [_pairs(episode) for episode in episodes]
    references = [reference for pairs in by_dialogue for _, reference in pairs]
    if not references:
        return None
    metric = BLEU(tokenize=bleu_tokenizer(references))
    return [_statistics(metric, pairs) for pairs in by_dialogue]


def _statistics(metric: BLEU, pairs: Sequence[tuple[str, str]]) -> list[int]:
    if not pairs:
        return [0] * 10
    replies, references = zip(*pairs)
    counted = metric._extract_corpus_statistics(list(replies), [list(references)])
    return np.sum(counted, 0).astype(int).tolist()


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
) -> tuple[Row, list[Episode]]:
    """Plays `episodes` held-out dialogues and returns each metric with its interval.  `forms`: what the judge fills in beside Eq. 8."""
    numbers, played = measure(gopo, choose, episodes, seed, split, label, second_ear, forms)
    row = {}
    for key in numbers[0]:
        row[key] = interval([n[key] for n in numbers], seed)
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
) -> tuple[list[Numbers], list[Episode]]:
    """The same, dialogue by dialogue.  With the second ear also `tse_2nd_ear`, for which the same customers are played again."""
    dataset = gopo.dataset
    if not dataset.environment:
        episodes = min(episodes, len(getattr(dataset, split)))
    played = _play(gopo, choose, begin(dataset.play, split, range(episodes), seed), seed, "needed", label)
    for form in forms:
        _fill_in(gopo.judge, form, played)
    numbers = [dialogue_metrics(gopo, episode) for episode in played]
    if second_ear and dataset.cross_check:
        customers = begin(dataset.cross_check, split, range(episodes), seed)
        heard = _play(gopo, choose, customers, seed, "nobody", f"{label}, second ear")
        for row, episode in zip(numbers, heard):
            row["tse_2nd_ear"] = _number(_tse(gopo, episode))
    return numbers, played


def _play(gopo, choose, customers, seed, judge_by, label) -> list[Episode]:
    """Plays `customers`, so many in lockstep as memory allows, with the most probable tokens."""
    size = at_once(gopo, len(customers))
    with tqdm(total=len(customers), desc=f"evaluating {label}", unit="dialogue", leave=False) as bar:
        for first in range(0, len(customers), size):
            part = customers[first:first + size]
            gopo.play(
                part, choose, temperature=0.0, draws=keyed(seed), judge_by=judge_by, progress=bar.update)
    return customers


def at_once(gopo: Gopo, dialogues: int) -> int:
    """Dialogues in lockstep: with a large model no more replies than a training step writes, for that is what lm/memory.py counts."""
    if not gopo.agent or gopo.agent.lm.model in BUILT:
        return dialogues
    return max(1, gopo.size * gopo.agent.cfg.group)


def _fill_in(judge: Judge, form: str, played: Sequence[Episode]) -> None:
    """A form (gre, g_eval) for every judged reply, all at once: a hosted judge answers many at a time.  Rules know no G-Eval."""
    if not hasattr(judge, form):
        return
    steps = [s for episode in played for s in episode.steps if s.scores[0] is not None or form == "g_eval"]
    answers: list[Form | None] = getattr(judge, form)([s.judged for s in steps])
    for step, answer in zip(steps, answers):
        setattr(step, form, answer)


# --- the rows of a run --------------------------------------------------------------------------

class RowSpec(NamedTuple):
    """How a row of a run is made: which weights play, and who chooses the skills."""
    expert: str = "expert.safetensors"
    agent: str = "csagent"
    chooser: str = "policy"


CHOOSERS: Mapping[str, Callable[[Gopo], Choose]] = {
    "policy": lambda gopo: gopo.chooser(greedy=True),
    "true_perception": lambda gopo: with_true_perception(gopo.chooser(greedy=True)),
    "teacher": lambda gopo: by_teacher,
    "random": lambda gopo: by_chance(list(gopo.dataset.skills), 0),
}


def rows_of(run: Path, dataset: Dataset) -> dict[str, RowSpec]:
    """Row name -> how it is made, for every row that this run can show."""
    config = read_json(run / "config.json")
    speaks = config["run"]["replies"] == "lm"
    single = config["gopo"]["no_expert"]
    rows = {"untrained": RowSpec("untrained.safetensors", "untrained")}
    if speaks:
        rows["warm_start"] = RowSpec("untrained.safetensors", "warm_start")
    if speaks and not single and (run / "strategy.safetensors").exists():
        rows["strategy"] = RowSpec("strategy.safetensors", "warm_start")
    rows[trained_row(config)] = RowSpec()
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
    run: Path, dataset: Dataset, judge: Judge, expert: str | None, cs_agent: str | None, api: ApiConfig
) -> tuple[Gopo, Choose]:
    """Hosted models in the place of one agent of the run, or of both (Tables 2, 3, 6, 7).  Constraints are soft there."""
    speaker = None
    if cs_agent:
        client = Client(hosted_model(cs_agent, "--cs_agent", "nothing"), api)
        speaker = HostedAgent(client, dataset)
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
) -> dict[str, Row]:
    """The rows of a run, or `only` some of them, and always the rows in `more`.

    more  row name -> what makes it; measured first, for another server may refuse
    look  is called after each row with its name, its agents and the dialogues played
    """
    specs = rows_of(run, dataset)
    chosen = {name: spec for name, spec in specs.items() if not only or name in only}
    checked = (trained_row(read_json(run / "config.json")), "teacher")           # rows for the second ear
    table: dict[str, Row] = {}

    def row(name: str, gopo: Gopo, choose: Choose) -> None:
        table[name], played = evaluate(
            gopo, choose, episodes, seed, label=name, second_ear=name in checked)
        if look:
            look(name, gopo, choose, played)

    for name, make in more.items():
        row(name, *make())
    for (expert, agent), names in by_weights(chosen).items():
        gopo = None                              # the weights before go first: two large models would not fit
        gopo = load_gopo(run, dataset, expert, agent, judge)
        for name in names:
            row(name, gopo, CHOOSERS[chosen[name].chooser](gopo))
    return {name: table[name] for name in [*more, *chosen]}


def by_weights(rows: Mapping[str, RowSpec]) -> dict[tuple[str, str], list[str]]:
    """Rows grouped by the weights that they need, so that each pair of weights is loaded once."""
    groups: dict[tuple[str, str], list[str]] = {}
    for name, spec in rows.items():
        groups.setdefault((spec.expert, spec.agent), []).append(name)
    return groups


def data_of(run: Path, name: str | None, data_dir: str | None) -> Dataset:
    """The dataset of the run, or another with the same skills and labels: transfer."""
    config = read_json(run / "config.json")
    if not name or name == config["run"]["dataset"]:
        return data.load_used(config["run"], data_dir)
    other = data.load(name, data_dir or config["run"]["data_dir"])
    refuse_other_labels(read_domain(run / "dataset.json"), other)
    return other


def refuse_other_labels(trained: Dataset, tested: Dataset) -> None:
    """A policy can be tested in another shop only if it knows the same skills, intents and emotions."""
    for kind in ("skills", "intents", "emotions"):
        if list(getattr(trained, kind)) != list(getattr(tested, kind)):
            raise DataError(
                f"--dataset {tested.name}: its {kind} are not those of {trained.name}, which was trained on")
