"""The shops as environments of others: Gymnasium's, and the class that TRL asks for."""
import importlib
import random
import sys

import pytest
from transformers.utils import get_json_schema

from data import Observation, fill
from shop.catalogue import SHOPS, template
from shop.mgshop import Shop
from shop.tools import ShopTools, shown
from tse import tse

try:
    import gymnasium
    from gymnasium.utils.env_checker import check_env

    from shop import gym
except ImportError:
    gymnasium = None

needs_gymnasium = pytest.mark.skipif(
    gymnasium is None, reason="gymnasium is not installed: pip install gymnasium")


def teacher_reply(info, turn):
    rng = random.Random(turn)
    return fill(template(info["teacher"], info["context"], rng), info["context"])


# --- Gymnasium ----------------------------------------------------------------------------------

@needs_gymnasium
@pytest.mark.parametrize("name", SHOPS)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_gymnasium_accepts_the_environment(name):
    env = gymnasium.make(f"shop.gym:gopo/{name}-v0").unwrapped
    assert env.shop == name
    check_env(env)


@needs_gymnasium
@pytest.mark.parametrize("by_teacher", [True, False])
def test_rewards_sum_to_tse(by_teacher):
    """Also where a later wish opens a task again, for which a turn pays."""
    env = gym.ShopEnv()
    successes, lowest = 0, 0.0
    for customer in range(12):
        message, info = env.reset(options={"customer": customer})
        earned, over, turn = 0.0, False, 0
        while not over:
            assert env.observation_space.contains(message)
            reply = teacher_reply(info, turn) if by_teacher else f"Number {turn}."
            message, reward, terminated, truncated, info = env.step(reply)
            earned += reward
            lowest = min(lowest, reward)
            over = terminated or truncated
            turn += 1
        assert earned == pytest.approx(tse(info["completed"]))
        successes += info["success"]
    assert (successes == 12) == by_teacher
    assert (lowest < 0) == by_teacher


@needs_gymnasium
def test_a_customer_is_the_same_every_time():
    env = gym.ShopEnv(split="test")
    message, info = env.reset(options={"customer": 7})
    shop = Shop(0, "test", 7)
    assert message == shown(shop.reset())
    assert info["customer"] == 7
    assert env.reset(seed=5)[0] == env.reset(seed=5)[0]
    assert env.reset(seed=5)[1]["customer"] != env.reset()[1]["customer"]


@needs_gymnasium
def test_a_dialogue_that_is_over_is_not_played_on():
    env = gym.ShopEnv()
    with pytest.raises(ValueError, match="call reset"):
        env.step("Hello.")


def test_without_gymnasium_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "gymnasium", None)
    monkeypatch.delitem(sys.modules, "shop.gym", raising=False)
    with pytest.raises(ImportError, match="needs gymnasium: pip install gymnasium"):
        importlib.import_module("shop.gym")


# --- TRL ----------------------------------------------------------------------------------------

def test_the_class_is_what_trl_asks_for():
    """`reset`, `get_reward`, and one public method, whose docstring makes a tool's schema."""
    public = [name for name in vars(ShopTools) if not name.startswith("_")]
    methods = [name for name in public if callable(getattr(ShopTools, name))]
    assert methods == ["reset", "reply", "get_reward"]
    schema = get_json_schema(ShopTools().reply)["function"]
    assert schema["name"] == "reply"
    assert schema["description"] == "Says something to the customer and hears the answer."
    assert schema["parameters"]["required"] == ["message"]
    assert schema["parameters"]["properties"]["message"]["type"] == "string"


def test_tools_play_a_dialogue():
    env = ShopTools()
    shop = Shop(0, "train", 3)
    seen = shop.reset()
    assert env.reset(customer=3, prompt=[]) == shown(seen)
    assert env.get_reward() == 0.0
    while not (seen.terminated or seen.truncated):
        reply = template(seen.labels.teacher, seen.context, random.Random(shop.turn))
        seen = shop.step(reply)
        assert env.reply(reply) == shown(seen)
        assert env.get_reward() == tse(seen.outcome.completed)
    assert env.get_reward() > 0.8
    assert env.reply("Hello?") == "The dialogue is over."


def test_a_message_is_shown_with_its_facts():
    seen = Observation("Is it here?", {"eta_1": "on Monday", "fit_1": "yes"})
    assert shown(seen) == "Is it here?\n\neta_1: on Monday\nfit_1: yes"
    assert shown(Observation("Hi", {})) == "Hi"


def test_rows_must_name_a_customer():
    with pytest.raises(ValueError, match='need a column "customer"'):
        ShopTools().reset(prompt=[])
