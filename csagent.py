"""The Customer Service Agent (Sec. 3.2): an LM that words the skills of the Expert; hard constraints; Eqs. 9a-9d.

    s^A_t = (U_t, a^E_t, B_t) --prompt--> LM --guard (constraints.py)--> a^A_t        one `Request` in, `group` replies out
    loss = lambda_p L_p (9b) + lambda_s L_s (9c) + lambda_d L_d (9d)                  `update`; 9c enters as a reward (GAP-5)

What is fast here: replies to one state share its prefix, in sampling and, with gradient, in the update; logits exist only where the
agent spoke; one uniform per draw; bf16 where the start-up probe finds it faster.  A large model is QLoRA (models.py): the base stands
still in 4 bits, `params` are the adapter's, and with gradient checkpointing the update packs a state and its replies in one row.
Departures from the paper: GAP-1 (sign of 9d), GAP-5 (9c), GAP-6 (baseline, average).  Knows no dataset and no judge.
Try it:  python csagent.py                        an untrained model under hard constraints, and the four terms of 9a
         python bench.py --speed                  sampling and update against plain transformers
         python bench.py --violations 20000       what the hard constraint is worth: random weights, random rules
Exercise: pass literal=True to negative_entropy in `update`, train, and watch `entropy` in metrics.jsonl."""
from __future__ import annotations

import contextlib
import math
import random
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jinja2 import TemplateError
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from tqdm import tqdm
from transformers import DynamicCache
from transformers.modeling_layers import GradientCheckpointingLayer

from constraints import Ban, Constraints, Guard, Rules, Vocabulary, compile_constraints, violations
from data import Reply, Request, Skill, base, opt, sayable
from models import BUILT, build_tiny
from parallel import share, sum_gradients, total
from runs import adam_state, load_adam_state

# B replies, L tokens of a reply, V vocabulary, S states, P tokens of a prompt, D width of an embedding
INF = float("inf")
TOKENS = 10_000                                  # in one supervised pass: more is slower, and gigabytes
LOOKS = 5                                        # at the dev loss, during supervised training
SHARED = 16                                      # tokens that all prompts begin with, from which on they are read only once


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


def draw(logits: Tensor, uniform: Tensor | None) -> tuple[Tensor, Tensor]:
    """One token per row from softmax(logits) by inverting its cumulative sum, in two levels: 64-blocks, then within the block.

    logits [B, V]; uniform [B] in [0, 1), None = the most likely.  Returns ids [B] and log-probabilities [B].  Never a token at -inf.
    """
    top = logits.amax(-1, keepdim=True)
    p = (logits - top).exp()                                                         # [B, V], unnormalised
    if uniform is None:
        token = logits.argmax(-1)
    else:
        blocks = F.pad(p, (0, -p.shape[1] % 64)).view(len(p), -1, 64)                # [B, V/64, 64]
        sums = blocks.sum(-1).double().cumsum(-1)                                    # double: the rounded product below stays under the total
        target = uniform.double()[:, None] * sums[:, -1:]
        block = (sums <= target).sum(-1, keepdim=True)                               # first block whose cumulative sum exceeds the target
        before = F.pad(sums, (1, 0))
        rest = (target - before.gather(1, block)) / (before.gather(1, block + 1) - before.gather(1, block))      # again uniform in [0, 1)
        within = blocks.gather(1, block[:, :, None].expand(-1, 1, 64))[:, 0].double().cumsum(-1)
        token = (block * 64 + (within <= rest.clamp(max=1 - 1e-12) * within[:, -1:]).sum(-1, keepdim=True))[:, 0]
    return token, (logits.gather(1, token[:, None]) - top)[:, 0] - p.sum(-1).log()


