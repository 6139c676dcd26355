"""GOPO (Sec. 3): the hierarchical MDP of both agents, played and learned.

One turn, Sec. 3.1: (1) perceive u_t and e_t, (2) the Expert picks skills a^E_t, (3) the Customer Service Agent writes a^A_t under the
hard constraints these skills compile to, (4) the environment answers and the joint reward R_t (Eq. 10) is formed.
`rollout` plays many dialogues in lockstep; `Gopo.learn` turns them into one step of Eq. 7 and one of Eqs. 9a-9d; together they climb Eq. 1.
The customer goes on with sample 0 of the group of replies to a state, never with the best-scored one.
Try it:  python gopo.py        three steps of strategy learning on the simulated shop, with one dialogue's reward parts
Exercise: set --outcome_weight 1 and compare TSE: nothing in R_t is TSE (GAP-4)."""
from __future__ import annotations

import importlib
import random
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Callable, Protocol, Sequence

import numpy as np
import torch

import data
from data import DataError, Dataset, Environment, Observation, Reply, Request, Skill, fill, opt
from expert import Expert, ExpertBatch, ExpertConfig, ExpertLearner, ExpertState, Perception, gae
from hosted.judge import judge_from
from infra.client import ApiConfig, ApiError
from infra.processes import all_mean, any_process, shard, world_size
from infra.runs import adam_state, load_adam_state, load_into, load_tensors, read_json, write_json
from judge import Judge, Judged, ReplayJudge, RuleJudge, Scores
from rewards import CS_WEIGHTS, DIMENSIONS, cs_reward, end_bonus, esndcg, expert_weight, joint_reward, skill_gains, skill_reward
from tse import distinct_2, repeated, skill_f1, tse


@dataclass(frozen=True)
class GopoConfig:
    """How both agents are rewarded."""
    gamma: float | None = opt(None, "discount per turn of Eq. 1, in [0, 1]; default .95 in a live shop, 0 on replayed logs, where the next "
                                    "state ignores the action (GAP-4)")
    dialogues: int | None = opt(None, "dialogues per GOPO step, played in lockstep; default 32 without a language model, 16 with one")
    reward: str = opt("joint", "what the Expert's advantage is made of: joint (Eq. 10), expert (R^E only) or cs (R^A only)")
    cs_reward: str = opt("cs", "what Eq. 9b rewards: cs (R^A, as printed) or joint (R_t, the other reading of Sec. 3.2, GAP-4)")
    outcome_weight: float = opt(0.0, "adds this times the dialogue's TSE to its last reward; 0 = the paper (the absorbing end already pays for success, GAP-4)")
    tse_gamma: float = opt(0.9, "decay of Eq. 11, in (0, 1]; evaluation only, unless --outcome_weight")
    no_expert: bool = opt(False, "ablation: no Expert; the Customer Service Agent alone, told H_t, u_t, e_t and the shop's global rules")

    def __post_init__(self):
        if self.gamma is not None and not 0 <= self.gamma <= 1:
            raise ValueError(f"--gamma must lie in [0, 1], got {self.gamma}")
        if not 0 < self.tse_gamma <= 1:
            raise ValueError(f"--tse_gamma must lie in (0, 1], got {self.tse_gamma}")
        if self.dialogues is not None and self.dialogues < 1:
            raise ValueError(f"--dialogues must be at least 1, got {self.dialogues}")
        if self.reward not in ("joint", "expert", "cs") or self.cs_reward not in ("cs", "joint"):
            raise ValueError(f"--reward is joint, expert or cs and --cs_reward is cs or joint, got {self.reward}, {self.cs_reward}")
        if self.outcome_weight < 0:
            raise ValueError(f"--outcome_weight must be >= 0, got {self.outcome_weight}")


# --- a dialogue being played ------------------------------------------------------------------------------------------------------

