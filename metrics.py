"""The metrics: one table, `METRICS`, and the small functions that find their values in a dialogue.

The training rows of metrics.jsonl, the evaluation of held-out dialogues and the printed tables all
read this table.  A metric finds a list of values in one dialogue, such as one for each turn.  The
dialogue's number is the mean of its values; a training row's number is the mean of the values of
all its dialogues.  A value that the data does not give is left out, and no values make None.
Nothing here makes a reward: rewards are read from the steps, where play.py has put them.
Try it:  python metrics.py        the table: key, name, which way is better, meaning
Exercise: add the share of replies that end in a question, and find it in metrics.jsonl."""
from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from data import DECISION, Episode, Step, base, slots
from gopo import Gopo
from infra.processes import all_mean
from lm.constraints import violations
from policies import writes_itself
from rewards import DIMENSIONS, dialogue_return, expert_weight
from tse import (
    Turns,
    distinct_2,
    g_eval,
    gre,
    interval,
    repeated,
    replay_turns,
    skill_f1,
    tse,
    wilson,
)

Numbers = dict[str, float | None]                # metric -> the number of one dialogue
How = Callable[[Gopo, Episode], list]            # the values that one dialogue holds


class Metric(NamedTuple):
    """One metric: how it is named, printed and found."""
    key: str                                     # in metrics.jsonl, results.json and --json
    name: str                                    # in tables
    digits: int
    better: str                                  # "high", "low", or "": neither
    help: str
    how: How


# --- from a function of one turn to the values of a dialogue ------------------------------------

def present(values: Sequence[Any]) -> list[Any]:
    """The values that are not None."""
    return [value for value in values if value is not None]


def per_turn(value_of: Callable[[Step], float | None]) -> How:
    """One value for each turn."""
    def values(gopo: Gopo, episode: Episode) -> list:
        return present([value_of(step) for step in episode.steps])

    return values


def per_labelled_turn(value_of: Callable[[Step], float]) -> How:
    """One value for each turn whose skills can be compared with the teacher's.

    A single agent chooses no skills and has no such turns.
    """
    def values(gopo: Gopo, episode: Episode) -> list:
        if gopo.cfg.no_expert:
            return []
        return [value_of(step) for step in episode.steps if step.teacher is not None]

    return values


def per_reply(values_of: Callable[[Step], Sequence[float | None]]) -> How:
    """One value for each reply of every group."""
    def values(gopo: Gopo, episode: Episode) -> list:
        found = []
        for step in episode.steps:
            found += present(values_of(step))
        return found

    return values


# --- the tasks of Eq. 11 ------------------------------------------------------------------------

def has_tasks(gopo: Gopo) -> bool:
    return any(skill.task for skill in gopo.dataset.skills.values())


def completed(gopo: Gopo, episode: Episode) -> Turns:
    """(N_1, N_2, N_3), the turns in which the tasks were done.

    The simulated customer knows them.  On logs they are those of TSE-replay, from the skills that
    the policy chose and, if a model writes the replies, from the slots in them.
    """
    if gopo.dataset.environment:
        return episode.seen.outcome.completed
    covered = [_covered(gopo, step) for step in episode.steps]
    return replay_turns(covered)


def _covered(gopo: Gopo, step: Step) -> set[int]:
    """The tasks that a logged turn covers.

    They are the tasks of those skills of the teacher that the policy chose as well, and of whose
    known facts the reply states at least one.
    """
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


def _tse(gopo: Gopo, episode: Episode) -> list[float]:
    if not has_tasks(gopo):
        return []
    return [tse(completed(gopo, episode), gamma=gopo.cfg.tse_gamma)]


def _task_done(task: int) -> How:
    """I of a task, 1 to 3."""
    def values(gopo: Gopo, episode: Episode) -> list[float]:
        if not has_tasks(gopo):
            return []
        turn = completed(gopo, episode)[task - 1]
        return [float(turn is not None)]

    return values


def _task_turn(task: int) -> How:
    """N of a task, 1 to 3; no value if it was never done."""
    def values(gopo: Gopo, episode: Episode) -> list[int]:
        if not has_tasks(gopo):
            return []
        return present([completed(gopo, episode)[task - 1]])

    return values


# --- the dialogue as a whole --------------------------------------------------------------------

def _success(gopo: Gopo, episode: Episode) -> list[float]:
    if not gopo.dataset.environment:
        return []
    return [float(episode.seen.outcome.success)]


def _turns(gopo: Gopo, episode: Episode) -> list[int]:
    return [len(episode.steps)]


def _vouchers(gopo: Gopo, episode: Episode) -> list[int]:
    return present([episode.seen.outcome.vouchers])


def _voucher_rate(gopo: Gopo, episode: Episode) -> list[float]:
    issued = present([episode.seen.outcome.vouchers])
    if DECISION not in gopo.dataset.skills:
        return []
    return [float(count > 0) for count in issued]


