"""From flags to config.json: every default is settled once, and flags of others are refused."""
import pytest

import data
from start.flags import parse_flags
from start.resolve import new_config, settle


@pytest.fixture(scope="module")
def shop():
    return data.load("mgshop")


def config_of(dataset, *flags):
    return new_config(parse_flags(["--precision", "fp32", *flags], ""), dataset)


def nulls(config):
    """Settings that are null, as part/name."""
    found = set()
    for part, values in config.items():
        if isinstance(values, dict):
            found |= {f"{part}/{name}" for name, value in values.items() if value is None}
    return found


def test_no_null_stands_where_a_run_uses_a_number(shop):
    config = config_of(shop)
    absent = {"run/split", "run/difficulty", "run/resume", "run/base", "run/output_dir"}
    absent |= {"api/api_base", "run/warm_generosity", "run/sale_rates", "run/woz_slots"}
    absent |= {"api/max_requests", "versions/commit", "expert/encoder"}
    assert nulls(config) <= absent
    assert config["gopo"]["gamma"] == 0.95
    assert config["run"]["steps"] == 25
    assert config["expert"]["expert_samples"] == 1
    assert config["agent"]["micro_batch"] == 4
    assert config["warm"]["warm_dialogues"] == len(shop.train)


@pytest.mark.parametrize("flags, joint, strategy", [
    ((), 16, 128),                               # a language model speaks in the joint steps only
    (("--replies", "template"), 128, 128),
    (("--dialogues", "8"), 8, 128),
    (("--dialogues", "8", "--strategy_dialogues", "32"), 8, 32),
])
def test_dialogues_of_both_stages(shop, flags, joint, strategy):
    settled = config_of(shop, *flags)["gopo"]
    assert (settled["dialogues"], settled["strategy_dialogues"]) == (joint, strategy)


@pytest.mark.parametrize("flags, rollouts", [
    ((), 60),                                    # those of the strategy stage
    (("--strategy_steps", "7"), 7),
    (("--strategy_steps", "0", "--steps", "9"), 9),
    (("--replies", "template"), 60),
    (("--replies", "template", "--steps", "40"), 40),
    (("--replies", "template", "--steps", "0"), 1),
    (("--expert_decay", "3"), 3),
])
def test_the_expert_settles_over_its_rollouts(shop, flags, rollouts):
    assert config_of(shop, *flags)["expert"]["expert_decay"] == rollouts


def test_settling_twice_changes_nothing(shop):
    config = config_of(shop)
    assert settle(config, shop) == config


@pytest.mark.parametrize("flags", [
    ("--ppo_clip", "0.2"),                       # its own default
    ("--memento_k=4",),
    ("--algo", "ppo", "--memento_k", "3"),
])
def test_a_flag_of_another_algorithm_is_refused_whatever_its_value(flags, capsys):
    with pytest.raises(SystemExit):
        parse_flags(flags, "")
    assert "is none of --algo" in capsys.readouterr().err
