"""GOPO (Sec. 3): the hierarchical MDP of both agents, played and learned.

One turn, Sec. 3.1:
  (1) perceive   u_t and e_t from the customer's words
  (2) choose     the Expert picks the skills a^E_t
  (3) speak      the Customer Service Agent writes a^A_t under the hard constraints that the skills compile to
  (4) judge, score, answer   the reply earns R^A_t, the skills R^E_t, both together R_t (Eq. 10), and the customer answers
`Gopo.take_turn` is that turn, for every dialogue on the table at once.  Training, evaluation, `--chat` and `respond` all use it.
`Gopo.play` takes turns until every dialogue is over; `Gopo.learn` makes one step of Eq. 7 and one of Eqs. 9a-9d of what was played, and
together the steps climb Eq. 1.  The customer hears reply 0 of the group of replies to a state, never the best-scored one.
Try it:  python gopo.py        three steps of strategy learning on the simulated shop, with one dialogue's reward parts
Exercise: set --outcome_weight 1 and compare TSE: nothing in R_t is TSE (GAP-4)."""
from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

import data
from csagent import here, load_agent
from data import DataError, Dataset, Episode, Judged, Message, Observation, Prepared, Reply, Scores, Skill, Step, begin, fill, opt
from expert import Expert, ExpertBatch, ExpertConfig, ExpertLearner, Perception, gae
from hosted.judge import judge_for
from infra.client import ApiError
from infra.domain import read_domain
from infra.files import read_json
from infra.processes import any_process, shard, world_size
from infra.runs import adam_state, load_adam_state, load_into, load_tensors
from judge import Judge, RuleJudge
from policies import Choose, Draws, Silence, Speaker, by_nobody, by_policy, keyed, request_of, silent_speaker
from rewards import CS_WEIGHTS, cs_reward, end_bonus, esndcg, expert_weight, joint_reward, skill_gains, skill_reward
from tse import tse

JUDGE_BY = ("chosen", "needed", "nobody")


@dataclass(frozen=True)
class GopoConfig:
    """How both agents are rewarded."""
    gamma: float | None = opt(
        None,
        "discount per turn of Eq. 1, in [0, 1]; default .95 in a live shop, 0 on replayed logs, where the next "
        "state ignores the action (GAP-4)")
    dialogues: int | None = opt(
        None,
        "dialogues per GOPO step, played in lockstep; default 32 without a language model, 16 with one")
    strategy_dialogues: int | None = opt(
        None,
        "dialogues per step of the strategy stage, in which no language model speaks; default --dialogues if given, else 32")
    reward: str = opt(
        "joint",
        "what the Expert's advantage is made of: joint (Eq. 10), expert (R^E only) or cs (R^A only)")
    cs_reward: str = opt(
        "cs",
        "what Eq. 9b rewards: cs (R^A, as printed) or joint (R_t, the other reading of Sec. 3.2, GAP-4)")
    outcome_weight: float = opt(
        0.0,
        "adds this times the dialogue's TSE to its last reward; 0 = the paper (the absorbing end already pays for "
        "success, GAP-4)")
    tse_gamma: float = opt(
        0.9,
        "decay of Eq. 11, in (0, 1]; evaluation only, unless --outcome_weight")
    no_expert: bool = opt(
        False,
        "ablation: no Expert; the Customer Service Agent alone reads H_t, u_t, e_t and the shop's global rules")

    def __post_init__(self):
        if self.gamma is not None and not 0 <= self.gamma <= 1:
            raise ValueError(f"--gamma must lie in [0, 1], got {self.gamma}")
        if not 0 < self.tse_gamma <= 1:
            raise ValueError(f"--tse_gamma must lie in (0, 1], got {self.tse_gamma}")
        for name in ("dialogues", "strategy_dialogues"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"--{name} must be at least 1, got {value}")
        if self.reward not in ("joint", "expert", "cs") or self.cs_reward not in ("cs", "joint"):
            raise ValueError(
                "--reward is joint, expert or cs and --cs_reward is cs or joint, "
                f"got {self.reward}, {self.cs_reward}")
        if self.outcome_weight < 0:
            raise ValueError(f"--outcome_weight must be >= 0, got {self.outcome_weight}")

    def settled(self, live: bool, speaks: bool) -> GopoConfig:
        """The config with its open defaults filled in.

        live    the dataset is a simulated shop, no log that is replayed
        speaks  a language model writes the replies
        """
        gamma = self.gamma
        if gamma is None:
            gamma = 0.95 if live else 0.0        # GAP-4: on logs the next state ignores the action
        return replace(
            self,
            gamma=gamma,
            dialogues=self.dialogues or (16 if speaks else 32),
            strategy_dialogues=self.strategy_dialogues or self.dialogues or 32)


