"""start/stages.py: a stage is done when its file or folder is there, and is read back then."""
import json

import pytest
import torch
from safetensors.torch import load_file

from data import DataError
from expert import ExpertConfig
from gopo import Gopo, expert_config, load_gopo
from perception import Perception
from shop import mgshop
from start.stages import prepare_expert, replace_folder


def test_a_killed_stage_starts_again(tmp_path):
    folder = tmp_path / "warm_start"

    def killed(part):
        (part / "half").write_text("")
        raise KeyboardInterrupt

    def finished(part):
        (part / "whole").write_text("")

    with pytest.raises(KeyboardInterrupt):
        replace_folder(folder, killed)
    assert not folder.exists()
    replace_folder(folder, finished)
    with pytest.raises(KeyboardInterrupt):
        replace_folder(folder, killed)
    assert [p.name for p in folder.iterdir()] == ["whole"]


def test_finished_stages_are_read_back(small_shop, strategy_run, monkeypatch):
    # else a resumed run would train perception again, or start elsewhere
    monkeypatch.setattr(Perception, "fit", lambda *_, **__: pytest.fail("trained twice"))
    torch.manual_seed(99)
    expert = prepare_expert(
        strategy_run, mgshop.load(), Gopo, ExpertConfig(), None, 0, "cpu")
    saved = load_file(strategy_run / "untrained.safetensors")
    assert all(torch.equal(v, saved[k]) for k, v in expert.state_dict().items())


def test_an_expert_that_read_in_the_old_way_is_refused():
    new = {"expert_warm": 0, "expert_lr": 0.5}
    assert expert_config({"expert": new}) == ExpertConfig(**new)
    with pytest.raises(DataError, match="reads a text as a whole.*with commit"):
        expert_config({"expert": {"expert_lr": 0.5}})


def test_an_old_run_of_imitation_is_refused_in_one_line(small_shop, tmp_path):
    # its config.json has no options, which this version would look for
    run = {"algo": "imitation", "replies": "template", "dataset": "mgshop", "data_dir": "data"}
    config = {"run": run, "expert": {"expert_lr": 0.5}, "gopo": {}, "options": None}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(DataError, match="with commit"):
        load_gopo(tmp_path)
