"""The food-delivery after-sales store: a simulated shop in which money is worth something.

After the store of InteractCS-RL (arXiv 2602.22697), whose data holds texts of its own; nothing of
them is used here, every sentence and number of ours is invented, and no figure is comparable.  An
order was delivered and something was wrong with it.  The agent finds the order, settles what
happened, explains it, declines a refund where one is wished for, and may issue one voucher.  The
customer ends with a mark of 1 to 5 stars.  In the other shops a voucher is needed by 7-9 % of the
customers and worth nothing to the rest; here nearly everybody gains from one, some by far more than
others, so that a budget has to be aimed.

fds_catalogue.py  orders, delivery records, B_t; the 45 profiles, nine of them never met in training
fds_person.py     who a customer is: level of cooperation, demand, evidence, value of a voucher
fds_customer.py   what a customer hears, answers, and marks
fds_planner.py    the teacher, who knows the hidden type
fds_ear.py, fds_second_ear.py, fds_reading.py, genrm.py, fds_bounds.py

Try it:  python -m shop.fds                              one dialogue of the planner
         python -m shop.fds --bounds                     may anything be trained here?
         python -m shop.fds --bounds --difficulty easy   with more cooperative customers"""
from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from data import DataError, Dataset, Dialogue, Observation, fill
from shop import fds_second_ear
from shop.agenda import EMOTIONS
from shop.catalogue import book, skill_pool, template
from shop.customer import taught
from shop.fds_bounds import bounds, print_bounds, table_of, verdicts
from shop.fds_catalogue import NAME, business_context
from shop.fds_customer import HORIZON, INTENTS, Desk
from shop.fds_ear import hear_offers
from shop.fds_person import DIFFICULTIES
from shop.mgshop import shown

# teacher dialogues made into a Dataset
SIZES = {"train": 1000, "dev": 60, "test": 200}
TEACHER_SEED = 10_000
# share of the customers to whom the teacher gives a voucher: V of its dialogues is about .45
GENEROSITY = 0.48
# turns back that an Expert sees: half of the customers say their wish at once, and what it decides,
# a refund to decline or a voucher, is due four to six turns later
HISTORY = 6
SHOWN_CUSTOMER = 3                               # the test customer of the printed dialogue


def load(
    data_dir: Path | None = None, difficulty: str = "hard", generosity: float = GENEROSITY
) -> Dataset:
    """The store for training and evaluation: teacher dialogues of each split, and live customers.

    data_dir    unused: the book comes with the code
    difficulty  hard or easy: the mix of the levels of cooperation
    generosity  share of the customers to whom the teacher gives a voucher that is worth anything
    """
    if difficulty not in DIFFICULTIES:
        raise DataError(f"--difficulty is one of {', '.join(DIFFICULTIES)}, got {difficulty!r}")

    def environment(split: str, number: int, seed: int) -> Desk:
        return Desk(seed, split, number, difficulty=difficulty, generosity=generosity)

    def cross_check(split: str, number: int, seed: int) -> Desk:
        return Desk(seed, split, number, fds_second_ear.hear, difficulty, generosity)

    def wording(skills, context, rng) -> str:
        return template(skills, context, rng, NAME)

    def dialogues(split: str) -> list[Dialogue]:
        numbers = range(SIZES[split])
        return [taught(environment(split, n, TEACHER_SEED)) for n in numbers]

    return Dataset(
        NAME,
        skill_pool(NAME),
        INTENTS,
        EMOTIONS,
        train=dialogues("train"),
        dev=dialogues("dev"),
        test=dialogues("test"),
        environment=environment,
        cross_check=cross_check,
        context=business_context,
        horizon=HORIZON,
        history=HISTORY,
        must_not_say=tuple(book(NAME)["must_not_say"]),
        template=wording,
        offers=hear_offers,
        note=(
            f"{NAME} ({difficulty}) is a simulated store after that of InteractCS-RL: "
            "no figure here is comparable to the paper's."),
    )


# --- the command line -----------------------------------------------------------------------------

def demo(difficulty: str, number: int = SHOWN_CUSTOMER) -> None:
    """One dialogue of the planner, as a person would read it."""
    desk = Desk(0, "test", number, difficulty=difficulty)
    seen = desk.reset()
    hidden = desk.hidden
    print(f"{NAME} ({difficulty}), test customer {number}, a simulated one")
    print(f"hidden: level {hidden.level} of 5, demand {hidden.demand}, evidence {hidden.evidence}, "
          f"a voucher is worth {hidden.value:.2f} stars")
    while not (seen.terminated or seen.truncated):
        seen = _show_turn(desk, seen)
    outcome = seen.outcome
    print(f"\n  customer: {seen.user}")
    issued = "one voucher" if outcome.vouchers else "no voucher"
    print(f"{outcome.satisfaction} of 5 stars ({desk.stars():.2f} before rounding), {issued}, "
          f"{desk.turn} turns")


def _show_turn(desk: Desk, seen: Observation) -> Observation:
    labels = seen.labels
    print(f"\n[turn {desk.turn + 1}] patience {desk.patience:.2f}, ", end="")
    print(f"feels {labels.emotion}, intent {labels.intent}")
    print(f"  customer: {seen.user}")
    wording = template(labels.teacher, seen.context, desk.rng("wording", desk.turn), NAME)
    reply = fill(wording, seen.context)
    print(f"  planner:  {', '.join(labels.teacher)}")
    print(f"  reply:    {reply}")
    seen = desk.step(reply)
    print(f"  heard:    {', '.join(shown(act) for act in desk.heard)}")
    return seen


def arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="The food-delivery store: a dialogue to read, or the bounds table.",
        allow_abbrev=False)
    flag = parser.add_argument
    flag("--difficulty", choices=DIFFICULTIES, default="hard", help="the mix of customers")
    flag("--bounds", action="store_true", help="the nine conditions, on dev customers")
    flag("--episodes", type=int, default=400, help="dev customers for --bounds (default 400)")
    flag("--customer", type=int, default=SHOWN_CUSTOMER, help="test customer of the dialogue")
    flag("--seed", type=int, default=0, help="seed of the customers of --bounds (default 0)")
    flag("--json", type=Path, help="also write the bounds table to this file")
    args = parser.parse_args(argv)
    if args.episodes < 2:
        parser.error(f"--episodes must be at least 2, got {args.episodes}")
    if args.customer < 0:
        parser.error(f"--customer must be at least 0, got {args.customer}")
    return args


def main(argv: list[str] | None = None) -> int:
    """0, or 1 where a condition fails."""
    args = arguments(argv)
    if not args.bounds:
        demo(args.difficulty, args.customer)
        return 0
    played, frontier = bounds(args.episodes, args.seed, args.difficulty)
    table = table_of(played, args.seed)
    print(f"{NAME} ({args.difficulty}), {args.episodes} dev customers, seed {args.seed}\n")
    good = print_bounds(table, frontier)
    if args.json:
        written = {
            "difficulty": args.difficulty,
            "seed": args.seed,
            "episodes": args.episodes,
            "rows": table,
            "frontier": frontier,
            "conditions": verdicts(table, frontier),
        }
        args.json.write_text(json.dumps(written, indent=1))
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
