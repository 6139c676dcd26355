"""Who chooses the skills, and who speaks: what can stand in place of one of the two agents.

A *chooser* maps states to skill sequences.  It is the trained policy, the teacher, chance, or
nobody (a single agent has no Expert).
A *speaker* maps requests to replies.  It is the Customer Service Agent (csagent.py), a hosted model
(hosted/agents.py), the shop's phrase book, or silence.
Nothing here learns.  Randomness belongs to (seed, dialogue, turn), so no draw depends on which
other dialogues are played."""
from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Protocol
from zlib import crc32

import torch

from data import Dataset, Episode, ExpertState, Prepared, Reply, Request
from expert import Expert
from lm.constraints import prepare_plain

Skills = tuple[str, ...]
Choose = Callable[[list[ExpertState], list[Episode]], list[Skills]]
Draws = Callable[[int, int], torch.Generator]    # (dialogue, turn) -> a generator


def keyed(seed: int) -> Draws:
    """A generator for each (seed, dialogue, turn).

    A draw is the same whichever other dialogues and processes are running.
    """

    def draws(number: int, turn: int) -> torch.Generator:
        mixed = (seed * 1_000_003 + number) * 1_009 + turn
        return torch.Generator().manual_seed(mixed % 2**63)      # torch counts in 64 bits

    return draws


def by_talk(episodes: Sequence[Episode]) -> Draws:
    """A generator for each dialogue, by what was said in it alone: for answers that nobody keeps.

    After the same talk a phrase book says the same.  Dialogue -n is the n-th of `episodes`.
    """

    def draws(number: int, turn: int) -> torch.Generator:
        seen = episodes[-number - 1].seen
        said = repr((seen.user, seen.history)).encode()
        return torch.Generator().manual_seed(crc32(said))

    return draws


# --- who chooses the skills ---------------------------------------------------------------------

def allowed(skills: Skills, banned: Skills) -> Skills:
    """A sequence without the skills that may not be chosen now, whoever chose it."""
    return tuple(skill for skill in skills if skill not in banned)


def by_policy(
    expert: Expert, draws: Draws | None = None, greedy: bool = False, stops: bool = True
) -> Choose:
    """Skills by pi_E.

    draws   a generator for each (dialogue, turn), by which skills are sampled
    greedy  the most probable skills instead
    stops   False: the policy never stops before the fifth skill (a baseline on logs)
    """

    @torch.no_grad()
    def choose(states: list[ExpertState], episodes: list[Episode]) -> list[Skills]:
        generators = None
        if draws:
            generators = [draws(e.number, len(e.steps)) for e in episodes]
        return expert.act(states, generators, greedy=greedy, stops=stops)

    return choose


def with_slips(
    choose: Choose, sequences: Sequence[Skills], share: float, draws: Draws
) -> Choose:
    """In a share of the turns another sequence is played than the one chosen, and noted as a slip.

    So a policy that is nearly always right still meets customers who object.

    sequences  where the others come from: those of the training logs
    draws      a generator for each (dialogue, turn)
    """

    def slip(states: list[ExpertState], episodes: list[Episode]) -> list[Skills]:
        chosen = choose(states, episodes)
        for i, episode in enumerate(episodes):
            turn = len(episode.steps)
            generator = draws(episode.number, turn)
            if torch.rand((), generator=generator) < share:
                row = torch.randint(len(sequences), (), generator=generator)
                chosen[i] = sequences[int(row)]
                episode.slips.add(turn)
        return chosen

    return slip


def by_teacher(states: list[ExpertState], episodes: list[Episode]) -> list[Skills]:
    """The teacher's sequence of each turn; no skill where nobody labelled it."""
    return [e.seen.labels.teacher or () for e in episodes]