# --- both agents, and how they learn ------------------------------------------------------------

class Gopo:
    """Both agents and how they learn.  Other algorithms (`ALGORITHMS`) play the same dialogues and override what is chosen or learned.

    agent    a CustomerServiceAgent, which learns; or None
    speaker  who writes the replies, if not the agent: a hosted model; by default the phrase book, or nobody on logs
    options  the algorithm's own config, of class `Options`
    """
    single = False                               # True: one agent, no Expert
    plays = True                                 # False: learns from logs alone (supervised)
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
        live = dataset.environment is not None
        self.cfg = cfg.settled(live, agent is not None)
        if world_size() > self.cfg.dialogues:
            raise DataError(
                f"--dialogues {self.cfg.dialogues} is fewer than the {world_size()} processes: "
                "every one needs a dialogue")
        if cfg.outcome_weight and not live:
            raise DataError(
                f"--outcome_weight needs a live shop: {dataset.name} is replayed, its outcome ignores the replies")
        self.dataset = dataset
        self.expert = expert
        self.agent = agent
        self.options = options
        self.judge = judge
        self.learner = ExpertLearner(expert)
        self.speaker: Speaker = speaker or agent or silent_speaker(dataset)
        self.gamma = self.cfg.gamma
        self.size = self.cfg.dialogues
        self.group = agent.cfg.group if agent else 1                         # replies to a state
        self.history_turns = expert.cfg.history if cfg.no_expert else None   # k of H_t that a single agent reads

    @classmethod
    def new_policy(cls, dataset: Dataset, cfg: ExpertConfig, options: Any) -> Expert:
        """Untrained, and so is its perception."""
        return cls.policy(list(dataset.skills), Perception(dataset.intents, dataset.emotions), cfg)

    @classmethod
    def prepare_policy(cls, policy: Expert, dataset: Dataset) -> None:
        """What the policy is given once perception is trained and before anything is played: nothing."""

    def chooser(self, draws: Draws | None = None, greedy: bool = False) -> Choose:
        """Who chooses the skills; see `by_policy`."""
        if self.cfg.no_expert:
            return by_nobody
        return by_policy(self.expert, draws, greedy)

    # --- playing: Sec. 3.1 ----------------------------------------------------------------------

    def episodes(self, split: str, numbers: Sequence[int], seed: int) -> list[Episode]:
        """Dialogues `numbers` of a split, before their first turn."""
        return begin(self.dataset.play, split, numbers, seed)

    def play(
        self,
        episodes: list[Episode],
        choose: Choose,
        *,
        group: int = 1,
        temperature: float | None = None,
        draws: Draws | None = None,
        judge_by: str = "chosen",
        progress: Callable[[int], None] | None = None,
    ) -> list[Episode]:
        """Plays dialogues in lockstep to their ends (Sec. 3.1, steps 1-4).

        group        replies to each state
        temperature  None = the agent's own; 0 = the most probable token
        draws        a generator for each (dialogue, turn), as `keyed` makes them
        judge_by     the skills by which replies are judged: "chosen" ones; what the turn "needed", the teacher's, where
                     it is labelled; "nobody": no reply is judged.  A single agent is always judged by what was needed.
        progress     is called after each turn with the number of dialogues that ended
        """
        while live := [e for e in episodes if not e.over]:
            self.take_turn(
                live, choose, group=group, temperature=temperature, draws=draws, judge_by=judge_by)
            if progress:
                progress(sum(e.over for e in live))
        return episodes

    def take_turn(
        self,
        live: list[Episode],
        choose: Choose,
        *,
        group: int = 1,
        temperature: float | None = None,
        draws: Draws | None = None,
        judge_by: str = "chosen",
    ) -> None:
        """One turn of every dialogue: perceive -> choose -> speak -> judge -> score -> answer."""
        states = [e.state() for e in live]
        perceived = self.expert.perception.perceive([s.user for s in states])
        skills = choose(states, live)
        prepared = self._prepare(live, states, skills, perceived)
        groups = self._speak(live, prepared, group, temperature, draws)
        judged, scores = self._judge(live, states, skills, groups, judge_by)
        for i, episode in enumerate(live):
            step = Step(
                episode.seen, states[i], perceived[i], skills[i], prepared[i], groups[i], judged[i], scores[i])
            self.score(step, len(episode.steps) + 1)
            episode.steps.append(step)
            episode.seen = episode.env.step(step.reply)

    def _prepare(self, live, states, skills, perceived) -> list[Prepared]:
        requests = []
        for e, state, chosen, labels in zip(live, states, skills, perceived):
            requests.append(request_of(state, chosen, e.seen.context, labels, self.history_turns))
        return self.speaker.prepare(requests)

    def _speak(self, live, prepared, group, temperature, draws) -> list[list[Reply]]:
        generators = None
        if draws:
            generators = [draws(e.number, len(e.steps)) for e in live]
        return self.speaker.speak(prepared, group, temperature, generators)

    def _judge(self, live, states, skills, groups, judge_by):
        """What the judge sees of reply 0 of each dialogue, and the scores of all replies, per dialogue."""
        asked = []
        for e, state, chosen, replies in zip(live, states, skills, groups):
            wanted = self._wanted(e, chosen, judge_by)
            asked += [self._judged(e, state, wanted, reply) for reply in replies]
        group = len(groups[0])
        if judge_by == "nobody" or isinstance(self.speaker, Silence):
            scores = [None] * len(asked)
        else:
            scores = self.judge.score(asked)
        by_dialogue = [scores[i:i + group] for i in range(0, len(scores), group)]
        return asked[::group], by_dialogue

    def _wanted(self, episode: Episode, chosen: tuple[str, ...], judge_by: str) -> list[Skill]:
        """The skills by which a reply is judged."""
        if judge_by not in JUDGE_BY:
            raise ValueError(f"judge_by is one of {', '.join(JUDGE_BY)}, got {judge_by!r}")
        teacher = episode.seen.labels.teacher
        names = chosen
        if self.cfg.no_expert:
            names = teacher or ()
        elif judge_by == "needed" and teacher is not None:
            names = teacher
        return [self.dataset.skills[name] for name in names]

    def _judged(self, episode, state, wanted, reply) -> Judged:
        previous = tuple(episode.replies)
        reference = episode.seen.labels.reference
        return Judged(
            state.user, episode.seen.context, tuple(wanted), reply.text, previous, reference, state.history)

    # --- rewards: Eqs. 2-6, 8, 10 ---------------------------------------------------------------

    def score(self, step: Step, turn: int) -> None:
        """Every reward of a turn is born here, once: Eqs. 2-6, 8 and 10."""
        cost = self.expert.cfg.skill_cost
        step.R_A = [self._r_cs(scores) for scores in step.scores]
        if step.teacher is not None:
            step.esndcg = esndcg(step.skills, step.teacher)
            step.gains = skill_gains(step.skills, step.teacher, cost)
            step.R_E = skill_reward(step.skills, step.teacher, cost)
        step.R_t = self.turn_reward(step, turn)

    @staticmethod
    def _r_cs(scores: Scores | None) -> float | None:
        return None if scores is None else cs_reward(scores, CS_WEIGHTS)

    def turn_reward(self, step: Step, turn: int) -> float:
        """R_t of Eq. 10, or one of its halves (an ablation).  Without a label R^A alone is left, without a score R^E."""
        kind = self.cfg.reward
        if kind == "cs" or (step.R_E is None and kind == "joint"):
            return step.R_A_mean or 0.0
        if step.R_E is None:
            return 0.0
        r_cs = step.R_A_mean if kind == "joint" else None
        return joint_reward(step.R_E, r_cs, turn, self.dataset.horizon)

    def rewards(self, episode: Episode) -> list[float]:
        """R_t of each turn; the last with what the end of the dialogue is worth (GAP-4)."""
        earned = [step.R_t for step in episode.steps]
        end = episode.seen
        if end.terminated:
            earned[-1] += end_bonus(len(earned), self.dataset.horizon, self.gamma, end.outcome.success)
        earned[-1] += self.cfg.outcome_weight * self.tse(episode)
        return earned

    def tse(self, episode: Episode) -> float:
        """Eq. 11 by the environment's own account of the tasks."""
        return tse(episode.seen.outcome.completed, gamma=self.cfg.tse_gamma)

    # --- one step -------------------------------------------------------------------------------

    def step(
        self, number: int, seed: int, stage: int = 0
    ) -> tuple[list[Episode], dict[str, float | None]]:
        """GOPO step `number`: what was played, and what learning it reports.

        All randomness comes from (seed, stage, number), so a resumed run needs no generator's state.
        """
        rng = np.random.default_rng([seed, stage, number])
        numbers = shard(self._dialogues(rng))
        skill_draws, word_draws = (keyed(int(s)) for s in rng.integers(2**31, size=2))

        def play() -> list[Episode]:
            customers = self.episodes("train", numbers, seed)
            return self.play(customers, self.chooser(skill_draws), group=self.group, draws=word_draws)

        played = all_or_none(play)
        return played, self.learn(played)

    def _dialogues(self, rng: np.random.Generator) -> list[int]:
        """The training dialogues of a step: fresh customers, or logs, none of them twice while there are enough."""
        if self.dataset.environment:
            return rng.integers(0, 2**30, self.size).tolist()
        logs = len(self.dataset.train)
        return rng.choice(logs, self.size, replace=self.size > logs).tolist()

    def learn(self, played: list[Episode]) -> dict[str, float | None]:
        """One step of Eq. 7 for the Expert and one of Eqs. 9a-9d for the Customer Service Agent."""
        row = {} if self.cfg.no_expert else self.learn_skills(played)
        if self.agent:
            row = row | self.learn_words(played)
        return row

    def learn_skills(self, played: list[Episode]) -> dict[str, float]:
        return self.learner.update(self.expert_batch(played))

    def learn_words(self, played: list[Episode]) -> dict[str, float]:
        steps = [step for episode in played for step in episode.steps]
        rewards = [row for episode in played for row in self.reply_rewards(episode)]
        return self.agent.update([s.prepared for s in steps], [s.replies for s in steps], rewards)

    def expert_batch(self, played: list[Episode]) -> ExpertBatch:
        """What Eq. 7 learns from: states, skills, returns and the gain of each pick."""
        batch = ExpertBatch()
        states = [step.state for episode in played for step in episode.steps]
        ends = [episode.state() for episode in played]
        values = self.expert.state_values(states + ends)
        after = values[len(states):]
        first = 0
        for episode, last in zip(played, after):
            n = len(episode.steps)
            v = [*values[first:first + n], self._value_after(episode, last)]
            advantages = gae(self.rewards(episode), v, self.gamma, self.expert.cfg.gae_lambda)
            batch.states += [s.state for s in episode.steps]
            batch.skills += [s.skills for s in episode.steps]
            batch.returns += [a + value for a, value in zip(advantages, v)]
            batch.gains += [self.gains(s, turn) for turn, s in enumerate(episode.steps, 1)]
            first += n
        return batch

    def _value_after(self, episode: Episode, value: float) -> float:
        """V after the last turn: 0 if nothing can follow.  TSE, if it is paid, was the last word."""
        return 0.0 if episode.seen.terminated or self.cfg.outcome_weight else value

    def gains(self, step: Step, turn: int) -> list[float]:
        """What each pick of the Expert added to R_t: its share of R^E_t, weighted as in Eq. 10."""
        if self.cfg.reward == "cs" or step.teacher is None:
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

    # --- checkpoints ----------------------------------------------------------------------------

    def parts(self) -> dict[str, dict[str, torch.Tensor]]:
        """Everything a checkpoint must hold.  Randomness belongs to (seed, step), so no generator is part of it."""
        parts = {"expert": self.expert.state_dict(), "expert_adam": adam_state(self.learner.optimiser)}
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
                f"the checkpoint holds {lost[0]}, which this model has not: was --model or peft changed?")
        self.agent.load_optimizer_state(parts["agent_adam"])


