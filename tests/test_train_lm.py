"""train.py with a language model that writes the replies: what a run leaves, resumes, loads."""
import json
import math
import shutil

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

import data
import gopo
import train
from data import DataError
from expert import ExpertState
from infra.runs import read_rows
from policies import by_policy
from tests.training import SHORT_LM, rows_of

pytestmark = pytest.mark.usefixtures("small_shop")


def test_a_run_with_a_language_model_leaves_its_files(lm_run):
    names = {p.name for p in lm_run.iterdir()}
    assert names >= {
        "untrained", "warm_start", "csagent", "strategy.safetensors", "strategy.jsonl",
        "expert.safetensors"}


def test_a_step_with_a_language_model(lm_run):
    row, = read_rows(lm_run / "metrics.jsonl")
    assert {"L_p", "L_s", "L_d", "loss", "entropy", "std_fitness"} <= set(row)
    assert all(v is None or math.isfinite(v) for v in row.values())
    before = load_file(lm_run / "warm_start" / "model.safetensors")
    after = load_file(lm_run / "csagent" / "model.safetensors")
    assert set(before) == set(after)
    assert any(not torch.equal(before[k], after[k]) for k in before)


def test_results_with_a_language_model(lm_run):
    results = json.loads((lm_run / "results.json").read_text())
    assert set(results) == {
        "untrained", "warm_start", "strategy", "gopo", "true_perception", "teacher", "random",
        "untrained_lm_teacher"}
    # the guarantee holds for barely trained weights
    assert all(row["violations"]["mean"] == 0 for row in results.values())


def test_resume_with_a_language_model(lm_run, tmp_path):
    # the LM's weights and its AdamW are in the checkpoint
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    common = [*SHORT_LM, "--eval_episodes", "0", "--base", str(lm_run)]
    assert train.main([*common, "--steps", "2", "--output_dir", str(whole)]) == 0
    assert train.main([*common, "--steps", "1", "--output_dir", str(halves)]) == 0
    assert train.main(["--resume", str(halves), "--steps", "2"]) == 0
    assert rows_of(whole) == rows_of(halves)
    a, b = (load_file(run / "csagent" / "model.safetensors") for run in (whole, halves))
    assert all(torch.equal(a[k], b[k]) for k in a)


# --- read back ----------------------------------------------------------------------------------

def test_loaded_agents_are_the_trained_ones(lm_run, answer):
    # load(run) answers as the run's own table did
    saved = load_file(lm_run / "expert.safetensors")
    live = answer.gopo.expert.state_dict()
    assert all(torch.equal(v, saved[k]) for k, v in live.items())
    saved = load_file(lm_run / "csagent" / "model.safetensors")
    live = answer.gopo.agent.model.state_dict()
    assert all(torch.equal(live[k].float(), v.float()) for k, v in saved.items())
    assert answer.gopo.dataset.horizon == data.load("mgshop").horizon
    assert by_policy(answer.gopo.expert, greedy=True)([ExpertState("x")], [])


def test_csagent_loads_with_stock_transformers(lm_run):
    model = AutoModelForCausalLM.from_pretrained(lm_run / "csagent")
    tokenizer = AutoTokenizer.from_pretrained(lm_run / "csagent")
    ids = tokenizer("Where is my parcel?", return_tensors="pt").input_ids
    out = model.generate(ids, max_new_tokens=5, do_sample=False)
    assert out.shape[1] > ids.shape[1]
    assert isinstance(tokenizer.decode(out[0]), str)


def test_a_half_written_run_is_named(lm_run, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(lm_run, run)
    shutil.rmtree(run / "csagent")
    with pytest.raises(DataError, match="csagent"):
        gopo.load(run)
    (run / "expert.safetensors").unlink()
    with pytest.raises(DataError, match="expert"):
        gopo.load(run)
