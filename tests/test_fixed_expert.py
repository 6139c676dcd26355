"""--fix_expert: joint steps in which the language model learns alone."""
import torch

import train
from infra.runs import load_tensors, read_rows
from tests.training import SHORT_LM


def changed(before, after) -> bool:
    before, after = load_tensors(before), load_tensors(after)
    return any(not torch.equal(before[name], after[name]) for name in before)


def test_the_expert_stays_and_the_words_move(small_shop, lm_run, tmp_path, capsys):
    run = tmp_path / "run"
    flags = [*SHORT_LM, "--steps", "1", "--base", str(lm_run), "--fix_expert", "True"]
    assert train.main([*flags, "--eval_episodes", "0", "--output_dir", str(run)]) == 0
    # the strategy stage of the base taught it as it would have been taught here
    assert "not taken" not in capsys.readouterr().out
    assert not changed(run / "strategy.safetensors", run / "expert.safetensors")
    assert changed(lm_run / "strategy.safetensors", lm_run / "expert.safetensors")
    assert changed(run / "warm_start/model.safetensors", run / "csagent/model.safetensors")
    row = read_rows(run / "metrics.jsonl")[-1]
    assert "loss" in row and "entropy_expert" not in row
    assert (run / "curves.png").exists()
