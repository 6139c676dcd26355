"""The Customer Service Agent (Sec. 3.2): an LM that words the skills of the Expert under hard constraints, and learns by Eqs. 9a-9d.

    s^A_t = (U_t, a^E_t, B_t) --prompt, sampling under rules (decoder.py)--> a^A_t     one `Request` in, `group` replies out
    loss = lambda_p L_p (9b) + lambda_s L_s (9c) + lambda_d L_d (9d)                   `update`; 9c enters as a reward (GAP-5)

A large model is QLoRA (models.py): the base stands still in 4 bits, `params` are the adapter's.
Departures from the paper: GAP-1 (sign of 9d), GAP-5 (9c), GAP-6 (baseline, average).  Knows no dataset and no judge.
Try it:  python csagent.py                        an untrained model under hard constraints, and the three terms of 9a with their sum
Exercise: pass literal=True to negative_entropy in `update`, train, and watch `entropy` in metrics.jsonl."""
from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from data import DataError, Dataset, Prepared, Reply, Request, Skill, opt
from infra.processes import all_sum, shard, sum_gradients
from infra.runs import adam_state, load_adam_state
from lm.constraints import violations
from lm.decoder import ConstrainedLM
from lm.models import BUILT, build_tiny, load_saved

# B replies, L tokens of a reply, V vocabulary, K skills, D width of an embedding
INF = float("inf")
TOKENS = 10_000                                  # in one supervised pass: more is slower, and gigabytes
LOOKS = 5                                        # at the dev loss, during supervised training


# ---------------------------------------------------------------------------------------------------- Eqs. 9a-9d
def policy_loss(logp: Tensor, reward: Tensor, mask: Tensor, group: Tensor | None = None, average: str = "batch") -> Tensor:
    """L_p = -E[R^A log pi_A(a^A | s^A)], Eq. 9b; GAP-6 adds the baseline and the average.

    logp     [B, L] log-probability of each token, nats; values where mask is 0 are ignored
    reward   [B] R^A_t of each reply (Eq. 8, less the share of 9c)
    mask     [B, L] 1 where the agent drew the token, its end token included
    group    [B] id of the state each reply answers: rewards are centred within it; None = as printed
    average  "batch": divided by the number of the batch's tokens; "sum" (the paper): summed over tokens, averaged over B
    returns  scalar; raises ValueError on another word, on shapes that differ, on an empty mask

    >>> policy_loss(torch.tensor([[-1., -2.]]), torch.tensor([.5]), torch.ones(1, 2)).item()
    0.75
    """
    if logp.shape != mask.shape or logp.ndim != 2 or reward.shape != logp.shape[:1] or (group is not None and group.shape != reward.shape):
        raise ValueError(f"policy_loss wants logp and mask [B, L], reward and group [B]; got {tuple(logp.shape)}, {tuple(mask.shape)}, {tuple(reward.shape)}")
    if average not in ("batch", "sum"):
        raise ValueError(f"average must be 'batch' or 'sum', got {average!r}")
    mask = mask.bool()
    if not mask.any():
        raise ValueError("policy_loss: the mask is empty, no reply holds a token of the agent")
    adv = reward if group is None else reward - group_mean(reward, group)
    total = -(adv[:, None] * logp.masked_fill(~mask, 0)).sum()
    return total / (mask.sum() if average == "batch" else len(logp))


def group_mean(reward: Tensor, group: Tensor) -> Tensor:
    """[B] mean of the rewards with the same group id."""
    same = (group[:, None] == group[None, :]).to(reward.dtype)                       # [B, B]
    return same @ reward / same.sum(1)


def skill_distance(reply_emb: Tensor, skill_emb: Tensor) -> Tensor:
    """L_s = d(a^A, a^E) = 1 - cos, Eq. 9c.  [B, D], [B, D] -> [B] in [0, 2]; a zero vector (no skill, empty reply) is at distance 1.

    >>> skill_distance(torch.tensor([[1., 0.], [1., 0.]]), torch.tensor([[2., 0.], [-1., 0.]])).tolist()
    [0.0, 2.0]
    """
    if reply_emb.shape != skill_emb.shape or reply_emb.ndim != 2:
        raise ValueError(f"skill_distance wants two [B, D], got {tuple(reply_emb.shape)} and {tuple(skill_emb.shape)}")
    return (1 - F.cosine_similarity(reply_emb, skill_emb, dim=-1)).clamp(0, 2)


