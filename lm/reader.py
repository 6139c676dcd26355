"""From a request to what a language model works with: prompt tokens and compiled constraints.

    Request --prepare--> Prepared: prompt token ids, Constraints, Rules      once a turn, then kept

The prompt is the model's own chat template.  Its system message holds skills and B_t, in few
tokens for a model built here, in words for a real one.  Text of customers is made harmless first:
no string in it can be read as a control token, and a long message loses its middle.  Knows no
weights and draws nothing.
Try it:  python csagent.py        prints a prompt and the constraints that go with it"""
from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager

from data import SLOT, DataError, Prepared, Request, Skill, base, fit_of, sayable
from lm.config import BUILT, LMConfig
from lm.constraints import Constraints, compile_constraints
from lm.deciding import Decider, DecidingRules, Offers
from lm.guard import Rules, Vocabulary
from lm.suited import refuse_longer

Message = Mapping[str, str]
TASK = (
    "You are a customer service agent. Answer in one short message. "
    "Follow these skills, in this order:"
)
DECIDE = (
    "Begin with your decision: <chat>, or <voucher> to issue the one voucher of a dialogue, which "
    "costs money. Only after <voucher> may you say that a voucher is issued, and then you must."
)
FACTS = "Facts; write the name in braces, as in {price_1}, where its value should stand:"


