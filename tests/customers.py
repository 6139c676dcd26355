"""Customers of the simulated shops, found, set and played: what the tests of the shops share."""
import random
from dataclasses import replace
from typing import Callable

from data import Observation
from shop.bounds import random_skills
from shop.catalogue import book, open_orders, template
from shop.customer import Shop

SPLITS = ("train", "dev", "test")
Reply = Callable[[Shop, Observation], str]


def customer(wanted, *, emotion="neutral", style="plain", patience=5.0, cls=Shop, **kwargs) -> Shop:
    """The first train customer of whom `wanted` holds, put into a known mood.

    What follows depends on the replies alone.
    """
    traits = {"style": style}
    if "demand" in kwargs:
        traits["demand"] = kwargs.pop("demand")
    for number in range(2000):
        shop = cls(0, "train", number, **kwargs)
        shop.reset()
        if wanted(shop):
            shop.persona = replace(shop.persona, **traits)
            shop.emotion = emotion
            shop.patience = patience
            return shop
    raise AssertionError("no such customer in 2000")


def says_all(shop: Shop) -> bool:
    """Details and questions come with the first message."""
    return shop.persona.open and shop.persona.direct


def wants_refund(shop: Shop) -> bool:
    return shop.need.kind == "refund" and shop.need.asks == ["refund"]


def refund(shop: Shop) -> bool:
    """The plainest customer: one need about an order, all said at once, no bargaining."""
    plain = says_all(shop) and shop.persona.demand == "rigid" and len(shop.agenda) == 1
    return plain and wants_refund(shop)


def say(shop: Shop, *skills: str) -> Observation:
    return shop.step(template(skills, shop.context, random.Random(0), shop.name))


def over(seen: Observation) -> bool:
    return seen.terminated or seen.truncated


def played(shop: Shop, policy: Reply) -> tuple[list[Observation], Observation]:
    """(observation before each reply, the last one)."""
    seen = shop.reset()
    before = []
    while not over(seen):
        before.append(seen)
        seen = shop.step(policy(shop, seen))
    return before, seen


def by_teacher(shop: Shop, seen: Observation) -> str:
    rng = shop.rng("wording", shop.turn)
    return template(seen.labels.teacher, seen.context, rng, shop.name)


def by_chance(shop: Shop, seen: Observation) -> str:
    skills = random_skills(shop, seen, shop.rng("choice", shop.turn))
    return template(skills, seen.context, random.Random(0), shop.name)


def names_of(context: dict[str, str]) -> list[str]:
    """The candidates of B_t."""
    return [v for k, v in context.items() if k.startswith(("product_", "order_"))]


def flags_of(context: dict[str, str]) -> list[str]:
    return [v for k, v in context.items() if k.startswith("fit_")]


class Permuted(Shop):
    """The same customer whose hidden agenda is exchanged after everything visible was drawn."""

    def _need(self, rng):
        need = super()._need(rng)
        need.asks = need.asks[::-1]
        if need.talk == "order":
            orders = open_orders(self.split, need.category)
            need.order = next(n for n in orders if n != need.order)
            return need
        shelf = book(self.name)["categories"][need.category]
        need.feature = next(f for f in shelf["features"] if f != need.feature)
        if need.size is not None:
            need.size = next(s for s in shelf["sizes"] if s != need.size)
        need.budget += 40
        return need
