"""What the two agents learn before GOPO: the language model's pretraining and warm start, and states with the teacher's labels.

`--model tiny` has never read a word, so "untrained", supervised and RL would all mean "noise".  It is therefore pretrained on talk of
mixed quality: replies that follow their skills only in part, name a wrong candidate, or say something else altogether.  That is our
"untrained" model; the warm start is cross-entropy on the training split's own replies.  Both end before any GOPO run.  (GAP-9: the paper
starts from chat models and says nothing of a warm start.)
Try it:  python warmup.py        a few pretraining pairs, good and bad"""
from __future__ import annotations

import random
from typing import Sequence

from data import MAX_SKILLS, Dataset, Dialogue, Request, base, sayable, slots
from expert import ExpertState

Pair = tuple[Request, str]


def labelled_states(dialogues: Sequence[Dialogue]) -> list[tuple[ExpertState, tuple[str, ...]]]:
    """(s^E_t, T) of every labelled turn, with a_{t-1} and H_t as logged: what imitation learns from."""
    found = []
    for d in dialogues:
        for i, turn in enumerate(d.turns):
            if turn.skills is not None:
                said = tuple((t.user, t.reply or "") for t in d.turns[:i])
                found.append((ExpertState(turn.user, said, (d.turns[i - 1].skills or ()) if i else ()), turn.skills))
    return found


def warm_pairs(dialogues: Sequence[Dialogue], alone: int | None = None) -> list[Pair]:
    """(s^A_t, human or teacher reply) of every turn that has one; `alone` = k of H_t, for an agent without an Expert (H_t, u_t, e_t, no skills)."""
    pairs = []
    for d in dialogues:
        for i, t in enumerate(d.turns):
            if t.reply:
                said = tuple((x.user, x.reply or "") for x in d.turns[max(0, i - (alone or 0)):i])
                request = Request(t.user, (), t.context, said, t.intent, t.emotion) if alone is not None else Request(t.user, t.skills or (), t.context)
                pairs.append((request, t.reply))
    return pairs


def mixed_pairs(dataset: Dataset, count: int, seed: int, alone: int | None = None) -> list[Pair]:
    """Pretraining pairs of mixed quality for the tiny model.

    With a phrase book: random skills for a logged state; the reply drops, adds or reorders skills half of the time and takes its
    facts from a random candidate.  Without one (logs): half of the replies belong to another turn.
    """
    rng, logged = random.Random(seed), warm_pairs(dataset.train, alone)
    if not logged:
        return []
    return [_mixed(rng, *rng.choice(logged), dataset, logged, alone) for _ in range(count)]


def _mixed(rng: random.Random, request: Request, reply: str, dataset: Dataset, logged: list[Pair], alone: int | None) -> Pair:
    if dataset.template is None:
        return request, (reply if rng.random() < 0.5 else rng.choice(logged)[1])
    pool = list(dataset.skills)
    asked = tuple(rng.sample(pool, rng.randint(1, min(MAX_SKILLS, len(pool)))))
    said = list(asked)
    if rng.random() < 0.5:
        said = [s for s in said if rng.random() < 0.6] + rng.sample(pool, rng.randint(0, min(2, len(pool))))
        rng.shuffle(said)
    text = _other_candidate(rng, dataset.template(list(dict.fromkeys(said)), request.context, rng), request.context)
    return (request if alone is not None else Request(request.user, asked, request.context)), text


def _other_candidate(rng: random.Random, text: str, context: dict[str, str]) -> str:
    """The same words about a candidate drawn at random: half of the wrong facts a careless agent states."""
    numbers = sorted({s.rpartition("_")[2] for s in context if s.startswith("fit_")})
    if not numbers:
        return text
    for slot in dict.fromkeys(slots(text)):      # not a set, whose order changes from process to process
        text = text.replace(f"{{{slot}}}", f"{{{base(slot)}_{rng.choice(numbers)}}}")
    return text


def vocabulary_texts(dataset: Dataset) -> list[str]:
    """Everything the tiny tokenizer is trained on: the training split and the skill records, nothing of dev or test."""
    turns = [t for d in dataset.train for t in d.turns]
    said = [x for t in turns for x in (t.user, t.reply or "", " ".join(f"{k}: {v}" for k, v in t.context.items()))]
    return said + [x for s in dataset.skills.values() for x in (s.id, s.description, *s.examples, *s.must_say, *s.must_not_say)]


def slot_names(dataset: Dataset) -> list[str]:
    """Slots of B_t in the training split that a reply may carry; see `sayable`."""
    return sorted({k for d in dataset.train for t in d.turns for k in t.context if sayable(k)})


if __name__ == "__main__":
    import data
    shop = data.load("mgshop")
    print(f"warm start: {len(warm_pairs(shop.train))} pairs, tokenizer: {len(vocabulary_texts(shop))} texts, {len(slot_names(shop))} slots")
    for wanted, text in mixed_pairs(shop, 4, seed=0):
        print(f"\ncustomer: {wanted.user}\n  asked for: {', '.join(wanted.skills)}\n  reply of mixed quality: {text}")
