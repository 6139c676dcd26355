"""start/laptop.py: what a loaded model on a CPU is spared, and how long it is said to take."""
import logging

import pytest

from lm.models import build_tiny
from start.flags import parse_flags
from start.laptop import SMALLER, Seconds, expected, smaller


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    model, tokenizer = build_tiny(["Where is my lamp?"] * 20, [], 0, width=64, layers=1)
    folder = tmp_path_factory.mktemp("model")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def settled(folder, *flags):
    configs = parse_flags(["--model", folder, *flags], "about")
    return smaller(configs, configs.given, folder)


def test_it_plays_and_reads_less(folder, capsys):
    configs = settled(folder)
    for part, flags in SMALLER.items():
        for name, value in flags.items():
            assert getattr(getattr(configs, part), name) == value
    lm = configs.lm
    assert (lm.quantise, lm.lora_rank, lm.prompt_gradient) == ("none", 16, False)
    said, = capsys.readouterr().out.splitlines()
    assert said.startswith("a loaded model on a CPU; where you give no other: --steps 10 ")
    assert "--quantise none --gradient_checkpointing False --prompt_gradient False" in said


def test_flags_that_are_given_count(folder, capsys):
    # one of them at the value that it has by default, elsewhere
    configs = settled(folder, "--group=4", "--steps", "7", "--quantise", "nf4")
    assert (configs.agent.group, configs.run.steps, configs.gopo.dialogues) == (4, 7, 4)
    assert (configs.lm.quantise, configs.lm.prompt_gradient) == ("nf4", True)
    assert "--group" not in capsys.readouterr().out


def test_a_large_model_stays_in_4_bits(folder, monkeypatch):
    monkeypatch.setattr("start.laptop.LARGE", 100)
    configs = settled(folder)
    assert (configs.lm.quantise, configs.lm.prompt_gradient) == ("nf4", True)
    assert configs.agent.group == 2


def test_the_expected_time_by_hand():
    config = {
        "run": {"steps": 10, "eval_every": 4, "dev_episodes": 8, "eval_episodes": 16},
        "gopo": {"dialogues": 4, "no_expert": False},
        "agent": {"group": 2},
        "warm": {"warm_steps": 40, "sft_batch": 8, "dev_pairs": 24},
    }
    told = expected(Seconds(learn=1.0, read=0.5, speak=2.0, sample=3.0), config, turns=5)
    # 320 replies learned, and six looks at 24: before, and five on the way
    assert told["warm start"] == 320 * 1.0 + 6 * 24 * 0.5
    # 20 states a step: two replies are spoken together, and each is learned from
    assert told["joint steps"] == 10 * 20 * (3.0 + 2 * 1.0)
    # at steps 4, 8 and 10
    assert told["dev customers"] == 3 * 8 * 5 * 2.0
    # eight rows, two of which a second ear hears as well
    assert told["table"] == 10 * 16 * 5 * 2.0
    config["gopo"]["no_expert"] = True
    assert expected(Seconds(1, 1, 1, 1), config, 5)["table"] == 4 * 16 * 5


def test_a_package_that_nothing_uses_is_not_missed():
    # importing lm.models was enough; its errors are still said
    logger = logging.getLogger("bitsandbytes.backends.cpu.ops")
    assert not logger.isEnabledFor(logging.WARNING)
    assert logger.isEnabledFor(logging.ERROR)