# ---------------------------------------------------------------------------------------------------- config and the data of one turn
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
class _Row:
    """One reply while it is being decoded."""

    def __init__(self, rules: Rules):
        self.guard, self.ids, self.logp, self.bans = Guard(rules), [], [], []

    def full(self, budget: int) -> bool:
        return len(self.ids) + self.guard.rules.reserve >= budget and len(self.ids) + self.guard.reserve() >= budget

    def reply(self, dropped: tuple[str, ...]) -> Reply:
        drawn, added = len(self.ids), self.guard.finish()
        return Reply(self.guard.text.strip(), self.ids + added, [True] * drawn + [False] * len(added), self.logp, self.bans, dropped)


class CustomerServiceAgent:
    """pi_A.  `generate` samples, `update` is one optimiser step on 9a, `supervised` is cross-entropy, `save` writes the Hugging Face format."""

    def __init__(self, model, tokenizer, skills: Mapping[str, Skill], must_not_say: Sequence[str] = (), cfg: AgentConfig = AgentConfig(),
                 device: str | torch.device = "cpu", precision: str = "fp32"):
        self.model = (model if getattr(model, "is_quantized", False) else model.to(device)).eval()
        self.tokenizer, self.skills, self.must_not_say, self.cfg = tokenizer, dict(skills), tuple(must_not_say), cfg
        self.device, self.precision = torch.device(device), precision
        eos = model.generation_config.eos_token_id
        self.ends = {tokenizer.eos_token_id, *(eos if isinstance(eos, list) else [eos])} - {None}
        self.vocab = Vocabulary.of(tokenizer, model.get_output_embeddings().weight.shape[0], self.ends)
        self.params = [p for p in model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(self.params, lr=cfg.agent_lr, weight_decay=0.0, fused=True)
        self.embedding: SkillEmbedding | None = None
        control = sorted((t.content for t in tokenizer.added_tokens_decoder.values() if not re.fullmatch(r"\{\w+\}", t.content)), key=len, reverse=True)
        self._control = re.compile("|".join(map(re.escape, control)) or "(?!)")
        self._has_system = self._takes_system()
        if cfg.gradient_checkpointing:
            model.activation_checkpointing_enable()                                  # not the reentrant kind

    def freeze_embedding(self, replies: Iterable[str]) -> None:
        """Fixes the space of 9c: called once, after the warm start, with the replies of the training split."""
        self.embedding = SkillEmbedding(self.model.get_input_embeddings().weight, self.encode, list(replies), self.skills)

    # ---- from a request to token ids
    def encode(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False)

    def constraints(self, r: Request) -> Constraints:
        return compile_constraints([self.skills[k] for k in r.skills], r.context, self.must_not_say)

    def rules(self, r: Request) -> Rules:
        return self.vocab.rules(self.constraints(r) if self.cfg.constraints == "hard" else None)

    def _quote(self, text: str) -> str:
        """Foreign text made harmless: its middle cut out if it is long, and no string in it read as a control token."""
        ids = self.encode(text[:40 * self.cfg.user_tokens])
        if len(ids) > self.cfg.user_tokens:
            half = self.cfg.user_tokens // 2
            text = f"{self.tokenizer.decode(ids[:half])} ... {self.tokenizer.decode(self.encode(text[-10 * self.cfg.user_tokens:])[-half:])}"
        return self._harmless(text)

    def _harmless(self, text: str) -> str:
        return self._control.sub(lambda m: f"{m[0][0]} {m[0][1:]}", text)

    def _system(self, r: Request) -> str:
        """The system message: skills and B_t, in few tokens for the tiny model, in words for a real one."""
        tiny, alone = self.cfg.model in BUILT, bool(r.history or r.intent or r.emotion)
        lines = [" ".join(r.skills)] if tiny else ["You are a customer service agent. Answer in one short message. Follow these skills, in this order:"]
        if not tiny:
            lines += [f"{i}. {k}: {self.skills[k].description}" for i, k in enumerate(r.skills, 1)]
        if self.cfg.constraints == "soft" or not tiny or alone:
            c = self.constraints(r)
            lines += [f"{word}: {'; '.join(phrases)}" for word, phrases in (("say", c.must_say), ("never say", c.must_not_say)) if phrases]
        if alone:                                                                    # after what is the same for every customer: see `_prefill`
            lines.append(f"intent: {r.intent or 'unknown'}, emotion: {r.emotion or 'unknown'}")
        lines += [] if tiny else ["Facts; write the name in braces, as in {price_1}, where its value should stand:"]
        return "\n".join(lines + (self._brief(r.context) if tiny else [f"{k}: {self._quote(str(v))}" for k, v in r.context.items()]))

    def _brief(self, context: Mapping[str, str]) -> list[str]:
        """B_t in few tokens: of candidates (`price_1`, `price_2`, ...) only the slots of those that nothing contradicts, for replies name slots."""
        numbered = [k for k in context if base(k) != k]                              # not a set: its order would change from process to process
        fails = {k[4:] for k, v in context.items() if k.startswith("fit_") and v == "no"}
        fitting = " ".join(f"{{{k}}}" for k in numbered if sayable(k) and k.rpartition("_")[2] not in fails)
        return [f"{k}: {self._quote(str(v))}" for k, v in context.items() if k not in numbered] + ([fitting or "none fits"] if numbered else [])

    def _takes_system(self) -> bool:
        """Some chat templates refuse a system message (Gemma's)."""
        try:
            self.tokenizer.apply_chat_template([{"role": "system", "content": "."}, {"role": "user", "content": "."}], tokenize=False)
        except TemplateError:
            return False
        return True

    def prompt(self, r: Request) -> list[int]:
        """The model's own chat template, thinking off; the reply comes next.  Tokens of the prompt are in no loss."""
        messages = []
        for user, reply in r.history:
            messages += [{"role": "user", "content": self._quote(user)}, {"role": "assistant", "content": self._quote(reply)}]
        messages.append({"role": "user", "content": self._quote(r.user)})
        if self._has_system:
            messages.insert(0, {"role": "system", "content": self._system(r)})
        else:
            messages[0]["content"] = f"{self._system(r)}\n\n{messages[0]['content']}"
        return self._chat(messages)

    def ask(self, messages: Sequence[Mapping[str, str]]) -> list[int]:
        """Messages for another purpose than a reply, their text made harmless, as the prompt's token ids."""
        return self._chat([m | {"content": self._harmless(m["content"])} for m in messages])

    def _chat(self, messages: Sequence[Mapping[str, str]]) -> list[int]:
        return self.tokenizer.apply_chat_template(messages, add_generation_prompt=True, enable_thinking=False, return_dict=False)

    # ---- the two passes that everything below is made of
    @contextlib.contextmanager
    def _precision(self, learning: bool = False):
        """Autocast if the precision is bf16; learning on a CPU then uses torch's plain attention, as the fused one is slow backwards: 1.1x of a
        supervised step at prompts of 230 tokens, 1.5x at 54.  Plain attention sums in fp32 unless told otherwise, which costs 1.7x at 230."""
        with contextlib.ExitStack() as stack:
            if self.precision == "bf16":
                stack.enter_context(torch.autocast(self.device.type, torch.bfloat16))
                if learning and self.device.type == "cpu" and not self.cfg.gradient_checkpointing:      # its second pass would choose another kernel
                    torch.backends.cuda.allow_fp16_bf16_reduction_math_sdp(True)                       # of every device, whatever its name says
                    stack.enter_context(sdpa_kernel(SDPBackend.MATH))
            yield

    def _prefill(self, prompts: Sequence[list[int]], owner: Tensor, room: int) -> tuple[DynamicCache, Tensor, Tensor]:
        """All but the last token of each prompt, once per state, then copied to the rows that answer it (differentiable); of what all prompts begin
        with, once in all.

        owner [B] state of each row.  Returns the cache, attend [B, P + room] (True: may be looked at) and the position of the last token [B].
        Prompts are padded on the right: causality alone keeps the padding out here, and `attend` keeps it out afterwards."""
        length = torch.tensor([len(p) - 1 for p in prompts])
        width, shared = int(length.max()), min(shared_start(prompts), int(length.min()) - 1)
        cache = DynamicCache(config=self.model.config)
        if len(prompts) > 1 and shared >= SHARED:
            self.model(input_ids=torch.tensor([prompts[0][:shared]], device=self.device), past_key_values=cache, use_cache=True, logits_to_keep=1)
            cache.batch_repeat_interleave(len(prompts))
        else:
            shared = 0
        ids = torch.tensor([p[shared:-1] + [0] * (width - len(p) + 1) for p in prompts], device=self.device)
        self.model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
        cache.batch_select_indices(owner.to(self.device))
        last = length[owner]
        attend = torch.cat([torch.arange(width) < last[:, None], torch.ones(len(owner), room, dtype=torch.bool)], 1)
        return cache, attend.to(self.device), last.to(self.device)

    def _forward(self, **inputs) -> tuple[Tensor, Tensor]:
        """The model's logits, and what its output layer made them from: the last hidden state [.., D], after the final norm, at the same positions."""
        read: list[Tensor] = []
        hook = self.model.get_output_embeddings().register_forward_pre_hook(lambda _, inputs: read.append(inputs[0]))
        try:
            return self.model(**inputs).logits, read[0]
        finally:
            hook.remove()

    def _reply_logits(self, prompts: Sequence[list[int]], owner: Sequence[int], ids: Sequence[list[int]]) -> tuple[Tensor, Tensor, Tensor]:
        """logits [B, L, V] of exactly the reply's positions, the reply's ids [B, L] and its mask [B, L]; the prompt has no logits at all."""
        logits, _, ids, mask = self._reply_states(prompts, owner, ids)
        return logits, ids, mask

    def _reply_states(self, prompts: Sequence[list[int]], owner: Sequence[int], ids: Sequence[list[int]]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """`_reply_logits` and, second, the hidden states [B, L, D] behind them: the state each token was drawn in, so what a value head reads."""
        if self.cfg.gradient_checkpointing:
            return self._packed_states(prompts, owner, ids)
        L, states = max(map(len, ids)), torch.tensor(owner)
        reply = torch.tensor([s + [0] * (L - len(s)) for s in ids])
        mask = torch.arange(L) < torch.tensor([len(s) for s in ids])[:, None]
        fed = torch.cat([torch.tensor([[prompts[o][-1]] for o in owner]), reply[:, :-1]], 1)                # last prompt token, then the reply but its last
        cache, attend, last = self._prefill(prompts, states, L)
        causal = torch.ones(L, L, dtype=torch.bool, device=self.device).tril()
        look = attend[:, None, None].repeat(1, 1, L, 1)                                                     # [B, 1, L, P + L]
        look[..., -L:] = causal
        position = last[:, None] + torch.arange(L, device=self.device)
        logits, hidden = self._forward(input_ids=fed.to(self.device), attention_mask=look, position_ids=position, past_key_values=cache, use_cache=True)
        return logits.float(), hidden.float(), reply.to(self.device), mask.to(self.device)

    def _packed_states(self, prompts: Sequence[list[int]], owner: Sequence[int], ids: Sequence[list[int]]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The same as `_reply_states` without a cache, which gradient checkpointing does not go with: one row a state, its prompt first,
        then a block for each reply, which sees the prompt and itself.  Without checkpointing it is slower, by 10 to 30 % on a CPU."""
        S, G, L = len(prompts), max(Counter(owner).values()), max(map(len, ids))
        state, block = torch.tensor(owner), torch.tensor([list(owner[:i]).count(o) for i, o in enumerate(owner)])
        length = torch.tensor([len(p) - 1 for p in prompts])                                                # the last prompt token opens every block
        P = int(length.max())
        reply = torch.tensor([s + [0] * (L - len(s)) for s in ids])
        mask = torch.arange(L) < torch.tensor([len(s) for s in ids])[:, None]
        blocks = torch.zeros(S, G, L, dtype=torch.long)
        blocks[state, block] = torch.cat([torch.tensor([[prompts[o][-1]] for o in owner]), reply[:, :-1]], 1)
        fed = torch.cat([torch.tensor([p[:-1] + [0] * (P - len(p) + 1) for p in prompts]), blocks.view(S, -1)], 1)             # [S, P + G L]
        position = torch.cat([torch.arange(P).expand(S, P), (length[:, None] + torch.arange(L)).repeat(1, G)], 1)
        look = torch.block_diag(*[torch.ones(n, n).tril() for n in (P, *[L] * G)]).bool().repeat(S, 1, 1)                      # [S, T, T]
        look[:, P:, :P] = (torch.arange(P) < length[:, None])[:, None]
        with self._checkpointing():
            seen = self._forward(input_ids=fed.to(self.device), attention_mask=look[:, None].to(self.device), position_ids=position.to(self.device),
                                 use_cache=False, logits_to_keep=G * L)
        logits, hidden = (x.view(S, G, L, -1)[state, block].float() for x in seen)
        return logits, hidden, reply.to(self.device), mask.to(self.device)

    @contextlib.contextmanager
    def _checkpointing(self):
        """transformers checkpoints a layer in training mode only; nothing else may be in it, for dropout would change log pi."""
        layers = [m for m in self.model.modules() if isinstance(m, GradientCheckpointingLayer)]
        for layer in layers:
            layer.training = True
        try:
            yield
        finally:
            for layer in layers:
                layer.training = False

    def _static(self, rules: Sequence[Rules]) -> Tensor:
        """[S, V] True where a state's static bans lie."""
        banned = torch.zeros(len(rules), len(self.vocab.pieces), dtype=torch.bool)
        for row, r in zip(banned, rules):
            row[torch.from_numpy(r.static)] = True
        return banned.to(self.device)

    @torch.no_grad()
    def generate(self, requests: Sequence[Request], group: int = 1, temperature: float | None = None,
                 generator: torch.Generator | Sequence[torch.Generator] | None = None) -> list[list[Reply]]:
        """`group` replies to each request.

        temperature  None = the config's; 0 = the most likely token at every step
        generator    one for all, or one per request: then a reply does not depend on which other requests it was decoded with
        """
        if not requests:
            return []
        heat = self.cfg.temperature if temperature is None else temperature
        rules = [self.rules(r) for r in requests]
        rows = [_Row(r) for r in rules for _ in range(group)]
        generators = list(generator) if isinstance(generator, Sequence) else [generator] * len(requests)
        chance = torch.cat([torch.rand(group, self.cfg.max_new_tokens, generator=g) for g in generators]).to(self.device)     # [B, steps]
        with self._precision():
            self._decode(rows, [self.prompt(r) for r in requests], self._static(rules), heat, chance, generators)
        return [[row.reply(self.constraints(r).dropped) for row in rows[i * group:(i + 1) * group]] for i, r in enumerate(requests)]

    def _decode(self, rows: list[_Row], prompts, static: Tensor, heat: float, chance: Tensor, generators) -> None:
        """The loop: forward, mask, draw, push.  Rows that ended are skipped, and dropped from the batch once they are half of it."""
        budget, group = self.cfg.max_new_tokens, len(rows) // len(prompts)
        at, owner = list(range(len(rows))), torch.arange(len(rows)) // group         # batch position -> row, -> state
        live = [i for i in at if not rows[i].full(budget)]                           # batch positions still decoding
        cache, attend, position = self._prefill(prompts, owner, budget)
        owner, width = owner.to(self.device), attend.shape[1] - budget
        token = torch.tensor([p[-1] for p in prompts], device=self.device)[owner]
        for step in range(budget):
            if not live:
                return
            if len(live) <= len(at) // 2:
                keep = torch.tensor(live, device=self.device)
                at, live = [at[i] for i in live], list(range(len(live)))
                cache.batch_select_indices(keep)
                owner, attend, position, token, chance = (x[keep] for x in (owner, attend, position, token, chance))
            out = self.model(input_ids=token[:, None], attention_mask=attend[:, None, None, :width + step + 1], position_ids=position[:, None] + step,
                             past_key_values=cache, use_cache=True)                  # a ready 4-D mask: transformers would build one at each step
            bans = {i: rows[at[i]].guard.banned() for i in live}
            logits = (out.logits[:, -1].float() / (heat or 1.0)).masked_fill_(forbid(static[owner], bans), -INF)        # [b, V]
            token, logp = draw(logits, chance[:, step] if heat else None)
            drawn, value = token.tolist(), logp.tolist()
            for i in live:
                row = rows[at[i]]
                while row.guard.completes(drawn[i]):                                 # fails closed; the ban is stored, so log pi stays the masked one
                    bans[i] = _also(bans[i], drawn[i])
                    logits[i, drawn[i]] = -INF
                    again = torch.rand(1, generator=generators[at[i] // group]).to(self.device) if heat else None
                    token[i:i + 1], logp[i:i + 1] = draw(logits[i:i + 1], again)
                    drawn[i], value[i] = int(token[i]), float(logp[i])
                row.ids.append(drawn[i])
                row.logp.append(value[i])
                row.bans.append(bans[i])
                if drawn[i] not in self.ends:
                    row.guard.push(drawn[i])
            live = [i for i in live if drawn[i] not in self.ends and not rows[at[i]].full(budget)]

    # ---- learning
    @torch.no_grad()
    def log_probs(self, requests: Sequence[Request], replies: Sequence[Reply], reference: bool = False) -> list[list[float]]:
        """log pi_A of each drawn token, one reply a request, as masked and scaled when sampled, nats.

        reference  True: of the model before any learning, the base with its adapter switched off; Eqs. 9a-9d need none, a KL term would
        """
        if reference and not self.cfg.lora_rank:
            raise ValueError("the reference is the base without its adapter: this model has none (--lora_rank 0)")
        drawn = [r.ids[:sum(r.mask)] for r in replies]
        with self.model.disable_adapter() if reference else contextlib.nullcontext():
            logits, ids, mask = self._masked_logits([self.prompt(r) for r in requests], [self.rules(r) for r in requests],
                                                    [(i, r, None) for i, r in enumerate(replies)], drawn)
        logp = logits.log_softmax(-1).gather(-1, ids[..., None])[..., 0]
        return [row[keep].tolist() for row, keep in zip(logp, mask)]

    @torch.no_grad()
    def likelihood(self, prompts: Sequence[list[int]], texts: Sequence[str], states: int = 16) -> list[list[float]]:
        """Mean log-probability per token, nats, of each text as the answer to each prompt, end token left out; `states` prompts at a time."""
        answers, scores = [self.encode(text) for text in texts], []
        for part in (prompts[i:i + states] for i in range(0, len(prompts), states)):
            with self._precision():
                logits, ids, mask = self._reply_logits(part, [s for s in range(len(part)) for _ in texts], answers * len(part))
            logp = logits.log_softmax(-1).gather(-1, ids[..., None])[..., 0]                                # [S T, L]
            scores += ((logp * mask).sum(-1) / mask.sum(-1)).view(len(part), len(texts)).tolist()
        return scores

    def imitate(self, pairs: Sequence[tuple[Request, str]]) -> dict[str, float]:
        """One AdamW step of cross-entropy on replies, with the optimiser and the step size of the policy gradient."""
        data, size = self._encoded(pairs), self.cfg.sft_batch
        tokens = sum(len(reply) for _, reply in data)
        self.optimizer.zero_grad(set_to_none=True)
        parts = [data[i:i + size] for i in range(0, len(data), size)]
        return self._step(self.optimizer, {"loss": sum(self._backward(part, tokens) for part in parts)})

    def update(self, requests: Sequence[Request], replies: Sequence[Sequence[Reply]], rewards: Sequence[Sequence[float | None]]) -> dict[str, float]:
        """One AdamW step on 9a over all replies.  A reward of None (the judge could not score) leaves 9b; its reply stays in 9d.

        GAP-5: 9c has no gradient through sampled text; R^A - (lambda_s / lambda_p) d in 9b has exactly the score-function gradient of
        lambda_s E[d].  So L_s is logged and adds nothing to the gradient a second time.
        raises  FloatingPointError, before the step, naming the term that is not finite
        """
        cfg, flat = self.cfg, [(s, r, R) for s, (group, row) in enumerate(zip(replies, rewards, strict=True)) for r, R in zip(group, row, strict=True)]
        prompts, rules = [self.prompt(r) for r in requests], [self.rules(r) for r in requests]
        distance = self._distances(requests, flat)                                                          # [B]
        drawn = [r.ids[:sum(r.mask)] for _, r, _ in flat]
        scored = [i for i, (_, _, R) in enumerate(flat) if R is not None and drawn[i]]
        counts = total(sum(map(len, drawn)), sum(len(drawn[i]) for i in scored), len(scored), len(flat), float(distance.sum()))     # of all processes
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
        L_p, L_d = total(L_p, L_d)
        L_s = far / replies_all
        return self._step(self.optimizer, {"L_p": L_p, "L_s": L_s, "L_d": L_d, "loss": cs_loss(L_p, L_s, L_d, cfg.lambda_p, cfg.lambda_s, cfg.lambda_d)}) | {
            "entropy": -L_d, "distance": L_s, "tokens": int(tokens)}

    def _masked_logits(self, prompts, rules, rows, drawn) -> tuple[Tensor, Tensor, Tensor]:
        """The logits that were sampled from: temperature-scaled, every ban of the moment at -inf; ids and mask."""
        logits, _, ids, mask = self._masked_states(prompts, rules, rows, drawn)
        return logits, ids, mask

    def _masked_states(self, prompts, rules, rows, drawn) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """`_masked_logits` and, second, the hidden states behind them."""
        states = sorted({s for s, _, _ in rows})
        with self._precision(learning=True):
            logits, hidden, ids, mask = self._reply_states([prompts[s] for s in states], [states.index(s) for s, _, _ in rows], drawn)
        B, L, V = logits.shape
        banned = self._static([rules[s] for s in states])[[states.index(s) for s, _, _ in rows]]            # [B, V]
        bans = {b * L + t: ban for b, (_, r, _) in enumerate(rows) for t, ban in enumerate(r.bans)}
        return (logits / self.cfg.temperature).masked_fill(forbid(banned.repeat_interleave(L, 0), bans).view(B, L, V), -INF), hidden, ids, mask

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
        tokens, value, size, mine = tokens or sum(len(reply) for _, reply in pairs), 0.0, self._rows(pairs), share(pairs)
        for part in (mine[i:i + size] for i in range(0, len(mine), size)):
            loss = self._cross_entropy(part) * (sum(len(reply) for _, reply in part) / tokens)
            loss.backward()
            value += float(loss.detach())
        return total(value)[0]

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


def forbid(banned: Tensor, bans: Mapping[int, Ban]) -> Tensor:
    """Adds the bans of single rows to `banned` [N, V], in place."""
    for row, (kind, ids) in bans.items():
        if kind == "allow":
            banned[row] = True
            banned[row, torch.from_numpy(ids)] = False
        elif len(ids):
            banned[row, torch.from_numpy(ids)] = True
    return banned


def _also(ban: Ban, token: int) -> Ban:
    kind, ids = ban
    return kind, np.append(ids, token) if kind == "ban" else ids[ids != token]


def shared_start(prompts: Sequence[list[int]]) -> int:
    """How many tokens all of them begin with: as many as the first and the last in order.

    >>> shared_start([[5, 6, 7], [5, 6, 8, 9], [5, 6]])
    2
    """
    first, last = min(prompts), max(prompts)
    return next((i for i, (x, y) in enumerate(zip(first, last)) if x != y), min(len(first), len(last)))


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
    row = agent.update([request], [replies], [[1.0, 0.0, 0.0, None]])
    print("\nEqs. 9a-9d with rewards 1, 0, 0, None:", {k: round(v, 4) for k, v in row.items()})


if __name__ == "__main__":
    demo()