def negative_entropy(logits: Tensor, mask: Tensor, literal: bool = False) -> Tensor:
    """L_d = mean over the agent's tokens of sum_w p log p, Eq. 9d with the sign its text asks for (GAP-1).

    logits   [B, L, V], -inf where a token was banned: p log p = 0 there, in value and in gradient
    mask     [B, L] 1 where the agent drew
    literal  True: +entropy as printed, which, minimised, removes diversity
    returns  scalar in [-log V, 0] nats (literal: [0, log V]); raises ValueError on shapes or an empty mask

    >>> round(negative_entropy(torch.zeros(1, 1, 4), torch.ones(1, 1)).item(), 4)
    -1.3863
    """
    if logits.ndim != 3 or logits.shape[:2] != mask.shape or not mask.any():
        raise ValueError(f"negative_entropy wants logits [B, L, V] and a mask [B, L] that is not empty, got {tuple(logits.shape)} and {tuple(mask.shape)}")
    logp = logits[mask.bool()].log_softmax(-1)                                       # [N, V]
    p = logp.exp()
    value = (p * logp.masked_fill(p == 0, 0)).sum(-1).mean()                         # 0 * -inf would be NaN, forwards and backwards
    return -value if literal else value


def cs_loss(L_p, L_s, L_d, lambda_p: float, lambda_s: float, lambda_d: float):
    """L(theta_A) = lambda_p L_p + lambda_s L_s + lambda_d L_d, Eq. 9a.

    >>> cs_loss(1., .5, -2., 1., .2, .01)
    1.08
    """
    return lambda_p * L_p + lambda_s * L_s + lambda_d * L_d


