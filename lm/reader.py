"""From a request to what a language model works with: prompt tokens and compiled constraints.

    Request --prepare--> Prepared: prompt token ids, Constraints, Rules      once a turn, then kept

The prompt is the model's own chat template.  For a model built here its system message holds skills
and B_t in few tokens; what a real one is told is in prompt.py.  Text of customers is made harmless
first: no string in it can be read as a control token, and a long message loses its middle.  Knows
no weights and draws nothing.
Try it:  python csagent.py        prints a prompt and the constraints that go with it"""
from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from data import SLOT, DataError, Dialogue, Prepared, Request, Skill, base, fit_of, sayable
from lm.config import BUILT, LMConfig
from lm.constraints import Constraints, compile_constraints
from lm.deciding import Decider, DecidingRules, Offers
from lm.guard import Rules, Vocabulary
from lm.prompt import SHOWN_FILE, Exchange, Prompter, read_shown, shown_exchanges, write_shown
from lm.suited import refuse_longer

Message = Mapping[str, str]


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
        soft = lm.constraints == "soft"
        self.prompter = Prompter(self.skills, self.must_not_say, self._quote, soft)
        # What a real model is shown in every prompt.
        self.shown: tuple[Exchange, ...] = ()
        self.vocab.whole_sentences = lm.model not in BUILT

    def showing(self, dialogues: Sequence[Dialogue], folder: Path | None = None) -> Self:
        """This reader, which shows a real model exchanges of these training dialogues.

        folder  of a saved agent: shown is what it was trained with, whatever dialogues are here
        """
        if self.lm.model in BUILT:
            return self
        kept = folder / SHOWN_FILE if folder else None
        if kept and kept.exists():
            self.shown = read_shown(kept)
        else:
            self.shown = shown_exchanges(dialogues)
        return self

    def keep_shown(self, folder: Path) -> None:
        """Writes what is shown next to the weights."""
        if self.shown:
            write_shown(folder / SHOWN_FILE, self.shown)

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
        if self.lm.model in BUILT:
            messages = self._few_tokens(request, constraints)
        else:
            told = constraints or self.constraints(request)
            messages = self.prompter.messages(request, told, self.shown)
        if not self._has_system:
            system, first, *others = messages
            content = f"{system['content']}\n\n{first['content']}"
            messages = [first | {"content": content}, *others]
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

    def _few_tokens(self, request: Request, constraints: Constraints | None) -> list[Message]:
        """The messages for a model built here: what was said, behind a system message."""
        messages = [{"role": "system", "content": self._system(request, constraints)}]
        for user, reply in request.history:
            messages.append({"role": "user", "content": self._quote(user)})
            messages.append({"role": "assistant", "content": self._quote(reply)})
        messages.append({"role": "user", "content": self._quote(request.user)})
        return messages

    def _system(self, request: Request, constraints: Constraints | None) -> str:
        """The system message: the skills, what has to be asked for in words, and B_t."""
        single = bool(request.history or request.intent or request.emotion)
        lines = [" ".join(request.skills)]
        if self.lm.constraints == "soft" or single:
            lines += _constraint_lines(constraints or self.constraints(request))
        if single:
            # Behind what is the same for every customer, which the forward pass reads only once.
            intent = request.intent or "unknown"
            emotion = request.emotion or "unknown"
            lines.append(f"intent: {intent}, emotion: {emotion}")
        return "\n".join(lines + self._brief(request.context))

    def _brief(self, context: Mapping[str, str]) -> list[str]:
        """B_t in few tokens.

        Of candidates (`price_1`, `price_2`, ...) only the slots of those that nothing contradicts
        are named, without their values, for replies name slots.
        """
        # Lists and dicts keep their order; a set's would change from process to process.
        plain = {name: value for name, value in context.items() if base(name) == name}
        numbered = [name for name in context if name not in plain]
        lines = [f"{name}: {self._quote(str(value))}" for name, value in plain.items()]
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