class Reader:
    """A tokenizer and the shop's rules; `prepare` makes requests ready to be answered."""

    def __init__(self, tokenizer, skills: Mapping[str, Skill], must_not_say: Sequence[str],
                 lm: LMConfig, width: int, ends: Collection[int]):
        """width: of the model's logits; ends: ids that end a reply."""
        # Tokens that the model reads; None: no bound is known.
        self.window: int | None = None
        # What requests that ask for a decision need.
        self.decider: Decider | None = None
        self.tokenizer = tokenizer
        self.skills = dict(skills)
        self.must_not_say = tuple(must_not_say)
        self.lm = lm
        self.vocab = Vocabulary.of(tokenizer, width, ends)
        self._control = control_pattern(tokenizer)
        self._has_system = self._takes_system()

    def prepare(self, requests: Sequence[Request]) -> list[Prepared]:
        """The requests, each with its prompt tokenised and its constraints compiled."""
        return [self._prepared(request) for request in requests]

    def _prepared(self, request: Request) -> Prepared:
        constraints = self.constraints(request)
        ids = self.prompt(request, constraints)
        return Prepared(request, ids, self._rules(request, constraints), constraints)

    def _rules(self, request: Request, constraints: Constraints) -> Rules | DecidingRules:
        """The constraints, compiled for decoding."""
        if self.lm.constraints == "soft":
            return self.vocab.rules(None)
        if request.decisions:
            return self.decider.rules(request)
        return self.vocab.rules(constraints)

    def decide_by(self, offers: Offers) -> None:
        """From now on requests may ask for a decision.

        offers  Dataset.offers
        """
        self.decider = Decider(
            self.vocab, self.encode, self.skills, self.must_not_say, offers,
            self.lm.max_new_tokens)

    def constraints(self, request: Request) -> Constraints:
        skills = [self.skills[name] for name in request.skills]
        return compile_constraints(skills, request.context, self.must_not_say)

    def encode(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False)

    # ---------------------------------------------------------------------- the prompt
    def prompt(self, request: Request, constraints: Constraints | None = None) -> list[int]:
        """Token ids up to where the reply begins, thinking off.  They are in no loss.

        constraints  those of the request, if they are compiled already
        """
        messages = []
        for user, reply in request.history:
            messages.append({"role": "user", "content": self._quote(user)})
            messages.append({"role": "assistant", "content": self._quote(reply)})
        messages.append({"role": "user", "content": self._quote(request.user)})
        system = self._system(request, constraints)
        if self._has_system:
            messages.insert(0, {"role": "system", "content": system})
        else:
            messages[0]["content"] = f"{system}\n\n{messages[0]['content']}"
        ids = self._chat(messages)
        what = request.where or "a prompt"
        refuse_longer(self.lm.model, len(ids), self.lm.max_new_tokens, self.window, what)
        return ids

    def ask(self, messages: Sequence[Message]) -> list[int]:
        """Messages for another purpose than a reply, made harmless, as the prompt's token ids."""
        return self._chat([m | {"content": self._harmless(m["content"])} for m in messages])

    def _chat(self, messages: Sequence[Message]) -> list[int]:
        with self._own_template():
            return self.tokenizer.apply_chat_template(
                messages, add_generation_prompt=True, enable_thinking=False, return_dict=False
            )

    @contextmanager
    def _own_template(self) -> Iterator[None]:
        """What the model's template fails with, as one line that names --model."""
        try:
            yield
        # Broad for a reason: a template is a program of others, which may raise anything.
        except Exception as error:
            said = " ".join(str(error).split())[:200]
            raise DataError(
                f"--model {self.lm.model}: its chat template fails ({type(error).__name__}: "
                f"{said}); correct chat_template in its tokenizer_config.json or "
                "chat_template.jinja, or take another model"
            ) from error

    def _system(self, request: Request, constraints: Constraints | None) -> str:
        """The system message: the skills, what has to be asked for in words, and B_t."""
        tiny = self.lm.model in BUILT
        single = bool(request.history or request.intent or request.emotion)
        lines = self._skill_lines(request, tiny)
        if self.lm.constraints == "soft" or not tiny or single:
            lines += _constraint_lines(constraints or self.constraints(request))
        if single:
            # Behind what is the same for every customer, which the forward pass reads only once.
            intent = request.intent or "unknown"
            emotion = request.emotion or "unknown"
            lines.append(f"intent: {intent}, emotion: {emotion}")
        if tiny:
            lines += self._brief(request.context)
        else:
            if request.decisions:
                lines.append(DECIDE)
            lines.append(FACTS)
            lines += self._facts(request.context)
        return "\n".join(lines)

    def _skill_lines(self, request: Request, tiny: bool) -> list[str]:
        if tiny:
            return [" ".join(request.skills)]
        described = enumerate(request.skills, 1)
        return [TASK] + [f"{i}. {k}: {self.skills[k].description}" for i, k in described]

    def _facts(self, context: Mapping[str, str]) -> list[str]:
        return [f"{name}: {self._quote(str(value))}" for name, value in context.items()]

    def _brief(self, context: Mapping[str, str]) -> list[str]:
        """B_t in few tokens.

        Of candidates (`price_1`, `price_2`, ...) only the slots of those that nothing contradicts
        are named, without their values, for replies name slots.
        """
        # Lists and dicts keep their order; a set's would change from process to process.
        plain = {name: value for name, value in context.items() if base(name) == name}
        numbered = [name for name in context if name not in plain]
        lines = self._facts(plain)
        if not numbered:
            return lines
        fitting = [f"{{{name}}}" for name in numbered if _fits(name, context)]
        return [*lines, " ".join(fitting) or "none fits"]

    # ---------------------------------------------------------------------- foreign text
    def _quote(self, text: str) -> str:
        """Foreign text made harmless, its middle cut out if it is long."""
        most = self.lm.user_tokens
        ids = self.encode(text[:40 * most])
        if len(ids) > most:
            half = most // 2
            end = self.encode(text[-10 * most:])[-half:]
            text = f"{self.tokenizer.decode(ids[:half])} ... {self.tokenizer.decode(end)}"
        return self._harmless(text)

    def _harmless(self, text: str) -> str:
        """No string in it is read as a control token: each gets a space behind its first letter."""
        return self._control.sub(lambda m: f"{m[0][0]} {m[0][1:]}", text)

    def _takes_system(self) -> bool:
        """Some chat templates refuse a system message (Gemma's), others leave it out.

        raises  DataError if the template does not even say what a customer wrote
        """
        system = {"role": "system", "content": "instructions"}
        user = {"role": "user", "content": "question"}
        said = self._said([user])
        if "question" not in said:
            raise DataError(
                f"--model {self.lm.model}: its chat template leaves out what the customer wrote; "
                "correct chat_template in its tokenizer_config.json or chat_template.jinja, or "
                "take another model"
            )
        try:
            said = self._said([system, user])
        except DataError:
            return False
        return "instructions" in said and "question" in said

    def _said(self, messages: Sequence[Message]) -> str:
        """The text that the template makes of messages."""
        with self._own_template():
            return self.tokenizer.apply_chat_template(messages, tokenize=False)


def control_pattern(tokenizer) -> re.Pattern[str]:
    """Matches the added tokens that are no slots, the longest first."""
    added = [token.content for token in tokenizer.added_tokens_decoder.values()]
    control = [text for text in added if not SLOT.fullmatch(text)]
    control.sort(key=len, reverse=True)
    matches_nothing = "(?!)"
    return re.compile("|".join(map(re.escape, control)) or matches_nothing)


def _constraint_lines(constraints: Constraints) -> list[str]:
    lines = []
    if constraints.must_say:
        lines.append(f"say: {'; '.join(constraints.must_say)}")
    if constraints.must_not_say:
        lines.append(f"never say: {'; '.join(constraints.must_not_say)}")
    return lines


def _fits(name: str, context: Mapping[str, str]) -> bool:
    """Whether a reply may name this candidate's slot and nothing contradicts the candidate."""
    return sayable(name) and fit_of(name, context) != "no"
