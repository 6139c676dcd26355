"""The Expert Agent (Sec. 3.1-3.3): it perceives the customer's intent and emotion, then chooses an
ordered sequence of at most 5 skills.

State     s^E_t = (H_t, u_t, e_t, a^E_{t-1}): the last k turns as text, the perceived intent and
          emotion, the skills of the turn before.  Text enters as hashed words and character
          trigrams: any language, no pretrained weights.
Policy    one skill after another, none twice, until a stop; so a sequence has an exact
          log pi(a|s) = sum_i log p(a_i | a_<i, s) + log p(stop | a, s).
Learning  advantage actor-critic, Eq. 7, with GAE over the joint reward R_t (GAP-4).

Not here: rewards (rewards.py), replies (csagent.py).
Shapes: B turns, K skills, S positions of a sequence (5), D width, N picks made.
Try it:  python expert.py        an untrained policy on one state, then GAE and Eq. 7 by hand
Exercise: let the policy repeat a skill (drop the `taken` mask), retrain with --skill_cost 0, watch
`length` and `esndcg`.
"""
from __future__ import annotations

import re
import zlib
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import chain
from typing import NamedTuple, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from data import MAX_SKILLS, Dataset, ExpertState, Turn, opt
from infra.processes import all_sum, any_process, sum_gradients

BUCKETS = 1 << 13  # rows of the hashed text table [ours]
Generators = torch.Generator | Sequence[torch.Generator] | None


@dataclass(frozen=True)
class ExpertConfig:
    """What the Expert learns with; every number is ours unless it says otherwise (GAP-9)."""
    expert_lr: float = opt(2e-3, "Adam step size of the Expert [ours: the paper gives none]")
    alpha: float = opt(0.04, "weight of the entropy term in Eq. 7, >= 0")
    gae_lambda: float = opt(0.7, "lambda of GAE, in [0, 1]: 0 trusts the critic, 1 the return")
    history: int = opt(3, "k of H_t: how many turns before this one the Expert reads")
    width: int = opt(192, "hidden width of the policy and the critic")
    skill_cost: float = opt(0.1, "c of R^E = ESNDCG - c max(0, m - n): the price of a skill beyond "
                                 "the teacher's number (GAP-2); 0 = the paper")

    def __post_init__(self):
        if self.expert_lr <= 0:
            raise ValueError(f"--expert_lr must be positive, got {self.expert_lr}")
        if not 0 <= self.gae_lambda <= 1:
            raise ValueError(f"--gae_lambda must lie in [0, 1], got {self.gae_lambda}")
        if min(self.alpha, self.skill_cost) < 0:
            raise ValueError(f"--alpha, --skill_cost must be >= 0: {self.alpha}, {self.skill_cost}")
        if self.history < 0 or self.width < 1:
            raise ValueError(f"--history must be >= 0, --width >= 1: {self.history}, {self.width}")


# --- equations -----------------------------------------------------------------------------------

def expert_loss(logp: Tensor, advantage: Tensor, entropy: Tensor, alpha: float) -> Tensor:
    """L(theta_E) = -E[A-hat log pi_E(a|s)] - alpha H(pi_E(.|s)), Eq. 7; the mean over B turns.

    logp       [B, S] nats, of each pick; log pi is their sum over S, the stop included
    advantage  [B, S] A-hat of each pick (GAP-8); no gradient flows through it
    entropy    [B, S] nats, >= 0, of the distribution of each pick; their sum estimates H.
               Unbiased in value; its gradient leaves out a score-function term (GAP-8)
    returns    scalar
    """
    if logp.dim() != 2 or not logp.shape == advantage.shape == entropy.shape:
        got = f"{tuple(logp.shape)}, {tuple(advantage.shape)}, {tuple(entropy.shape)}"
        raise ValueError(f"logp, advantage and entropy must be [B, S] each, got {got}")
    A_log_pi = (advantage.detach() * logp).sum(-1)  # [B]
    H = entropy.sum(-1)  # [B]
    return -A_log_pi.mean() - alpha * H.mean()


