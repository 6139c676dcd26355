"""GOPO (Sec. 3): both agents learn from the dialogues that they play together.

One step plays dialogues (play.py, Sec. 3.1) and learns from them: some epochs of Eq. 7 for the
Expert, one step of Eqs. 9a-9d for the Customer Service Agent.  Together they raise Eq. 1.
`load(run).respond(history, context)` lets a trained pair answer.
Try it:  python gopo.py        three steps of strategy learning, with one dialogue's reward parts
Exercise: set --outcome_weight 1 and compare TSE: nothing in R_t is TSE (GAP-4)."""
from __future__ import annotations

import importlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

import data
from config import ALGORITHMS, ExpertConfig, GopoConfig
from data import DataError, Dataset, Episode, ExpertState, Step, fill
from expert import Expert, gae
from expert_learner import ExpertBatch, ExpertLearner, labelled_states
from hosted.judge import judge_for
from infra.client import ApiConfig, Client, all_or_none
from infra.domain import as_trained, read_domain
from infra.flags import recorded
from infra.locks import reading_from
from infra.processes import shard, world_size
from infra.runs import adam_state, device_of, load_adam_state, load_into, load_tensors, read_config
from judge import Judge, RuleJudge
from perception import HideEverywhere, HideSentences, Perception, reading
from play import Answer, Player
from policies import Choose, Draws, Speaker, by_nobody, by_policy, keyed, silent_speaker, with_slips
from rewards import expert_weight, joint_reward

# --- both agents, and how they learn ------------------------------------------------------------

class Seeds(NamedTuple):
    """What is left to chance in a step; each has a seed of its own."""
    skills: int
    words: int
    slips: int
    hiding: int
    learning: int                                # minibatches, the anchor's turns, further samples


