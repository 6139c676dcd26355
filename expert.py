"""The Expert Agent (Sec. 3.1-3.3): perceives intent and emotion, then picks an ordered sequence of at most 5 skills.

State s^E_t = (H_t, u_t, e_t, a^E_{t-1}): the last k turns as text, the *perceived* intent and emotion, the skills of the turn before.
Policy: one skill after another without replacement, with a stop, so log pi(a|s) = sum_i log p(a_i | a_<i, s) + log p(stop) is exact.
Learning: advantage actor-critic, Eq. 7, with GAE over the joint reward R_t (GAP-4).  Text enters as hashed words and character
n-grams: any language, no pretrained weights.  B batch, K skills, S positions (5), D width.
Try it:  python expert.py        an untrained policy on one state: sequences, log-probabilities, entropy, GAE by hand
Exercise: let the policy repeat a skill (drop the `taken` mask), retrain with --skill_cost 0, watch `length` and `esndcg`."""
from __future__ import annotations

import re
import zlib
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from data import MAX_SKILLS, Dataset, ExpertState, opt
from infra.processes import all_sum, any_process, sum_gradients

BUCKETS = 1 << 13                                # rows of the hashed text table [ours]


@dataclass(frozen=True)
class ExpertConfig:
    """What the Expert learns with; every number is ours unless it says otherwise (GAP-9)."""
    expert_lr: float = opt(2e-3, "Adam step size of the Expert [ours: the paper gives none]")
    alpha: float = opt(0.04, "weight of the entropy term in Eq. 7, >= 0")
    gae_lambda: float = opt(0.7, "lambda of GAE, in [0, 1]: 0 trusts the critic, 1 the sampled return")
    history: int = opt(3, "k of H_t: how many turns before this one the Expert reads")
    width: int = opt(192, "hidden width of the policy and the critic")
    skill_cost: float = opt(0.1, "c of R^E = ESNDCG - c max(0, m - n): the price of a skill beyond the teacher's number (GAP-2); 0 = the paper")

    def __post_init__(self):
        if self.expert_lr <= 0:
            raise ValueError(f"--expert_lr must be positive, got {self.expert_lr}")
        if not 0 <= self.gae_lambda <= 1:
            raise ValueError(f"--gae_lambda must lie in [0, 1], got {self.gae_lambda}")
        if min(self.alpha, self.skill_cost) < 0:
            raise ValueError(f"--alpha and --skill_cost must be >= 0, got {self.alpha}, {self.skill_cost}")
        if self.history < 0 or self.width < 1:
            raise ValueError(f"--history must be >= 0 and --width >= 1, got {self.history}, {self.width}")


# --- equations -----------------------------------------------------------------------------------------------------------------

def gae(rewards: Sequence[float], values: Sequence[float], gamma: float, lam: float) -> list[float]:
    """Generalised Advantage Estimation (Schulman et al. 2016) for one dialogue: the A-hat^E_t of Eq. 7.

    delta_t = r_t + gamma V_{t+1} - V_t;   A_t = delta_t + gamma lam A_{t+1}

    rewards  R_1..R_T (Eq. 10)
    values   V_1..V_{T+1}; the last is 0 if the dialogue terminated, V of the last state if it was truncated
    raises   ValueError if values is not one longer than rewards
    """
    if len(values) != len(rewards) + 1:
        raise ValueError(f"gae needs one value more than rewards: got {len(rewards)} rewards, {len(values)} values")
    advantages, later = [0.0] * len(rewards), 0.0
    for t in reversed(range(len(rewards))):
        later = rewards[t] + gamma * values[t + 1] - values[t] + gamma * lam * later
        advantages[t] = later
    return advantages


def expert_loss(logp: Tensor, advantage: Tensor, entropy: Tensor, alpha: float) -> Tensor:
    """L(theta_E) = -E[A-hat log pi_E(a|s)] - alpha H(pi_E(.|s)), Eq. 7; means over the batch.

    logp       [B] nats, of the whole skill sequence, stop included; or [B, S], of each pick, summed over S (log pi is their sum)
    advantage  the same shape, no gradient; with [B, S] each pick has its own (GAP-8)
    entropy    [B] nats, >= 0: sum of the conditional entropies along the sampled sequence.  Unbiased in value; its plain gradient
               leaves out a score-function term (GAP-8)
    returns    scalar
    """
    if logp.shape != advantage.shape or len(logp) != len(entropy):
        raise ValueError(f"shapes differ: logp {tuple(logp.shape)}, advantage {tuple(advantage.shape)}, entropy {tuple(entropy.shape)}")
    return -(advantage.detach() * logp).flatten(1).sum(-1).mean() - alpha * entropy.mean() if logp.dim() > 1 else \
        -(advantage.detach() * logp).mean() - alpha * entropy.mean()


