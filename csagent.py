"""The Customer Service Agent (Sec. 3.2): an LM that words the Expert's skills, by Eqs. 9a-9d.

    s^A_t = (U_t, a^E_t, B_t) --prepare--> Prepared --speak--> a^A_t, `group` of them
    loss = lambda_p L_p (9b) + lambda_s L_s (9c) + lambda_d L_d (9d)        `update`

Decoding keeps the hard constraints, and 9c enters the loss as a reward.

How the model reads and speaks is in lm/.  A large model is QLoRA (lm/models.py): its base stands
still in 4 bits, and `params` are the adapter's.  Supervised training is in start/supervised.py.
Departures from the paper: GAP-1 (sign of 9d), GAP-5 (9c), GAP-6 (baseline, average). Knows no
dataset and no judge.
Try it:  python csagent.py        an untrained model under hard constraints, the terms of 9a
Exercise: pass literal=True to negative_entropy in `_learn_from`, train, and watch `entropy` in
metrics.jsonl."""
from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from data import DataError, Dataset, Prepared, Reply, Request, Skill
from infra.processes import all_sum, sum_gradients
from infra.runs import adam_state, device_of, load_adam_state
from infra.terminal import command
from lm.config import AgentConfig, LMConfig, configs_of
from lm.constraints import violations
from lm.decoder import ConstrainedLM, Drawn, token_logp
from lm.models import build_tiny, load_saved

# B replies, b replies of a micro-batch, L tokens of a reply, V vocabulary, K skills,
# D width of an embedding


# ------------------------------------------------------------------------------ Eqs. 9a-9d
def policy_loss(logp: Tensor, reward: Tensor, mask: Tensor, group: Tensor | None = None,
                average: str = "batch") -> Tensor:
    """L_p = -E[R^A log pi_A(a^A | s^A)], Eq. 9b; GAP-6 adds the baseline and the average.

    logp     [B, L] log-probability of each token, nats; values where mask is 0 are ignored
    reward   [B] R^A_t of each reply (Eq. 8, less the share of 9c)
    mask     [B, L] 1 where the agent drew the token, its end token included
    group    [B] id of the state each reply answers: rewards are centred within it;
             None = as printed
    average  "batch": divided by the number of the batch's tokens;
             "sum" (the paper): summed over tokens, averaged over B
    returns  scalar; raises ValueError on another word, on shapes that differ, on an empty mask

    >>> policy_loss(torch.tensor([[-1., -2.]]), torch.tensor([.5]), torch.ones(1, 2)).item()
    0.75
    """
    _refuse_other_shapes(logp, reward, mask, group)
    if average not in ("batch", "sum"):
        raise ValueError(f"average must be 'batch' or 'sum', got {average!r}")
    mask = mask.bool()
    if not mask.any():
        raise ValueError("policy_loss: the mask is empty, no reply holds a token of the agent")
    adv = reward if group is None else reward - group_mean(reward, group)
    total = -(adv[:, None] * logp.masked_fill(~mask, 0)).sum()
    return total / (mask.sum() if average == "batch" else len(logp))


def _refuse_other_shapes(logp: Tensor, reward: Tensor, mask: Tensor, group: Tensor | None) -> None:
    tokens_fit = logp.ndim == 2 and logp.shape == mask.shape
    replies_fit = reward.shape == logp.shape[:1] and (group is None or group.shape == reward.shape)
    if not (tokens_fit and replies_fit):
        raise ValueError(
            "policy_loss wants logp and mask [B, L], reward and group [B]; "
            f"got {tuple(logp.shape)}, {tuple(mask.shape)}, {tuple(reward.shape)}"
        )


def group_mean(reward: Tensor, group: Tensor) -> Tensor:
    """[B] mean of the rewards with the same group id."""
    same = (group[:, None] == group[None, :]).to(reward.dtype)                       # [B, B]
    return same @ reward / same.sum(1)