def _mood(gopo: Gopo, episode: Episode) -> list[float]:
    return present([episode.seen.outcome.mood])


def _satisfaction(gopo: Gopo, episode: Episode) -> list[int]:
    return present([episode.seen.outcome.satisfaction])


def _violations(gopo: Gopo, episode: Episode) -> list[float]:
    found = [len(violations(step.reply, step.prepared.constraints)) for step in episode.steps]
    return [float(sum(found))]


def _return(gopo: Gopo, episode: Episode) -> list[float]:
    if not gopo.dataset.environment:
        return []
    rewards = [step.R_t for step in episode.steps]
    success = episode.seen.outcome.success
    return [dialogue_return(rewards, gopo.dataset.horizon, gopo.gamma, success)]


def _distinct_2(gopo: Gopo, episode: Episode) -> list[float]:
    return present([distinct_2(episode.replies)])


def _repeated(gopo: Gopo, episode: Episode) -> list[float]:
    return [repeated(episode.replies)]


def _gre(gopo: Gopo, episode: Episode) -> list[float]:
    return present([gre([step.gre for step in episode.steps])])


def _g_eval(gopo: Gopo, episode: Episode) -> list[float]:
    return present([g_eval([step.g_eval for step in episode.steps])])


# --- its turns: rewards and skills --------------------------------------------------------------

def _joint_reward(step: Step) -> float:
    return step.R_t


def _expert_reward(step: Step) -> float | None:
    return step.R_E


def _expert_weight(gopo: Gopo, episode: Episode) -> list[float]:
    turns = range(1, len(episode.steps) + 1)
    return [expert_weight(turn, gopo.dataset.horizon) for turn in turns]


def _esndcg(step: Step) -> float:
    return step.esndcg


def _f1(step: Step) -> float:
    return skill_f1(step.skills, step.teacher)


def _exact(step: Step) -> float:
    return float(step.skills == step.teacher)


def _skill_count(step: Step) -> float:
    return float(len(step.skills))


# --- its replies --------------------------------------------------------------------------------

def _cs_rewards(step: Step) -> list[float | None]:
    return step.R_A


def _word_counts(step: Step) -> list[float]:
    return [float(len(reply.text.split())) for reply in step.replies]


def _unscored(step: Step) -> list[float]:
    return [float(scores is None) for scores in step.scores]


def _score(i: int) -> How:
    """Score `i` of every reply that the judge could score; 0 is S_1."""
    def scores_of(step: Step) -> list[float]:
        return [scores[i] for scores in present(step.scores)]

    return per_reply(scores_of)


def _score_spread(i: int) -> How:
    """The standard deviation of score `i` in each group of replies."""
    def spread(step: Step) -> float | None:
        scored = present(step.scores)
        if not scored:
            return None
        return np.std([scores[i] for scores in scored])

    def values(gopo: Gopo, episode: Episode) -> list[float]:
        if gopo.group == 1:
            return []
        return per_turn(spread)(gopo, episode)

    return values


# --- the table ----------------------------------------------------------------------------------

def _score_metrics() -> list[Metric]:
    """Mean and spread of each of the scores S_1..S_4."""
    metrics = []
    for i, name in enumerate(DIMENSIONS):
        mean = f"score {i + 1} of Eq. 8"
        spread = f"spread of score {i + 1} among the replies to a state"
        metrics.append(Metric(f"S_{name}", f"S {name}", 3, "high", mean, _score(i)))
        metrics.append(Metric(f"std_{name}", f"std {name}", 3, "", spread, _score_spread(i)))
    return metrics


SCORE_METRICS = _score_metrics()