def pick_advantages(turn_return: Tensor, gains: Tensor, values: Tensor, mask: Tensor) -> Tensor:
    """A-hat of Eq. 7 pick by pick: what the turn returned, less what earlier picks had already earned, less what was expected then.

    A_{t,i} = G_t - sum_{j<i} g_j - V(s_t, a_<i).  Unbiased: what is subtracted does not depend on pick i.  With one number per turn
    every pick is blamed for all others (GAP-8).

    turn_return  [B] G_t = A_t + V(s_t), A_t from `gae`
    gains        [B, S] what each pick added to R_t (`rewards.skill_gains` times its weight)
    values       [B, S] V(s_t, a_<i), the critic before each pick
    mask         [B, S] which picks were made
    returns      [B, S], 0 where no pick was made
    """
    earlier = gains.cumsum(-1) - gains
    return (turn_return[:, None] - earlier - values) * mask


# --- text as hashed bags -------------------------------------------------------------------------------------------------------

@lru_cache(200_000)
def text_features(text: str) -> np.ndarray:
    """Bucket numbers of the words, word pairs and character trigrams of a text (its first 2,000 characters)."""
    lowered = text[:2000].lower()
    words = re.findall(r"\w+", lowered)
    grams = words + [f"{a} {b}" for a, b in zip(words, words[1:])] + [lowered[i:i + 3] for i in range(len(lowered) - 2)]
    return np.array([zlib.crc32(g.encode()) % BUCKETS for g in grams] or [0])


def bags(texts: Sequence[str], device: torch.device) -> tuple[Tensor, Tensor]:
    """Flat bucket numbers and where each text begins, for nn.EmbeddingBag."""
    features = [text_features(t) for t in texts]
    starts = np.cumsum([0] + [len(f) for f in features[:-1]])
    return torch.from_numpy(np.concatenate(features)).to(device), torch.from_numpy(starts).to(device)


