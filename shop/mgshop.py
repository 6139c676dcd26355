"""The three simulated shops, mgshop, tmallbrand-a and tmallbrand-b: as datasets and as a command.

The paper's Mgshop and TmallBrand data is not public (GAP-9), so these shops are ours, and every
number on them is a simulated one.  A shop is its book (books/*.json, read by catalogue.py).
The minds of the customers (customer.py), the ears and the bounds are the same in all of them.

mgshop         household and outdoor goods: purchases, deliveries, returns, complaints
tmallbrand-a   a fashion store, after the paper's TmallBrand-A: purchases, inquiries, refunds
tmallbrand-b   a beauty store, after the paper's TmallBrand-B, which serves to test transfer

The two brand stores have sizes, refunds under way, partial refunds and wrong items.  That takes
four skills more than mgshop has.  Skill ids, intents, emotions and slots are equal in these two, so
what was trained in one runs in the other.  Goods, prices, disclaimers and every sentence differ.

Try it:  python -m shop.mgshop                        one dialogue of the teacher, annotated
         python -m shop.mgshop --bounds               what trivial policies reach; needs no training
         python -m shop.mgshop --shop tmallbrand-a    another shop, with or without --bounds
         python -m shop.mgshop --shop my_shop.json    your own, from its book (own.py)"""
from __future__ import annotations

import argparse
import json
from functools import partial
from pathlib import Path

from data import DataError, Dataset, Dialogue, Observation, fill
from shop import second_ear
from shop.agenda import EMOTIONS
from shop.bounds import bounds, print_bounds, verdicts
from shop.catalogue import OWN, SHOPS, book, business_context, skill_pool, template
from shop.customer import ASKED, HORIZON, Shop, teacher_dialogue
from shop.ear import Act
from shop.own import named
from tse import tse

__all__ = ["HORIZON", "Shop", "load", "load_tmallbrand_a", "load_tmallbrand_b", "teacher_dialogue"]

# teacher dialogues made into a Dataset
SIZES = {"train": 1000, "dev": 60, "test": 200}
SHOWN_CUSTOMER = 3                               # the test customer of the printed dialogue


def intents(name: str = "mgshop") -> tuple[str, ...]:
    """What a customer of the shop may want: needs, their questions, and the moves of any talk."""
    needs = book(name)["needs"].values()
    slots = set()
    for need in needs:
        slots.update(*need["asks"])
    wants = dict.fromkeys(need["intent"] for need in needs)
    plain = [intent for intent in wants if intent not in ASKED.values()]
    questions = [intent for slot, intent in ASKED.items() if slot in slots]
    return (*plain, *questions, "give_details", "proceed", "object", "hesitate", "bye")


INTENTS = intents()


# --- a shop as a dataset --------------------------------------------------------------------------

def load(data_dir: Path | None = None, name: str = "mgshop") -> Dataset:
    """A shop for training and evaluation: teacher dialogues of each split, and the live shop.

    data_dir  unused: the books come with the code
    """
    def environment(split: str, number: int, seed: int) -> Shop:
        return Shop(seed, split, number, name=name)

    def cross_check(split: str, number: int, seed: int) -> Shop:
        return Shop(seed, split, number, second_ear.hear, name)

    note = f"{name} is a simulated shop"
    if name in SHOPS:
        note += f": the paper's {book(name)['paper']} data is not public"
    note += ", no figure here is comparable to the paper's."
    return Dataset(
        name,
        skill_pool(name),
        intents(name),
        EMOTIONS,
        train=_teacher_dialogues("train", name),
        dev=_teacher_dialogues("dev", name),
        test=_teacher_dialogues("test", name),
        environment=environment,
        cross_check=cross_check,
        context=partial(business_context, name=name),
        horizon=HORIZON,
        must_not_say=tuple(book(name)["must_not_say"]),
        template=partial(template, name=name),
        note=note,
        made_of=book(name)["made_of"],
    )


def load_file(path: str) -> Dataset:
    """A shop of your own, from its book (own.py)."""
    try:
        name = named(path)
    except DataError as error:
        raise DataError(f"--dataset {error}") from None
    return load(name=name)


def load_tmallbrand_a(data_dir: Path | None = None) -> Dataset:
    return load(data_dir, "tmallbrand-a")


def load_tmallbrand_b(data_dir: Path | None = None) -> Dataset:
    return load(data_dir, "tmallbrand-b")


def _teacher_dialogues(split: str, name: str) -> list[Dialogue]:
    return [teacher_dialogue(split, n, name=name) for n in range(SIZES[split])]


# --- the command line -----------------------------------------------------------------------------

def demo(name: str = "mgshop") -> None:
    """One dialogue of the teacher, as a person would read it."""
    shop = Shop(0, "test", SHOWN_CUSTOMER, name=name)
    seen = shop.reset()
    agenda = "; ".join(f"{need.kind} {need.category}" for need in shop.agenda)
    print(f"{name}, customer {SHOWN_CUSTOMER}: {shop.persona}")
    print(f"hidden agenda: {agenda}")
    while not (seen.terminated or seen.truncated):
        seen = _show_turn(shop, seen)
    outcome = seen.outcome
    print(f"\n  customer: {seen.user}")
    verdict = "all tasks done" if outcome.success else "not everything done"
    print(f"{verdict}, TSE = {tse(outcome.completed):.3f}")


def _show_turn(shop: Shop, seen: Observation) -> Observation:
    labels = seen.labels
    print(f"\n[turn {shop.turn + 1}] mood {shop.mood:.2f}, patience {shop.patience:.2f}, ", end="")
    print(f"feels {labels.emotion}")
    print(f"  customer: {seen.user}")
    wording = template(labels.teacher, seen.context, shop.rng("wording", shop.turn), shop.name)
    reply = fill(wording, seen.context)
    print(f"  teacher:  {', '.join(labels.teacher)}")
    print(f"  reply:    {reply}")
    seen = shop.step(reply)
    print(f"  heard:    {', '.join(shown(act) for act in shop.heard)}")
    print(f"  tasks:    N = {seen.outcome.completed}")
    return seen


def shown(act: Act) -> str:
    if not act.candidates:
        return act.kind
    return f"{act.kind} {'/'.join(sorted(act.candidates))}"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="A simulated shop: a dialogue to read, or the bounds table.", allow_abbrev=False
    )
    flag = parser.add_argument
    which = f"one of {', '.join(SHOPS)} (default mgshop), or your own: the path of its book, .json"
    flag("--shop", default="mgshop", help=which)
    reached = "what trivial policies reach, with phrase-book replies"
    flag("--bounds", action="store_true", help=reached)
    flag("--episodes", type=int, default=200, help="test customers for --bounds (default 200)")
    flag("--seed", type=int, default=0, help="seed of the customers (default 0)")
    flag("--json", type=Path, help="also write the bounds table to this file")
    args = parser.parse_args()
    if args.episodes < 1:
        parser.error(f"--episodes must be at least 1, got {args.episodes}")
    try:
        args.shop = named(args.shop)
    except DataError as error:
        parser.error(f"--shop {error}")
    if args.shop not in (*SHOPS, *OWN):
        parser.error(f"--shop {args.shop}: write {which}")
    return args


def main() -> None:
    args = arguments()
    if not args.bounds:
        return demo(args.shop)
    table = bounds(args.episodes, args.seed, name=args.shop)
    print_bounds(table)
    if args.json:
        written = {
            "seed": args.seed,
            "episodes": args.episodes,
            "rows": table,
            "conditions": verdicts(table),
        }
        args.json.write_text(json.dumps(written, indent=1))


if __name__ == "__main__":
    main()