def strategy_only(gopo: Gopo) -> Gopo:
    """The same Expert and learner without the language model: the phrase book speaks, or nobody does."""
    cfg = replace(gopo.cfg, dialogues=gopo.cfg.strategy_dialogues)
    bare = type(gopo)(gopo.dataset, gopo.expert, None, gopo.judge, cfg, options=gopo.options)
    bare.learner = gopo.learner
    return bare


def all_or_none(play: Callable[[], list[Episode]]) -> list[Episode]:
    """`play()`.  Of several processes, one whose judge is gone would leave the others waiting: all of them stop."""
    failed = None
    played: list[Episode] = []
    try:
        played = play()
    except ApiError as error:
        failed = error
    if any_process(failed is not None):
        raise failed or ApiError("another process could not ask its judge")
    return played


# --- a single answer ----------------------------------------------------------------------------

@dataclass
class Answer:
    """`load(run)`: a trained pair, ready to answer."""
    gopo: Gopo

    def respond(
        self, history: Sequence[str], context: dict[str, str], previous: Sequence[str] = ()
    ) -> tuple[tuple[str, ...], str]:
        """(skills, reply) to the last message of the customer.

        history   messages in turn: customer, agent, customer, ...; the last is the customer's
        context   B_t: what the shop knows, slot -> value; may be empty
        previous  the skills of the turn before, if known (a_{t-1})
        """
        if len(history) % 2 == 0:
            raise ValueError(f"history must end with a customer's message: got {len(history)} messages")
        if unknown := set(previous) - set(self.gopo.dataset.skills):
            raise ValueError(
                f"previous: unknown skills {sorted(unknown)}; the pool is in dataset.json of the run")
        exchanges = zip(history[:-1:2], history[1:-1:2])
        said = tuple((user, data.delexicalise(reply, context)) for user, reply in exchanges)     # slots, as in training
        message = Message(Observation(history[-1], context, history=said))
        episode = Episode(-1, message, message.reset(), previous=tuple(previous))
        self.gopo.take_turn(
            [episode], self.gopo.chooser(greedy=True), temperature=0.0, judge_by="nobody")
        step = episode.steps[0]
        return step.skills, fill(step.reply, context)