# ---------------------------------------------------------------------------------------------------- config, and the space of 9c
@dataclass(frozen=True)
class AgentConfig:
    """The Customer Service agent: its model, its decoding, its loss.  The paper gives none of these numbers (GAP-9)."""
    model: str = opt("tiny", "tiny or the smaller nano (built here from the training split), a Hugging Face id or a local folder [paper: Qwen-7B-Chat, "
                             "Qwen3-8B, Qwen3-14B]")
    quantise: str = opt("auto", "nf4: 4-bit weights that stay as they are, double quantisation (QLoRA); none: as saved; auto: nf4 for all but tiny")
    lora_rank: int | None = opt(None, "rank of the LoRA adapter on all linear layers, which alone is trained; 0 = train the whole model; default 16, tiny 0")
    gradient_checkpointing: bool | None = opt(None, "recompute activations in the backward pass: less memory, about a third slower; default: with nf4")
    temperature: float = opt(1.0, "of sampling; log pi in the loss is the scaled one that was sampled from")
    max_new_tokens: int = opt(48, "longest reply, in tokens; a slot left open at the end is completed beyond it")
    user_tokens: int = opt(256, "a longer customer message loses its middle")
    group: int = opt(4, "replies per state; their mean reward is the baseline")
    constraints: str = opt("hard", "hard: enforced while decoding; soft: only asked for in the prompt")
    agent_lr: float = opt(2e-4, "AdamW step size of the policy gradient")
    micro_batch: int | None = opt(None, "states per forward pass of the update; changes memory, not the result; default 4 for tiny, 1 for others")
    lambda_p: float = opt(1.0, "weight of 9b, > 0")
    lambda_s: float = opt(0.2, "weight of 9c, the distance of a reply from its skills")
    lambda_d: float = opt(0.001, "weight of 9d, the negative entropy; at 0.01 the entropy of the tiny model once ran away within ten steps")
    cs_baseline: str = opt("group", "group: rewards centred among the replies to one state; none: Eq. 9b as printed")
    cs_average: str = opt("batch", "batch: mean over the batch's tokens; sum: Eq. 9b as printed")
    pretrain_steps: int = opt(120, "tiny and nano only: steps on talk of mixed quality, so that 'untrained' can speak")
    warm_steps: int = opt(250, "supervised steps before GOPO; what is kept is the state with the lowest dev loss on the way")
    warm_dialogues: int | None = opt(None, "logged dialogues that the warm start may read; 0 = no warm start; default all")
    sft_lr: float | None = opt(None, "AdamW step size of pretraining and of the warm start; default 2e-3 for tiny, 2e-4 for others")
    sft_batch: int | None = opt(None, "replies per supervised step; default 64 for tiny, 16 for others")

    def __post_init__(self):
        self._settle()
        choices = {"constraints": ("hard", "soft"), "cs_baseline": ("group", "none"), "cs_average": ("batch", "sum"), "quantise": ("nf4", "none")}
        for name, words in choices.items():
            if getattr(self, name) not in words:
                raise ValueError(f"--{name} must be one of {', '.join(words)}, got {getattr(self, name)!r}")
        for name in ("temperature", "agent_lr", "lambda_p", "sft_lr"):
            if not 0 < getattr(self, name) < INF:
                raise ValueError(f"--{name} must be positive, got {getattr(self, name)}")
        if self.model in BUILT and (self.quantise == "nf4" or self.lora_rank):
            raise ValueError("--quantise nf4 and --lora_rank are for models that have learned something: "
                             f"--model {self.model} starts from nothing and is trained whole")
        if self.quantise == "nf4" and not self.lora_rank:
            raise ValueError("--quantise nf4 keeps the weights as they are, so an adapter must learn: use --lora_rank 16, or --quantise none")
        if self.group == 1 and self.cs_baseline == "group":
            raise ValueError("--group 1 leaves nothing after subtracting its own mean: use --group 2 or more, or --cs_baseline none")
        for name, least in (("max_new_tokens", 1), ("user_tokens", 8), ("group", 1), ("micro_batch", 1), ("sft_batch", 1), ("lambda_s", 0), ("lambda_d", 0),
                            ("pretrain_steps", 0), ("warm_steps", 0), ("warm_dialogues", 0), ("lora_rank", 0)):
            if getattr(self, name) is not None and not getattr(self, name) >= least:
                raise ValueError(f"--{name} must be at least {least}, got {getattr(self, name)}")

    def _settle(self) -> None:
        """Defaults that depend on the model, so that config.json says what was used."""
        tiny = self.model in BUILT
        quantise = ("none" if tiny else "nf4") if self.quantise == "auto" else self.quantise
        settled = {"quantise": quantise, "lora_rank": 0 if tiny else 16, "gradient_checkpointing": quantise == "nf4", "micro_batch": 4 if tiny else 1,
                   "sft_lr": 2e-3 if tiny else 2e-4, "sft_batch": 64 if tiny else 16}
        for name, value in settled.items():
            if name == "quantise" or getattr(self, name) is None:
                object.__setattr__(self, name, value)                                # frozen, and this is its constructor


