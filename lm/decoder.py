"""A causal LM that answers requests under rules (Sec. 3.2).  What it learns is in csagent.py.

    Request --prepare (reader.py)--> Prepared --lanes, read once a state (lanes.py, passes.py)-->
    one token at a time: logits --guard (guard.py)--> draw --> Reply              `speak`

One uniform number is used per draw, so a reply does not depend on which others it is decoded with.
What was said is scored (`masked_logits`, `log_probs`) under the bans of the moment it was drawn
in.
Try it:  python csagent.py                                an untrained model under constraints
         python -m experiments.bench --speed              against plain transformers
         python -m experiments.bench --violations 20000   what the hard constraint is worth
Exercise: let `draw` ignore its uniform and take the likeliest token; which term of Eq. 9a is then
0 at every step, and why?"""
from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import inf

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from data import Prepared, Reply, Request, Skill
from lm.config import BUILT, LMConfig
from lm.deciding import DecidingGuard, DecidingRules
from lm.guard import Ban, Guard, Rules, ends_a_sentence
from lm.passes import Passes, ReplyStates
from lm.reader import Reader
from lm.suited import end_tokens, window_of
from text import split_decision

# B replies, L tokens of a reply, V vocabulary, S states, D width of a hidden state
BLOCK = 64
SENTENCE = 12                                    # tokens that a short one has
Generators = torch.Generator | Sequence[torch.Generator] | None


# ------------------------------------------------------------------------------ logits
def token_logp(logits: Tensor, ids: Tensor) -> Tensor:
    """log pi of each token: logits [.., V] and ids [..] -> [..], nats.

    >>> token_logp(torch.zeros(1, 4), torch.tensor([2])).exp().item()
    0.25
    """
    return logits.log_softmax(-1).gather(-1, ids[..., None])[..., 0]


def draw(logits: Tensor, uniform: Tensor | None) -> tuple[Tensor, Tensor]:
    """One token per row from softmax(logits), by inverting its cumulative sum.

    logits   [B, V], -inf where a token is banned; such a token is never drawn
    uniform  [B] in [0, 1); None = the most likely token
    returns  ids [B] and log-probabilities [B]
    """
    top = logits.amax(-1, keepdim=True)
    p = (logits - top).exp()                                    # [B, V], unnormalised
    token = logits.argmax(-1) if uniform is None else _inverted(p, uniform)
    return token, (logits.gather(1, token[:, None]) - top)[:, 0] - p.sum(-1).log()


def _inverted(p: Tensor, uniform: Tensor) -> Tensor:
    """[B] where the cumulative sum of p [B, V] exceeds its share `uniform` [B] of the total.

    In two levels, first among blocks of 64, then within one.  In doubles: a rounded product would
    reach the total; where the device has none, on the CPU."""
    if p.device.type == "mps":
        return _inverted(p.cpu(), uniform.cpu()).to(p.device)
    blocks = F.pad(p, (0, -p.shape[1] % BLOCK)).view(len(p), -1, BLOCK)            # [B, V/64, 64]
    sums = blocks.sum(-1).double().cumsum(-1)
    target = uniform.double()[:, None] * sums[:, -1:]
    block = (sums <= target).sum(-1, keepdim=True)
    ends = F.pad(sums, (1, 0))
    start, end = ends.gather(1, block), ends.gather(1, block + 1)
    rest = (target - start) / (end - start)                     # again uniform in [0, 1)
    chosen = blocks.gather(1, block[:, :, None].expand(-1, 1, BLOCK))[:, 0]
    within = chosen.double().cumsum(-1)
    below = within <= rest.clamp(max=1 - 1e-12) * within[:, -1:]
    return (block * BLOCK + below.sum(-1, keepdim=True))[:, 0]


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
    """The ban with one token more."""
    kind, ids = ban
    if kind == "ban":
        return kind, np.append(ids, token)
    return kind, ids[ids != token]


# ------------------------------------------------------------------------------ replies
@dataclass(frozen=True)
class Drawn:
    """A reply as the loss sees it: the number of the state it answers, and what it earned."""
    state: int
    reply: Reply
    reward: float | None = None              # None: nobody could score it

    @property
    def ids(self) -> list[int]:
        """The tokens that the agent drew, without those that were inserted."""
        return self.reply.ids[:sum(self.reply.mask)]


@dataclass
class _Row:
    """One reply while it is being decoded."""
    guard: Guard | DecidingGuard
    ids: list[int] = field(default_factory=list)
    logp: list[float] = field(default_factory=list)
    bans: list[Ban] = field(default_factory=list)

    def full(self, budget: int) -> bool:
        """Whether what is left of the budget is needed for phrases that must be said.

        A real model that has one left to say stops sooner, behind a sentence, lest it stand in the
        middle of the next.
        """
        used = len(self.ids)
        most = self.guard.rules.reserve
        margin = 0
        if most and self.guard.vocab.whole_sentences:
            margin = SENTENCE
        if used + most + margin < budget:
            return False
        needed = self.guard.reserve()
        if needed and used + needed + margin >= budget > used + needed:
            return ends_a_sentence(self.guard.text)
        return used + needed >= budget

    def add(self, token: int, logp: float, ban: Ban) -> None:
        self.ids.append(token)
        self.logp.append(logp)
        self.bans.append(ban)

    def reply(self, dropped: tuple[str, ...]) -> Reply:
        drawn = len(self.ids)
        added = self.guard.finish()
        mask = [True] * drawn + [False] * len(added)
        text = self.guard.text.strip()
        return Reply(text, self.ids + added, mask, self.logp, self.bans, dropped)


