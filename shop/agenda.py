"""Who a simulated customer is: the hidden agenda, four traits, and the words for both.

`Person` draws everything from (seed, customer) and words it with the phrases of the shop's book.
What the person makes of a reply is the business of customer.py.

Exercise: let an angry customer accept any opener (OPENER), then run
`python -m shop.mgshop --bounds` again: what happens to "shuffled emotions"?"""
from __future__ import annotations

import random
import zlib
from dataclasses import dataclass, field

from shop.catalogue import Product, book, code, open_orders, phrasings, products

EMOTIONS = ("neutral", "happy", "angry", "anxious", "disappointed")
# what each upset customer must hear first
OPENER = {"angry": "apologise", "anxious": "reassure", "disappointed": "empathise"}
# business acts that a customer takes in per reply
ATTENTION = {"terse": 2, "plain": 3, "chatty": 4}
DEMANDS = ("rigid", "preference", "incentive", "feedback")


@dataclass
class Need:
    """One item of the hidden agenda."""
    kind: str
    talk: str                                    # "product" or "order"
    category: str
    asks: list[str]                              # slots asked for
    steps: list[str]                             # guidance that would be accepted
    shop: str
    feature: str | None = None
    size: str | None = None                      # None: no size, or a shop without
    budget: int | None = None
    order: str | None = None
    hidden: list[str] = field(default_factory=list)      # details not yet said
    asked: bool = False                          # the questions have been put
    matched: str | None = None                   # name of the product or order agreed on
    told: set[str] = field(default_factory=set)  # slots answered rightly
    guided: bool = False

    def right(self, name: str, split: str) -> bool:
        """Whether this product or order is one that the customer has in mind."""
        if self.talk == "order":
            return name == self.order
        shelf = products(split, self.category, self.shop)
        return any(p.name == name and self._suits(p) for p in shelf)

    def possible(self, split: str) -> bool:
        """Whether the shop has anything that suits."""
        return any(self._suits(p) for p in products(split, self.category, self.shop))

    def _suits(self, product: Product) -> bool:
        if product.feature != self.feature or product.price > self.budget:
            return False
        return self.size is None or self.size in product.sizes

    @property
    def details(self) -> list[str]:
        """What the shop has to know, in the order in which it is said."""
        if self.talk == "order":
            return ["order"]
        if self.size is None:
            return ["feature", "budget"]
        return ["feature", "size", "budget"]

    @property
    def unanswered(self) -> list[str]:
        return [slot for slot in self.asks if slot not in self.told]

    def informed(self) -> bool:
        return not self.unanswered


@dataclass(frozen=True)
class Persona:
    """Four traits of InteractCS-RL, and the demand pattern."""
    style: str                                   # terse, plain, chatty: length of talk, attention
    open: bool                                   # says all details at once, or waits to be asked
    direct: bool                                 # asks with the first message, or step by step
    temper: str                                  # the emotion this person falls into
    demand: str                                  # one of DEMANDS


def draw_persona(rng: random.Random) -> Persona:
    return Persona(
        style=rng.choice(list(ATTENTION)),
        open=rng.random() < 0.5,
        direct=rng.random() < 0.5,
        temper=rng.choice(list(OPENER)),
        demand=rng.choice(DEMANDS),
    )