def skill_distance(reply_emb: Tensor, skill_emb: Tensor) -> Tensor:
    """L_s = d(a^A, a^E) = 1 - cos, Eq. 9c.  [B, D], [B, D] -> [B] in [0, 2].

    A zero vector (no skill, an empty reply) is at distance 1.

    >>> reply = torch.tensor([[1., 0.], [1., 0.]])
    >>> skill_distance(reply, torch.tensor([[2., 0.], [-1., 0.]])).tolist()
    [0.0, 2.0]
    """
    if reply_emb.shape != skill_emb.shape or reply_emb.ndim != 2:
        raise ValueError(
            "skill_distance wants two [B, D], "
            f"got {tuple(reply_emb.shape)} and {tuple(skill_emb.shape)}"
        )
    return (1 - F.cosine_similarity(reply_emb, skill_emb, dim=-1)).clamp(0, 2)


def negative_entropy(logits: Tensor, mask: Tensor, literal: bool = False) -> Tensor:
    """L_d = mean over the agent's tokens of sum_w p log p, Eq. 9d with the sign its text asks for.

    logits   [B, L, V], -inf where a token was banned: p log p = 0 there, in value and in gradient
    mask     [B, L] 1 where the agent drew
    literal  True: +entropy as printed, which, minimised, removes diversity (GAP-1)
    returns  scalar in [-log V, 0] nats (literal: [0, log V]);
             raises ValueError on shapes that differ or an empty mask

    >>> round(negative_entropy(torch.zeros(1, 1, 4), torch.ones(1, 1)).item(), 4)
    -1.3863
    """
    if logits.ndim != 3 or logits.shape[:2] != mask.shape or not mask.any():
        raise ValueError(
            "negative_entropy wants logits [B, L, V] and a mask [B, L] that is not empty, "
            f"got {tuple(logits.shape)} and {tuple(mask.shape)}"
        )
    logp = logits[mask.bool()].log_softmax(-1)                                       # [N, V]
    p = logp.exp()
    # 0 * -inf would be NaN, forwards and backwards
    value = (p * logp.masked_fill(p == 0, 0)).sum(-1).mean()
    return -value if literal else value


def cs_loss(L_p, L_s, L_d, lambda_p: float, lambda_s: float, lambda_d: float):
    """L(theta_A) = lambda_p L_p + lambda_s L_s + lambda_d L_d, Eq. 9a.

    >>> cs_loss(1., .5, -2., 1., .2, .01)
    1.08
    """
    return lambda_p * L_p + lambda_s * L_s + lambda_d * L_d