def gae(rewards: Sequence[float], values: Sequence[float], gamma: float,
        lam: float) -> list[float]:
    """Generalised Advantage Estimation (Schulman et al. 2016): A-hat_t of Eq. 7 for one dialogue.

    delta_t = R_t + gamma V_{t+1} - V_t          A_t = delta_t + gamma lam A_{t+1}

    rewards  R_1..R_T (Eq. 10)
    values   V_1..V_{T+1}; V_{T+1} is 0 if the dialogue ended by itself, else V of its last state
    raises   ValueError if values is not one longer than rewards
    """
    T = len(rewards)
    if len(values) != T + 1:
        raise ValueError(f"gae needs {T + 1} values for {T} rewards, got {len(values)}")
    advantages = [0.0] * T
    later = 0.0
    for t in reversed(range(T)):
        later = rewards[t] + gamma * values[t + 1] - values[t] + gamma * lam * later
        advantages[t] = later
    return advantages


def pick_advantages(turn_return: Tensor, gains: Tensor, values: Tensor, mask: Tensor) -> Tensor:
    """A-hat of Eq. 7 for each pick of a turn: A_{t,i} = G_t - sum_{j<i} g_j - V(s_t, a_<i).

    What the turn returned, less what earlier picks had earned, less what was expected then.  It
    is unbiased; one number per turn would blame every pick for all others (GAP-8).

    turn_return  [B] G_t = A_t + V(s_t), A_t from `gae`
    gains        [B, S] g_i: what each pick added to R_t (`rewards.skill_gains` times its weight)
    values       [B, S] V(s_t, a_<i), the critic before each pick
    mask         [B, S] which picks were made; elsewhere the advantage is 0
    """
    earlier = gains.cumsum(-1) - gains
    return (turn_return[:, None] - earlier - values) * mask


def conditional_entropy(log_p: Tensor) -> Tensor:
    """-sum_a p log p over the last axis, nats; p log p := 0 where p = 0."""
    return -(log_p.exp() * log_p.clamp(min=-1e9)).sum(-1)


def draw(log_p: Tensor, uniform: Tensor) -> Tensor:
    """[B, K + 1], [B] -> [B]: the first entry whose cumulative probability exceeds `uniform`."""
    cumulative = log_p.detach().double().exp().cumsum(-1)
    return (cumulative <= uniform[:, None] * cumulative[:, -1:]).sum(-1)


# --- text as hashed bags, and perception ---------------------------------------------------------

@lru_cache(200_000)
def text_features(text: str) -> np.ndarray:
    """Bucket numbers of the words, word pairs and character trigrams of 2,000 characters."""
    lowered = text[:2000].lower()
    words = re.findall(r"\w+", lowered)
    pairs = [f"{a} {b}" for a, b in zip(words, words[1:])]
    trigrams = [lowered[i:i + 3] for i in range(len(lowered) - 2)]
    buckets = [zlib.crc32(g.encode()) % BUCKETS for g in words + pairs + trigrams]
    return np.array(buckets or [0])


def bags(texts: Sequence[str], device: torch.device) -> tuple[Tensor, Tensor]:
    """Flat bucket numbers and where each text begins, as nn.EmbeddingBag takes them."""
    features = [text_features(text) for text in texts]
    starts = np.cumsum([0] + [len(f) for f in features[:-1]])
    flat = np.concatenate(features)
    return torch.from_numpy(flat).to(device), torch.from_numpy(starts).to(device)


