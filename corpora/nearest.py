"""The logged turn that is most like a given one: retrieval by tf-idf, without any learning.

    similarity = cosine of sum over common features of tf idf, idf = log((1 + N) / (1 + n_f)) + 1

A turn's features are the customer's words, and the names (not the values) in B_t that are known.
An inverted index is searched, so that a turn is compared only with those that share a feature.

Exercise: leave out the names in B_t.  How many of the retrieved replies name a slot that nobody
knows?"""
from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence

import numpy as np

from corpora.multiwoz_database import UNKNOWN
from data import Turn

WORD = re.compile(r"[^\W_]+")


def features(turn: Turn) -> Counter[str]:
    """How often each feature occurs in a turn.

    >>> sorted(features(Turn("A hotel, a cheap one", context={"_domain": "hotel", "name": "?"})))
    ['=_domain hotel', 'a', 'cheap', 'hotel', 'one']
    """
    found = Counter(WORD.findall(turn.user.lower()))
    for name, value in turn.context.items():
        if name.startswith("_"):
            found.update(f"={name} {word}" for word in value.split())
        elif value != UNKNOWN:
            found[f"={name}"] += 1
    return found


class Nearest:
    """Finds the most similar of some logged turns; of equals the first."""

    def __init__(self, turns: Sequence[Turn]):
        """turns: logged; those without a reply are left out.  ValueError if none is left."""
        self.turns = [turn for turn in turns if turn.reply]
        if not self.turns:
            raise ValueError("nothing to retrieve: no turn has a reply")
        counted = [features(turn) for turn in self.turns]
        held: Counter[str] = Counter()
        for counts in counted:
            held.update(counts.keys())
        self.idf = {name: math.log((1 + len(counted)) / (1 + n)) + 1 for name, n in held.items()}
        # feature -> (numbers of turns, their weights)
        self.index: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        postings: dict[str, list[tuple[int, float]]] = {}
        for number, counts in enumerate(counted):
            for name, weight in self._weights(counts).items():
                postings.setdefault(name, []).append((number, weight))
        for name, found in postings.items():
            numbers, weights = zip(*found)
            self.index[name] = np.array(numbers), np.array(weights)

    def _weights(self, counts: Counter[str]) -> dict[str, float]:
        """The tf-idf vector, of length 1; features that no logged turn has are left out."""
        found = {name: n * self.idf[name] for name, n in counts.items() if name in self.idf}
        length = math.sqrt(math.fsum(weight * weight for weight in found.values())) or 1.0
        return {name: weight / length for name, weight in found.items()}

    def turn(self, asked: Turn) -> Turn:
        similar = np.zeros(len(self.turns))
        for name, weight in self._weights(features(asked)).items():
            numbers, weights = self.index[name]
            similar[numbers] += weight * weights
        return self.turns[int(similar.argmax())]

    def reply(self, asked: Turn) -> str:
        return self.turn(asked).reply