class Gopo(Player):
    """Both agents and how they learn.

    Other algorithms (`ALGORITHMS`) play the same dialogues and override what is chosen or learned.

    agent    a CustomerServiceAgent, which learns; or None
    speaker  who writes the replies, if not the agent: a hosted model; by default the phrase book,
             or nobody on logs
    options  the algorithm's own config, of class `Options`
    """
    single = False                               # True: one agent, without an Expert
    warms = True                                 # its Expert has a warm start (`--expert_warm`)
    practises = True                             # slips and hidden sentences while it trains
    plays = True                                 # False: learns from logs alone (supervised)
    samples = False                              # its policy is also evaluated as it is drawn
    usual: Mapping[str, int] = {}                # its own defaults of --steps and the like
    usual_of_words: Mapping[str, int] = {}       # the same where a language model decides
    usual_of_expert: Mapping[str, Any] = {}      # its own defaults of the Expert's open flags
    unread: Mapping[str, str] = {}               # common flags that it passes over -> the cure
    # its language model begins each reply with a decision, and is then a single agent
    decides = False
    clients: Sequence[Client] = ()               # of its own hosted models
    candidates = 4                               # its own default of --group
    policy: type = Expert                        # what chooses the skills
    Options: type | None = None

    def __init__(
        self,
        dataset: Dataset,
        expert: Expert,
        agent: Any,
        judge: Judge,
        cfg: GopoConfig,
        speaker: Speaker | None = None,
        options: Any = None,
    ):
        cfg = cfg.settled(dataset.environment is not None, agent is not None)
        self.refuse_unsuited(dataset, cfg, speaks=agent is not None or speaker is not None)
        super().__init__(dataset, expert, speaker or agent or silent_speaker(dataset), judge, cfg)
        self.agent = agent
        self.options = options
        self.learner = ExpertLearner(expert)
        self.size = cfg.dialogues
        self.group = agent.cfg.group if agent else 1         # replies to a state
        self.practises = self.practises and not cfg.no_expert

    @classmethod
    def refuse_unsuited(cls, dataset: Dataset, cfg: GopoConfig, speaks: bool) -> None:
        """DataError if nothing could be learned from these rewards; known before any training.

        speaks  somebody writes replies, so that there is something to mark
        """
        live = dataset.environment is not None
        if cfg.dialogues is not None and world_size() > cfg.dialogues:
            raise DataError(
                f"--dialogues {cfg.dialogues} is fewer than the {world_size()} processes: "
                "every one needs a dialogue")
        if cfg.outcome_weight and not live:
            raise DataError(
                f"--outcome_weight needs a live shop: {dataset.name} is replayed, its outcome "
                "ignores the replies")
        if not live and (cfg.reward == "end" or (cfg.reward == "cs" and not speaks)):
            raise DataError(
                f"--reward {cfg.reward} is always 0 here: {dataset.name} is replayed, it has no "
                "outcome, and without a language model no reply to mark")

    @classmethod
    def refuse_options(cls, dataset: Dataset, options: Any, speaks: bool) -> None:
        """DataError if the algorithm's own flags do not suit this data, or who speaks."""

    @classmethod
    def options_for(cls, options: Any, dataset: Dataset, given: Collection[str]) -> Any:
        """The algorithm's own config without what this dataset lacks, where no flag asked for it.

        given  names of the flags that were given
        """
        return options

    @classmethod
    def settled_options(cls, options: Any, speaks: bool) -> Any:
        """The algorithm's own config with its open defaults filled in."""
        return options

    @classmethod
    def refuse_words(cls, dataset: Dataset, lm: Any, options: Any) -> None:
        """DataError if the algorithm cannot let this language model speak; lm: its LMConfig."""

    @classmethod
    def refuse_unreachable(cls, dataset: Dataset, options: Any, api: ApiConfig) -> None:
        """DataError if the algorithm's own hosted models cannot be asked."""

    def reach(self, api: ApiConfig) -> None:
        """Called before training: makes the clients of the algorithm's own hosted models."""

    @classmethod
    def options_of(cls, config: dict) -> Any:
        """The algorithm's own config, from a run's config.json."""
        return recorded(cls.Options, config["options"]) if cls.Options else None

    @classmethod
    def new_policy(cls, dataset: Dataset, cfg: ExpertConfig, options: Any) -> Expert:
        """An untrained policy with an untrained perception."""
        perception = Perception(
            dataset.intents, dataset.emotions, most=cfg.sentences, encoder=cfg.encoder)
        return cls.policy(list(dataset.skills), perception, cfg)

    @classmethod
    def prepare_policy(cls, policy: Expert, dataset: Dataset) -> None:
        """Called after perception is trained and before anything is played; GOPO does nothing."""

    @classmethod
    def more_pairs(
        cls, dataset: Dataset, pairs: Sequence[Any], options: Any, seed: int
    ) -> list[Any]:
        """What the language model's warm start reads besides logged `pairs`; GOPO: nothing."""
        return []

    @classmethod
    def warm_key(cls, options: Any) -> Any:
        """What decides `more_pairs`: runs that differ in it share no warm start."""
        return None

    @classmethod
    def stages(cls, run: Path, options: Any) -> dict[str, int]:
        """What `begin` will do, for the line of progress: stage -> groups of replies."""
        return {}

    def begin(self, run: Path, seed: int) -> None:
        """Called once after the warm start, before a checkpoint is read; GOPO does nothing."""

    def chooser(self, draws: Draws | None = None, greedy: bool = False) -> Choose:
        """Who chooses the skills; see `by_policy`."""
        if self.cfg.no_expert:
            return by_nobody
        return by_policy(self.expert, draws, greedy)

    # --- one step -------------------------------------------------------------------------------

    def step(
        self, number: int, seed: int, stage: int = 0
    ) -> tuple[list[Episode], dict[str, float | None]]:
        """GOPO step `number`: what was played, and the numbers that learning reports.

        All randomness comes from (seed, stage, number): a resumed run needs no generator's state.
        """
        rng = np.random.default_rng([seed, stage, number])
        numbers = shard(self._dialogues(rng))
        seeds = Seeds(*rng.integers(2**31, size=len(Seeds._fields)).tolist())
        with reading(self.expert, self._hiding(seeds)):
            played = all_or_none(lambda: self._practise(numbers, seed, seeds))
            return played, self.learn(played, seeds.learning)

    def _practise(self, numbers: Sequence[int], seed: int, seeds: Seeds) -> list[Episode]:
        """Dialogues with training customers, in which skills and words are drawn."""
        choose = self.chooser(keyed(seeds.skills))
        share = self.expert.cfg.slips
        if self.practises and share and self.dataset.environment and self.logged:
            others = [teacher for _, teacher in self.logged]
            choose = with_slips(choose, others, share, keyed(seeds.slips))
        customers = self.episodes("train", numbers, seed)
        draws = keyed(seeds.words)
        return self.play(
            customers, choose, group=self.group, draws=draws, judge_by=self.cfg.judge_by)

    def _hiding(self, seeds: Seeds) -> HideSentences | None:
        """What cannot be read in a step; see `hide` and `hide_ngrams` of ExpertConfig."""
        kind, share = HideSentences, self.expert.cfg.hide
        if self.dataset.environment is None:
            kind, share = HideEverywhere, self.expert.cfg.hide_ngrams
        return kind(share, seeds.hiding) if self.practises and share else None

    @cached_property
    def logged(self) -> list[tuple[ExpertState, tuple[str, ...]]]:
        """Labelled turns of the training logs."""
        return labelled_states(self.dataset.train)

    def _dialogues(self, rng: np.random.Generator) -> list[int]:
        """The training dialogues of a step: new customers, or logs, none twice if possible."""
        if self.dataset.environment:
            return rng.integers(0, 2**30, self.size).tolist()
        logs = len(self.dataset.train)
        count = max(world_size(), min(self.size, logs))      # every process needs one
        return rng.choice(logs, count, replace=count > logs).tolist()

    def learn(self, played: list[Episode], seed: int = 0) -> dict[str, float | None]:
        """Eq. 7 for the Expert, and one step of Eqs. 9a-9d for the Customer Service Agent."""
        row = self.learn_skills(played, seed) if self.learns_skills else {}
        if self.agent:
            row = row | self.learn_words(played)
        return row

    @property
    def learns_skills(self) -> bool:
        """Whether a step teaches the Expert; with --fix_expert only the strategy stage does."""
        joint = self.agent is not None
        return not (self.cfg.no_expert or (joint and self.cfg.fix_expert))

    def learn_skills(self, played: list[Episode], seed: int) -> dict[str, float | None]:
        return self.learner.update(self.expert_batch(played, seed), self.logged, seed)

    def learn_words(self, played: list[Episode]) -> dict[str, float]:
        steps = []
        rewards = []
        for episode in played:
            steps += episode.steps
            rewards += self.reply_rewards(episode)
        prepared = [step.prepared for step in steps]
        replies = [step.replies for step in steps]
        return self.agent.update(prepared, replies, rewards)

    def expert_batch(self, played: list[Episode], seed: int = 0) -> ExpertBatch:
        """What Eq. 7 learns from: states, skills, returns and the gain of each pick; no slips."""
        batch = ExpertBatch()
        for episode, values in zip(played, self._values(played)):
            slips = [turn in episode.slips for turn in range(len(episode.steps))]
            advantages = gae(
                self.rewards(episode), values, self.gamma, self.expert.cfg.gae_lambda, slips)
            for turn, step in enumerate(episode.steps):
                earned = step.R_E is not None or step.R_A_mean is not None
                if earned and not slips[turn]:
                    G = advantages[turn] + values[turn]
                    batch.add(step, G, self.gains(step, turn + 1), (episode.number, turn))
        if not self.dataset.environment and not self.gamma:
            self._add_samples(batch, played, seed)
        return batch

    def _values(self, played: list[Episode]) -> list[list[float]]:
        """V_1..V_{T+1} of each dialogue."""
        states, teachers = [], []
        for episode in played:
            states += [step.state for step in episode.steps] + [episode.state()]
            teachers += [step.teacher for step in episode.steps] + [episode.seen.labels.teacher]
        found = self.expert.state_values(states, teachers)
        values, first = [], 0
        for episode in played:
            end = first + len(episode.steps)
            values.append([*found[first:end], self._value_after(episode, found[end])])
            first = end + 1
        return values

    def _add_samples(self, batch: ExpertBatch, played: list[Episode], seed: int) -> None:
        """Further sequences in the same states of a log: Eq. 6 needs no customer to mark them.

        What the reply earned is left as it is; the next turn of a log ignores the action, so the
        return of such a sequence is its own R_t.
        """
        draws = keyed(seed)
        marked = []
        for episode in played:
            for turn, step in enumerate(episode.steps):
                if step.teacher is not None:
                    marked.append((episode.number, turn, step))
        states = [step.state for _, _, step in marked]
        generators = [draws(number, turn) for number, turn, _ in marked]
        for _ in range(1, self.expert.cfg.expert_samples or 1):
            drawn = self.expert.act(states, generators)
            for skills, (number, turn, step) in zip(drawn, marked):
                other = replace(step, skills=skills)
                self.score(other, turn + 1)
                batch.add(other, other.R_t, self.gains(other, turn + 1), (number, turn))

    def _value_after(self, episode: Episode, value: float) -> float:
        """V after the last turn: 0 if nothing can follow.

        With --outcome_weight the TSE of the whole dialogue is already in the last reward.
        """
        ended = episode.seen.terminated or self.cfg.outcome_weight
        return 0.0 if ended else value

    def gains(self, step: Step, turn: int) -> list[float]:
        """What each pick of the Expert added to R_t: its share of R^E_t, weighted as in Eq. 10."""
        if self.cfg.reward in ("cs", "end") or step.teacher is None:
            return [0.0]
        weight = 1.0
        if self.cfg.reward == "joint" and step.R_A_mean is not None:
            weight = expert_weight(turn, self.dataset.horizon)
        return [weight * gain for gain in step.gains]

    def reply_rewards(self, episode: Episode) -> list[list[float | None]]:
        """What Eq. 9b rewards, per turn and reply of the group; None leaves the loss (GAP-7)."""
        rows = []
        for turn, step in enumerate(episode.steps, 1):
            if self.cfg.cs_reward == "joint" and step.R_E is not None:
                rows.append([self._joint(step.R_E, r, turn) for r in step.R_A])
            else:
                rows.append(step.R_A)
        return rows

    def _joint(self, r_expert: float, r_cs: float | None, turn: int) -> float | None:
        return None if r_cs is None else joint_reward(r_expert, r_cs, turn, self.dataset.horizon)

    def signs(self, row: Mapping[str, Any]) -> list[tuple[str, bool, int]]:
        """What in a row of metrics.jsonl is an alarm of this algorithm (infra.runs.Alarms)."""
        return []

    # --- checkpoints ----------------------------------------------------------------------------

    def parts(self) -> dict[str, dict[str, torch.Tensor]]:
        """Everything a checkpoint must hold.  Randomness belongs to (seed, step): no generator."""
        parts = {
            "expert": self.expert.state_dict(),
            "expert_adam": adam_state(self.learner.optimiser),
        }
        if self.agent:
            named = self.agent.model.named_parameters()
            parts["agent"] = {name: p.detach() for name, p in named if p.requires_grad}
            parts["agent_adam"] = self.agent.optimizer_state()
        return parts

    def restore(self, parts: dict[str, dict[str, torch.Tensor]]) -> None:
        load_into(self.expert, parts["expert"], "the checkpoint's Expert")
        load_adam_state(self.learner.optimiser, parts["expert_adam"])
        if not self.agent:
            return
        lost = self.agent.model.load_state_dict(parts["agent"], strict=False).unexpected_keys
        if lost:
            raise DataError(
                f"the checkpoint holds {lost[0]}, which this model has not: was --model or peft "
                "changed?")
        self.agent.load_optimizer_state(parts["agent_adam"])