# --- the algorithms -----------------------------------------------------------------------------

ALGORITHMS = {
    "gopo": "gopo:Gopo",
    "sft": "baselines.sft:SFT",
    "ppo": "baselines.ppo:PPO",
    "memento": "baselines.memento:Memento",
    "imitation": "baselines.imitation:Imitation",
}


def algorithm(name: str) -> type[Gopo]:
    """--algo; it is found by name, for the baselines stand on floors above this one."""
    module, _, found = ALGORITHMS[name].partition(":")
    return getattr(importlib.import_module(module), found)


# --- a run directory, read back -----------------------------------------------------------------

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
    config = read_json(run / "config.json")
    speaks = config["run"]["replies"] == "lm"
    if dataset is None:
        dataset = read_domain(run / "dataset.json") if speaks else data.load_used(config["run"])
    method, options = algorithm_of(config)
    policy = method.new_policy(dataset, ExpertConfig(**config["expert"]), options)
    load_into(policy, load_tensors(run / expert), str(run / expert))
    trained = None
    if speaks and agent and not speaker:
        trained = load_agent(run / agent, dataset, config)
    judge = judge or judge_for(dataset)
    cfg = GopoConfig(**config["gopo"])
    return method(dataset, policy.to(here(config)), trained, judge, cfg, speaker, options)


