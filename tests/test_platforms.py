"""Systems without the Unix modules: everything can be imported, and what they gave is done without.

Windows itself was not at hand: the modules are blocked here, no more."""
import subprocess
import sys
from pathlib import Path

import pytest

import train
from infra import locks
from tests.test_house import HOUSE, MODULES

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
