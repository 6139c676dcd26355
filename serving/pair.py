"""A trained pair that keeps nothing between two requests.

What it needs of a dialogue's past stands in the request or is worked out from it: B_t of a
simulated shop from what the customer said, the skills of the turn before (a^E_{t-1}) by letting
the Expert choose again, turn by turn, the most probable skills.  So a client may send the bare
messages, and the answer is the one it would have got by sending everything back.
The answers are those of `gopo.Answer.respond`; several requests are answered together."""
from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import data
from data import Dataset, Step, fill
from gopo import Answer, Gopo, load_gopo
from infra.locks import reading_from
from infra.runs import read_config
from lm.constraints import violations
from policies import PhraseBook
from serving.wire import Answered, Chat
from shop.catalogue import SHOPS


class Pair:
    """Both agents of a run, to be asked by many at once."""

    def __init__(self, gopo: Gopo, name: str):
        self.trained = Answer(gopo)
        self.gopo = gopo
        self.name = name

    @property
    def dataset(self) -> Dataset:
        return self.gopo.dataset

    def answer(self, chats: Sequence[Chat]) -> list[Answered | Exception]:
        """Answers requests together; for each its answer, or what was wrong with it."""
        try:
            return self._together(chats)
        # Broad for a reason: whatever one request breaks must not reach the others.
        except Exception as error:
            if len(chats) == 1:
                return [error]
        return [self.answer([chat])[0] for chat in chats]

    def _together(self, chats: Sequence[Chat]) -> list[Answered]:
        begun, sources = [], []
        for chat in chats:
            previous, source = self.previous(chat)
            context = self.context(chat, len(chat.contexts) - 1)
            begun.append(self.trained.begin(chat.history, context, previous))
            sources.append(source)
        steps = self.trained.take(begun)
        answers = []
        for chat, step, source in zip(chats, steps, sources):
            answers.append(self._answered(step, chat, source))
        return answers

    def context(self, chat: Chat, turn: int) -> dict[str, str]:
        """B_t of turn `turn`, counted from 0: given, or found in a simulated shop's catalogue.

        Of an earlier turn for which nobody gave any, it is taken to be what is known now.
        """
        given = chat.contexts[turn]
        if given is None and self.dataset.context:
            given = self.dataset.context(list(chat.history[:2 * turn + 1:2]))
        if given is None:
            given = chat.contexts[-1] or {}
        return given

    def previous(self, chat: Chat) -> tuple[tuple[str, ...], str]:
        """a^E_{t-1}, and where it comes from.

        The skills that the client sent back count; those of replies after the last of them are
        chosen again.  Each choice depends on the one before.
        """
        known = [turn for turn, skills in enumerate(chat.skills) if skills is not None]
        start = known[-1] + 1 if known else 0
        skills = chat.skills[known[-1]] if known else ()
        choose = self.gopo.chooser(greedy=True)
        for turn in range(start, len(chat.skills)):
            context = self.context(chat, turn)
            episode = self.trained.begin(chat.history[:2 * turn + 1], context, skills)
            skills = choose([episode.state()], [episode])[0]
        if not chat.skills:
            return (), "none: this is the first turn"
        return skills, "returned" if start == len(chat.skills) else "chosen again"

    def _answered(self, step: Step, chat: Chat, source: str) -> Answered:
        reply = step.replies[0]
        rules = step.prepared.constraints
        strategy = {
            "skills": list(step.skills),
            "perceived": {"intent": step.perceived[0], "emotion": step.perceived[1]},
            "constraints": {
                "must_say": list(rules.must_say),
                "must_not_say": list(rules.must_not_say),
                "dropped": list(rules.dropped),
            },
            "violations": violations(reply.text, rules),
            "context": step.seen.context,
            "previous": {"skills": list(step.state.previous), "source": source},
            "ignored": list(chat.ignored),
        }
        return Answered(
            fill(reply.text, step.seen.context),
            strategy,
            self._finish(step),
            len(step.prepared.ids or ()),
            len(reply.ids),
        )

    def _finish(self, step: Step) -> str:
        """"length" if the language model was cut off before it ended its reply."""
        reply = step.replies[0]
        drawn = reply.ids[:sum(reply.mask)]
        if not self.gopo.agent or not drawn or drawn[-1] in self.gopo.agent.ends:
            return "stop"
        return "length"

    def about(self) -> dict[str, Any]:
        """What a client may want to know of the pair."""
        dataset = self.dataset
        return {
            "dataset": dataset.name,
            "note": dataset.note,
            "simulated": dataset.environment is not None,
            "finds_context": dataset.context is not None,
            "replies": "phrase book" if isinstance(self.gopo.speaker, PhraseBook) else "model",
            "skills": {name: skill.description for name, skill in dataset.skills.items()},
            "intents": list(dataset.intents),
            "emotions": list(dataset.emotions),
        }


def load_pair(run: Path, data_dir: str | None = None) -> Pair:
    """The pair of a run directory; of a simulated shop, with its catalogue and its customers."""
    with reading_from(run):
        used = read_config(run)["run"]
        dataset = None
        own = data.is_shop(used["dataset"]) or data.is_function(used["dataset"])
        if own or used["dataset"] in SHOPS or used["replies"] != "lm":
            dataset = data.load_used(used, data_dir)
        return Pair(load_gopo(run, dataset), run.resolve().name)