# key, name in tables, digits, which way is better; what it is, and how it is found
TABLE = (
    Metric("tse", "TSE", 3, "high",
           "Task-focused Sequential Engagement, Eq. 11: which tasks were done, and how soon", _tse),
    Metric("success", "success", 2, "high",
           "share of customers for whom everything was done", _success),
    Metric("turns", "turns", 1, "",
           "length of a dialogue", _turns),
    Metric("reward", "R_t", 3, "high",
           "joint reward of a turn, Eq. 10", per_turn(_joint_reward)),
    Metric("r_expert", "R^E", 3, "high",
           "reward of the Expert, Eq. 6", per_turn(_expert_reward)),
    Metric("r_cs", "R^A*", 3, "high",
           "reward of the Customer Service Agent, Eq. 8", per_reply(_cs_rewards)),
    Metric("w_expert", "w^E", 2, "",
           "weight of R^E in Eq. 10", _expert_weight),
    Metric("esndcg", "ESNDCG", 3, "high",
           "Eq. 5: the skills against the teacher's list of the turn", per_labelled_turn(_esndcg)),
    Metric("f1", "F1", 3, "high",
           "skills as sets against the teacher's", per_labelled_turn(_f1)),
    Metric("exact", "exact", 2, "high",
           "share of turns with exactly the teacher's list", per_labelled_turn(_exact)),
    Metric("length", "len", 1, "",
           "skills chosen per turn", per_turn(_skill_count)),
    Metric("reply_words", "words", 1, "",
           "words per reply", per_reply(_word_counts)),
    Metric("distinct_2", "distinct-2", 3, "high",
           "different word pairs over all word pairs of a dialogue's replies", _distinct_2),
    Metric("repeated", "repeated", 3, "low",
           "share of replies that stood word for word before", _repeated),
    Metric("vouchers", "vouch.", 2, "",
           "vouchers per dialogue", _vouchers),
    Metric("unscored", "unscored", 3, "low",
           "share of replies that the judge could not score", per_reply(_unscored)),
    Metric("gre", "GRE*", 2, "high",
           "politeness, product appropriateness, guidance: mean, 0-10", _gre),
    Metric("g_eval", "G-Eval*", 2, "high",
           "coherence, completeness, emotion: mean, 1-5; needs an LLM judge", _g_eval),
    Metric("return", "return", 2, "high",
           "Eq. 1 with its absorbing end", _return),
    Metric("voucher_rate", "V", 3, "",
           "share of dialogues with a voucher, where a shop issues them", _voucher_rate),
    Metric("mood", "mood", 2, "high",
           "of the simulated customer at the end, 0-1", _mood),
    Metric("satisfaction", "Sat", 2, "high",
           "the simulated customer's own mark at the end, 1-5", _satisfaction),
    Metric("violations", "viol.", 2, "low",
           "broken constraints per dialogue", _violations),
    Metric("I_1", "I1", 2, "high", "share of dialogues with task 1 of Eq. 11 done", _task_done(1)),
    Metric("N_1", "N1", 1, "low", "turn in which task 1 was done", _task_turn(1)),
    Metric("I_2", "I2", 2, "high", "share of dialogues with task 2 of Eq. 11 done", _task_done(2)),
    Metric("N_2", "N2", 1, "low", "turn in which task 2 was done", _task_turn(2)),
    Metric("I_3", "I3", 2, "high", "share of dialogues with task 3 of Eq. 11 done", _task_done(3)),
    Metric("N_3", "N3", 1, "low", "turn in which task 3 was done", _task_turn(3)),
    *SCORE_METRICS,
)

METRICS = {metric.key: metric for metric in TABLE}

# the columns of metrics.jsonl
TRAINING = (
    "tse", "success", "turns", "reward", "r_expert", "r_cs", "w_expert", "esndcg", "f1", "exact",
    "length", "reply_words", "distinct_2", "repeated", "vouchers",
    "satisfaction", "unscored",
    *(metric.key for metric in SCORE_METRICS),
)
# what is measured of a held-out dialogue
HELD_OUT = (
    "tse", "I_1", "I_2", "I_3", "N_1", "N_2", "N_3", "turns", "success", "gre", "g_eval",
    "unscored", "esndcg", "f1", "exact", "length", "r_cs", "return", "mood", "vouchers",
    "voucher_rate", "satisfaction", "reply_words", "distinct_2", "repeated", "violations",
)

# metric -> its interval over dialogues, where that is not the bootstrap's
INTERVALS = {"voucher_rate": wilson}


# --- dialogues -> numbers -----------------------------------------------------------------------

def number_of(key: str, gopo: Gopo, episode: Episode) -> float | None:
    """One metric of one dialogue; None where the data does not say."""
    values = METRICS[key].how(gopo, episode)
    if not values:
        return None
    if len(values) == 1:
        return values[0]
    return float(np.mean(values))


def interval_of(
    key: str, values: Sequence[float | None], seed: int
) -> dict[str, float | None]:
    """{mean, low, high} of a metric over dialogues."""
    return INTERVALS.get(key, interval)(values, seed)


def dialogue_metrics(gopo: Gopo, episode: Episode) -> Numbers:
    """One held-out dialogue as numbers; None where the data does not say."""
    return {key: number_of(key, gopo, episode) for key in HELD_OUT}


def summary(gopo: Gopo, played: Sequence[Episode]) -> dict[str, float | None]:
    """The dialogues of a training step, those of all processes, as columns of metrics.jsonl."""
    row = {}
    for key in TRAINING:
        values = []
        for episode in played:
            values += METRICS[key].how(gopo, episode)
        row[key] = all_mean(values)
    if gopo.dataset.environment is None:
        row["tse"] = None                        # a log goes on whatever was replied
    return row


def training_row(
    number: int, gopo: Gopo, played: Sequence[Episode], learned: dict[str, float | None]
) -> dict[str, float | None]:
    """A row of metrics.jsonl.  Supervised steps play nothing and have only what they learned."""
    if type(gopo).plays:
        return {"step": number} | summary(gopo, played) | learned
    return {"step": number} | learned


if __name__ == "__main__":
    for metric in TABLE:
        print(f"{metric.key:15s} {metric.name:15s} {metric.better:5s} {metric.help}")