class Perception(nn.Module):
    """u_t and e_t from the customer's words (Sec. 3.1, step 1): two linear heads on one bag of hashed n-grams, trained on labels."""

    def __init__(self, intents: Sequence[str], emotions: Sequence[str], width: int = 64):
        super().__init__()
        self.labels = {"intent": tuple(intents), "emotion": tuple(emotions)}
        self.width, self.bag = width, nn.EmbeddingBag(BUCKETS, width, mode="mean")
        nn.init.normal_(self.bag.weight, std=0.3)
        self.heads = nn.ModuleDict({name: nn.Linear(width, len(labels)) for name, labels in self.labels.items() if labels})

    @property
    def size(self) -> int:
        return sum(map(len, self.labels.values()))

    def forward(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """Logits [B, labels] for each label set that the data has."""
        pooled = self.bag(*bags(texts, self.bag.weight.device))
        return {name: head(pooled) for name, head in self.heads.items()}

    @torch.no_grad()
    def probabilities(self, states: Sequence[ExpertState]) -> Tensor:
        """[B, intents + emotions]: what the Expert sees of u_t and e_t, certain where it was told; a label set that the data lacks has no columns."""
        parts = {name: logits.softmax(-1) for name, logits in self([s.user for s in states]).items()}
        for row, state in enumerate(states):
            for name, label in zip(("intent", "emotion"), state.true_perception):
                if name in parts and label in self.labels[name]:
                    parts[name][row] = F.one_hot(torch.tensor(self.labels[name].index(label)), len(self.labels[name]))
        return torch.cat(list(parts.values()), -1) if parts else torch.zeros(len(states), 0, device=self.bag.weight.device)

    @torch.no_grad()
    def meaning(self, texts: Sequence[str]) -> Tensor:
        """[B, width]: the pooled text that the two heads read, scaled to unit variance."""
        return F.layer_norm(self.bag(*bags(texts, self.bag.weight.device)), (self.width,))

    @torch.no_grad()
    def perceive(self, texts: Sequence[str]) -> list[tuple[str | None, str | None]]:
        """Most probable (intent, emotion) per text; None where the data has no such labels."""
        best = {n: logits.argmax(-1).tolist() for n, logits in self(texts).items()}
        name = lambda kind, i: self.labels[kind][best[kind][i]] if kind in best else None
        return [(name("intent", i), name("emotion", i)) for i in range(len(texts))]

    def fit(self, dataset: Dataset, epochs: int = 12, lr: float = 1e-2, batch: int = 128, seed: int = 0) -> dict[str, float]:
        """Supervised training on the labels of the training split; returns accuracy on the test split per label set."""
        turns = [t for d in dataset.train for t in d.turns]
        generator, optimiser = torch.Generator().manual_seed(seed), torch.optim.Adam(self.parameters(), lr)
        for _ in tqdm(range(epochs if self.heads else 0), desc="perception", leave=False):
            for rows in torch.randperm(len(turns), generator=generator).split(batch):
                loss = self._loss([turns[i] for i in rows])
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
        return self.accuracy([t for d in dataset.test for t in d.turns])

    def _loss(self, turns: list) -> Tensor:
        total = torch.zeros((), device=self.bag.weight.device)
        for name, logits in self([t.user for t in turns]).items():
            target = torch.tensor([self._index(name, t) for t in turns], device=logits.device)
            if (target >= 0).any():
                total = total + F.cross_entropy(logits, target, ignore_index=-1)
        return total if total.requires_grad else total + 0 * self.bag.weight.sum()

    def _index(self, name: str, turn) -> int:
        label = getattr(turn, name)
        return self.labels[name].index(label) if label in self.labels[name] else -1

    @torch.no_grad()
    def accuracy(self, turns: list) -> dict[str, float]:
        shares = {}
        for name, logits in (self([t.user for t in turns]) if turns else {}).items():
            target = torch.tensor([self._index(name, t) for t in turns], device=logits.device)
            known = target >= 0
            if known.any():
                shares[name] = (logits.argmax(-1)[known] == target[known]).float().mean().item()
        return shares


# --- policy and critic ---------------------------------------------------------------------------------------------------------

class Choice(NamedTuple):
    """A batch of sampled macro-actions a^E_t, pick by pick; the stop is a pick, a fifth skill ends the sequence without one."""
    skills: list[tuple[str, ...]]
    logp: Tensor                                 # [B, S] nats; their sum over S is log pi(a|s)
    entropy: Tensor                              # [B, S] nats, of the conditional distributions
    value: Tensor                                # [B, S] V(s, a_<i); the first column is V(s)
    mask: Tensor                                 # [B, S] True where a pick was made


class Expert(nn.Module):
    """pi_E and its critic on one trunk."""

    def __init__(self, pool: Sequence[str], perception: Perception, cfg: ExpertConfig, words: int = 48):
        super().__init__()
        self.pool, self.cfg, self.perception = tuple(pool), cfg, perception
        self.index = {s: i for i, s in enumerate(self.pool)}
        self.stop = len(self.pool)
        self.user_bag = nn.EmbeddingBag(BUCKETS, words, mode="mean")
        self.reply_bag = nn.EmbeddingBag(BUCKETS, words, mode="mean")
        for bag in (self.user_bag, self.reply_bag):
            nn.init.normal_(bag.weight, std=0.5)
        inputs = words * (1 + 2 * cfg.history) + perception.width * (1 + cfg.history) + perception.size + len(self.pool)
        self.user_norm, self.reply_norm = nn.LayerNorm(words), nn.LayerNorm(words)  # a mean over many n-grams is tiny beside 0/1 inputs
        self.trunk = nn.Sequential(nn.Linear(inputs, cfg.width), nn.ReLU(), nn.Linear(cfg.width, cfg.width), nn.Tanh())
        self.skill_embedding = nn.Embedding(len(self.pool) + 1, cfg.width)         # the last row: nothing chosen yet
        self.cell = nn.GRUCell(cfg.width, cfg.width)
        self.actor = nn.Linear(cfg.width, len(self.pool) + 1)                      # K skills and the stop
        self.critic = nn.Sequential(nn.Linear(cfg.width, cfg.width), nn.ReLU(), nn.Linear(cfg.width, 1))

    @property
    def device(self) -> torch.device:
        return self.actor.weight.device

    def encode(self, states: Sequence[ExpertState]) -> Tensor:
        """s^E_t -> [B, D].  A turn that is not there yet is an empty text."""
        k = self.cfg.history
        padded = [((("", ""),) * k + tuple(s.history))[len(s.history):] for s in states]               # the last k turns, oldest first
        users = [t for s, h in zip(states, padded) for t in (*(u for u, _ in h), s.user)]
        replies = [r for h in padded for _, r in h]
        parts = [self.user_norm(self.user_bag(*bags(users, self.device))).view(len(states), -1),                       # [B, (k + 1) * words]
                 self.perception.meaning(users).view(len(states), -1),                                 # [B, (k + 1) * width], frozen
                 self.perception.probabilities(states)]                                                # u_t, e_t
        if replies:
            parts.append(self.reply_norm(self.reply_bag(*bags(replies, self.device))).view(len(states), -1))            # [B, k * words]
        previous = torch.zeros(len(states), len(self.pool))                                            # a^E_{t-1}, as a set
        for row, s in enumerate(states):
            previous[row, [self.index[p] for p in s.previous]] = 1.0
        return self.trunk(torch.cat([*parts, previous.to(self.device)], -1))

    def act(self, states: Sequence[ExpertState], generator: torch.Generator | Sequence[torch.Generator] | None = None,
            given: Sequence[Sequence[str]] | None = None, greedy: bool = False, stops: bool = True) -> Choice:
        """Samples a sequence per state, or scores the `given` ones (teacher forcing: imitation, and Eq. 7's update).

        generator  one for all states, or one for each: then a sequence does not depend on which other states it was sampled with
        greedy  the most probable next skill each time; stops=False never stops before the fifth (a baseline of Table MultiWOZ)
        """
        hidden, batch = self.encode(states), len(states)                           # [B, D]
        targets = None if given is None else self._targets(given)                  # [B, S]
        chance = self._uniforms(batch, generator) if given is None and not greedy else None            # [B, S]
        taken = torch.zeros(batch, self.stop + 1, dtype=torch.bool, device=self.device)
        alive = torch.ones(batch, dtype=torch.bool, device=self.device)
        last, picks = torch.full((batch,), self.stop, device=self.device), []
        for i in range(min(MAX_SKILLS, len(self.pool))):
            hidden = self.cell(self.skill_embedding(last), hidden)
            log_p = self._log_probs(hidden, taken, stops)                          # [B, K + 1]
            if targets is not None:
                pick = targets[:, i]
            elif greedy:
                pick = log_p.argmax(-1)
            else:
                sums = log_p.detach().double().exp().cumsum(-1)                    # the first whose cumulative sum exceeds the uniform
                pick = (sums <= chance[:, i, None] * sums[:, -1:]).sum(-1)
            pick = torch.where(alive, pick, self.stop)
            conditional = -(log_p.exp() * log_p.clamp(min=-1e9)).sum(-1)           # p log p := 0 where p = 0
            picks.append((pick, torch.where(alive, log_p.gather(-1, pick[:, None]).squeeze(-1), 0.0), torch.where(alive, conditional, 0.0),
                          self.critic(hidden).squeeze(-1), alive))
            alive = alive & (pick != self.stop)
            taken = taken | F.one_hot(pick, self.stop + 1).bool() & alive[:, None]
            last = torch.where(alive, pick, last)
        chosen, logp, entropy, value, mask = (torch.stack(column, 1) for column in zip(*picks))        # each [B, S]
        return Choice([tuple(self.pool[i] for i in row if i != self.stop) for row in chosen.tolist()], logp, entropy, value, mask)

    def _uniforms(self, batch: int, generator: torch.Generator | Sequence[torch.Generator] | None) -> Tensor:
        one_each = generator if isinstance(generator, Sequence) else None
        drawn = [torch.rand(MAX_SKILLS, generator=g) for g in one_each] if one_each else [torch.rand(batch, MAX_SKILLS, generator=generator)]
        return torch.stack(drawn).view(batch, MAX_SKILLS).double().to(self.device)

    @torch.no_grad()
    def state_values(self, states: Sequence[ExpertState]) -> list[float]:
        """V(s), before any pick."""
        nothing = self.skill_embedding(torch.full((len(states),), self.stop, device=self.device))
        return self.critic(self.cell(nothing, self.encode(states))).squeeze(-1).tolist()

    def _log_probs(self, hidden: Tensor, taken: Tensor, stops: bool) -> Tensor:
        """log p(next | so far): no skill twice (GAP-2), so log p = -inf for those taken."""
        logits = self.actor(hidden).masked_fill(taken, float("-inf"))
        if not stops:
            logits = logits.index_fill(-1, torch.tensor(self.stop, device=logits.device), float("-inf"))
        return logits.log_softmax(-1)

    def _targets(self, sequences: Sequence[Sequence[str]]) -> Tensor:
        rows = [[self.index[s] for s in seq] + [self.stop] * (MAX_SKILLS - len(seq)) for seq in sequences]
        return torch.tensor(rows, device=self.device)


@dataclass
class ExpertBatch:
    """All turns of a rollout, flat."""
    states: list[ExpertState] = field(default_factory=list)
    skills: list[tuple[str, ...]] = field(default_factory=list)
    returns: list[float] = field(default_factory=list)           # G_t = A_t + V(s_t), A_t from `gae`
    gains: list[list[float]] = field(default_factory=list)       # what each pick, and the stop, added to R_t


class ExpertLearner:
    """One Adam step of Eq. 7 (and of the critic) per rollout: there is no ratio in Eq. 7, so no epochs (GAP-6)."""

    def __init__(self, expert: Expert):
        self.expert = expert
        self.parameters = [p for n, p in expert.named_parameters() if not n.startswith("perception.")]
        self.optimiser = torch.optim.Adam(self.parameters, expert.cfg.expert_lr)

    def update(self, batch: ExpertBatch) -> dict[str, float]:
        """One step on the turns of all processes; every sum below is divided by a number of all of them."""
        cfg, device = self.expert.cfg, self.expert.device
        choice = self.expert.act(batch.states, given=batch.skills)                 # [B, S] each
        positions = choice.mask.shape[1]
        gains = torch.tensor([(g + [0.0] * positions)[:positions] for g in batch.gains], device=device)
        returns = torch.tensor(batch.returns, device=device)                       # [B]
        raw = pick_advantages(returns, gains, choice.value.detach(), choice.mask)
        values, picked = choice.value[choice.mask], raw[choice.mask]               # [N] picks
        turns, picks, centre = all_sum(len(batch.states), len(picked), float(picked.sum()))
        spread = all_sum(float((picked - centre / picks).square().sum()))[0] / picks                     # the variance over the whole batch, never per turn index
        advantage = (raw - centre / picks) / (spread ** 0.5 + 1e-6) * choice.mask
        policy = expert_loss(choice.logp, advantage, choice.entropy.sum(-1), cfg.alpha) * (len(batch.states) / turns)
        critic = (picked + values.detach() - values).square().sum() / picks
        norm = self.step(policy + 0.5 * critic, "Eq. 7 of the Expert")
        target = picked + values.detach()                                          # what the critic should have said
        level = all_sum(float(target.sum()))[0] / picks
        around = all_sum(float((target - level).square().sum()))[0] / picks
        losses = all_sum(policy.item(), critic.item(), float(choice.entropy.detach().sum()))
        return {"loss_expert": losses[0], "loss_critic": losses[1], "entropy_expert": losses[2] / turns,
                "explained_variance": 1 - spread / max(around, 1e-8), "grad_norm_expert": norm}

    def imitate(self, states: Sequence[ExpertState], teachers: Sequence[Sequence[str]]) -> float | None:
        """One step of cross-entropy on the teacher's sequences, stop included: -log pi_E(T|s), mean over the states of all processes; None without any."""
        count = all_sum(len(states))[0]
        if not count:
            return None
        loss = -self.expert.act(states, given=teachers).logp.sum() / count if states else sum(p.sum() for p in self.parameters) * 0.0
        self.step(loss, "cross-entropy of the Expert")
        return all_sum(loss.item())[0]

    def step(self, loss: Tensor, term: str) -> float:
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


if __name__ == "__main__":
    torch.manual_seed(0)
    expert = Expert(["greet", "apologise", "state_refund", "close"], Perception(["refund"], ["neutral", "angry"]), ExpertConfig())
    state = ExpertState("Where is my money?", (("Hi", "Hello and welcome."),), ("greet",))
    choice = expert.act([state] * 4, torch.Generator().manual_seed(0))
    print(f"state: {state}\nuntrained policy, four draws (a skill never repeats):")
    for skills, logp, entropy in zip(choice.skills, choice.logp, choice.entropy):
        print(f"  {', '.join(skills) or '(stop at once)':45s} log pi = {logp.sum():.3f}   sum of conditional entropies = {entropy.sum():.3f} nats")
    print(f"V(s) = {choice.value[0, 0]:.3f}")
    print(f"GAE of rewards (1, 0), values (.5, .5, 0), gamma .9, lambda .5: {gae([1.0, 0.0], [0.5, 0.5, 0.0], 0.9, 0.5)}"
          "\n  by hand: delta_2 = 0 + 0 - .5 = -.5;  delta_1 = 1 + .45 - .5 = .95;  A_1 = .95 + .45 * -.5 = .725")
