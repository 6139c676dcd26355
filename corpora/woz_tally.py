"""MultiWOZ's measures of one speaker, kept by dialogue, so that intervals can follow.

    replies by dialogue --tally--> {inform, success, bleu, replies} of each --measures--> a row

Inform and Success are 0 or 1 of a dialogue.  BLEU belongs to a corpus, so a dialogue has what BLEU
is made of, ten counts that are summed.  Then any resample of dialogues has its own Combined.
Intervals are 95 % percentile bootstraps over dialogues.  They say nothing of other training seeds.
Knows no agent and no file.

Exercise: resample Inform, Success and BLEU each by itself and add the three.  Is the interval of
Combined wider or narrower, and why?"""
from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

import numpy as np
from sacrebleu.metrics import BLEU

from corpora.multiwoz_database import Database
from corpora.multiwoz_turns import SPANS, tidy
from corpora.woz_score import Gold, judge_dialogue, refuse_unfit, richness
from corpora.woz_venues import IN_MARKS, Venues, plain_slot
from data import SLOT, DataError
from tse import bleu_counts

# N dialogues, D draws, 10 counts: words, reference words, right n-grams and all n-grams, n = 1..4

DRAWS = 1000
MEASURES = ("inform", "success", "bleu", "combined")
# Slots that the corpus' annotation does not tell apart -> the one that stands for them.
SAME_KIND: dict[str, str] = {}
for first, *others in SPANS.values():
    SAME_KIND |= dict.fromkeys(others, first)
METRIC = BLEU(tokenize="13a")


class Told(TypedDict):
    """What one dialogue of a speaker comes to."""
    inform: int                                  # 0 or 1
    success: int                                 # 0 or 1
    bleu: list[int]                              # ten counts
    replies: list[str]                           # with slots in brackets


Tally = dict[str, Told]                          # by dialogue id in small letters
Interval = dict[str, float | None]               # mean, low, high


# --- replies -> numbers of a dialogue ------------------------------------------------------------

def bracketed(reply: str) -> str:
    """A reply of ours with the slots of the corpus' annotation, in brackets.

    >>> bracketed("Tickets are {total}, ref {ref}. It leaves after {after}.")
    'Tickets are [price], ref [reference]. It leaves after [leave].'
    """
    return SLOT.sub(_in_brackets, reply)


def _in_brackets(found: re.Match) -> str:
    name = found[1]
    return f"[{plain_slot(SAME_KIND.get(name, name))}]"


def tally(
    replies: Mapping[str, Sequence[str]], known: Gold, database: Database
) -> Tally:
    """Every dialogue of a speaker, judged at policy level: with the annotators' states.

    replies  dialogue id in small letters -> a reply for each turn of the system, slots as {name} or
             [name]
    raises   DataError for an unknown dialogue, a wrong number of turns, or none at all
    """
    turns = {}
    for id, texts in replies.items():
        turns[id] = [{"response": bracketed(text)} for text in texts]
    refuse_unfit(turns, known.goals, known.booked)
    venues = Venues(database)
    found: Tally = {}
    for id, said in turns.items():
        verdict = judge_dialogue(said, known.goals[id], known.states[id], known.booked[id], venues)
        texts = [turn["response"] for turn in said]
        found[id] = Told(
            inform=int(verdict[0]), success=int(verdict[1]),
            bleu=_counts(texts, known.references[id]), replies=texts)
    return found


def _counts(replies: Sequence[str], references: Sequence[str]) -> list[int]:
    """BLEU's ten counts of a dialogue, over the replies that have a reference."""
    pairs = []
    for reply, reference in zip(replies, references, strict=True):
        if reference:
            pairs.append((tidy(reply), reference))
    return bleu_counts(METRIC, pairs)


def bleu_of(counts: Sequence[int]) -> float:
    """Corpus BLEU in percent from ten counts, by the method of sacrebleu's corpus_bleu."""
    whole = [int(count) for count in counts]
    found = BLEU.compute_bleu(
        whole[2:6], whole[6:], whole[0], whole[1], smooth_method="exp")
    return found.score


# --- a row ---------------------------------------------------------------------------------------

def measures(row: Tally) -> dict[str, float]:
    """inform, success, bleu and combined in percent; cbe, words, trigrams and length; slots.

    slots  how many a reply names on average, repeats counted
    """
    values = _drawn(row, np.ones((1, len(row))))
    found = {name: float(values[name][0]) for name in MEASURES}
    replies: list[str] = []
    for told in row.values():
        replies += told["replies"]
    named = [len(IN_MARKS.findall(reply)) for reply in replies]
    return found | richness(replies) | {"slots": sum(named) / max(1, len(named))}


def combined_interval(row: Tally, seed: int = 0, draws: int = DRAWS) -> Interval:
    """Combined with its interval over dialogues; one dialogue has none."""
    return _interval(_resampled(row, seed, draws)["combined"], len(row))


def differences(
    ours: Tally, theirs: Tally, seed: int = 0, draws: int = DRAWS
) -> dict[str, Interval]:
    """ours - theirs in each of MEASURES, paired: every draw takes the same dialogues of both.

    Only dialogues that both have are compared.

    raises  DataError if there is none
    """
    both = [id for id in ours if id in theirs]
    if not both:
        raise DataError("no dialogue was measured of both runs: nothing can be compared")
    one = _resampled({id: ours[id] for id in both}, seed, draws)
    other = _resampled({id: theirs[id] for id in both}, seed, draws)
    return {name: _interval(one[name] - other[name], len(both)) for name in MEASURES}


def verdict(difference: Interval) -> str:
    """above, below, or undecided where the interval holds 0."""
    low, high = difference["low"], difference["high"]
    if low is None or low <= 0 <= high:
        return "undecided"
    return "above" if low > 0 else "below"


def _resampled(row: Tally, seed: int, draws: int) -> dict[str, np.ndarray]:
    """The measures of the row itself, and of `draws` resamples of its dialogues: [1 + D] each."""
    n = len(row)
    drawn = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), draws)
    return _drawn(row, np.vstack([np.ones(n), drawn]))


def _drawn(row: Tally, weights: np.ndarray) -> dict[str, np.ndarray]:
    """The measures where each dialogue counts `weights` times: [D, N] -> [D] each, in percent."""
    columns: dict[str, Any] = {}
    for name in ("inform", "success", "bleu"):
        columns[name] = np.array([told[name] for told in row.values()])
    times = weights.sum(1)
    found = {}
    for name in ("inform", "success"):
        found[name] = 100 * (weights @ columns[name]) / times                        # [D]
    sums = weights @ columns["bleu"]                                                 # [D, 10]
    found["bleu"] = np.array([bleu_of(counts) for counts in sums])
    found["combined"] = found["bleu"] + (found["inform"] + found["success"]) / 2
    return found


def _interval(drawn: np.ndarray, dialogues: int) -> Interval:
    """Draw 0 is the sample itself; the others give the interval."""
    if dialogues < 2:
        return {"mean": float(drawn[0]), "low": None, "high": None}
    low, high = np.percentile(drawn[1:], [2.5, 97.5])
    return {"mean": float(drawn[0]), "low": float(low), "high": float(high)}