def strategy_only(gopo: Gopo) -> Gopo:
    """The same Expert and learner without the language model: a phrase book or nobody speaks."""
    cfg = replace(gopo.cfg, dialogues=gopo.cfg.strategy_dialogues)
    bare = type(gopo)(gopo.dataset, gopo.expert, None, gopo.judge, cfg, options=gopo.options)
    bare.learner = gopo.learner
    return bare


# --- the algorithms -----------------------------------------------------------------------------

def algorithm(name: str) -> type[Gopo]:
    """The class of --algo, found by its name: this file cannot import the baselines."""
    module, _, found = ALGORITHMS[name].partition(":")
    return getattr(importlib.import_module(module), found)


# --- a run directory, read back -----------------------------------------------------------------

# The last commit whose Expert read a text as one bag of words.
OLD_EXPERT = "5751401"


def load_gopo(
    run: str | Path,
    dataset: Dataset | None = None,
    expert: str = "expert.safetensors",
    agent: str | None = "csagent",
    judge: Judge | None = None,
    speaker: Speaker | None = None,
) -> Gopo:
    """Both agents of a run directory.

    expert, agent  other stages of it (strategy.safetensors, untrained, warm_start)
    judge          default: rules
    speaker        who speaks instead of the run's agent
    """
    run = Path(run)
    config = read_config(run)
    speaks = config["run"]["replies"] == "lm"
    expert_cfg = expert_config(config)           # refuses what this version cannot read
    if dataset is None and speaks and not decides(config):
        dataset = read_domain(run / "dataset.json")
    elif dataset is None:
        # The phrase book is needed, or what customers hear; dataset.json holds neither.
        dataset = data.load_used(config["run"])
    dataset = as_trained(dataset, run)
    method, options = algorithm_of(config)
    policy = method.new_policy(dataset, expert_cfg, options)
    load_into(policy, load_tensors(run / expert), str(run / expert))
    trained = None
    if speaks and agent and not speaker:
        # imported here: transformers takes four seconds, and a strategy needs none of it
        from csagent import load_agent
        trained = load_agent(run / agent, dataset, config)
    judge = judge or judge_for(dataset)
    cfg = recorded(GopoConfig, config["gopo"])
    policy = policy.to(device_of(config))
    return method(dataset, policy, trained, judge, cfg, speaker, options)