def deciding(reply: Reply) -> Reply:
    """A reply that was asked for a decision, its words without it."""
    decision, words, _ = split_decision(reply.text)
    return replace(reply, text=words, decision=decision, tagged=reply.text)


class _Decoding:
    """Replies that are being decoded together.

    Those that ended are skipped, and dropped from the batch once they are a quarter of it.  A
    position in the batch therefore says little: `at` gives the row of each."""

    def __init__(self, speaker: ConstrainedLM, prepared: Sequence[Prepared], group: int,
                 heat: float, generators: Sequence[torch.Generator | None]):
        self.speaker = speaker
        self.budget = speaker.lm.max_new_tokens
        self.group = group
        self.heat = heat
        self.generators = generators
        device = speaker.device
        uniforms = [torch.rand(group, self.budget, generator=g) for g in generators]
        self.chance = torch.cat(uniforms).to(device)                         # [B, steps]
        self.rows: list[_Row] = []
        for p in prepared:
            self.rows += [_Row(p.rules.guard()) for _ in range(group)]
        self.at = list(range(len(self.rows)))                                # position -> row
        # Positions that are still being decoded.
        self.live = [i for i in self.at if not self.rows[i].full(self.budget)]
        self.static = speaker.static_bans([p.rules for p in prepared])       # [S, V]
        prompts = [p.ids for p in prepared]
        self.lanes = speaker.lanes(prompts, group, self.budget)
        self.owner = torch.arange(len(prompts), device=device).repeat_interleave(group)
        self.token = torch.tensor([p[-1] for p in prompts], device=device)[self.owner]

    def run(self) -> None:
        for number in range(self.budget):
            if not self.live:
                return
            if 4 * len(self.live) <= 3 * len(self.at):
                self._drop_ended()
            self._step(number)

    def _drop_ended(self) -> None:
        kept = self.lanes.keep(self.live)
        place = {position: i for i, position in enumerate(kept)}
        self.at = [self.at[position] for position in kept]
        self.live = [place[position] for position in self.live]
        keep = torch.tensor(kept, device=self.speaker.device)
        for name in ("owner", "token", "chance"):
            setattr(self, name, getattr(self, name)[keep])

    def _step(self, number: int) -> None:
        """One token of each row that is live: logits, mask, draw, push."""
        bans = {i: self.rows[self.at[i]].guard.banned() for i in self.live}
        logits = self.lanes.step(self.token).float() / (self.heat or 1.0)    # [b, V]
        logits.masked_fill_(forbid(self.static[self.owner], bans), -inf)
        uniform = self.chance[:, number] if self.heat else None
        self.token, logp = draw(logits, uniform)
        drawn = self.token.tolist()
        value = logp.tolist()
        for i in self.live:
            row = self.rows[self.at[i]]
            while row.guard.completes(drawn[i]):
                # Fails closed.  The ban is stored, so log pi stays that of the masked policy.
                bans[i] = _also(bans[i], drawn[i])
                logits[i, drawn[i]] = -inf
                drawn[i], value[i] = self._draw_again(i, logits)
            row.add(drawn[i], value[i], bans[i])
        self._push(drawn)

    def _draw_again(self, i: int, logits: Tensor) -> tuple[int, float]:
        uniform = None
        if self.heat:
            generator = self.generators[self.at[i] // self.group]
            uniform = torch.rand(1, generator=generator).to(self.speaker.device)
        token, logp = draw(logits[i:i + 1], uniform)
        self.token[i:i + 1] = token
        return int(token), float(logp)

    def _push(self, drawn: Sequence[int]) -> None:
        """The guards see what was drawn; rows that ended or are full live no longer."""
        going_on = [i for i in self.live if drawn[i] not in self.speaker.ends]
        for i in going_on:
            self.rows[self.at[i]].guard.push(drawn[i])
        self.live = [i for i in going_on if not self.rows[self.at[i]].full(self.budget)]


# ------------------------------------------------------------------------------ the model
class ConstrainedLM(Reader, Passes):
    """A model, its tokenizer and the shop's rules.

    `speak` samples; `log_probs` and `likelihood` score what was or could be said."""

    def __init__(self, model, tokenizer, skills: Mapping[str, Skill], must_not_say: Sequence[str],
                 lm: LMConfig, device: str | torch.device, precision: str):
        Passes.__init__(self, model, lm, device, precision)
        width = model.get_output_embeddings().weight.shape[0]
        ends = end_tokens(lm.model, tokenizer, model.generation_config, width)
        self.end = ends[0]                       # what a reply is taught to end with
        self.ends = set(ends)
        Reader.__init__(self, tokenizer, skills, must_not_say, lm, width, self.ends)
        if lm.model not in BUILT:
            self.window = window_of(model.config)

    # ---------------------------------------------------------------------- to speak
    def generate(self, requests: Sequence[Request], group: int = 1,
                 temperature: float | None = None,
                 generator: Generators = None) -> list[list[Reply]]:
        """`speak` for requests of which nothing is learned: what is prepared is not kept."""
        return self.speak(self.prepare(requests), group, temperature, generator)

    @torch.no_grad()
    def speak(self, prepared: Sequence[Prepared], group: int = 1,
              temperature: float | None = None, generator: Generators = None) -> list[list[Reply]]:
        """`group` replies to each request.

        temperature  None = the config's; 0 = the most likely token at every step
        generator    one for all, or one per request: then a reply does not depend on which other
                     requests it was decoded with
        """
        if not prepared:
            return []
        heat = self.lm.temperature if temperature is None else temperature
        generators = [generator] * len(prepared)
        if isinstance(generator, Sequence):
            generators = list(generator)
        with self.autocast(), self.few_threads():
            decoding = _Decoding(self, prepared, group, heat, generators)
            decoding.run()
        replies = []
        for i, p in enumerate(prepared):
            rows = decoding.rows[i * group:(i + 1) * group]
            said = [row.reply(p.constraints.dropped) for row in rows]
            if p.request.decisions:
                said = [deciding(reply) for reply in said]
            replies.append(said)
        return replies

    def static_bans(self, rules: Sequence[Rules | DecidingRules]) -> Tensor:
        """[S, V] True where a state's rules ban a token whatever the text so far."""
        banned = torch.zeros(len(rules), len(self.vocab.pieces), dtype=torch.bool)
        for row, r in zip(banned, rules):
            row[torch.from_numpy(r.static)] = True
        return banned.to(self.device)

    # ---------------------------------------------------------------------- what was said, scored
    def masked_logits(self, prepared: Sequence[Prepared],
                      drawn: Sequence[Drawn]) -> tuple[Tensor, Tensor, Tensor]:
        """`masked_states` without the hidden states: logits [B, L, V], ids and mask [B, L]."""
        logits, _, ids, mask = self.masked_states(prepared, drawn)
        return logits, ids, mask

    def masked_states(self, prepared: Sequence[Prepared], drawn: Sequence[Drawn]) -> ReplyStates:
        """The logits that each token was sampled from: temperature-scaled, its bans at -inf.

        prepared  every state that `drawn` may name by its number
        """
        states = sorted({x.state for x in drawn})
        owner = [states.index(x.state) for x in drawn]
        prompts = [prepared[s].ids for s in states]
        with self.autocast(learning=True):
            logits, hidden, ids, mask = self.reply_states(prompts, owner, [x.ids for x in drawn])
        static = self.static_bans([prepared[s].rules for s in states])[owner]          # [B, V]
        B, L, V = logits.shape
        bans = {}
        for b, x in enumerate(drawn):
            bans |= {b * L + t: ban for t, ban in enumerate(x.reply.bans)}
        banned = forbid(static.repeat_interleave(L, 0), bans).view(B, L, V)
        masked = (logits / self.lm.temperature).masked_fill(banned, -inf)
        return ReplyStates(masked, hidden, ids, mask)

    @torch.no_grad()
    def log_probs(self, prepared: Sequence[Prepared], replies: Sequence[Reply],
                  reference: bool = False) -> list[list[float]]:
        """log pi_A of each drawn token, one reply a request, masked and scaled as sampled, nats.

        reference  True: of the model before any learning, the base with its adapter switched off;
                   Eqs. 9a-9d need none, a KL term would
        """
        if reference and not self.lm.lora_rank:
            raise ValueError(
                "the reference is the base without its adapter: this model has none (--lora_rank 0)"
            )
        drawn = [Drawn(i, reply) for i, reply in enumerate(replies)]
        without = self.model.disable_adapter() if reference else contextlib.nullcontext()
        with without:
            logits, ids, mask = self.masked_logits(prepared, drawn)
        logp = token_logp(logits, ids)
        return [row[keep].tolist() for row, keep in zip(logp, mask)]

    @torch.no_grad()
    def likelihood(self, prompts: Sequence[list[int]], texts: Sequence[str],
                   states: int = 16) -> list[list[float]]:
        """How well each text answers each prompt: mean log-probability of its tokens, nats.

        The end token is left out.  `states` prompts are read at a time.
        """
        answers = [self.encode(text) for text in texts]
        scores = []
        for first in range(0, len(prompts), states):
            part = prompts[first:first + states]
            owner = torch.arange(len(part)).repeat_interleave(len(texts)).tolist()
            with self.autocast():
                logits, ids, mask = self.reply_logits(part, owner, answers * len(part))
            logp = token_logp(logits, ids)                                             # [S T, L]
            mean = (logp * mask).sum(-1) / mask.sum(-1)
            scores += mean.view(len(part), len(texts)).tolist()
        return scores
