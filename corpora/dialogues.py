"""What every corpus needs: splits, the horizon, examples of a skill, and a dialogue on the screen.

Pure functions of dialogues; which corpus they are from plays no part."""
from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import attrgetter

from data import Dialogue, Turn


def turns_of(dialogues: Iterable[Dialogue]) -> list[Turn]:
    """The turns of all dialogues, in order."""
    turns: list[Turn] = []
    for dialogue in dialogues:
        turns += dialogue.turns
    return turns


def used_skills(turns: Iterable[Turn]) -> list[str]:
    """The skills that label any turn, each once, in order of first appearance."""
    used: dict[str, None] = {}
    for turn in turns:
        used |= dict.fromkeys(turn.skills or ())
    return list(used)


def split(
    dialogues: Sequence[Dialogue], key: Callable[[Dialogue], str] = attrgetter("id"),
) -> tuple[list[Dialogue], list[Dialogue], list[Dialogue]]:
    """(train, dev, test), about 80/10/10 % by sha256 of the key, each at least one dialogue.

    Dialogues with one key stand in one part; those that are many, more than a tenth of all, train.
    A dialogue keeps its part when others are added, except in tiny files, where a part would
    otherwise be empty.  Needs three different keys.
    """
    keys = [key(dialogue) for dialogue in dialogues]
    share = _shares(keys)
    ranked = sorted(share, key=lambda name: (share[name], name))
    rank = {name: place for place, name in enumerate(ranked)}
    n = len(share)
    n_test = min(max(1, _below(.1, share)), n - 2)
    n_held_out = min(max(n_test + 1, _below(.2, share)), n - 1)
    train, dev, test = [], [], []
    for dialogue, name in zip(dialogues, keys):
        if rank[name] < n_test:
            test.append(dialogue)
        elif rank[name] < n_held_out:
            dev.append(dialogue)
        else:
            train.append(dialogue)
    return train, dev, test


def _shares(keys: Sequence[str]) -> dict[str, float]:
    """Key -> a number in [0, 1) that depends on the key alone, or 1 for what stands there often."""
    share = {}
    for name, count in Counter(keys).items():
        is_often = count > 1 and count > len(keys) / 10
        share[name] = 1.0 if is_often else _share(name)
    return share


def _share(key: str) -> float:
    return int(hashlib.sha256(key.encode()).hexdigest()[:8], 16) / 2**32


def _below(limit: float, share: Mapping[str, float]) -> int:
    return sum(x < limit for x in share.values())


def horizon(dialogues: Sequence[Dialogue]) -> int:
    """T of Eq. 1 for logs: the 90th percentile of the dialogues' lengths in turns, at least 2."""
    lengths = sorted(len(dialogue.turns) for dialogue in dialogues)
    return max(2, lengths[math.ceil(.9 * len(lengths)) - 1])


def examples(skill: str, train: Iterable[Dialogue], limit: int = 8) -> tuple[str, ...]:
    """Replies of the training split that used a skill.

    Those that used it alone come first, among them the most frequent, then in file order.
    """
    # (used with other skills, reply) -> how often
    used: Counter[tuple[bool, str]] = Counter()
    for dialogue in train:
        for turn in dialogue.turns:
            if turn.reply and turn.skills and skill in turn.skills:
                used[len(turn.skills) > 1, turn.reply] += 1
    # sorted() is stable: file order decides between equals
    ranked = sorted(used, key=lambda key: (key[0], -used[key]))
    replies = dict.fromkeys(reply for _, reply in ranked)
    return tuple(replies)[:limit]


def show_dialogue(dialogue: Dialogue) -> None:
    """Prints a dialogue with the symbols of Sec. 3.2."""
    for t, turn in enumerate(dialogue.turns, 1):
        print(f"{t}  U_t   {turn.user}")
        print(f"   u_t   {turn.intent}")
        print(f"   B_t   {turn.context}")
        print(f"   T     {turn.skills}")
        print(f"   reply {turn.reply}\n")


def count_skills(dialogues: Iterable[Dialogue]) -> list[tuple[str, int]]:
    """(skill, how many turns it labels), the most frequent first."""
    count: Counter[str] = Counter()
    for turn in turns_of(dialogues):
        count.update(turn.skills or ())
    return count.most_common()
