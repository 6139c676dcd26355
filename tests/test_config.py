"""lm/config.py: defaults that follow the model, and config.json of old and new runs."""
from dataclasses import asdict

import pytest

from data import DataError
from lm import config
from lm.config import AgentConfig, LMConfig, WarmConfig, configs_of, flat

# "agent" of a run of before the three classes were one.
OLD = {
    "model": "tiny", "quantise": "none", "lora_rank": 0, "gradient_checkpointing": False,
    "temperature": 1.0, "max_new_tokens": 24, "user_tokens": 256, "group": 2,
    "constraints": "hard", "agent_lr": 0.0002, "micro_batch": 4, "lambda_p": 1.0,
    "lambda_s": 0.2, "lambda_d": 0.001, "cs_baseline": "group", "cs_average": "batch",
    "pretrain_steps": 10, "warm_steps": 10, "warm_dialogues": None, "sft_lr": 0.002,
    "sft_batch": 8,
}


def test_an_old_config_is_read_as_the_new_one():
    lm, agent, warm = configs_of({"agent": OLD})
    assert (lm.max_new_tokens, agent.group, warm.sft_batch) == (24, 2, 8)
    new = {"lm": asdict(lm), "agent": asdict(agent), "warm": asdict(warm)}
    # what came later stands at what was done then
    assert flat(new) == OLD | {"prompt_gradient": True, "dev_pairs": 256}
    assert configs_of(new) == (lm, agent, warm)


def test_a_removed_setting_is_ignored_at_its_default_and_named_otherwise(monkeypatch):
    monkeypatch.setattr(config, "REMOVED", {"dropout": 0.0})
    assert configs_of({"agent": OLD | {"dropout": 0.0}}) == configs_of({"agent": OLD})
    with pytest.raises(DataError, match="no setting dropout = 0.1"):
        configs_of({"agent": OLD | {"dropout": 0.1}})
    with pytest.raises(DataError, match="no setting colour"):
        configs_of({"agent": OLD | {"colour": "red"}})


def test_defaults_follow_the_model():
    tiny = LMConfig()
    large = LMConfig(model="Qwen/Qwen3-8B")
    assert (tiny.quantise, tiny.lora_rank, tiny.gradient_checkpointing) == ("none", 0, False)
    assert (large.quantise, large.lora_rank, large.gradient_checkpointing) == ("nf4", 16, True)
    assert LMConfig(model="x", quantise="none").gradient_checkpointing is False
    assert AgentConfig().settled_for("tiny").micro_batch == 4
    assert AgentConfig().settled_for("Qwen/Qwen3-8B").micro_batch == 1
    assert WarmConfig().settled_for("nano") == WarmConfig(sft_lr=2e-3, sft_batch=64)
    assert WarmConfig().settled_for("x") == WarmConfig(sft_lr=2e-4, sft_batch=16)
    assert WarmConfig(sft_lr=1.0).settled_for("tiny").sft_lr == 1.0


@pytest.mark.parametrize(("flags", "message"), [
    ({"quantise": "nf4"}, "--model tiny starts from nothing"),
    ({"lora_rank": 8}, "--model tiny starts from nothing"),
    ({"model": "x", "lora_rank": 0}, "an adapter must learn"),
    ({"model": "x", "lora_rank": -1}, "--lora_rank must be at least 0"),
    ({"prompt_gradient": False}, "--prompt_gradient false is for loaded models"),
    ({"model": "x", "prompt_gradient": False}, "without --gradient_checkpointing"),
    ({"quantise": "int8"}, "--quantise must be one of nf4, none"),
])
def test_impossible_settings_are_refused_by_flag(flags, message):
    with pytest.raises(ValueError, match=message):
        LMConfig(**flags)


def test_an_empty_micro_batch_is_refused():
    with pytest.raises(ValueError, match="--micro_batch must be at least 1"):
        AgentConfig(micro_batch=0)