class Person:
    """One customer, and the words for what the customer wants.

    Ears and answers come with Shop (customer.py).
    """

    def __init__(self, seed: int, split: str, customer: int, name: str):
        self.seed = seed
        self.split = split
        self.customer = customer
        self.name = name
        self.book = book(name)
        place = split
        if name != "mgshop":
            place = f"{name} {split}"
        self.code = code(seed, place, customer)
        # set after `reset`: the same customer with other luck in the turns to come
        self.luck = 0

    def rng(self, *key: object) -> random.Random:
        """Randomness that depends on (seed, customer, key) alone.

        Two policies meet the same customer, in the same mood for the same turn.
        """
        if self.luck:
            key = (*key, "luck", self.luck)
        # The CRC of a whole text goes on from the CRC of its beginning.
        rest = "/".join(["", *map(str, key)])
        return random.Random(zlib.crc32(rest.encode(), self.code))

    def draw(self) -> None:
        """Draws traits, agenda, patience and first emotion."""
        rng = self.rng("persona")
        self.persona = draw_persona(rng)
        needs = rng.choice([1, 1, 2, 2, 3])
        self.agenda = [self._need(rng) for _ in range(needs)]
        self.current = 0                         # number of the need at hand
        self.change_at = -1                      # number of the need that will change, if one will
        if rng.random() < 0.25:
            self.change_at = rng.randrange(len(self.agenda))
        self.patience = 3.0 + 2.0 * rng.random()
        self.emotion = self._first_emotion(rng)

    def _need(self, rng: random.Random) -> Need:
        kind = rng.choice(list(self.book["needs"]))
        spec = self.book["needs"][kind]
        category = rng.choice(list(self.book["categories"]))
        asks = list(rng.choice(spec["asks"]))
        need = Need(kind, spec["talk"], category, asks, list(spec["steps"]), self.name)
        if need.talk == "product":
            self._wish(need, rng)
        else:
            need.order = rng.choice(open_orders(self.split, category))
            self._way_out(need, rng)
        need.hidden = need.details
        return need

    def _wish(self, need: Need, rng: random.Random) -> None:
        """Draws feature, budget and size, so that at least one product suits."""
        shelf = self.book["categories"][need.category]
        need.feature = rng.choice(shelf["features"])
        need.budget = round(shelf["price"] * rng.choice([1.3, 2.0]))
        if "sizes" in shelf:
            need.size = rng.choice(shelf["sizes"])
        if not need.possible(self.split):
            # the cheap one lacks this size
            need.budget = round(shelf["price"] * 2.0)

    def _way_out(self, need: Need, rng: random.Random) -> None:
        """A rigid customer accepts only the usual way out, a choosy one only one of them."""
        if self.persona.demand == "rigid":
            need.steps = need.steps[:1]
        elif self.persona.demand == "preference":
            need.steps = [rng.choice(need.steps)]

    @property
    def need(self) -> Need:
        return self.agenda[self.current]

    @property
    def need_spec(self) -> dict:
        return self.book["needs"][self.need.kind]

    def _first_emotion(self, rng: random.Random) -> str:
        if rng.random() < self.need_spec["upset"]:
            return self.persona.temper
        return "happy" if rng.random() < 0.3 else "neutral"

    # -- speaking

    def _phrase(self, rng: random.Random, kind: str) -> str:
        words = rng.choice(rng.choice(phrasings(self.split, kind, self.name)))
        if "{" not in words:
            return words
        need = self.need
        return words.format(
            category=need.category,
            feature=need.feature,
            size=need.size,
            budget=need.budget,
            order=need.order,
            product=need.matched,
        )

    def _new_details(self, rng: random.Random) -> list[str]:
        """Says the details not yet said."""
        said = [self._phrase(rng, f"detail.{d}") for d in self.need.hidden]
        self.need.hidden = []
        return said

    def _all_details(self, rng: random.Random) -> list[str]:
        return [self._phrase(rng, f"detail.{d}") for d in self.need.details]

    def _questions(self, rng: random.Random) -> list[str]:
        self.need.asked = True
        return [self._phrase(rng, f"ask.{slot}") for slot in self.need.unanswered]

    def _announce(self, rng: random.Random) -> list[str]:
        """The first words about the need at hand."""
        person = self.persona
        said = [self._phrase(rng, f"need.{self.need.kind}")]
        if person.style == "chatty":
            said.append(self._phrase(rng, "chat"))
        if person.open:
            said += self._new_details(rng)
        if person.direct:
            said += self._questions(rng)
        if person.demand == "preference" and person.open and self.need.talk == "order":
            said.append(self._phrase(rng, f"want.{self.need.steps[0]}"))
        return said
