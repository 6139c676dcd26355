"""Systems without the Unix modules: everything can be imported, and what they gave is done without.

Windows itself was not at hand: the modules are blocked here, no more."""
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import train
from infra import devices, locks
from infra.processes import join
from infra.runs import device_of
from tests.test_house import HOUSE, MODULES
from tests.training import refused

BLOCKED = ("fcntl", "resource")
IMPORT_ALL = """
import importlib, sys
blocked, modules = sys.argv[1].split(","), sys.argv[2].split(",")
# packages of others may use what they like
import matplotlib.pyplot, peft, sacrebleu, scipy.stats, torch, tqdm, transformers
for name in blocked:
    sys.modules[name] = None
for name in modules:
    importlib.import_module(name)
print("all of them")
"""
# made of optional packages; serving's own tests import them
OPTIONAL = ("shop.gym", "serving.app", "serving.server")


def test_everything_can_be_imported_without_unix_modules():
    modules = ",".join(name for name in sorted(MODULES) if name not in OPTIONAL)
    command = [sys.executable, "-c", IMPORT_ALL, ",".join(BLOCKED), modules]
    ran = subprocess.run(command, cwd=HOUSE, capture_output=True, text=True, timeout=600)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.endswith("all of them\n")


def test_without_locks_nobody_is_kept_out(tmp_path, monkeypatch):
    with locks.alone_in(tmp_path), pytest.raises(ValueError, match="another process"):
        with locks.reading_from(tmp_path):
            pass
    monkeypatch.setattr(locks, "fcntl", None)
    with locks.alone_in(tmp_path), locks.reading_from(tmp_path):
        assert (Path(tmp_path) / locks.LOCK).exists()


@pytest.mark.parametrize("platform, unit", [("linux", 2**10), ("darwin", 1)])
def test_peak_memory_in_the_unit_of_the_system(platform, unit, monkeypatch):
    """3 GiB, as getrusage counts it: KiB on Linux, bytes on macOS."""
    class Usage:
        ru_maxrss = 3 * 2**30 // unit

    monkeypatch.setattr(train.torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(train.resource, "getrusage", lambda who: Usage)
    monkeypatch.setattr(sys, "platform", platform)
    assert train.peak_memory() == "3.0 GiB"
    monkeypatch.setattr(train, "resource", None)
    assert train.peak_memory() == "not known on this system"


# --- devices ------------------------------------------------------------------------------------

def test_auto_is_cuda_where_there_is_one_and_never_apples(monkeypatch):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    for cuda, device in ((True, "cuda"), (False, "cpu")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda cuda=cuda: cuda)
        assert devices.picked("auto") == device
    assert devices.here("mps") == "mps"
    assert device_of({"device": "cuda"}) == "cpu"


@pytest.mark.parametrize("device", ["cuda", "mps"])
def test_a_device_that_is_not_there_is_refused(device, monkeypatch, capsys):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    said = refused(["--device", device], capsys)
    assert f"--device {device}: PyTorch finds no GPU of this kind here; take --device cpu" in said
    assert devices.here(device) == "cpu"


@pytest.mark.parametrize("flags, said", [
    (["--precision", "bf16"], "--precision bf16: take fp32"),
    (["--model", "some/model"], "4-bit weights: take --quantise none"),
    (["--algo", "memento"], "--algo memento, which computes in doubles"),
])
def test_what_apples_gpu_cannot_do_is_refused(flags, said, monkeypatch, capsys):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    heard = refused(["--device", "mps", *flags], capsys)
    assert f"--device mps does not go with {said}" in heard


def test_several_processes_do_not_share_apples_gpu(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="start a single process"):
        join("mps")


class Apples(torch.Tensor):
    """A tensor that says it lies on Apple's GPU, and refuses doubles as one there does."""
    device = torch.device("mps")

    def double(self):
        raise TypeError("Cannot convert a MPS Tensor to float64")

    def cpu(self):
        return self.as_subclass(torch.Tensor)

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        return super().__torch_function__(func, types, args, kwargs or {})


def test_what_must_be_exact_is_computed_on_the_cpu_there():
    x = torch.tensor([[0.25, 0.75]])
    found = devices.exact(x.as_subclass(Apples))
    assert type(found) is torch.Tensor
    assert found.dtype == torch.float64
    assert devices.exact(x).dtype == torch.float64
