"""tmallbrand-a and tmallbrand-b, two simulated brand stores: one to train in, another to see what carries over.

The paper's TmallBrand-A (purchases, inquiries, refunds) and TmallBrand-B (another store, for transfer) are not public (GAP-9), so
these two are ours, invented, and every number on them is a simulated one.  A store is its book (tmallbrand_a.json: fashion,
tmallbrand_b.json: beauty); customers, ears and bounds are those of mgshop.py.  Next to mgshop they have sizes, refunds under way,
partial refunds and wrong items: four skills more.  Between A and B the skill ids, intents, emotions and slots are equal, so what was
trained in one runs in the other; goods, prices, disclaimers, and every sentence of customers and phrase book differ.

Try it:  python tmallbrand.py                                   the first exchanges of the teacher in both stores
         python mgshop.py --shop tmallbrand-a --bounds          what trivial policies reach
         python train.py --dataset tmallbrand-a --replies template"""
from __future__ import annotations

from data import Dataset, fill
from shop.catalogue import skill_pool
from shop.mgshop import load as load_shop
from shop.mgshop import teacher_dialogue


def load_a(data_dir=None) -> Dataset:
    return load_shop(data_dir, "tmallbrand-a")


def load_b(data_dir=None) -> Dataset:
    return load_shop(data_dir, "tmallbrand-b")


def demo(name: str, number: int, turns: int = 3) -> None:
    print(f"{name}: {len(skill_pool(name))} skills, {len(skill_pool(name).keys() - skill_pool().keys())} of them not in mgshop")
    for turn in teacher_dialogue("test", number, name=name).turns[:turns]:
        print(f"  customer: {turn.user}\n            feels {turn.emotion}, wants {turn.intent}")
        print(f"  shop:     {fill(turn.reply, turn.context)}\n            {', '.join(turn.skills)}")
    print()


if __name__ == "__main__":
    demo("tmallbrand-a", 5)
    demo("tmallbrand-b", 5)
