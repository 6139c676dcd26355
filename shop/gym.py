"""The simulated shops as a Gymnasium environment: text in, text out.

    import gymnasium
    env = gymnasium.make("shop.gym:gopo/mgshop-v0")        # or tmallbrand-a-v0, tmallbrand-b-v0
    message, info = env.reset(options={"customer": 7})     # the same customer every time
    message, reward, terminated, truncated, info = env.step("Hello! ...")

The observation is the customer's message and the facts B_t; the action is the reply.  The reward
of a turn is what it added to TSE (Eq. 11), so the rewards of a dialogue sum to its TSE; it is
negative where a turn opens what was done.  The customer hears the text alone."""
from __future__ import annotations

import string
from typing import Any

try:
    import gymnasium
except ImportError:
    raise ImportError("shop/gym.py needs gymnasium: pip install gymnasium") from None

from data import Observation
from shop.catalogue import SHOPS
from shop.customer import Shop
from shop.own import named
from shop.tools import shown
from tse import tse

LETTERS = string.printable                       # of all books; a reply may hold any others as well
LONGEST = 4000                                   # letters
CUSTOMERS = 2**30                                # numbers of training customers


class ShopEnv(gymnasium.Env):
    """shop   one of SHOPS, or your own: the path of its book, .json
    split  whose words and goods: train, dev or test
    """
    metadata = {"render_modes": []}

    def __init__(self, shop: str = "mgshop", split: str = "train"):
        self.shop = named(shop)
        self.split = split
        self.observation_space = gymnasium.spaces.Text(LONGEST, min_length=0, charset=LETTERS)
        self.action_space = gymnasium.spaces.Text(LONGEST, min_length=0, charset=LETTERS)
        self.over = True

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[str, dict[str, Any]]:
        """Customer `options["customer"]`, or one drawn by the seed."""
        super().reset(seed=seed)
        number = (options or {}).get("customer")
        if number is None:
            number = int(self.np_random.integers(CUSTOMERS))
        self.customer = Shop(0, self.split, number, name=self.shop)
        self.earned = 0.0
        return self._told(self.customer.reset())

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """The customer's answer to a reply."""
        if self.over:
            raise ValueError("the dialogue is over, or has not begun: call reset()")
        seen = self.customer.step(action)
        before, self.earned = self.earned, tse(seen.outcome.completed)
        message, info = self._told(seen)
        return message, self.earned - before, seen.terminated, seen.truncated, info

    def _told(self, seen: Observation) -> tuple[str, dict[str, Any]]:
        self.over = seen.terminated or seen.truncated
        return shown(seen), {
            "customer": self.customer.customer,
            "user": seen.user,
            "context": seen.context,
            "success": seen.outcome.success,
            "completed": seen.outcome.completed,
            "mood": seen.outcome.mood,
            # for imitation and for scores; an agent that acts by it is told the answer
            "teacher": seen.labels.teacher,
        }


for _name in SHOPS:
    gymnasium.register(f"gopo/{_name}-v0", "shop.gym:ShopEnv", kwargs={"shop": _name})
