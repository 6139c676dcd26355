"""The same command twice: equal, byte by byte, whatever else the machine is doing."""
import json

import pytest
import torch

import eval as evaluation
import train
from csagent import demo_agent
from hosted import label
from lm import precision as machine
from lm.passes import select_rows
from tests import forks

LEAVE = ("timing.jsonl", "config.json", "curves.png", "lock")


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_two_trainings_and_two_tables(two_threads, tmp_path):
    forks.write_logs(tmp_path / "logs.jsonl")
    flags = ["--dataset", str(tmp_path / "logs.jsonl"), *forks.LM, "--group", "3"]
    flags += ["--steps", "3", "--eval_episodes", "0"]
    found = []
    for name in ("first", "second"):
        run = tmp_path / name / "run"
        assert train.main([*flags, "--output_dir", str(run)]) == 0
        table = ["--rows", "gopo", "--json", str(tmp_path / name / "table.json")]
        assert evaluation.main(["--run", str(run), *table]) == 0
        found.append(forks.digests(tmp_path / name, LEAVE))
    assert found[0] == found[1]
    assert "run/csagent/model.safetensors" in found[0]


def test_two_labellings(tmp_path):
    forks.write_logs(tmp_path / "logs.jsonl", labelled=False)
    found = []
    for name in ("first.jsonl", "second.jsonl"):
        argv = [str(tmp_path / "logs.jsonl"), "--output", str(tmp_path / name)]
        assert label.main(argv) == 0
        found.append((tmp_path / name).read_bytes())
    assert found[0] == found[1]
    assert json.loads(found[0].splitlines()[0])["turns"][0]["skills"]


def test_rows_of_a_cache_are_selected_in_a_way_that_sums_in_one_order():
    agent = demo_agent()
    prompts = [agent.encode(text) for text in ("one two three", "four five six")]
    cache, _, _ = agent.prefill(prompts, torch.tensor([0, 0, 0, 1, 1, 1]), 4)
    # IndexBackward adds with several threads at once, in the order in which they come
    names = {type(layer.keys.grad_fn).__name__ for layer in cache.layers}
    assert names == {"IndexSelectBackward0"}
    before = cache.layers[0].values.clone()
    select_rows(cache, torch.tensor([5, 0, 0]))
    assert torch.equal(cache.layers[0].values, before[[5, 0, 0]])


# --- precision is a property of the machine -----------------------------------------------------

@pytest.mark.parametrize("flags, precision", [
    ("fpu avx2 avx512f avx512_bf16", "bf16"),
    ("amx_bf16 amx_tile", "bf16"),
    ("fpu avx2 avx512f", "fp32"),
    (None, "fp32"),
])
def test_precision_follows_from_the_cpu(flags, precision, tmp_path, monkeypatch):
    info = tmp_path / "cpuinfo"
    if flags is not None:
        info.write_text(f"processor\t: 0\nmodel name\t: x\nflags\t\t: {flags}\n")
    monkeypatch.setattr(machine, "CPUINFO", info)
    assert {machine.pick_precision("cpu") for _ in range(3)} == {precision}


@pytest.mark.parametrize("supported, precision", [(True, "bf16"), (False, "fp32")])
def test_precision_follows_from_the_gpu(supported, precision, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: supported)
    assert machine.pick_precision("cuda") == precision