@dataclass
class Step:
    """One turn: states, actions, and what they earned."""
    state: ExpertState
    request: Request                             # s^A_t, what the reply was written from
    perceived: tuple[str | None, str | None]     # (intent, emotion)
    truth: tuple[str | None, str | None]
    skills: tuple[str, ...]                      # a^E_t
    teacher: tuple[str, ...] | None
    replies: list[Reply]                         # the group; the customer hears replies[0]
    scores: list[Scores | None]                  # S_1..S_4 of each
    judged: Judged                               # what the judge saw of replies[0]

    def r_expert(self, cost: float) -> float | None:
        """R^E_t, None where nobody labelled the turn."""
        return None if self.teacher is None else skill_reward(self.skills, self.teacher, cost)

    def r_cs(self) -> list[float | None]:
        """R^A_t of each reply of the group."""
        return [None if s is None else cs_reward(s, CS_WEIGHTS) for s in self.scores]

    def r_cs_mean(self) -> float | None:
        """The Expert's R^A_t: the mean of the group."""
        scored = [r for r in self.r_cs() if r is not None]
        return float(np.mean(scored)) if scored else None


@dataclass
class Episode:
    number: int
    env: Environment
    seen: Observation
    steps: list[Step] = field(default_factory=list)

    @property
    def over(self) -> bool:
        return self.seen.terminated or self.seen.truncated

    def state(self) -> ExpertState:
        """s^E_t of what is on the table now.  Logs dictate H_t; a_{t-1} is always the policy's own."""
        said = self.seen.history if self.seen.history is not None else tuple((s.state.user, s.replies[0].text) for s in self.steps)
        return ExpertState(self.seen.user, said, self.steps[-1].skills if self.steps else ())


Choose = Callable[[list[ExpertState], list[Episode]], list[tuple[str, ...]]]


class Speaker(Protocol):
    """Writes replies: the Customer Service Agent, or the phrase book.  One generator for all requests, or one for each."""
    def generate(self, requests: list[Request], group: int = 1, temperature: float | None = None,
                 generator: torch.Generator | Sequence[torch.Generator] | None = None) -> list[list[Reply]]: ...


def keyed(seed: int) -> Callable[[int, int], torch.Generator]:
    """A generator per (seed, dialogue, turn): what is drawn does not depend on which other dialogues are going on, or in which process."""
    return lambda number, turn: torch.Generator().manual_seed((seed * 1_000_003 + number) * 1_009 + turn)


class PhraseBook:
    """`--replies template`: skills become text by the dataset's phrase book; strategy alone is learned."""

    def __init__(self, dataset: Dataset):
        self.template = dataset.template

    def generate(self, requests, group=1, temperature=None, generator=None) -> list[list[Reply]]:
        if isinstance(generator, Sequence):
            seeds = [torch.randint(2 ** 31, (group,), generator=g).tolist() for g in generator]
        else:
            seeds = torch.randint(2 ** 31, (len(requests), group), generator=generator).tolist()
        return [[Reply(self.template(r.skills, r.context, random.Random(s))) for s in row] for r, row in zip(requests, seeds)]


class Silence:
    """No replies: on logs the next state ignores them, so strategy alone can be learned without a phrase book; R_t = R^E_t there."""

    def generate(self, requests, group=1, temperature=None, generator=None) -> list[list[Reply]]:
        return [[Reply("")] * group for _ in requests]


class NoJudge:
    """Scores nothing: every reply is unscored."""
    name = "none"

    def score(self, items: Sequence[Judged]) -> list[Scores | None]:
        return [None] * len(items)

    gre = score


def strategy_only(gopo: "Gopo") -> "Gopo":
    """The same Expert and learner without the language model: the phrase book speaks, or nobody does."""
    alone = type(gopo)(gopo.dataset, gopo.expert, None, gopo.judge, gopo.cfg, options=gopo.options)
    alone.learner = gopo.learner
    return alone


def by_policy(expert: Expert, draws: Callable[[int, int], torch.Generator] | None = None, greedy: bool = False, stops: bool = True) -> Choose:
    """Skills by pi_E: sampled, with a generator per (dialogue, turn) as `keyed` makes them, or the most probable ones."""
    @torch.no_grad()
    def choose(states: list[ExpertState], episodes: list[Episode]) -> list[tuple[str, ...]]:
        generators = [draws(e.number, len(e.steps)) for e in episodes] if draws else None
        return expert.act(states, generators, greedy=greedy, stops=stops).skills
    return choose


def by_teacher(states: list[ExpertState], episodes: list[Episode]) -> list[tuple[str, ...]]:
    return [tuple(e.seen.labels.teacher or ()) for e in episodes]


