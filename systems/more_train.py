"""MORE (arXiv 2606.09293) on GOPO's loop: one agent that learns from several rewards on logs.

Before its steps (`begin`): GRPO on reasoning tasks (Sec. 3.2), after which the model is frozen as
pi_ref.  Then each step, the paper's Algorithm 1 with its repairs:
  (1) logged states, with M replies to each from the current policy
  (2) every reply is marked by n rewards r_j, by rule or by an LLM
  (3) lambda_j = 1 - (rank(j) - 1)/n by the norms of g_j over the batch, a running mean (Sec. 3.4)
  (4) R = sum_j lambda_j r_j, the advantage within a group (Eq. 1), one step on Eq. 2
The next state is the log's, whatever was said.  A live customer, where there is one, evaluates.

The repairs, and what is left out: docs/more.md.  The equations are pure functions in more.py and
more_norms.py, the rewards in more_rewards.py, the tasks in more_tasks.py, the update in
more_learner.py; the flags stand in more_config.py.
Try it:  python train.py --algo more --dataset sale --model nano
Exercise: add --more_weights std, and compare the lambda_* of both metrics.jsonl."""
from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from data import DataError, Dataset, Dialogue, Episode, Facts, Judged, Prepared, Reply, Request
from expert_learner import logged_history
from gopo import Gopo, GopoConfig
from hosted.judge import LLMJudge
from infra.processes import world_size
from infra.progress import bar
from infra.runs import Log, load_tensors, refuse_ruined, save_tensors
from policies import keyed
from systems.more import LEAST_STD, centred, group_advantage, mix, owa, rank_weights, spreads
from systems.more_config import MoreConfig
from systems.more_judge import LLMRewards
from systems.more_norms import cosines, gradient_norms
from systems.more_rewards import RuleRewards, numbers
from systems.more_tasks import Tasks, accuracy, fixed_tasks, is_right, task_pairs

# S states or tasks, M replies to each, n rewards

WATCHED = 64                                     # tasks, and states, of a look
TASKS = "reasoning tasks"                        # the scaffold stage, in the line of progress
SCAFFOLD = 2                                     # stage whose draws those of the tasks are
WEAK = 0.02                                      # a group whose R varies less hardly tells apart
NEED_FACTS = ("RSN", "FID", "COV")
WITHOUT_FACTS = "NAT,RUD,RGE,BLEU"
OF_TASKS = frozenset({
    "more_scaffold_steps", "more_scaffold_warm", "more_merge", "more_merge_tasks",
    "more_interleave"})
STUFFED = ("replies hold half as many numbers again as at first: are they listed to win RSN? "
           "look at std_FID, and at python eval.py --run RUN --show 1")
INERT = ("--more_anchor printed with --more_inner 1: pi_ref is the policy itself, D_KL and its "
         "gradient are 0, and --more_kl does nothing")


class Context(NamedTuple):
    """A logged state that replies are drawn for."""
    request: Request
    judged: Judged                               # without a reply
    facts: Facts


class Strengths:
    """Running means of how strongly each reward pulls; NaN: not seen yet."""

    def __init__(self, count: int, decay: float):
        self.decay = decay
        self.values = [math.nan] * count

    def add(self, new: Sequence[float]) -> list[float]:
        """The running means with one batch more; what is NaN there keeps its mean."""
        for j, value in enumerate(new):
            before = self.values[j]
            if math.isnan(before):
                self.values[j] = value
            elif not math.isnan(value):
                self.values[j] = self.decay * before + (1 - self.decay) * value
        return list(self.values)


