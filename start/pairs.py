"""What the language model learns from before GOPO: pairs (request, reply).

`--model tiny` has never read a word, so "untrained", supervised and RL would all mean "noise".  It
is therefore pretrained on talk of mixed quality: replies that follow their skills only in part,
name a wrong candidate, or say something else altogether.  That is our "untrained" model.  The warm
start is cross-entropy on the training split's own replies.  Both end before any GOPO run. GAP-9:
the paper starts from chat models and says nothing of a warm start.
Try it:  python -m start.pairs        a few pretraining pairs, good and bad"""
from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace

import data
from data import (
    DECISION,
    DECISIONS,
    MAX_SKILLS,
    Dataset,
    Dialogue,
    Request,
    Turn,
    base,
    sayable,
    slots,
)
from expert_learner import logged_history
from text import with_decision

Pair = tuple[Request, str]
UNFOUND = 0.05                                   # of the warm start's pairs, again with empty B_t


def warm_pairs(
    dialogues: Sequence[Dialogue], history_turns: int | None = None, decides: bool = False
) -> list[Pair]:
    """(s^A_t, human or teacher reply) of every turn that has a reply.

    history_turns  None: of the dual agent, which reads U_t, the skills and B_t;
                   k: of a single agent, which reads the last k turns of H_t, u_t and e_t
                   instead of skills
    decides        each reply begins with its decision d_t: whether the turn issued a voucher
    """
    pairs = []
    for dialogue in dialogues:
        for i, turn in enumerate(dialogue.turns):
            if not turn.reply:
                continue
            if history_turns is None:
                request = Request(turn.user, turn.skills or (), turn.context)
            else:
                said = logged_history(dialogue, max(0, i - history_turns), i)
                request = Request(turn.user, (), turn.context, said, turn.intent, turn.emotion)
            pair = (request, turn.reply)
            if decides:
                pair = decided(request, turn.reply, turn.skills, was_issued(dialogue.turns[:i]))
            pairs.append(pair)
    return pairs


def was_issued(turns: Sequence[Turn]) -> bool:
    """Whether one of these turns issued a voucher."""
    return any(DECISION in (turn.skills or ()) for turn in turns)


def decided(
    request: Request, reply: str, skills: Sequence[str] | None, issued: bool
) -> tuple[Request, str]:
    """The pair of an agent that says its decision first.

    skills  those of the reply
    issued  a voucher was issued before
    """
    taken = "voucher" if DECISION in (skills or ()) and not issued else "chat"
    return may_decide(request, issued), with_decision(taken, reply)


def may_decide(request: Request, issued: bool, control: bool = False) -> Request:
    """The request, asking for a decision; what was issued stands in B_t, to be read.

    control  of a control copy (systems/cmpo.py): it may not decide for a voucher, and does not know
    """
    note = {"_voucher": "issued" if issued else "none"}
    decisions = DECISIONS if not issued and not control else DECISIONS[:1]
    return replace(request, context=request.context | note, decisions=decisions)


def unfound_pairs(dataset: Dataset, pairs: Sequence[Pair], seed: int) -> list[Pair]:
    """Some of the pairs again, as if the shop had found nothing: B_t is empty.

    The phrase book says then that it has nothing on that.  Logged customers always name what they
    want, people do not.  None without a phrase book, and none of a single agent, whose pairs name
    no skills.
    """
    if dataset.template is None:
        return []
    rng = random.Random(seed)
    found = []
    for request, _ in rng.sample(pairs, round(UNFOUND * len(pairs))):
        if request.skills:
            reply = dataset.template(request.skills, {}, rng)
            found.append((Request(request.user, request.skills, {}), reply))
    return found


def mixed_pairs(dataset: Dataset, count: int, seed: int, history_turns: int | None = None,
                decides: bool = False) -> list[Pair]:
    """Pretraining pairs of mixed quality for the tiny model.

    With a phrase book: random skills for a logged state; the reply drops, adds or reorders skills
    half of the time and takes its facts from a random candidate.  Without one (logs): half of the
    replies belong to another turn.
    """
    rng = random.Random(seed)
    logged = warm_pairs(dataset.train, history_turns, decides)
    if not logged:
        return []
    pairs = []
    for _ in range(count):
        request, reply = rng.choice(logged)
        if dataset.template is None:
            if rng.random() >= 0.5:
                reply = rng.choice(logged)[1]
            pairs.append((request, reply))
        else:
            pairs.append(_by_phrase_book(rng, request, dataset, single=history_turns is not None))
    return pairs


def _by_phrase_book(rng: random.Random, request: Request, dataset: Dataset, single: bool) -> Pair:
    pool = list(dataset.skills)
    asked = tuple(rng.sample(pool, rng.randint(1, min(MAX_SKILLS, len(pool)))))
    said = list(asked)
    if rng.random() < 0.5:
        said = [skill for skill in said if rng.random() < 0.6]
        said += rng.sample(pool, rng.randint(0, min(2, len(pool))))
        rng.shuffle(said)
    if request.decisions and "voucher" not in request.decisions:
        said = [skill for skill in said if skill != DECISION]
    text = dataset.template(list(dict.fromkeys(said)), request.context, rng)
    text = _other_candidate(rng, text, request.context)
    if request.decisions:
        # as careless with the decision as with the words
        taken = "voucher" if DECISION in said else "chat"
        text = with_decision(taken, text)
    if single:
        return request, text
    return Request(request.user, asked, request.context), text


def _other_candidate(rng: random.Random, text: str, context: Mapping[str, str]) -> str:
    """The same words about a random candidate: half of the wrong facts a careless agent states."""
    fits = [slot for slot in context if slot.startswith("fit_")]
    numbers = sorted({slot.rpartition("_")[2] for slot in fits})
    if not numbers:
        return text
    # Not a set, whose order changes from process to process.
    for slot in dict.fromkeys(slots(text)):
        text = text.replace(f"{{{slot}}}", f"{{{base(slot)}_{rng.choice(numbers)}}}")
    return text


# ------------------------------------------------------------------------------ the tokenizer's
def vocabulary_texts(dataset: Dataset) -> list[str]:
    """What the tiny tokenizer is trained on: training split and skill records, no dev or test."""
    texts = []
    for dialogue in dataset.train:
        for turn in dialogue.turns:
            facts = [f"{name}: {value}" for name, value in turn.context.items()]
            texts += [turn.user, turn.reply or "", " ".join(facts)]
    for skill in dataset.skills.values():
        texts += [skill.id, skill.description, *skill.examples]
        texts += [*skill.must_say, *skill.must_not_say]
    return texts


def slot_names(dataset: Dataset) -> list[str]:
    """Slots of B_t in the training split that a reply may carry; see `sayable`."""
    names = set()
    for dialogue in dataset.train:
        for turn in dialogue.turns:
            names.update(turn.context)
    return sorted(name for name in names if sayable(name))


def demo() -> None:
    shop = data.load("mgshop")
    print(
        f"warm start: {len(warm_pairs(shop.train))} pairs, "
        f"tokenizer: {len(vocabulary_texts(shop))} texts, {len(slot_names(shop))} slots"
    )
    for wanted, text in mixed_pairs(shop, 4, seed=0):
        print(f"\ncustomer: {wanted.user}")
        print(f"  asked for: {', '.join(wanted.skills)}")
        print(f"  reply of mixed quality: {text}")


if __name__ == "__main__":
    demo()