def by_chance(pool: Sequence[str], seed: int) -> Choose:
    """1 to 5 random skills, the same for (seed, dialogue, turn)."""
    def choose(states: list[ExpertState], episodes: list[Episode]) -> list[tuple[str, ...]]:
        rngs = [random.Random(f"{seed}/{e.number}/{len(e.steps)}") for e in episodes]
        return [tuple(r.sample(list(pool), min(len(pool), r.randint(1, 5)))) for r in rngs]
    return choose


def by_nobody(states: list[ExpertState], episodes: list[Episode]) -> list[tuple[str, ...]]:
    """--no_expert: no skills at all."""
    return [() for _ in states]


def request_of(state: ExpertState, skills: tuple[str, ...], context: dict[str, str], perceived: tuple[str | None, str | None], alone: int | None) -> Request:
    """s^A_t: (U_t, a^E_t, B_t), or, without an Expert, (U_t, B_t, the last `alone` turns of H_t, u_t, e_t)."""
    recent = () if alone is None else (state.history[max(0, len(state.history) - alone):], *perceived)
    return Request(state.user, skills, context, *recent)


def rollout(episodes: list[Episode], choose: Choose, speaker: Speaker, judge: Judge, perception: Perception, pool: dict[str, Skill], group: int = 1,
            temperature: float | None = None, generator: torch.Generator | Callable[[int, int], torch.Generator] | None = None, alone: int | None = None,
            needed: bool = False, progress: Callable[[int], None] | None = None) -> list[Episode]:
    """Plays dialogues in lockstep to their ends (Sec. 3.1, steps 1-4).

    generator  one for all, or one per (dialogue, turn) as `keyed` makes them
    alone      no Expert: the reply is written from the last so many turns of H_t, u_t and e_t instead of skills (U_t and B_t in both cases)
    needed     judge replies by the teacher's skills, what the turn needed, where it is labelled; else by those chosen (always so without an Expert)
    """
    while live := [e for e in episodes if not e.over]:
        states = [e.state() for e in live]
        perceived = perception.perceive([s.user for s in states])
        skills = choose(states, live)
        requests = [request_of(s, k, e.seen.context, p, alone) for s, k, e, p in zip(states, skills, live, perceived)]
        drawn = [generator(e.number, len(e.steps)) for e in live] if callable(generator) else generator
        groups = speaker.generate(requests, group, temperature, drawn)
        wanted = [(e.seen.labels.teacher or ()) if alone is not None or (needed and e.seen.labels.teacher is not None) else k
                  for e, k in zip(live, skills)]
        asked = [Judged(r.user, r.context, tuple(pool[k] for k in w), reply.text, tuple(s.replies[0].text for s in e.steps),
                        e.seen.labels.reference, s.history) for e, s, r, w, replies in zip(live, states, requests, wanted, groups) for reply in replies]
        scores = judge.score(asked)
        for i, (e, r) in enumerate(zip(live, requests)):
            seen, teacher = e.seen.labels, e.seen.labels.teacher
            e.steps.append(Step(states[i], r, perceived[i], (seen.intent, seen.emotion), skills[i], None if teacher is None else tuple(teacher),
                                groups[i], scores[i * group:(i + 1) * group], asked[i * group]))
            e.seen = e.env.step(groups[i][0].text)
        if progress:
            progress(sum(e.over for e in live))
    return episodes


# --- learning ---------------------------------------------------------------------------------------------------------------------