def algorithm_of(config: dict) -> tuple[type[Gopo], Any]:
    """The algorithm of a run and its options; a run of before --algo is GOPO's."""
    method = algorithm(config["run"].get("algo", "gopo"))
    return method, method.Options(**config["options"]) if method.Options else None


def load(run: str | Path) -> Answer:
    """The two trained agents of a run directory."""
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
        turns = [step for episode in played for step in episode.steps]
        r_expert = np.mean([step.R_E for step in turns])
        r_cs = np.mean([step.R_A[0] for step in turns])
        mean_tse = np.mean([gopo.tse(episode) for episode in played])
        print(f"step {number}: R^E {r_expert:.3f}, R^A {r_cs:.3f}, TSE {mean_tse:.3f}, "
              f"entropy {row['entropy_expert']:.2f} nats")
    for turn, step in enumerate(played[0].steps, 1):
        scores = tuple(round(x, 2) for x in step.scores[0])
        print(f"\nturn {turn}: {step.state.user}")
        print(f"  skills {', '.join(step.skills)}   teacher {', '.join(step.teacher)}")
        print(f"  reply  {fill(step.reply, step.seen.context)}")
        print(f"  R^E {step.R_E:.2f}, S {scores}, R^A {step.R_A[0]:.2f}, R_t {step.R_t:.2f}")


if __name__ == "__main__":
    demo()
