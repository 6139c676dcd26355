"""A causal LM that answers requests under rules: the prompt it reads, its forward passes, sampling (Sec. 3.2).  What it learns is in csagent.py.

    Request --prompt--> token ids --prefill, once a state--> one token at a time: logits --guard (constraints.py)--> draw        `generate`

Replies to one state share its prefix, in sampling and, with gradient, in the update; what all prompts of a batch begin with is read once;
logits exist only where the agent spoke; one uniform per draw.  With gradient checkpointing a state and its replies are packed in one row.
Try it:  python csagent.py                        an untrained model under hard constraints
         python bench.py --speed                  sampling and update against plain transformers
         python bench.py --violations 20000       what the hard constraint is worth: random weights, random rules
Exercise: let `draw` ignore its uniform and take the likeliest token; which term of Eq. 9a is then 0 at every step, and why?"""
from __future__ import annotations

import contextlib
import re
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from jinja2 import TemplateError
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import DynamicCache
from transformers.modeling_layers import GradientCheckpointingLayer

from data import Prepared, Reply, Request, Skill, base, sayable
from lm.constraints import Ban, Constraints, Guard, Rules, Vocabulary, compile_constraints
from lm.models import BUILT

# B replies, G replies a state, L tokens of a reply, V vocabulary, S states, P tokens of a prompt, T tokens of a packed row, D width of a hidden state
INF = float("inf")
SHARED = 16                                      # tokens that all prompts begin with, from which on they are read only once


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


class _Row:
    """One reply while it is being decoded."""

    def __init__(self, rules: Rules):
        self.guard, self.ids, self.logp, self.bans = Guard(rules), [], [], []

    def full(self, budget: int) -> bool:
        return len(self.ids) + self.guard.rules.reserve >= budget and len(self.ids) + self.guard.reserve() >= budget

    def reply(self, dropped: tuple[str, ...]) -> Reply:
        drawn, added = len(self.ids), self.guard.finish()
        return Reply(self.guard.text.strip(), self.ids + added, [True] * drawn + [False] * len(added), self.logp, self.bans, dropped)


class ConstrainedLM:
    """A model, its tokenizer and the shop's rules.  `generate` samples, `log_probs` and `likelihood` score what was or could be said."""

    def __init__(self, model, tokenizer, skills: Mapping[str, Skill], must_not_say: Sequence[str], cfg, device: str | torch.device, precision: str):
        """cfg: a csagent.AgentConfig; read here are its model, user_tokens, constraints, temperature, max_new_tokens, gradient_checkpointing, lora_rank."""
        self.model = (model if getattr(model, "is_quantized", False) else model.to(device)).eval()
        self.tokenizer, self.skills, self.must_not_say, self.cfg = tokenizer, dict(skills), tuple(must_not_say), cfg
        self.device, self.precision = torch.device(device), precision
        eos = model.generation_config.eos_token_id
        self.ends = {tokenizer.eos_token_id, *(eos if isinstance(eos, list) else [eos])} - {None}
        self.vocab = Vocabulary.of(tokenizer, model.get_output_embeddings().weight.shape[0], self.ends)
        control = sorted((t.content for t in tokenizer.added_tokens_decoder.values() if not re.fullmatch(r"\{\w+\}", t.content)), key=len, reverse=True)
        self._control = re.compile("|".join(map(re.escape, control)) or "(?!)")
        self._has_system = self._takes_system()
        if cfg.gradient_checkpointing:
            model.activation_checkpointing_enable()                                  # not the reentrant kind

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

    def prepare(self, requests: Sequence[Request]) -> list[Prepared]:
        return [Prepared(r, self.prompt(r), self.rules(r), self.constraints(r)) for r in requests]

    def speak(self, prepared, group=1, temperature=None, generator=None):
        return self.generate([p.request for p in prepared], group, temperature, generator)

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

    # ---- what was said, scored
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