class Gopo:
    """Both agents and how they learn.  Other algorithms (`ALGORITHMS`) play the same dialogues and override what is chosen or learned.

    agent    a CustomerServiceAgent, which learns; or None
    speaker  who writes the replies, if not the agent: a hosted model; by default the phrase book, or nobody on logs
    options  the algorithm's own config, of class `Options`
    """
    single = False                               # True: one agent, no Expert
    policy: type = Expert                        # what chooses the skills
    Options: type | None = None

    def __init__(self, dataset: Dataset, expert: Expert, agent, judge: Judge, cfg: GopoConfig, speaker: Speaker | None = None, options: Any = None):
        if world_size() > (cfg.dialogues or 16):
            raise DataError(f"--dialogues {cfg.dialogues or 16} is fewer than the {world_size()} processes: every one needs a dialogue")
        self.dataset, self.expert, self.agent, self.cfg, self.options = dataset, expert, agent, cfg, options
        self.learner = ExpertLearner(expert)
        self.speaker: Speaker = speaker or agent or (PhraseBook(dataset) if dataset.template else Silence())
        self.judge = judge if not isinstance(self.speaker, Silence) else NoJudge()
        if cfg.outcome_weight and not dataset.environment:
            raise DataError(f"--outcome_weight needs a live shop: {dataset.name} is replayed, its outcome ignores the replies")
        self.size = cfg.dialogues or (16 if agent else 32)
        self.group = agent.cfg.group if agent else 1                         # replies per state
        self.alone = expert.cfg.history if cfg.no_expert else None           # k of H_t for an agent without an Expert
        self.gamma = cfg.gamma if cfg.gamma is not None else (0.95 if dataset.environment else 0.0)

    @classmethod
    def options_of(cls, config: dict) -> Any:
        """The algorithm's own config, from a run's config.json."""
        return cls.Options(**config["options"]) if cls.Options else None

    @classmethod
    def new_policy(cls, dataset: Dataset, cfg: ExpertConfig, options: Any) -> Expert:
        """Untrained, perception too."""
        return cls.policy(list(dataset.skills), Perception(dataset.intents, dataset.emotions), cfg)

    @classmethod
    def prepare_policy(cls, policy: Expert, dataset: Dataset) -> None:
        """What the policy gets, once perception is trained and before anything is played: nothing."""

    def chooser(self, draws: Callable[[int, int], torch.Generator] | None = None, greedy: bool = False) -> Choose:
        """Who chooses the skills; see `by_policy`."""
        return by_nobody if self.cfg.no_expert else by_policy(self.expert, draws, greedy)

    def episodes(self, split: str, numbers: Sequence[int], seed: int) -> list[Episode]:
        environments = [self.dataset.play(split, n, seed) for n in numbers]
        return [Episode(n, env, env.reset()) for n, env in zip(numbers, environments)]

    def step(self, number: int, seed: int, stage: int = 0) -> tuple[dict[str, float | None], list[Episode]]:
        """GOPO step `number`: all its randomness comes from (seed, stage, number), so a resumed run needs no generator's state."""
        rng = np.random.default_rng([seed, stage, number])
        numbers = shard(self._dialogues(rng))
        skill_draws, word_draws = (keyed(int(s)) for s in rng.integers(2 ** 31, size=2))
        played = self._together(lambda: rollout(self.episodes("train", numbers, seed), self.chooser(skill_draws), self.speaker, self.judge,
                                                self.expert.perception, self.dataset.skills, self.group, None, word_draws, self.alone))
        return {"step": number} | self.summary(played) | self.learn(played), played

    @staticmethod
    def _together(play: Callable[[], list[Episode]]) -> list[Episode]:
        """Of several processes, one whose judge is gone would leave the others waiting: all stop."""
        failed, played = None, []
        try:
            played = play()
        except ApiError as error:
            failed = error
        if any_process(failed is not None):
            raise failed or ApiError("another process could not ask its judge")
        return played

    def _dialogues(self, rng: np.random.Generator) -> list[int]:
        """The training dialogues of a step: fresh customers, or logs, none of them twice while there are enough."""
        if self.dataset.environment:
            return rng.integers(0, 2 ** 30, self.size).tolist()
        return rng.choice(len(self.dataset.train), self.size, replace=self.size > len(self.dataset.train)).tolist()

    def rewards(self, episode: Episode, ending: bool = True) -> list[float]:
        """R_t of Eq. 10 per turn (or one of its halves, for ablations), plus, with `ending`, what the end is worth (GAP-4)."""
        earned = []
        for t, step in enumerate(episode.steps, 1):
            r_e, r_a = step.r_expert(self.expert.cfg.skill_cost), step.r_cs_mean()
            if self.cfg.reward == "cs" or (r_e is None and self.cfg.reward == "joint"):
                earned.append(r_a or 0.0)
            elif r_e is None:
                earned.append(0.0)
            else:
                earned.append(joint_reward(r_e, r_a if self.cfg.reward == "joint" else None, t, self.dataset.horizon))
        end = episode.seen
        if not ending:
            return earned
        if end.terminated:
            earned[-1] += end_bonus(len(earned), self.dataset.horizon, self.gamma, end.outcome.success)
        earned[-1] += self.cfg.outcome_weight * tse(end.outcome.completed, gamma=self.cfg.tse_gamma)
        return earned

    def learn(self, played: list[Episode]) -> dict[str, float | None]:
        """One step of Eq. 7 for the Expert and one of Eqs. 9a-9d for the Customer Service Agent."""
        return ({} if self.cfg.no_expert else self.learn_skills(played)) | (self.learn_words(played) if self.agent else {})

    def learn_skills(self, played: list[Episode]) -> dict[str, float]:
        return self.learner.update(self.expert_batch(played))

    def learn_words(self, played: list[Episode]) -> dict[str, float]:
        steps = [s for e in played for s in e.steps]
        return self.agent.update(self.agent.prepare([s.request for s in steps]), [s.replies for s in steps], [r for e in played for r in self.reply_rewards(e)])

    def expert_batch(self, played: list[Episode]) -> ExpertBatch:
        batch, ends = ExpertBatch(), [e.state() for e in played]
        values = self.expert.state_values([s.state for e in played for s in e.steps] + ends)
        first = 0
        for episode, last in zip(played, values[len(values) - len(played):]):
            n = len(episode.steps)
            v = values[first:first + n] + [0.0 if episode.seen.terminated or self.cfg.outcome_weight else last]         # TSE, if paid, was the last word
            advantages = gae(self.rewards(episode), v, self.gamma, self.expert.cfg.gae_lambda)
            batch.states += [s.state for s in episode.steps]
            batch.skills += [s.skills for s in episode.steps]
            batch.returns += [a + value for a, value in zip(advantages, v)]
            batch.gains += [self.gains(s, t) for t, s in enumerate(episode.steps, 1)]
            first += n
        return batch

    def gains(self, step: Step, turn: int) -> list[float]:
        """What each pick of the Expert added to R_t: its share of R^E_t, weighted as in Eq. 10."""
        if self.cfg.reward == "cs" or step.teacher is None:
            return [0.0]
        weight = expert_weight(turn, self.dataset.horizon) if self.cfg.reward == "joint" and step.r_cs_mean() is not None else 1.0
        return [weight * g for g in skill_gains(step.skills, step.teacher, self.expert.cfg.skill_cost)]

    def reply_rewards(self, episode: Episode) -> list[list[float | None]]:
        """What Eq. 9b rewards, per turn and reply of the group; None leaves the loss (GAP-7)."""
        rows = []
        for t, step in enumerate(episode.steps, 1):
            r_e, r_a = step.r_expert(self.expert.cfg.skill_cost), step.r_cs()
            joint = self.cfg.cs_reward == "joint" and r_e is not None
            rows.append([None if r is None else joint_reward(r_e, r, t, self.dataset.horizon) if joint else r for r in r_a])
        return rows

    def parts(self) -> dict[str, dict[str, torch.Tensor]]:
        """Everything a checkpoint must hold.  Randomness belongs to (seed, step), so there is no generator among it."""
        parts = {"expert": self.expert.state_dict(), "expert_adam": adam_state(self.learner.optimiser)}
        if self.agent:
            weights = {name: p.detach() for name, p in self.agent.model.named_parameters() if p.requires_grad}
            parts |= {"agent": weights, "agent_adam": self.agent.optimizer_state()}
        return parts

    def restore(self, parts: dict[str, dict[str, torch.Tensor]]) -> None:
        load_into(self.expert, parts["expert"], "the checkpoint's Expert")
        load_adam_state(self.learner.optimiser, parts["expert_adam"])
        if self.agent:
            if lost := self.agent.model.load_state_dict(parts["agent"], strict=False).unexpected_keys:
                raise DataError(f"the checkpoint holds {lost[0]}, which this model has not: was --model or peft changed?")
            self.agent.load_optimizer_state(parts["agent_adam"])

    def summary(self, played: list[Episode]) -> dict[str, float | None]:
        """What a step's dialogues were like, those of all processes: the columns of metrics.jsonl."""
        steps = [s for e in played for s in e.steps]
        labelled = [s for s in steps if s.teacher is not None]
        scored = [s for step in steps for s in step.scores if s is not None]
        live = self.dataset.environment is not None
        row = {
            "tse": all_mean([tse(e.seen.outcome.completed, gamma=self.cfg.tse_gamma) for e in played]) if live else None,
            "success": all_mean([e.seen.outcome.success for e in played]) if live else None,
            "turns": all_mean([len(e.steps) for e in played]), "reward": all_mean([r for e in played for r in self.rewards(e, ending=False)]),
            "r_expert": all_mean([s.r_expert(self.expert.cfg.skill_cost) for s in labelled]), "r_cs": all_mean([r for s in steps for r in s.r_cs() if r is not None]),
            "w_expert": all_mean([expert_weight(t, self.dataset.horizon) for e in played for t in range(1, len(e.steps) + 1)]),
            "esndcg": all_mean([esndcg(s.skills, s.teacher) for s in labelled]), "f1": all_mean([skill_f1(s.skills, s.teacher) for s in labelled]),
            "exact": all_mean([s.skills == s.teacher for s in labelled]), "length": all_mean([len(s.skills) for s in steps]),
            "reply_words": all_mean([len(r.text.split()) for s in steps for r in s.replies]),
            "distinct_2": all_mean([d for e in played if (d := distinct_2([s.replies[0].text for s in e.steps])) is not None]),
            "repeated": all_mean([repeated([s.replies[0].text for s in e.steps]) for e in played]),
            "vouchers": all_mean([v for e in played if (v := e.seen.outcome.vouchers) is not None]),
            "unscored": all_mean([s is None for step in steps for s in step.scores]),
        }
        for i, name in enumerate(DIMENSIONS):
            row[f"S_{name}"] = all_mean([s[i] for s in scored])
            row[f"std_{name}"] = all_mean([np.std([s[i] for s in step.scores if s is not None]) for step in steps if any(step.scores)]) if self.group > 1 else None
        return row