def by_chance(pool: Sequence[str], seed: int) -> Choose:
    """1 to 5 random skills, the same for each (seed, dialogue, turn)."""
    names = list(pool)

    def draw(episode: Episode) -> Skills:
        rng = random.Random(f"{seed}/{episode.number}/{len(episode.steps)}")
        count = rng.randint(1, 5)
        return tuple(rng.sample(names, min(len(names), count)))

    def choose(states: list[ExpertState], episodes: list[Episode]) -> list[Skills]:
        return [draw(episode) for episode in episodes]

    return choose


def by_nobody(states: list[ExpertState], episodes: list[Episode]) -> list[Skills]:
    """No skills at all: a single agent."""
    return [() for _ in states]


def with_true_perception(choose: Choose) -> Choose:
    """As `choose`, but the Expert is given the simulated customer's own u_t and e_t.

    It shows what perfect perception would be worth.
    """

    def choose_informed(states: list[ExpertState], episodes: list[Episode]) -> list[Skills]:
        informed = []
        for state, episode in zip(states, episodes):
            labels = episode.seen.labels
            informed.append(state._replace(true_perception=(labels.intent, labels.emotion)))
        return choose(informed, episodes)

    return choose_informed


# --- who speaks ---------------------------------------------------------------------------------

def request_of(
    state: ExpertState,
    skills: tuple[str, ...],
    context: dict[str, str],
    perceived: tuple[str | None, str | None],
    history_turns: int | None,
) -> Request:
    """s^A_t = (U_t, a^E_t, B_t).

    For a single agent: U_t, B_t, u_t, e_t, and the last `history_turns` turns of H_t.
    """
    if history_turns is None:
        return Request(state.user, skills, context)
    first = max(0, len(state.history) - history_turns)
    recent = state.history[first:]
    return Request(state.user, skills, context, recent, *perceived)


class Speaker(Protocol):
    """Writes replies.

    `prepare` is called once a turn.  `speak` takes one generator for all requests, or one for each.
    """

    def prepare(self, requests: Sequence[Request]) -> list[Prepared]: ...

    def speak(
        self,
        prepared: Sequence[Prepared],
        group: int = 1,
        temperature: float | None = None,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
    ) -> list[list[Reply]]: ...


class PhraseBook:
    """`--replies template`: the dataset's phrase book turns skills into text.

    So strategy alone is learned.
    """

    def __init__(self, dataset: Dataset):
        self.dataset = dataset

    def prepare(self, requests: Sequence[Request]) -> list[Prepared]:
        return prepare_plain(requests, self.dataset.skills, self.dataset.must_not_say)

    def speak(self, prepared, group=1, temperature=None, generator=None) -> list[list[Reply]]:
        if isinstance(generator, Sequence):
            seeds = [torch.randint(2**31, (group,), generator=g).tolist() for g in generator]
        else:
            seeds = torch.randint(2**31, (len(prepared), group), generator=generator).tolist()
        return [self._group(p.request, row) for p, row in zip(prepared, seeds)]

    def _group(self, request: Request, seeds: Sequence[int]) -> list[Reply]:
        wording = self.dataset.template
        return [Reply(wording(request.skills, request.context, random.Random(s))) for s in seeds]


class Silence:
    """No replies, so that R_t = R^E_t.

    On logs the next state ignores the replies: strategy can be learned without a phrase book.
    """

    def __init__(self, dataset: Dataset):
        self.dataset = dataset

    def prepare(self, requests: Sequence[Request]) -> list[Prepared]:
        return prepare_plain(requests, self.dataset.skills, self.dataset.must_not_say)

    def speak(self, prepared, group=1, temperature=None, generator=None) -> list[list[Reply]]:
        return [[Reply("")] * group for _ in prepared]


def silent_speaker(dataset: Dataset) -> Speaker:
    """Who speaks without a language model: the dataset's phrase book, or nobody."""
    return PhraseBook(dataset) if dataset.template else Silence(dataset)


def writes_itself(speaker: Speaker) -> bool:
    """Whether a speaker words its replies itself; a phrase book and silence do not."""
    return not isinstance(speaker, (PhraseBook, Silence))