class SkillEmbedding:
    """Where a reply or a skill lies, for 9c: the idf-weighted mean of a frozen copy of the LM's input embeddings, less its mean over training replies.

    Embeddings that do not learn (LoRA) need no copy."""

    def __init__(self, table: Tensor, encode: Callable[[str], list[int]], replies: Sequence[str], skills: Mapping[str, Skill]):
        sequences = [encode(r) for r in replies]
        seen = np.bincount([i for s in sequences for i in set(s)], minlength=len(table))
        self.copied = table.requires_grad
        self.table, self.centre = table.detach().clone() if self.copied else table, torch.zeros(table.shape[1], device=table.device)
        self.idf = torch.from_numpy(np.log((1 + len(sequences)) / (1 + seen))).float().to(table.device)
        parts = (self.replies(sequences[i:i + 256]).sum(0) for i in range(0, len(sequences), 256))          # all at once: gigabytes for a large model
        self.centre = sum(parts, self.centre) / max(1, len(sequences))
        self.index = {k: i for i, k in enumerate(skills)}
        means = [self.replies([encode(e) for e in s.examples or (s.description or s.id,)]).mean(0) for s in skills.values()]
        self.skills = torch.stack(means) if means else self.centre.new_zeros(0, len(self.centre))                    # [K, D]

    def replies(self, sequences: Sequence[Sequence[int]]) -> Tensor:
        """Token ids -> [B, D]."""
        ids = torch.tensor([i for s in sequences for i in s], dtype=torch.long, device=self.table.device)
        row = torch.repeat_interleave(torch.tensor([len(s) for s in sequences], device=self.table.device))
        weight = self.idf[ids]                                                       # [N]
        total = weight.new_zeros(len(sequences), self.table.shape[1]).index_add(0, row, weight[:, None] * self.table[ids].float())
        return total / weight.new_zeros(len(sequences)).index_add(0, row, weight).clamp(min=1e-6)[:, None] - self.centre

    def state(self) -> dict[str, Tensor]:
        """What a checkpoint keeps."""
        return {name: getattr(self, name).clone() for name in ("idf", "centre", "skills") + ("table",) * self.copied}

    def sequences(self, skills: Sequence[Sequence[str]]) -> Tensor:
        """Skill sequences -> [B, D]: the mean over a sequence's skills; zero for an empty one."""
        return torch.stack([self.skills[[self.index[k] for k in s]].mean(0) if s else torch.zeros_like(self.centre) for s in skills])