class MORE(Gopo):
    """`Gopo` without an Expert, which learns from logged states by Eqs. 1 and 2 of MORE."""
    Options = MoreConfig
    single = True
    plays = False
    candidates = 8
    rewards_flag = "more_rewards"
    has_tasks = True                             # reasoning tasks can take part
    usual = {"steps": 100, "eval_every": 50, "save_every": 20}

    @classmethod
    def refuse_unsuited(cls, dataset: Dataset, cfg: GopoConfig, speaks: bool) -> None:
        if world_size() > 1:
            raise DataError(
                "--algo more and dpo run in one process until now: start without torchrun")
        super().refuse_unsuited(dataset, cfg, speaks)

    @classmethod
    def refuse_options(cls, dataset: Dataset, options: MoreConfig, speaks: bool) -> None:
        if options.reasons and dataset.tasks is None:
            raise DataError(
                f"--algo more: {dataset.name} has no reasoning tasks: add --more_scaffold_steps 0")
        unknown = [name for name in options.names if name in NEED_FACTS]
        if unknown and dataset.facts is None:
            raise DataError(
                f"--{cls.rewards_flag} {','.join(unknown)}: {dataset.name} has no facts to check "
                f"them by; give others, as --{cls.rewards_flag} {WITHOUT_FACTS}")

    @classmethod
    def options_for(cls, options: Any, dataset: Dataset, given: Collection[str]) -> Any:
        """Other rewards where no fact can be checked, and no tasks where there are none."""
        changed: dict[str, Any] = {}
        if dataset.facts is None and cls.rewards_flag not in given:
            changed[cls.rewards_flag] = WITHOUT_FACTS
            print(f"{dataset.name} has no facts to check: --{cls.rewards_flag} {WITHOUT_FACTS}")
        if cls.has_tasks and dataset.tasks is None and not OF_TASKS.intersection(given):
            changed["more_scaffold_steps"] = 0
            print(f"{dataset.name} has no reasoning tasks: --more_scaffold_steps 0")
        return replace(options, **changed)

    @classmethod
    def more_pairs(
        cls, dataset: Dataset, pairs: Sequence[Any], options: MoreConfig, seed: int
    ) -> list[tuple[Request, str]]:
        share = options.warm_share
        if not share:
            return []
        return task_pairs(dataset, round(len(pairs) * share / (1 - share)), seed)

    @classmethod
    def warm_key(cls, options: MoreConfig) -> float | None:
        # without tasks it is the warm start of everybody
        return options.warm_share or None

    def __init__(
        self, dataset, expert, agent, judge, cfg: GopoConfig, speaker=None, options=None
    ):
        super().__init__(dataset, expert, agent, judge, cfg, speaker, options or MoreConfig())
        names = self.options.names
        self.marker = self.marker_of(names)
        self.strengths = Strengths(len(names), self.options.more_norm_decay)
        self.tasks = Tasks(dataset.tasks, self.options)
        self.numbers: float | None = None        # a reply, in the first step
        if agent:
            if self.group < 2:
                raise DataError("--group 1: a reply is compared with others: use 2 or more")
            # imported here: transformers takes seconds, and --help asks this file for its flags
            from systems.more_learner import Learner
            self.grpo = Learner(agent, self.options)

    def marker_of(self, names: Sequence[str]) -> Any:
        """Who marks replies: `rate(items, facts)` -> a mark for each name, or None.

        With --judge api:MODEL it is that model, else rules.
        """
        if isinstance(self.judge, LLMJudge):
            return LLMRewards(self.judge, names)
        return RuleRewards(names)

    @classmethod
    def stages(cls, run: Path, options: MoreConfig) -> dict[str, int]:
        there = options.more_merge or (run / "scaffold.safetensors").exists()
        return {} if there else {TASKS: options.more_scaffold_steps * options.more_tasks}

    # --- before the steps -----------------------------------------------------------------------

    def begin(self, run: Path, seed: int) -> None:
        """The reasoning stage, or what it left; then the model is pi_ref."""
        cfg = self.options
        if cfg.more_anchor == "printed" and cfg.more_inner == 1 and cfg.more_kl:
            print(f"warning: {INERT}")
        if cfg.more_scaffold_steps and not cfg.more_merge:
            path = run / "scaffold.safetensors"
            if not path.exists():
                self.scaffold(run, seed)
                refuse_ruined(self.trained(), "the language model after the tasks", "agent_lr")
                save_tensors(self.trained(), path)
            self.agent.model.load_state_dict(load_tensors(path), strict=False)
            # What follows is the same whether the stage has just ended or long ago.
            self.agent.optimizer.state.clear()
            self.tasks.mixed = {}
        self.grpo.freeze()

    def trained(self) -> dict[str, Tensor]:
        """The weights that learn, by name."""
        named = self.agent.model.named_parameters()
        return {name: p.detach() for name, p in named if p.requires_grad}

    def scaffold(self, run: Path, seed: int) -> None:
        """GRPO on reasoning tasks, near the warm start.  Rows go to scaffold.jsonl."""
        self.grpo.freeze()
        log = Log(run / "scaffold.jsonl")
        steps = self.options.more_scaffold_steps
        with bar(TASKS, steps) as shown:
            for number in range(1, steps + 1):
                row = {"step": number} | self.scaffold_step(number, seed)
                log.write(row)
                shown.set_postfix(right=f"{row['right']:.2f}", refresh=False)
                shown.update()

    def scaffold_step(self, number: int, seed: int) -> dict[str, float | None]:
        """One batch of tasks: J_scaffold by Eqs. 1 and 2."""
        cfg = self.options
        tasks = self.tasks.draw(cfg.more_tasks, seed, SCAFFOLD, number)
        prepared, replies = self.speak([task.request for task in tasks], number, seed, SCAFFOLD)
        rewards = self.tasks.rewards(tasks, replies)
        told = self._told_of_tasks(tasks, replies, rewards)
        self.tasks.learned(tasks, rewards)
        advantage = group_advantage(rewards) * self.tasks.weights(tasks)[:, None]
        looks, reference = self.read(prepared, replies)
        told |= self.grpo.learn(looks, advantage, reference, cfg.beta)
        watched = number % cfg.more_watch == 0 or number in (1, cfg.more_scaffold_steps)
        return told | {"RA": self.reasoning() if watched else None}

    def _told_of_tasks(self, tasks, replies, rewards: Tensor) -> dict[str, float | None]:
        right = []
        for task, group in zip(tasks, replies):
            right += [is_right(task, reply.text) for reply in group]
        return {"right": float(np.mean(right)), "mixed": mixed_share(rewards)}

    # --- one step -------------------------------------------------------------------------------

    @cached_property
    def turns(self) -> list[tuple[Dialogue, int]]:
        """The turns of the training logs that were answered."""
        found = []
        for dialogue in self.dataset.train:
            found += [(dialogue, i) for i, turn in enumerate(dialogue.turns) if turn.reply]
        return found

    def context(self, dialogue: Dialogue, i: int) -> Context:
        """Turn `i` of a log, as a single agent reads it and a judge sees it."""
        turn = dialogue.turns[i]
        recent = logged_history(dialogue, max(0, i - self.history_turns), i)
        request = Request(turn.user, (), turn.context, recent, turn.intent, turn.emotion)
        history = logged_history(dialogue, 0, i)
        previous = tuple(reply for _, reply in history)
        skills = tuple(self.dataset.skills[name] for name in turn.skills or ())
        judged = Judged(turn.user, turn.context, skills, "", previous, turn.reply, history)
        facts = self.dataset.facts(judged) if self.dataset.facts else Facts()
        return Context(request, judged, facts)

    def contexts(self, number: int, seed: int, stage: int = 0) -> list[Context]:
        """The logged states of a step."""
        rng = np.random.default_rng([seed, stage, number])
        count = min(self.options.more_contexts, len(self.turns))
        drawn = rng.choice(len(self.turns), count, replace=False)
        return [self.context(*self.turns[i]) for i in drawn]

    def speak(
        self, requests: Sequence[Request], number: int, seed: int, stage: int
    ) -> tuple[list[Prepared], list[list[Reply]]]:
        """M replies to each state, drawn from the current policy."""
        prepared = self.agent.prepare(requests)
        words = int(np.random.default_rng([seed, stage, number, 1]).integers(2**31))
        draws = keyed(words)
        generators = [draws(place, 0) for place in range(len(prepared))]
        return prepared, self.agent.speak(prepared, self.group, None, generators)

    def rate(self, contexts: Sequence[Context], replies: Sequence[Sequence[Reply]]) -> Tensor:
        """r_j of each reply, [n, S, M]; NaN where it was not scored."""
        items, facts = [], []
        for context, group in zip(contexts, replies, strict=True):
            items += [replace(context.judged, reply=reply.text) for reply in group]
            facts += [context.facts] * len(group)
        marks = [as_numbers(row) for row in self.marker.rate(items, facts)]
        return torch.tensor(marks).T.reshape(-1, len(replies), len(replies[0]))

    def read(self, prepared, replies) -> tuple[Any, list[Tensor] | None]:
        """The replies, to be learned from, and log pi_ref of them: pi_ref comes first."""
        from systems.more_learner import Looks
        looks = Looks(self.agent, prepared, replies)
        if self.options.more_anchor == "printed":
            self.grpo.freeze()
        reference = self.grpo.reference_logp(looks) if self.options.beta else None
        return looks, reference

    def step(
        self, number: int, seed: int, stage: int = 0
    ) -> tuple[list[Episode], dict[str, float | None]]:
        """Algorithm 1; nothing is played."""
        cfg = self.options
        contexts = self.contexts(number, seed, stage)
        tasks = self._merged(number, seed, stage)
        requests = [asked.request for asked in (*contexts, *tasks)]
        prepared, replies = self.speak(requests, number, seed, stage)
        answers = replies[:len(contexts)]
        rewards = self.rate(contexts, answers)                                       # [n, S, M]
        looks, reference = self.read(prepared, replies)
        R, weighed = self.mixed(looks, rewards, len(tasks))                          # [S, M]
        told = self._told(rewards, R, answers) | weighed
        advantage = group_advantage(R)
        if tasks:
            of_tasks = self.tasks.rewards(tasks, replies[len(contexts):])
            weighted = group_advantage(of_tasks) * self.tasks.weights(tasks)[:, None]
            advantage = torch.cat([advantage, weighted])
        told |= self.grpo.learn(looks, advantage, reference, cfg.beta)
        if reference is None:
            told["kl"] = None
        if cfg.more_interleave and number % cfg.more_interleave == 0:
            self.scaffold_step(cfg.more_scaffold_steps + number, seed)
        return [], told | self.watch(number)

    def _merged(self, number: int, seed: int, stage: int) -> list[Any]:
        """The tasks of a merged step."""
        if not self.options.more_merge:
            return []
        return self.tasks.draw(self.options.more_merge_tasks, seed, stage, number)

    # --- Sec. 3.4 -------------------------------------------------------------------------------

    def mixed(
        self, looks: Any, rewards: Tensor, tasks: int
    ) -> tuple[Tensor, dict[str, float | None]]:
        """R = sum_j lambda_j r_j [S, M], and what the weights were.

        tasks  how many of the states in `looks` are tasks, which have none of these rewards
        """
        cfg, names = self.options, self.options.names
        if cfg.more_weights == "candidate":
            nothing = [None] * len(names)
            return owa(rewards), weights_told(names, nothing, nothing) | {"cosine": None}
        pulls, cosine = self._pulls(looks, rewards, tasks)
        weights = [1.0] * len(names)
        if cfg.adapts:
            weights = rank_weights(self.strengths.add(pulls))
        elif cfg.more_weights != "equal":
            weights = cfg.fixed
        return mix(rewards, weights), weights_told(names, weights, pulls) | {"cosine": cosine}

    def _pulls(
        self, looks: Any, rewards: Tensor, tasks: int
    ) -> tuple[Sequence[float | None], float | None]:
        """What is ranked, one a reward, and the mean cosine of two gradients."""
        if self.options.more_weights == "std":
            return spreads(rewards), None
        if self.options.more_weights != "rank":
            return [None] * len(rewards), None
        n, _, M = rewards.shape
        unmarked = torch.full((n, tasks, M), math.nan)
        gram = self.grpo.pull(looks, torch.cat([rewards, unmarked], 1))
        above = torch.triu(torch.ones(n, n), 1).bool()
        angle = float(cosines(gram)[above].mean()) if n > 1 else None
        return gradient_norms(gram, self.options.more_norms), angle

    # --- what is told ---------------------------------------------------------------------------

    def _told(self, rewards: Tensor, R: Tensor, replies) -> dict[str, float | None]:
        """The batch in numbers: of each reward its mean, and its spread within groups."""
        row: dict[str, float | None] = {"reward": number_of(rewards.nanmean())}
        for name, values in zip(self.options.names, rewards):
            row[f"mean_{name}"] = number_of(values.nanmean())
        for name, spread in zip(self.options.names, spreads(rewards)):
            row[f"std_{name}"] = spread
        held, words = [], []
        for group in replies:
            held += [len(numbers(reply.text)) for reply in group]
            words += [len(reply.text.split()) for reply in group]
        row |= {"numbers": float(np.mean(held)), "reply_words": float(np.mean(words))}
        self.numbers = self.numbers or row["numbers"]
        row["unscored"] = float(rewards.isnan().any(0).float().mean())
        row["mixed"] = mixed_share(R)
        row["weak"] = mixed_share(R, WEAK, above=False)
        return row

    def watch(self, number: int) -> dict[str, float | None]:
        """RA and RQ of 64 fixed dev tasks and states, greedy; None in the steps between."""
        if number % self.options.more_watch:
            return {"RA": None, "RQ": None}
        return {"RA": self.reasoning(), "RQ": self.quality()}

    def reasoning(self) -> float | None:
        """RA, the share of right sentences."""
        if self.dataset.tasks is None:
            return None
        tasks = fixed_tasks(self.dataset, "dev", WATCHED)
        texts = self.greedy([task.request for task in tasks])
        return accuracy(tasks, texts)

    def quality(self) -> float | None:
        """RQ, the mean of all rewards by rule."""
        rows = RuleRewards(self.options.names).rate(*self._watched())
        marks = []
        for row in rows:
            marks += [mark for mark in row if mark is not None]
        return float(np.mean(marks)) if marks else None

    def _watched(self) -> tuple[list[Judged], list[Facts]]:
        """Greedy replies to fixed dev states."""
        turns = []
        for dialogue in self.dataset.dev:
            turns += [(dialogue, i) for i, turn in enumerate(dialogue.turns) if turn.reply]
        contexts = [self.context(*turn) for turn in turns[:WATCHED]]
        texts = self.greedy([context.request for context in contexts])
        items = []
        for context, text in zip(contexts, texts):
            items.append(replace(context.judged, reply=text))
        return items, [context.facts for context in contexts]

    def greedy(self, requests: Sequence[Request]) -> list[str]:
        """The most probable replies."""
        groups = self.agent.generate(requests, 1, 0.0)
        return [group[0].text for group in groups]

    def signs(self, row: Mapping[str, Any]) -> list[tuple[str, bool, int]]:
        stuffed = bool(self.numbers) and row["numbers"] > 1.5 * self.numbers
        return [(STUFFED, stuffed, 5)]

    # --- checkpoints ----------------------------------------------------------------------------

    def parts(self) -> dict[str, dict[str, Tensor]]:
        parts = super().parts()
        norms = torch.tensor(self.strengths.values, dtype=torch.float64)
        parts["more"] = {"norms": norms} | self.tasks.state()
        return parts

    def restore(self, parts: dict[str, dict[str, Tensor]]) -> None:
        super().restore(parts)
        self.strengths.values = parts["more"]["norms"].tolist()
        self.tasks.load(parts["more"])


def weights_told(
    names: Sequence[str], weights: Sequence[float | None], pulls: Sequence[float | None]
) -> dict[str, float | None]:
    """lambda_j and what it was ranked by."""
    row: dict[str, float | None] = {}
    for name, weight in zip(names, weights):
        row[f"lambda_{name}"] = weight
    for name, pull in zip(names, pulls):
        row[f"norm_{name}"] = pull
    return row


def mixed_share(rewards: Tensor, least: float = LEAST_STD, above: bool = True) -> float:
    """Share of groups [S, M] whose population std is above `least`, or not."""
    gain = centred(rewards)
    scored = (~rewards.isnan()).sum(1).clamp(min=1)
    std = (gain.square().sum(1) / scored).sqrt()
    return float(((std > least) == above).float().mean())


def as_numbers(marks: Sequence[float | None]) -> list[float]:
    """NaN for a mark that was not given."""
    return [math.nan if mark is None else mark for mark in marks]


def number_of(value: Tensor) -> float | None:
    """A number for a JSON row; None if nothing was scored."""
    return None if value.isnan() else float(value)
