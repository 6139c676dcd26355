"""The simulated shops for TRL: `GRPOTrainer(environment_factory=ShopTools, ...)`.

TRL asks for a class with `reset`, `get_reward`, and public methods that the model calls as tools.
Here the one tool is `reply`.  Nothing of TRL is imported: the class is a plain one.
Try it:  python -m shop.tools        a dialogue, in which the phrase book replies"""
from __future__ import annotations

from typing import Any

from data import Observation
from shop.catalogue import template
from shop.customer import Shop
from shop.own import named
from tse import tse


def shown(seen: Observation) -> str:
    """All that an agent may know, as text: the customer's message, then B_t, one fact a line."""
    facts = [f"{name}: {value}" for name, value in seen.context.items()]
    return "\n".join([seen.user, "", *facts]).strip()


class ShopTools:
    """One simulated customer at a time, to whom a model talks by calling `reply`."""

    # a subclass may name another shop, or the path of your own, and another split
    shop = "mgshop"
    split = "train"

    def reset(self, **row: Any) -> str:
        """The first message of the customer whose number stands in the column `customer`.

        All rollouts of a group have one row, so they meet the same customer.
        """
        if "customer" not in row:
            raise ValueError(
                'the training data need a column "customer", a number for each row: '
                'Dataset.from_dict({"prompt": [...], "customer": [0, 1, ...]})')
        self._customer = Shop(0, self.split, int(row["customer"]), name=named(self.shop))
        self._seen = self._customer.reset()
        return shown(self._seen)

    def reply(self, message: str) -> str:
        """
        Says something to the customer and hears the answer.

        Args:
            message: What the shop says to the customer. A fact may be written by its name in
                braces, as in {price_1}.

        Returns:
            The customer's answer, and the facts that the shop knows now.
        """
        if self._seen.terminated or self._seen.truncated:
            return "The dialogue is over."
        self._seen = self._customer.step(message)
        return shown(self._seen)

    def get_reward(self) -> float:
        """TSE of the dialogue so far (Eq. 11), in [0, 1]."""
        return tse(self._seen.outcome.completed)


def demo() -> None:
    env = ShopTools()
    print(env.reset(customer=3))
    while not (env._seen.terminated or env._seen.truncated):
        labels, customer = env._seen.labels, env._customer
        said = template(labels.teacher, env._seen.context, customer.rng("wording", customer.turn))
        print(f"\nreply: {said}\n\n{env.reply(said)}")
    print(f"\nTSE {env.get_reward():.3f}")


if __name__ == "__main__":
    demo()
