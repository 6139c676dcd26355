"""What a customer of the food-delivery store says, read from the words: kinds of sentences, and v.

No customer, no hidden type: only the sentences of the *train* split, by which a sentence never met
is recognised.  `kind_of` names the kind of line of the book that a sentence most likely is (naive
Bayes over words and pairs of words).  The rule GenRM (genrm.py) reads customers with it.
`ValueReader` guesses from a whole talk what a voucher is worth (ridge regression over words): it
shows how much of v the text gives away (bound B4).

Try it:  python -m shop.fds_reading        how often sentences of dev and test are recognised"""
from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from functools import cache, lru_cache
from math import log

import numpy as np

from shop.catalogue import book, phrasings

NAME = "fds"
SENTENCE = re.compile(r"[^.!?]+[.!?]*")
WORD = re.compile(r"[a-z]+(?:'[a-z]+)?|\d{4}|[?!]")
SLOT = re.compile(r"\{\w+\}")
RIDGE = 3.0                                      # weight of the squared coefficients


@cache
def _names() -> re.Pattern:
    """Dishes and merchants of all splits: names say nothing about the kind of a sentence."""
    listed: list[str] = []
    for split in ("train", "dev", "test"):
        listed += book(NAME)["dishes"][split] + book(NAME)["merchants"][split]
    return re.compile("|".join(map(re.escape, listed)), re.I)


def _features(sentence: str) -> list[str]:
    """Words and pairs of neighbouring words, names and numbers by one token each."""
    plain = SLOT.sub(" xname ", _names().sub(" xname ", sentence)).lower()
    plain = re.sub(r"\d+", " xnumber ", plain)
    words = WORD.findall(plain)
    pairs = [f"{a} {b}" for a, b in zip(words, words[1:])]
    return words + pairs


@cache
def _model() -> tuple[dict[str, dict[str, float]], dict[str, float]]:
    """For each kind: log p(feature | kind), and that of a feature never met."""
    counts: dict[str, Counter] = {}
    for kind in book(NAME)["customer"]:
        counted: Counter[str] = Counter()
        for variants in phrasings("train", kind, NAME):
            for line in variants:
                for feature in _features(line):
                    # a line with many alternatives is one line
                    counted[feature] += 1 / len(variants)
        counts[kind] = counted
    seen = len(set().union(*counts.values()))
    table, unseen = {}, {}
    for kind, counted in counts.items():
        total = sum(counted.values()) + 0.1 * seen
        table[kind] = {feature: log((n + 0.1) / total) for feature, n in counted.items()}
        unseen[kind] = log(0.1 / total)
    return table, unseen


@lru_cache(65536)
def kind_of(sentence: str) -> str:
    """The kind of line that a sentence most likely is.

    >>> kind_of("I really insist on my money back!")
    'wish.rigid'
    """
    return _most_likely(tuple(_features(sentence)))


# Names and numbers are masked in the features: there are few of these, but many sentences.
@lru_cache(65536)
def _most_likely(features: tuple[str, ...]) -> str:
    table, unseen = _model()
    best, highest = "", float("-inf")
    for kind, logs in table.items():
        score = sum(logs.get(feature, unseen[kind]) for feature in features)
        if score > highest:
            best, highest = kind, score
    return best


def kinds_of(text: str) -> list[str]:
    """The kinds of the sentences of a message, in their order."""
    return [kind_of(sentence.strip()) for sentence in SENTENCE.findall(text) if sentence.strip()]


class ValueReader:
    """v from the customer's words: ridge regression over the words of a talk.

    talks   the customer's messages, joined
    values  v of each
    """

    def __init__(self, talks: Sequence[str], values: Sequence[float]):
        counted = Counter()
        for talk in talks:
            counted.update(set(_features(talk)))
        common = [feature for feature, n in counted.items() if n >= 3]
        self.column = {feature: i for i, feature in enumerate(sorted(common))}
        X = self._matrix(talks)
        y = np.array(values)
        self.middle = float(y.mean())
        gram = X.T @ X + RIDGE * np.eye(X.shape[1])
        self.weights = np.linalg.solve(gram, X.T @ (y - self.middle))

    def _matrix(self, talks: Sequence[str]) -> np.ndarray:
        X = np.zeros((len(talks), len(self.column)))
        for row, talk in enumerate(talks):
            known = [self.column[f] for f in set(_features(talk)) if f in self.column]
            X[row, known] = 1.0
        return X

    def read(self, talks: Sequence[str]) -> np.ndarray:
        """The v to expect of each talk, in stars."""
        return self._matrix(talks) @ self.weights + self.middle


def demo() -> None:
    for split in ("dev", "test"):
        right = []
        missed: Counter[tuple[str, str]] = Counter()
        for kind in book(NAME)["customer"]:
            for variants in phrasings(split, kind, NAME):
                for line in variants:
                    read = kind_of(line)
                    right.append(read == kind)
                    if read != kind:
                        missed[kind, read] += 1
        print(f"{split}: {np.mean(right):.3f} of {len(right)} sentences recognised")
        print("  most often mistaken:", missed.most_common(6))


if __name__ == "__main__":
    demo()