def algorithm_of(config: dict) -> tuple[type[Gopo], Any]:
    """The algorithm of a run and its options; a run from before --algo existed is GOPO's."""
    method = algorithm(config["run"].get("algo", "gopo"))
    return method, method.options_of(config)


def decides(config: dict) -> bool:
    """Whether the language model of a run begins its replies with a decision d_t."""
    method = algorithm(config["run"].get("algo", "gopo"))
    return method.decides and config["gopo"]["no_expert"]


def expert_config(config: dict) -> ExpertConfig:
    """The Expert's settings of a run; one that read in the old way is refused."""
    if "expert_warm" not in config["expert"]:
        raise DataError(
            "the Expert of this run reads a text as a whole, ours sentence by sentence: evaluate "
            f"or resume it with commit {OLD_EXPERT}, or train it again")
    return recorded(ExpertConfig, config["expert"])


def load(run: str | Path) -> Answer:
    """The two trained agents of a run directory; while it is trained on, DataError says so."""
    with reading_from(Path(run)):
        return Answer(load_gopo(run))


def demo() -> None:
    torch.manual_seed(0)
    shop = data.load("mgshop")
    perception = Perception(shop.intents, shop.emotions)
    print("perception, accuracy on unseen phrasings:", perception.fit(shop))
    expert = Expert(list(shop.skills), perception, ExpertConfig())
    gopo = Gopo(shop, expert, None, RuleJudge(shop.skills), GopoConfig())
    for number in range(1, 4):
        played, row = gopo.step(number, seed=0)
        reward = np.mean([step.R_t for step in played[0].steps])
        mean_tse = np.mean([gopo.tse(episode) for episode in played])
        print(
            f"step {number}: R_t {reward:.3f} (first dialogue), TSE {mean_tse:.3f}, "
            f"entropy {row['entropy_expert']:.2f} nats")
    for turn, step in enumerate(played[0].steps, 1):
        scores = tuple(round(x, 2) for x in step.scores[0])
        print(f"\nturn {turn}: {step.state.user}")
        print(f"  skills {', '.join(step.skills)}   teacher {', '.join(step.teacher)}")
        print(f"  reply  {fill(step.reply, step.seen.context)}")
        print(f"  R^E {step.R_E:.2f}, S {scores}, R^A {step.R_A[0]:.2f}, R_t {step.R_t:.2f}")


if __name__ == "__main__":
    demo()