# ---------------------------------------------------------------------------------------------------- the agent
class CustomerServiceAgent(ConstrainedLM):
    """pi_A.  `generate` samples, `update` is one optimiser step on 9a, `supervised` is cross-entropy, `save` writes the Hugging Face format."""

    def __init__(self, model, tokenizer, skills: Mapping[str, Skill], must_not_say: Sequence[str] = (), cfg: AgentConfig = AgentConfig(),
                 device: str | torch.device = "cpu", precision: str = "fp32"):
        super().__init__(model, tokenizer, skills, must_not_say, cfg, device, precision)
        self.params = [p for p in model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(self.params, lr=cfg.agent_lr, weight_decay=0.0, fused=True)
        self.embedding: SkillEmbedding | None = None

    def freeze_embedding(self, replies: Iterable[str]) -> None:
        """Fixes the space of 9c: called once, after the warm start, with the replies of the training split."""
        self.embedding = SkillEmbedding(self.model.get_input_embeddings().weight, self.encode, list(replies), self.skills)

    def imitate(self, pairs: Sequence[tuple[Request, str]]) -> dict[str, float]:
        """One AdamW step of cross-entropy on replies, with the optimiser and the step size of the policy gradient."""
        data, size = self._encoded(pairs), self.cfg.sft_batch
        tokens = sum(len(reply) for _, reply in data)
        self.optimizer.zero_grad(set_to_none=True)
        parts = [data[i:i + size] for i in range(0, len(data), size)]
        return self._step(self.optimizer, {"loss": sum(self._backward(part, tokens) for part in parts)})

    def update(self, prepared: Sequence[Prepared], replies: Sequence[Sequence[Reply]], rewards: Sequence[Sequence[float | None]]) -> dict[str, float]:
        """One AdamW step on 9a over all replies.  A reward of None (the judge could not score) leaves 9b; its reply stays in 9d.

        GAP-5: 9c has no gradient through sampled text; R^A - (lambda_s / lambda_p) d in 9b has exactly the score-function gradient of
        lambda_s E[d].  So L_s is logged and adds nothing to the gradient a second time.
        raises  FloatingPointError, before the step, naming the term that is not finite
        """
        cfg, flat = self.cfg, [(s, r, R) for s, (group, row) in enumerate(zip(replies, rewards, strict=True)) for r, R in zip(group, row, strict=True)]
        prompts, rules, requests = [p.ids for p in prepared], [p.rules for p in prepared], [p.request for p in prepared]
        distance = self._distances(requests, flat)                                                          # [B]
        drawn = [r.ids[:sum(r.mask)] for _, r, _ in flat]
        scored = [i for i, (_, _, R) in enumerate(flat) if R is not None and drawn[i]]
        counts = all_sum(sum(map(len, drawn)), sum(len(drawn[i]) for i in scored), len(scored), len(flat), float(distance.sum()))     # of all processes
        tokens, tokens_p, replies_p, replies_all, far = counts
        if not tokens:
            raise ValueError("update: no reply holds a token that the agent drew (max_new_tokens leaves no room beside must_say?)")
        L_p = L_d = 0.0
        self.optimizer.zero_grad(set_to_none=True)
        for rows in self._micro_batches(flat, prompts, drawn):
            logits, ids, mask = self._masked_logits(prompts, rules, [flat[i] for i in rows], [drawn[i] for i in rows])
            term_d = negative_entropy(logits, mask) * (mask.sum() / tokens)          # weights that make the sum over micro-batches the whole batch's mean
            part = [j for j, i in enumerate(rows) if flat[i][2] is not None and drawn[i]]
            loss, whole = cs_loss(0.0, 0.0, term_d, cfg.lambda_p, cfg.lambda_s, cfg.lambda_d), [rows[j] for j in part]
            if part:
                weight = mask[part].sum() / tokens_p if cfg.cs_average == "batch" else len(part) / replies_p
                reward = torch.tensor([flat[i][2] for i in whole], device=self.device)
                group = torch.tensor([flat[i][0] for i in whole], device=self.device) if cfg.cs_baseline == "group" else None
                logp = logits[part].log_softmax(-1).gather(-1, ids[part, :, None])[..., 0]                  # [b, L]
                shaped = reward - cfg.lambda_s / cfg.lambda_p * distance[whole]
                loss = loss + cfg.lambda_p * weight * policy_loss(logp, shaped, mask[part], group, cfg.cs_average)
                L_p += float(weight * policy_loss(logp.detach(), reward, mask[part], group, cfg.cs_average))
            loss.backward()
            L_d += float(term_d.detach())
        L_p, L_d = all_sum(L_p, L_d)
        L_s = far / replies_all
        return self._step(self.optimizer, {"L_p": L_p, "L_s": L_s, "L_d": L_d, "loss": cs_loss(L_p, L_s, L_d, cfg.lambda_p, cfg.lambda_s, cfg.lambda_d)}) | {
            "entropy": -L_d, "distance": L_s, "tokens": int(tokens)}

    def _distances(self, requests, flat) -> Tensor:
        if self.embedding is None:
            if self.cfg.lambda_s:
                raise ValueError("--lambda_s > 0 needs the space of 9c: call agent.freeze_embedding(replies of the training split) once")
            return torch.zeros(len(flat), device=self.device)
        said = [[i for i in r.ids if i not in self.ends] for _, r, _ in flat]
        return skill_distance(self.embedding.replies(said), self.embedding.sequences([requests[s].skills for s, _, _ in flat]))

    def _micro_batches(self, flat, prompts, drawn) -> list[list[int]]:
        """Whole groups of similar length, so that little is padding."""
        groups: dict[int, list[int]] = {}
        for i, (s, _, _) in enumerate(flat):
            groups.setdefault(s, []).append(i)
        order = sorted(groups, key=lambda s: (max(len(drawn[i]) for i in groups[s]), len(prompts[s])))
        chunks = [[i for s in order[k:k + self.cfg.micro_batch] for i in groups[s]] for k in range(0, len(order), self.cfg.micro_batch)]
        return [c for c in chunks if any(drawn[i] for i in c)]

    def _step(self, optimizer, terms: dict[str, float]) -> dict[str, float]:
        sum_gradients(self.params)
        norm = float(torch.nn.utils.clip_grad_norm_(self.params, 1.0))
        for name, value in (terms | {"grad_norm": norm}).items():
            if not math.isfinite(value):
                optimizer.zero_grad()
                raise FloatingPointError(f"{name} is {value}; no step was taken. Lower the learning rate or look at the rewards of this batch")
        optimizer.step()
        return terms | {"grad_norm": norm}

    def supervised(self, pairs: Sequence[tuple[Request, str]], steps: int, lr: float | None = None, batch: int | None = None, seed: int = 0,
                   dev: Sequence[tuple[Request, str]] | None = None, progress: str | None = None) -> dict[str, float]:
        """Cross-entropy on the replies (end token included, customer's words never); warm-up, then cosine to a tenth.

        dev      pairs held out: the weights kept are those with the lowest loss on them, looked at `LOOKS` times on the way
        returns  the last training loss, and the lowest dev loss
        """
        data, batch, rng = self._encoded(pairs), batch or self.cfg.sft_batch, random.Random(seed)
        optimizer = torch.optim.AdamW(self.params, lr=lr or self.cfg.sft_lr, weight_decay=0.01, betas=(0.9, 0.95), fused=True)
        warm = max(1, steps // 20)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda i: min((i + 1) / warm, 0.55 + 0.45 * math.cos(math.pi * min(1, i / max(1, steps)))))
        loss, queue, best, kept = math.nan, [], INF, None
        bar = tqdm(range(1, steps + 1), desc=progress, disable=progress is None, mininterval=1)
        for step in bar:
            if not queue:
                queue = _batches(data, batch, rng)
            optimizer.zero_grad(set_to_none=True)
            loss = self._step(optimizer, {"loss": self._backward(queue.pop())})["loss"]
            schedule.step()
            bar.set_postfix(loss=f"{loss:.3f}", refresh=False)
            if dev and (step % max(1, steps // LOOKS) == 0 or step == steps) and (now := self.dev_loss(dev)) < best:
                best, kept = now, [p.detach().clone() for p in self.params]
        if kept:
            with torch.no_grad():
                for p, value in zip(self.params, kept):
                    p.copy_(value)
        return {"loss": loss} | ({"dev_loss": best} if dev else {})

    @torch.no_grad()
    def dev_loss(self, pairs: Sequence[tuple[Request, str]]) -> float:
        """Mean cross-entropy per reply token, nats."""
        data = sorted(self._encoded(pairs), key=lambda x: len(x[0]) + len(x[1]))
        size = self._rows(data)
        parts = [data[i:i + size] for i in range(0, len(data), size)]
        return sum(float(self._cross_entropy(p)) * sum(len(r) for _, r in p) for p in parts) / sum(len(r) for _, r in data)

    def _encoded(self, pairs) -> list[tuple[list[int], list[int]]]:
        if not pairs:
            raise ValueError("supervised training needs (request, reply) pairs, got none: does the dataset hold replies?")
        end = self.tokenizer.eos_token_id
        return [(self.prompt(r), self.encode(text) + [end]) for r, text in pairs]

    def _rows(self, pairs) -> int:
        """How many of these replies go into one supervised pass: as few as in the update with gradient checkpointing, which one asks for when memory
        is short, else as many as `TOKENS` allow."""
        fit = TOKENS // max(len(prompt) + len(reply) for prompt, reply in pairs)
        return max(1, min(self.cfg.sft_batch, self.cfg.micro_batch * self.cfg.group if self.cfg.gradient_checkpointing else fit))

    def _backward(self, pairs, tokens: int | None = None) -> float:
        """Cross-entropy of a batch and its gradient, in parts if memory is short.  tokens: of the whole, if this is a part of something larger."""
        tokens, value, size, mine = tokens or sum(len(reply) for _, reply in pairs), 0.0, self._rows(pairs), shard(pairs)
        for part in (mine[i:i + size] for i in range(0, len(mine), size)):
            loss = self._cross_entropy(part) * (sum(len(reply) for _, reply in part) / tokens)
            loss.backward()
            value += float(loss.detach())
        return all_sum(value)[0]

    def _cross_entropy(self, pairs) -> Tensor:
        prompts, replies = zip(*pairs)
        with self._precision(learning=True):
            logits, ids, mask = self._reply_logits(prompts, range(len(prompts)), replies)
        return F.cross_entropy(logits[mask], ids[mask])

    # ---- files
    def save(self, folder: str | Path) -> None:
        """Loads with AutoModelForCausalLM.from_pretrained; an adapter alone, if that is what learned, with AutoPeftModelForCausalLM."""
        self.model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)

    def optimizer_state(self) -> dict[str, Tensor]:
        """What a resumed run needs beside the weights, flat, for safetensors: "12.exp_avg" of parameter 12, "9c.table" of the frozen embedding."""
        return adam_state(self.optimizer) | ({f"9c.{name}": value for name, value in self.embedding.state().items()} if self.embedding else {})

    def load_optimizer_state(self, flat: Mapping[str, Tensor]) -> None:
        """Into an agent made with the saved weights, after its freeze_embedding."""
        load_adam_state(self.optimizer, {key: value for key, value in flat.items() if not key.startswith("9c.")})
        for key, value in flat.items():
            if key.startswith("9c."):
                setattr(self.embedding, key.removeprefix("9c."), value.to(self.device))


# ---------------------------------------------------------------------------------------------------- a run directory, read back
def here(config: dict) -> str:
    """The device of a run, or the CPU where there is no such device."""
    return config["device"] if torch.cuda.is_available() else "cpu"


def load_agent(folder: Path, dataset: Dataset, config: dict) -> CustomerServiceAgent:
    """The agent saved in `folder`, in the precision that the run was trained in."""
    if not (folder / "config.json").exists() and not (folder / "adapter_config.json").exists():
        raise DataError(
            f"{folder}: no trained language model here; the run is not complete: "
            f"python train.py --resume {folder.parent}")
    cfg, device = AgentConfig(**config["agent"]), here(config)
    model, tokenizer = load_saved(folder, cfg.quantise, config["precision"], device)
    return CustomerServiceAgent(model, tokenizer, dataset.skills, dataset.must_not_say, cfg, device, config["precision"])


def _batches(data: list, size: int, rng: random.Random) -> list[list]:
    """One epoch: batches of similar length, in random order."""
    order = sorted(data, key=lambda x: (len(x[0]) + len(x[1])) // 8 + rng.random())
    batches = [order[i:i + size] for i in range(0, len(order), size)]
    rng.shuffle(batches)
    return batches


# ---------------------------------------------------------------------------------------------------- to look at
TALK = ("We are sorry that your parcel is late, it arrives on {eta}.", "The blue lamp costs {price_1}, the red one {price_2}.",
        "I understand, that is annoying.", "Would you like me to order {product_1} for you?", "Terms and conditions apply.",
        "很抱歉，您的包裹 {eta} 送达。", "这款灯的价格是 {price_1}，需要我帮您下单吗？")
SLOTS = ("eta", "price_1", "price_2", "product_1", "product_2")
DEMO = {"soothe": Skill("soothe", "show that you understand", (TALK[0], TALK[2]), must_not_say=("calm down", "抱歉")),
        "price": Skill("price", "state the price", (TALK[1],), must_say=("Terms and conditions apply.",), must_not_say=("free shipping",))}


def demo_agent(precision: str = "fp32", seed: int = 0, **config) -> CustomerServiceAgent:
    model, tokenizer = build_tiny(TALK * 20, SLOTS, seed)
    agent = CustomerServiceAgent(model, tokenizer, DEMO, ("guarantee",), AgentConfig(**config), precision=precision)
    agent.freeze_embedding(TALK)
    return agent


def demo() -> None:
    agent = demo_agent(max_new_tokens=32)
    request = Request("Where is my lamp, and what did it cost?", ("soothe", "price"), {"eta": "Friday", "price_1": "30 euros"})
    print("prompt   ", repr(agent.tokenizer.decode(agent.prompt(request))), "\nrules    ", agent.constraints(request))
    replies = agent.generate([request], 4, generator=torch.Generator().manual_seed(1))[0]
    for r in replies:
        print("\nreply    ", repr(r.text), "  violations:", violations(r.text, agent.constraints(request)))
        print("log pi   ", " ".join(f"{agent.vocab.pieces[i].decode('utf-8', 'replace')!r}{p:.1f}" for i, p in zip(r.ids[:8], r.logp)), "...",
              f"{sum(r.mask)} drawn, {len(r.ids) - sum(r.mask)} inserted")
    row = agent.update(agent.prepare([request]), [replies], [[1.0, 0.0, 0.0, None]])
    print("\nEqs. 9a-9d with rewards 1, 0, 0, None:", {k: round(v, 4) for k, v in row.items()})


if __name__ == "__main__":
    demo()