# ------------------------------------------------------------------------------ the space of 9c
class SkillEmbedding:
    """Where a reply or a skill lies, for 9c.

    That is the idf-weighted mean of its tokens' input embeddings, less the mean over training
    replies.  The embeddings are a frozen copy; those that do not learn (LoRA) need no copy."""

    def __init__(self, table: Tensor, encode: Callable[[str], list[int]],
                 replies: Sequence[str], skills: Mapping[str, Skill]):
        self.copied = table.requires_grad
        self.table = table.detach().clone() if self.copied else table
        sequences = [encode(reply) for reply in replies]
        self.idf = _idf(sequences, len(table)).to(table.device)
        self.centre = torch.zeros(table.shape[1], device=table.device)
        self.centre = self._mean(sequences)
        self.index = {name: i for i, name in enumerate(skills)}
        means = [self._example_mean(skill, encode) for skill in skills.values()]
        self.skills = self.centre.new_zeros(0, len(self.centre))                     # [K, D]
        if means:
            self.skills = torch.stack(means)

    def _mean(self, sequences: Sequence[Sequence[int]]) -> Tensor:
        """[D] over all sequences; in parts, for all at once take gigabytes with a large model."""
        total = torch.zeros_like(self.centre)
        for first in range(0, len(sequences), 256):
            total = total + self.replies(sequences[first:first + 256]).sum(0)
        return total / max(1, len(sequences))

    def _example_mean(self, skill: Skill, encode: Callable[[str], list[int]]) -> Tensor:
        """[D] over the skill's examples, or of its description if it has none."""
        examples = skill.examples or (skill.description or skill.id,)
        return self.replies([encode(example) for example in examples]).mean(0)

    def replies(self, sequences: Sequence[Sequence[int]]) -> Tensor:
        """Token ids -> [B, D]."""
        flat = []
        for sequence in sequences:
            flat += sequence
        device = self.table.device
        ids = torch.tensor(flat, dtype=torch.long, device=device)                    # [N]
        lengths = torch.tensor([len(s) for s in sequences], device=device)
        row = torch.repeat_interleave(lengths)                                       # [N]
        weight = self.idf[ids]
        weighted = weight[:, None] * self.table[ids].float()
        zeros = weight.new_zeros(len(sequences), self.table.shape[1])
        total = zeros.index_add(0, row, weighted)
        weights = weight.new_zeros(len(sequences)).index_add(0, row, weight)
        return total / weights.clamp(min=1e-6)[:, None] - self.centre

    def sequences(self, skills: Sequence[Sequence[str]]) -> Tensor:
        """Skill sequences -> [B, D]: the mean over a sequence's skills; zero for an empty one."""
        return torch.stack([self._sequence(names) for names in skills])

    def _sequence(self, names: Sequence[str]) -> Tensor:
        if not names:
            return torch.zeros_like(self.centre)
        return self.skills[[self.index[name] for name in names]].mean(0)

    def state(self) -> dict[str, Tensor]:
        """What a checkpoint keeps."""
        names = ["idf", "centre", "skills"]
        if self.copied:
            names.append("table")
        return {name: getattr(self, name).clone() for name in names}


def _idf(sequences: Sequence[Sequence[int]], vocabulary: int) -> Tensor:
    """[V] log((1 + replies) / (1 + replies that hold the token))."""
    held = []
    for sequence in sequences:
        held += set(sequence)
    seen = np.bincount(held, minlength=vocabulary)
    return torch.from_numpy(np.log((1 + len(sequences)) / (1 + seen))).float()


# ------------------------------------------------------------------------------ the agent
@dataclass(frozen=True)
class Totals:
    """What the terms of 9a are divided by: counts over the replies of all processes."""
    tokens: float               # that the agent drew
    tokens_p: float             # ... in replies that have a reward
    replies_p: float            # replies that have a reward
    replies: float
    distance: float             # of 9c, summed over the replies