class Perception(nn.Module):
    """u_t and e_t from the customer's words (Sec. 3.1, step 1): a linear head for each label set
    that the data has, on one bag of hashed n-grams, learned from labels."""

    def __init__(self, intents: Sequence[str], emotions: Sequence[str], width: int = 64):
        super().__init__()
        self.labels = {"intent": tuple(intents), "emotion": tuple(emotions)}
        self.width = width
        self.bag = nn.EmbeddingBag(BUCKETS, width, mode="mean")
        nn.init.normal_(self.bag.weight, std=0.3)
        self.heads = nn.ModuleDict()
        for name, labels in self.labels.items():
            if labels:
                self.heads[name] = nn.Linear(width, len(labels))

    @property
    def size(self) -> int:
        return sum(map(len, self.labels.values()))

    def _pooled(self, texts: Sequence[str]) -> Tensor:
        return self.bag(*bags(texts, self.bag.weight.device))

    def forward(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """Logits [B, labels] for each label set that the data has."""
        pooled = self._pooled(texts)
        return {name: head(pooled) for name, head in self.heads.items()}

    @torch.no_grad()
    def probabilities(self, states: Sequence[ExpertState]) -> Tensor:
        """[B, intents + emotions]: u_t and e_t for the policy; a true one counts as certain."""
        logits = self([s.user for s in states])
        if not logits:
            return torch.zeros(len(states), 0, device=self.bag.weight.device)
        parts = {name: x.softmax(-1) for name, x in logits.items()}
        for row, state in enumerate(states):
            for name, label in zip(self.labels, state.true_perception):
                if label in self.labels[name]:
                    parts[name][row] = 0.0
                    parts[name][row, self.labels[name].index(label)] = 1.0
        return torch.cat(list(parts.values()), -1)

    @torch.no_grad()
    def meaning(self, texts: Sequence[str]) -> Tensor:
        """[B, width]: the pooled text that the two heads read, scaled to unit variance."""
        return F.layer_norm(self._pooled(texts), (self.width,))

    @torch.no_grad()
    def perceive(self, texts: Sequence[str]) -> list[tuple[str | None, str | None]]:
        """Most probable (intent, emotion) of each text; None where the data has no such labels."""
        found = {name: [None] * len(texts) for name in self.labels}
        for name, logits in self(texts).items():
            found[name] = [self.labels[name][i] for i in logits.argmax(-1).tolist()]
        return list(zip(found["intent"], found["emotion"]))

    def fit(self, dataset: Dataset, epochs: int = 12, lr: float = 1e-2, batch: int = 128,
            seed: int = 0) -> dict[str, float]:
        """Learns the labels of the training split; returns `accuracy` on the test split."""
        turns = list(chain.from_iterable(dialogue.turns for dialogue in dataset.train))
        generator = torch.Generator().manual_seed(seed)
        optimiser = torch.optim.Adam(self.parameters(), lr)
        rounds = epochs if self.heads else 0
        for _ in tqdm(range(rounds), desc="perception", leave=False):
            for rows in torch.randperm(len(turns), generator=generator).split(batch):
                loss = self._loss([turns[i] for i in rows])
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
        return self.accuracy(list(chain.from_iterable(d.turns for d in dataset.test)))

    def _loss(self, turns: list[Turn]) -> Tensor:
        """Cross-entropy summed over the label sets; 0 for a batch that nobody labelled."""
        total = torch.zeros((), device=self.bag.weight.device)
        for name, logits in self([t.user for t in turns]).items():
            target = self._targets(name, turns)
            if (target >= 0).any():
                total = total + F.cross_entropy(logits, target, ignore_index=-1)
        return total if total.requires_grad else 0 * self.bag.weight.sum()

    def _targets(self, name: str, turns: list[Turn]) -> Tensor:
        """[B] label numbers of one label set; -1 where nobody labelled the turn."""
        labels = self.labels[name]
        given = [getattr(turn, name) for turn in turns]
        numbers = [labels.index(label) if label in labels else -1 for label in given]
        return torch.tensor(numbers, device=self.bag.weight.device)

    @torch.no_grad()
    def accuracy(self, turns: list[Turn]) -> dict[str, float]:
        """Share of the labelled turns that are perceived rightly, by label set."""
        if not turns:
            return {}
        shares = {}
        for name, logits in self([t.user for t in turns]).items():
            target = self._targets(name, turns)
            known = target >= 0
            if known.any():
                right = logits.argmax(-1)[known] == target[known]
                shares[name] = right.float().mean().item()
        return shares


# --- policy and critic ---------------------------------------------------------------------------

class Choice(NamedTuple):
    """Sequences a^E_t, pick by pick.  The stop is a pick; a fifth skill ends without one."""
    skills: list[tuple[str, ...]]
    logp: Tensor  # [B, S] nats; their sum over S is log pi(a|s)
    entropy: Tensor  # [B, S] nats, of the conditional distributions
    value: Tensor  # [B, S] V(s, a_<i); the first column is V(s)
    mask: Tensor  # [B, S] True where a pick was made


class Expert(nn.Module):
    """pi_E and its critic on one trunk."""

    def __init__(self, pool: Sequence[str], perception: Perception, cfg: ExpertConfig,
                 words: int = 48):
        super().__init__()
        K, k, D = len(pool), cfg.history, cfg.width
        self.pool = tuple(pool)
        self.cfg = cfg
        self.perception = perception
        self.index = {skill: i for i, skill in enumerate(self.pool)}
        self.stop = K  # the pick after the K skills
        self.user_bag = nn.EmbeddingBag(BUCKETS, words, mode="mean")
        self.reply_bag = nn.EmbeddingBag(BUCKETS, words, mode="mean")
        for bag in (self.user_bag, self.reply_bag):
            nn.init.normal_(bag.weight, std=0.5)
        # a mean over many n-grams is tiny compared with inputs of 0 and 1
        self.user_norm = nn.LayerNorm(words)
        self.reply_norm = nn.LayerNorm(words)
        texts = words * (k + 1) + words * k + perception.width * (k + 1)
        inputs = texts + perception.size + K
        self.trunk = nn.Sequential(nn.Linear(inputs, D), nn.ReLU(), nn.Linear(D, D), nn.Tanh())

        self.skill_embedding = nn.Embedding(K + 1, D)  # the last row: nothing chosen yet
        self.cell = nn.GRUCell(D, D)
        self.actor = nn.Linear(D, K + 1)  # K skills and the stop
        self.critic = nn.Sequential(nn.Linear(D, D), nn.ReLU(), nn.Linear(D, 1))

    @property
    def device(self) -> torch.device:
        return self.actor.weight.device

    def encode(self, states: Sequence[ExpertState]) -> Tensor:
        """s^E_t -> [B, D]."""
        B = len(states)
        users, replies = self._texts(states)
        parts = [
            self.user_norm(self.user_bag(*bags(users, self.device))).view(B, -1),  # U_t-k .. U_t
            self.perception.meaning(users).view(B, -1),  # the same messages; not trained here
            self.perception.probabilities(states),  # u_t, e_t
        ]
        if replies:
            parts.append(self.reply_norm(self.reply_bag(*bags(replies, self.device))).view(B, -1))
        previous = torch.zeros(B, len(self.pool))  # a^E_{t-1}, as a set
        for row, state in enumerate(states):
            previous[row, [self.index[skill] for skill in state.previous]] = 1.0
        return self.trunk(torch.cat([*parts, previous.to(self.device)], -1))

    def _texts(self, states: Sequence[ExpertState]) -> tuple[list[str], list[str]]:
        """The last k + 1 messages and k replies of each state; a turn not played is empty."""
        unplayed = (("", ""),) * self.cfg.history
        users, replies = [], []
        for state in states:
            turns = (unplayed + tuple(state.history))[len(state.history):]  # the last k
            users += [*(user for user, _ in turns), state.user]
            replies += [reply for _, reply in turns]
        return users, replies

    def act(self, states: Sequence[ExpertState], generator: Generators = None,
            given: Sequence[Sequence[str]] | None = None, greedy: bool = False,
            stops: bool = True) -> Choice:
        """Draws a sequence for each state, or scores the `given` ones (imitation; Eq. 7's update).

        generator  one for all states, or one for each, so that no sequence depends on another
        greedy     the most probable pick each time
        stops      False: never stops before the fifth skill (a baseline of Table MultiWOZ)
        """
        B = len(states)
        hidden = self.encode(states)  # [B, D]
        targets = None if given is None else self._targets(given)  # [B, S]
        draws = targets is None and not greedy
        uniforms = self._uniforms(B, generator) if draws else None  # [B, S]
        taken = torch.zeros(B, self.stop + 1, dtype=torch.bool, device=self.device)
        alive = torch.ones(B, dtype=torch.bool, device=self.device)
        last = torch.full((B,), self.stop, device=self.device)
        columns = []
        for i in range(min(MAX_SKILLS, len(self.pool))):
            hidden = self.cell(self.skill_embedding(last), hidden)
            log_p = self._log_probs(hidden, taken, stops)  # [B, K + 1]
            if targets is not None:
                pick = targets[:, i]
            elif uniforms is not None:
                pick = draw(log_p, uniforms[:, i])
            else:
                pick = log_p.argmax(-1)
            pick = torch.where(alive, pick, self.stop)
            entropy = torch.where(alive, conditional_entropy(log_p), 0.0)
            logp = torch.where(alive, log_p.gather(-1, pick[:, None]).squeeze(-1), 0.0)
            columns.append((pick, logp, entropy, self.critic(hidden).squeeze(-1), alive))
            alive = alive & (pick != self.stop)
            taken = taken | F.one_hot(pick, self.stop + 1).bool() & alive[:, None]
            last = torch.where(alive, pick, last)
        chosen, *rest = (torch.stack(column, 1) for column in zip(*columns))  # [B, S] each
        return Choice([self._names(row) for row in chosen.tolist()], *rest)

    def _names(self, picks: list[int]) -> tuple[str, ...]:
        return tuple(self.pool[i] for i in picks if i != self.stop)

    def _uniforms(self, batch: int, generator: Generators) -> Tensor:
        """[B, S] numbers from [0, 1); each row from its own generator where there are several."""
        if isinstance(generator, Sequence):
            uniforms = torch.stack([torch.rand(MAX_SKILLS, generator=g) for g in generator])
        else:
            uniforms = torch.rand(batch, MAX_SKILLS, generator=generator)
        return uniforms.view(batch, MAX_SKILLS).double().to(self.device)

    @torch.no_grad()
    def state_values(self, states: Sequence[ExpertState]) -> list[float]:
        """V(s), before any pick."""
        start = torch.full((len(states),), self.stop, device=self.device)
        hidden = self.cell(self.skill_embedding(start), self.encode(states))
        return self.critic(hidden).squeeze(-1).tolist()

    def _log_probs(self, hidden: Tensor, taken: Tensor, stops: bool) -> Tensor:
        """log p(next | so far): no skill twice (GAP-2), so log p = -inf for those taken."""
        logits = self.actor(hidden).masked_fill(taken, float("-inf"))
        if not stops:
            logits[:, self.stop] = float("-inf")
        return logits.log_softmax(-1)

    def _targets(self, sequences: Sequence[Sequence[str]]) -> Tensor:
        """[B, S] picks of given sequences, filled up with stops."""
        rows = []
        for sequence in sequences:
            picks = [self.index[skill] for skill in sequence]
            rows.append(picks + [self.stop] * (MAX_SKILLS - len(picks)))
        return torch.tensor(rows, device=self.device)


# --- learning ------------------------------------------------------------------------------------

@dataclass
class ExpertBatch:
    """All turns of a rollout, flat."""
    states: list[ExpertState] = field(default_factory=list)
    skills: list[tuple[str, ...]] = field(default_factory=list)
    returns: list[float] = field(default_factory=list)  # G_t = A_t + V(s_t), A_t from `gae`
    gains: list[list[float]] = field(default_factory=list)  # what each pick, and the stop, added


class ExpertLearner:
    """One Adam step per rollout for Eq. 7 and the critic; without a ratio, no epochs (GAP-6)."""

    def __init__(self, expert: Expert):
        self.expert = expert
        named = expert.named_parameters()
        self.parameters = [p for name, p in named if not name.startswith("perception.")]
        self.optimiser = torch.optim.Adam(self.parameters, expert.cfg.expert_lr)

    def update(self, batch: ExpertBatch) -> dict[str, float]:
        """One step on the turns of all processes; each mean below is over all of them."""
        alpha, device = self.expert.cfg.alpha, self.expert.device
        choice = self.expert.act(batch.states, given=batch.skills)  # [B, S] each
        S = choice.mask.shape[1]
        gains = torch.tensor([(g + [0.0] * S)[:S] for g in batch.gains], device=device)  # [B, S]
        returns = torch.tensor(batch.returns, device=device)  # [B]
        raw = pick_advantages(returns, gains, choice.value.detach(), choice.mask)  # [B, S]
        values = choice.value[choice.mask]  # [N]
        picked = raw[choice.mask]  # [N]
        turns, picks = all_sum(len(batch.states), len(picked))
        # standardised over the whole batch, never for each turn index
        mean, spread = _mean_and_variance(picked, picks)
        advantage = (raw - mean) / (spread ** 0.5 + 1e-6) * choice.mask
        share = len(batch.states) / turns  # of this process
        policy = expert_loss(choice.logp, advantage, choice.entropy, alpha) * share
        target = picked + values.detach()  # what the critic should have said
        critic = (target - values).square().sum() / picks
        norm = self.step(policy + 0.5 * critic, "Eq. 7 of the Expert")
        _, around = _mean_and_variance(target, picks)
        entropy = float(choice.entropy.detach().sum())
        policy_sum, critic_sum, entropy_sum = all_sum(policy.item(), critic.item(), entropy)
        explained = 1 - spread / max(around, 1e-8)
        return {"loss_expert": policy_sum, "loss_critic": critic_sum,
                "entropy_expert": entropy_sum / turns, "explained_variance": explained,
                "grad_norm_expert": norm}

    def imitate(self, states: Sequence[ExpertState],
                teachers: Sequence[Sequence[str]]) -> float | None:
        """One step on the mean of -log pi_E(T|s) over the states of all processes; None if none."""
        count = all_sum(len(states))[0]
        if not count:
            return None
        if states:
            loss = -self.expert.act(states, given=teachers).logp.sum() / count
        else:
            loss = sum(p.sum() for p in self.parameters) * 0.0
        self.step(loss, "cross-entropy of the Expert")
        return all_sum(loss.item())[0]

    def step(self, loss: Tensor, term: str) -> float:
        """One Adam step with gradients clipped to norm 1; returns the norm before clipping."""
        if any_process(not torch.isfinite(loss)):
            raise FloatingPointError(f"{term} is {loss.item()}")
        self.optimiser.zero_grad()
        loss.backward()
        sum_gradients(self.parameters)
        norm = nn.utils.clip_grad_norm_(self.parameters, 1.0)
        if not torch.isfinite(norm):
            raise FloatingPointError(f"the gradient of {term} is {norm.item()}")
        self.optimiser.step()
        return norm.item()


def _mean_and_variance(values: Tensor, count: float) -> tuple[float, float]:
    """Over the values of all processes, `count` in all."""
    mean = all_sum(float(values.sum()))[0] / count
    variance = all_sum(float((values - mean).square().sum()))[0] / count
    return mean, variance


def main() -> None:
    """An untrained policy on one state; GAE and Eq. 7 with numbers to check by hand."""
    torch.manual_seed(0)
    pool = ["greet", "apologise", "state_refund", "close"]
    expert = Expert(pool, Perception(["refund"], ["neutral", "angry"]), ExpertConfig())
    state = ExpertState("Where is my money?", (("Hi", "Hello and welcome."),), ("greet",))
    choice = expert.act([state] * 4, torch.Generator().manual_seed(0))
    print(f"message {state.user!r}, history {state.history}, skills before {state.previous}")
    print(f"untrained: V(s) = {choice.value[0, 0]:.3f}; four draws, no skill twice: log pi  sum H")
    for skills, logp, entropy in zip(choice.skills, choice.logp, choice.entropy):
        listed = ", ".join(skills) or "(stop at once)"
        print(f"  {listed:50s}  {logp.sum():.3f}  {entropy.sum():.3f}")
    print("GAE of rewards (1, 0), values (.5, .5, 0), gamma .9, lambda .5")
    print("  A_2 = delta_2 = 0 + 0 - .5 = -.5;  A_1 = 1 + .45 - .5 + .45 * -.5 = .725")
    print(f"  gae(...) = {gae([1.0, 0.0], [0.5, 0.5, 0.0], 0.9, 0.5)}")
    print("Eq. 7 of two turns: log pi = -1, -3; A-hat = 1, -2; H = .4, .6; alpha = .1")
    print("  -(1 * -1 + -2 * -3) / 2 - .1 * (.4 + .6) / 2 = -2.5 - .05 = -2.55")
    columns = torch.tensor([[-1.0, 1.0, 0.4], [-3.0, -2.0, 0.6]]).split(1, dim=-1)  # [B, 1] each
    print(f"  expert_loss(...) = {expert_loss(*columns, alpha=0.1):.2f}")


if __name__ == "__main__":
    main()
