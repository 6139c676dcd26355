"""Values that ruin: flags that are not finite or too large, and weights that they ruined."""
import pytest
import torch

from data import DataError
from expert import ExpertConfig
from infra.flags import recorded, refuse_extreme
from infra.runs import refuse_ruined
from lm import memory
from lm.config import configs_of
from policies import keyed
from start.flags import RunConfig, parse_flags

# --- flags --------------------------------------------------------------------------------------

@pytest.mark.parametrize("flag, value, said", [
    ("expert_lr", "inf", "must be positive"),
    ("agent_lr", "1e30", "must be at most 1, got 1e+30"),
    ("sft_lr", "2", "must be at most 1"),
    ("alpha", "1e999", "must be a finite number, got inf"),
    ("end_weight", "1e7", "must be at most 1,000,000.0"),
    ("seed", str(2**63), "must be at most 9,223,372,036,854,775,806"),
    ("width", "1000000000", "must be at most 16,384"),
    ("steps", "2147483648", "must be at most 1,000,000,000"),
    ("api_timeout", "10000000000", "at most 86400 (a day)"),
    ("output_dir", "", "is empty"),
    ("dataset", "lo\udcffgs.jsonl", "no UTF-8"),
])
def test_a_flag_is_refused_by_name(flag, value, said, capsys):
    with pytest.raises(SystemExit) as stop:
        parse_flags([f"--{flag}={value}"], "")
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert f"--{flag}" in error
    assert said in error


@pytest.mark.parametrize("word, said", [
    ("--datset=mgshop", "--datset=mgshop is no flag of this command; did you mean --dataset?"),
    ("mgshop", "mgshop is no flag of this command"),
])
def test_a_typo_in_a_flag_names_the_flag_that_was_meant(word, said, capsys):
    with pytest.raises(SystemExit) as stop:
        parse_flags([word], "")
    assert stop.value.code == 2
    assert capsys.readouterr().err.endswith(f"{said}\n")


def test_the_largest_seed_is_a_seed():
    seed = 2**63 - 2
    parse_flags(["--seed", str(seed)], "")
    assert 0 <= float(torch.rand((), generator=keyed(seed)(7, 3))) < 1
    # and small ones draw what they always drew
    by_hand = torch.Generator().manual_seed((5 * 1_000_003 + 7) * 1_009 + 3)
    assert torch.equal(
        torch.rand(4, generator=keyed(5)(7, 3)), torch.rand(4, generator=by_hand))


@pytest.mark.parametrize("config", [RunConfig(), ExpertConfig()])
def test_every_default_is_sound(config):
    refuse_extreme(config)


def test_an_edited_config_is_refused_by_name():
    for wrong in (float("nan"), 1e30, "fast"):
        with pytest.raises(DataError, match="config.json: "):
            recorded(ExpertConfig, {"expert_lr": wrong})
        with pytest.raises(DataError, match="config.json: "):
            configs_of({"agent": {"agent_lr": wrong}})


@pytest.mark.parametrize("flag, value", [
    ("card", "nan"), ("card", "inf"), ("card", "-1"), ("dialogues", "0"), ("system_tokens", "-1")])
def test_memory_refuses_by_name(flag, value, capsys):
    with pytest.raises(SystemExit):
        memory.main(["--model", "nano", f"--{flag}={value}"])
    assert f"--{flag} must be" in capsys.readouterr().err


# --- weights ------------------------------------------------------------------------------------

@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1e7])
def test_ruined_weights_are_named_with_the_flag(value):
    tensors = {"rollouts": torch.tensor(10**9), "none": torch.zeros(0), "w": torch.ones(3)}
    refuse_ruined(tensors, "the Expert at step 7", "expert_lr")
    tensors["w"][1] = value
    said = r"the Expert at step 7 are ruined \(w reaches .* --expert_lr is too large"
    with pytest.raises(FloatingPointError, match=said):
        refuse_ruined(tensors, "the Expert at step 7", "expert_lr")