class CustomerServiceAgent(ConstrainedLM):
    """pi_A.  `prepare` and `speak` sample, `update` is one optimiser step on 9a.

    `save` writes the Hugging Face format."""

    def __init__(self, model, tokenizer, skills: Mapping[str, Skill],
                 must_not_say: Sequence[str] = (), cfg: AgentConfig | None = None,
                 lm: LMConfig | None = None, device: str | torch.device = "cpu",
                 precision: str = "fp32"):
        lm = lm or LMConfig()
        super().__init__(model, tokenizer, skills, must_not_say, lm, device, precision)
        self.cfg = (cfg or AgentConfig()).settled_for(lm.model)
        self.params = [p for p in model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(
            self.params, lr=self.cfg.agent_lr, weight_decay=0.0, fused=True
        )
        self.embedding: SkillEmbedding | None = None

    def freeze_embedding(self, replies: Iterable[str]) -> None:
        """Fixes the space of 9c: called once, after the warm start, with the training replies."""
        table = self.model.get_input_embeddings().weight
        self.embedding = SkillEmbedding(table, self.encode, list(replies), self.skills)

    # ---------------------------------------------------------------------- one step on 9a
    def update(self, prepared: Sequence[Prepared], replies: Sequence[Sequence[Reply]],
               rewards: Sequence[Sequence[float | None]]) -> dict[str, float]:
        """One AdamW step on 9a over all replies.

        prepared  what each group of replies was spoken from
        rewards   of each reply; one of None (nobody could score it) leaves 9b and stays in 9d
        raises    FloatingPointError, before the step, naming the term that is not finite

        GAP-5: 9c has no gradient through sampled text.  R^A - (lambda_s / lambda_p) d in 9b has
        exactly the score-function gradient of lambda_s E[d].  Therefore L_s is logged and adds
        nothing to the gradient a second time.
        """
        cfg = self.cfg
        drawn = numbered(replies, rewards)
        distance = self._distances(prepared, drawn)                                  # [B]
        totals = _totals(drawn, distance)
        L_p = L_d = 0.0
        self.optimizer.zero_grad(set_to_none=True)
        for rows in self._micro_batches(prepared, drawn):
            batch = [drawn[i] for i in rows]
            share_p, share_d = self._learn_from(prepared, batch, distance[rows], totals)
            L_p += share_p
            L_d += share_d
        L_p, L_d = all_sum(L_p, L_d)
        L_s = totals.distance / totals.replies
        loss = cs_loss(L_p, L_s, L_d, cfg.lambda_p, cfg.lambda_s, cfg.lambda_d)
        row = self.step(self.optimizer, {"L_p": L_p, "L_s": L_s, "L_d": L_d, "loss": loss})
        return row | {"entropy": -L_d, "distance": L_s, "tokens": int(totals.tokens)}

    def _distances(self, prepared: Sequence[Prepared], drawn: Sequence[Drawn]) -> Tensor:
        """[B] d of 9c, from each reply to the skills it was to word."""
        if self.embedding is None:
            if self.cfg.lambda_s:
                raise ValueError(
                    "--lambda_s > 0 needs the space of 9c: "
                    "call agent.freeze_embedding(replies of the training split) once"
                )
            return torch.zeros(len(drawn), device=self.device)
        said = []
        for x in drawn:
            said.append([i for i in x.reply.ids if i not in self.ends])
        asked = [prepared[x.state].request.skills for x in drawn]
        return skill_distance(self.embedding.replies(said), self.embedding.sequences(asked))

    def _micro_batches(self, prepared: Sequence[Prepared],
                       drawn: Sequence[Drawn]) -> list[list[int]]:
        """Numbers of replies: whole groups of similar length, so that little is padding."""
        groups: dict[int, list[int]] = {}
        for i, x in enumerate(drawn):
            groups.setdefault(x.state, []).append(i)

        def length(state: int) -> tuple[int, int]:
            longest = max(len(drawn[i].ids) for i in groups[state])
            return longest, len(prepared[state].ids)

        order = sorted(groups, key=length)
        size = self.cfg.micro_batch
        batches = []
        for first in range(0, len(order), size):
            rows = []
            for state in order[first:first + size]:
                rows += groups[state]
            if any(drawn[i].ids for i in rows):
                batches.append(rows)
        return batches

    def _learn_from(self, prepared: Sequence[Prepared], batch: Sequence[Drawn],
                    distance: Tensor, totals: Totals) -> tuple[float, float]:
        """Adds the gradient of a micro-batch.

        distance  [b] of its replies
        returns   its share of L_p and of L_d
        """
        cfg = self.cfg
        logits, ids, mask = self.masked_logits(prepared, batch)
        # Weights that make the sum over micro-batches the whole batch's mean.
        L_d = negative_entropy(logits, mask) * (mask.sum() / totals.tokens)
        loss = cs_loss(0.0, 0.0, L_d, cfg.lambda_p, cfg.lambda_s, cfg.lambda_d)
        L_p = 0.0
        scored = [i for i, x in enumerate(batch) if is_scored(x)]
        if scored:
            logp = token_logp(logits, ids)[scored]                                   # [b, L]
            rewarded = [batch[i] for i in scored]
            term, L_p = self._policy_terms(
                logp, mask[scored], rewarded, distance[scored], totals
            )
            loss = loss + term
        loss.backward()
        return L_p, float(L_d.detach())

    def _policy_terms(self, logp: Tensor, mask: Tensor, batch: Sequence[Drawn],
                      distance: Tensor, totals: Totals) -> tuple[Tensor, float]:
        """lambda_p 9b and lambda_s 9c of scored replies, for the gradient, and their L_p to log."""
        cfg = self.cfg
        weight = len(batch) / totals.replies_p
        if cfg.cs_average == "batch":
            weight = mask.sum() / totals.tokens_p
        reward = torch.tensor([x.reward for x in batch], device=self.device)
        group = None
        if cfg.cs_baseline == "group":
            group = torch.tensor([x.state for x in batch], device=self.device)
        shaped = reward - cfg.lambda_s / cfg.lambda_p * distance
        learned = policy_loss(logp, shaped, mask, group, cfg.cs_average)
        printed = policy_loss(logp.detach(), reward, mask, group, cfg.cs_average)
        return cfg.lambda_p * weight * learned, float(weight * printed)

    def step(self, optimizer: torch.optim.Optimizer, terms: dict[str, float]) -> dict[str, float]:
        """One step with the gradient of all processes, clipped to a norm of 1.

        terms    what to refuse and to log if it is not finite
        returns  them and the gradient's norm
        """
        sum_gradients(self.params)
        norm = float(torch.nn.utils.clip_grad_norm_(self.params, 1.0))
        row = terms | {"grad_norm": norm}
        for name, value in row.items():
            if not math.isfinite(value):
                optimizer.zero_grad()
                raise FloatingPointError(
                    f"{name} is {value}; no step was taken. "
                    "Lower the learning rate or look at the rewards of this batch"
                )
        optimizer.step()
        return row

    # ---------------------------------------------------------------------- files
    def save(self, folder: str | Path) -> None:
        """A folder that AutoModelForCausalLM.from_pretrained loads.

        An adapter that alone has learned is saved alone: AutoPeftModelForCausalLM loads it."""
        self.model.save_pretrained(folder)
        for noted in ("is_local", "local_files_only"):
            # of how it was loaded: a resumed run shall write what an unbroken one does
            self.tokenizer.init_kwargs.pop(noted, None)
        self.tokenizer.save_pretrained(folder)
        self.keep_shown(Path(folder))

    def optimizer_state(self) -> dict[str, Tensor]:
        """What a resumed run needs besides the weights, flat, for safetensors.

        "12.exp_avg" is of parameter 12, "9c.table" of the frozen embedding."""
        state = adam_state(self.optimizer)
        if self.embedding:
            frozen = self.embedding.state()
            state |= {f"9c.{name}": value for name, value in frozen.items()}
        return state

    def load_optimizer_state(self, flat: Mapping[str, Tensor]) -> None:
        """Into an agent made with the saved weights, after its freeze_embedding."""
        adam = {}
        for key, value in flat.items():
            if key.startswith("9c."):
                setattr(self.embedding, key.removeprefix("9c."), value.to(self.device))
            else:
                adam[key] = value
        load_adam_state(self.optimizer, adam)


def numbered(replies: Sequence[Sequence[Reply]],
             rewards: Sequence[Sequence[float | None]]) -> list[Drawn]:
    """Groups of replies, one a state, as one list; raises ValueError if a reward is missing."""
    drawn = []
    for state, (group, row) in enumerate(zip(replies, rewards, strict=True)):
        drawn += [Drawn(state, reply, reward) for reply, reward in zip(group, row, strict=True)]
    return drawn


def is_scored(x: Drawn) -> bool:
    """Whether 9b learns from the reply: it has a reward, and the agent drew a token of it."""
    return x.reward is not None and len(x.ids) > 0


def _totals(drawn: Sequence[Drawn], distance: Tensor) -> Totals:
    scored = [x for x in drawn if is_scored(x)]
    tokens = sum(len(x.ids) for x in drawn)
    tokens_p = sum(len(x.ids) for x in scored)
    totals = Totals(*all_sum(tokens, tokens_p, len(scored), len(drawn), float(distance.sum())))
    if not totals.tokens:
        raise ValueError(
            "update: no reply holds a token that the agent drew "
            "(max_new_tokens leaves no room beside must_say?)"
        )
    return totals


# ---------------------------------------------------------------- a run, read back
def load_agent(folder: Path, dataset: Dataset, config: dict) -> CustomerServiceAgent:
    """The agent saved in `folder`, in the precision that the run was trained in."""
    if not (folder / "config.json").exists() and not (folder / "adapter_config.json").exists():
        raise DataError(
            f"{folder}: no trained language model here; the run is not complete: "
            f"{command('train.py', '--resume', folder.parent)}"
        )
    lm, cfg, _ = configs_of(config)
    device = device_of(config)
    model, tokenizer = load_saved(folder, lm.quantise, config["precision"], device)
    how = (dataset.skills, dataset.must_not_say, cfg, lm, device, config["precision"])
    return CustomerServiceAgent(model, tokenizer, *how).showing(dataset.train, folder)


# ------------------------------------------------------------------------------ to look at
TALK = (
    "We are sorry that your parcel is late, it arrives on {eta}.",
    "The blue lamp costs {price_1}, the red one {price_2}.",
    "I understand, that is annoying.",
    "Would you like me to order {product_1} for you?",
    "Terms and conditions apply.",
    "很抱歉，您的包裹 {eta} 送达。",
    "这款灯的价格是 {price_1}，需要我帮您下单吗？",
)
SLOTS = ("eta", "price_1", "price_2", "product_1", "product_2")
DEMO = {
    "soothe": Skill(
        "soothe", "show that you understand", (TALK[0], TALK[2]),
        must_not_say=("calm down", "抱歉"),
    ),
    "price": Skill(
        "price", "state the price", (TALK[1],), must_say=("Terms and conditions apply.",),
        must_not_say=("free shipping",),
    ),
}


def demo_agent(precision: str = "fp32", seed: int = 0, **flags) -> CustomerServiceAgent:
    """An untrained tiny agent; `flags` are fields of LMConfig and of AgentConfig."""
    model, tokenizer = build_tiny(TALK * 20, SLOTS, seed)
    lm, cfg, _ = configs_of({"agent": flags})
    agent = CustomerServiceAgent(
        model, tokenizer, DEMO, ("guarantee",), cfg, lm, precision=precision
    )
    agent.freeze_embedding(TALK)
    return agent


def demo() -> None:
    agent = demo_agent(max_new_tokens=32)
    context = {"eta": "Friday", "price_1": "30 euros"}
    user = "Where is my lamp, and what did it cost?"
    prepared = agent.prepare([Request(user, ("soothe", "price"), context)])
    constraints = prepared[0].constraints
    print("prompt   ", repr(agent.tokenizer.decode(prepared[0].ids)))
    print("rules    ", constraints)
    replies = agent.speak(prepared, 4, generator=torch.Generator().manual_seed(1))
    for reply in replies[0]:
        print("\nreply    ", repr(reply.text), "  violations:", violations(reply.text, constraints))
        pieces = [agent.vocab.pieces[i].decode("utf-8", "replace") for i in reply.ids[:8]]
        shown = [f"{piece!r}{logp:.1f}" for piece, logp in zip(pieces, reply.logp)]
        drawn = sum(reply.mask)
        print("log pi   ", *shown, f"... {drawn} drawn, {len(reply.ids) - drawn} inserted")
    row = agent.update(prepared, replies, [[1.0, 0.0, 0.0, None]])
    rounded = {name: round(value, 4) for name, value in row.items()}
    print("\nEqs. 9a-9d with rewards 1, 0, 0, None:", rounded)


if __name__ == "__main__":
    demo()