@dataclass
class Answer:
    """`load(run)`: a trained pair, ready to answer."""
    gopo: Gopo

    def respond(self, history: Sequence[str], context: dict[str, str], previous: Sequence[str] = ()) -> tuple[tuple[str, ...], str]:
        """(skills, reply) to the last customer message.

        history   messages in turn: customer, agent, customer, ...; the last is the customer's
        context   B_t: what the shop knows, slot -> value; may be empty
        previous  the skills of the turn before, if known (a_{t-1})
        """
        if len(history) % 2 == 0:
            raise ValueError(f"history must end with a customer's message: got {len(history)} messages")
        if unknown := set(previous) - set(self.gopo.dataset.skills):
            raise ValueError(f"previous: unknown skills {sorted(unknown)}; the pool is in dataset.json of the run")
        said = tuple((user, data.delexicalise(reply, context)) for user, reply in zip(history[:-1:2], history[1:-1:2]))     # slots, as in training
        state = ExpertState(history[-1], said, tuple(previous))
        g = self.gopo
        skills = g.chooser(greedy=True)([state], [])[0]
        intent, emotion = g.expert.perception.perceive([state.user])[0]
        request = request_of(state, skills, context, (intent, emotion), g.alone)
        return skills, fill(g.speaker.generate([request], temperature=0.0)[0][0].text, context)


# --- the algorithms -----------------------------------------------------------------------------------------------------------------

ALGORITHMS = {"gopo": "gopo:Gopo", "sft": "baselines.sft:SFT", "ppo": "baselines.ppo:PPO", "memento": "baselines.memento:Memento", "imitation": "baselines.imitation:Imitation"}


def algorithm(name: str) -> type[Gopo]:
    """--algo; found by name, for the baselines stand on floors above this one."""
    module, _, found = ALGORITHMS[name].partition(":")
    return getattr(importlib.import_module(module), found)


# --- a run directory and back -----------------------------------------------------------------------------------------------------

def judge_for(dataset: Dataset, name: str = "rules", api: ApiConfig | None = None) -> Judge:
    """rules: by the skill pool for a shop, by chrF and slots on logs; api:MODEL: a hosted model."""
    if name != "rules":
        return judge_from(name, api or ApiConfig(), dataset)
    return RuleJudge(dataset.skills) if dataset.environment else ReplayJudge()


def save_domain(dataset: Dataset, path: Path) -> None:
    """dataset.json: all that a trained pair needs of its dataset to answer, without the data."""
    write_json(path, {"name": dataset.name, "skills": [asdict(s) for s in dataset.skills.values()], "intents": dataset.intents, "emotions": dataset.emotions,
                      "horizon": dataset.horizon, "must_not_say": dataset.must_not_say})


def read_domain(path: Path) -> Dataset:
    kept = read_json(path)
    records = [{k: tuple(v) if isinstance(v, list) else v for k, v in s.items()} for s in kept["skills"]]
    return Dataset(kept["name"], {s["id"]: Skill(**s) for s in records}, tuple(kept["intents"]), tuple(kept["emotions"]), [], [], [],
                   horizon=kept["horizon"], must_not_say=tuple(kept["must_not_say"]))


def load_gopo(run: str | Path, dataset: Dataset | None = None, expert: str = "expert.safetensors", agent: str | None = "csagent",
              judge: Judge | None = None, speaker: Speaker | None = None) -> Gopo:
    """Both agents of a run directory.

    expert, agent  other stages of it (strategy.safetensors, untrained, warm_start)
    judge          default: rules
    speaker        who speaks instead of the run's agent
    """
    run = Path(run)
    config = read_json(run / "config.json")
    speaks = config["run"]["replies"] == "lm"
    dataset = dataset or (read_domain(run / "dataset.json") if speaks else data.load_used(config["run"]))
    method, options = algorithm_of(config)
    policy = method.new_policy(dataset, ExpertConfig(**config["expert"]), options)
    load_into(policy, load_tensors(run / expert), str(run / expert))
    trained = load_agent(run / agent, dataset, config) if speaks and agent and not speaker else None
    return method(dataset, policy.to(here(config)), trained, judge or judge_for(dataset), GopoConfig(**config["gopo"]), speaker, options)


def algorithm_of(config: dict) -> tuple[type[Gopo], Any]:
    """The algorithm of a run and its options; a run of before --algo is GOPO's."""
    method = algorithm(config["run"].get("algo", "gopo"))
    return method, method.options_of(config)


def here(config: dict) -> str:
    """The device of a run, or the CPU where there is no such device."""
    return config["device"] if torch.cuda.is_available() else "cpu"


def load_agent(folder: Path, dataset: Dataset, config: dict):
    """The Customer Service Agent saved in `folder`, in the precision that the run was trained in."""
    from csagent import CustomerServiceAgent
    from lm.config import configs_of
    from lm.models import load_saved
    if not (folder / "config.json").exists() and not (folder / "adapter_config.json").exists():
        raise DataError(f"{folder}: no trained language model here; the run is not complete: python train.py --resume {folder.parent}")
    (lm, cfg, _), device = configs_of(config), here(config)
    model, tokenizer = load_saved(folder, lm.quantise, config["precision"], device)
    return CustomerServiceAgent(model, tokenizer, dataset.skills, dataset.must_not_say, cfg, lm, device, config["precision"])


def load(run: str | Path) -> Answer:
    """The two trained agents of a run directory."""
    return Answer(load_gopo(run))


if __name__ == "__main__":
    torch.manual_seed(0)
    shop = data.load("mgshop")
    perception = Perception(shop.intents, shop.emotions)
    print("perception, accuracy on unseen phrasings:", perception.fit(shop))
    demo = Gopo(shop, Expert(list(shop.skills), perception, ExpertConfig()), None, RuleJudge(shop.skills), GopoConfig())
    for number in range(1, 4):
        row, played = demo.step(number, seed=0)
        print(f"step {number}: R^E {row['r_expert']:.3f}, R^A {row['r_cs']:.3f}, TSE {row['tse']:.3f}, entropy {row['entropy_expert']:.2f} nats")
    for t, (s, reward) in enumerate(zip(played[0].steps, demo.rewards(played[0])), 1):
        print(f"\nturn {t}: {s.state.user}\n  skills {', '.join(s.skills)}   teacher {', '.join(s.teacher)}")
        print(f"  reply  {fill(s.replies[0].text, s.request.context)}")
        print(f"  R^E {s.r_expert(0.1):.2f}, S {tuple(round(x, 2) for x in s.scores[0])}, R^A {s.r_cs()[0]:.2f}, R_t {reward:.2f}")
