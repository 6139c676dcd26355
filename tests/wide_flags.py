"""Every flag of the commands with hostile values: refused by name, or it works; no traceback.

    python -m tests.wide_flags               all, some minutes
    python -m tests.wide_flags train 40      forty tries of one command, spread over its flags

A try is a real command on small logs.  Printed is what went wrong and how many were tried."""
from __future__ import annotations

import dataclasses
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import eval as evaluation
from gopo import ALGORITHMS, algorithm
from hosted.label import LabelConfig
from infra.client import ApiConfig
from lm.config import AgentConfig, LMConfig, WarmConfig
from lm.memory import Machine
from start.flags import SHARED
from tests import forks

CONFIGS = {
    "train": SHARED,
    "eval": (evaluation.MeasureConfig, evaluation.RunConfig, evaluation.PaperConfig, ApiConfig),
    "label": (LabelConfig, ApiConfig),
    "memory": (LMConfig, AgentConfig, WarmConfig, Machine),
}
HOSTILE = {
    "float": ("nan", "inf", "-1", "1e30", "x"),
    "int": ("-1", "99999999999999999999999", "1.5", "nan", "2147483648"),
    "bool": ("", "2", "maybe", "nan", "-1"),
    "str": ("", "/", "no such thing", "\udcff", "x" * 5000),
}
# they are what the try itself needs, or go on for long whatever is given
LEFT = {"run", "paper"}


class Try(NamedTuple):
    command: str
    flag: str
    value: str
    owner: str                                   # algorithm that has the flag; "" if all have


def kind_of(field: dataclasses.Field) -> str:
    """The type of a flag: float, int, bool or str."""
    for kind in ("float", "int", "bool"):
        if kind in str(field.type):
            return kind
    return "str"


def tries(command: str) -> Iterator[Try]:
    """Every flag with each of its hostile values."""
    configs = [(config, "") for config in CONFIGS[command]]
    if command == "train":
        options = {name: algorithm(name).Options for name in ALGORITHMS}
        configs += [(kind, name) for name, kind in options.items() if kind]
    for config, owner in configs:
        for field in dataclasses.fields(config):
            if field.name in LEFT:
                continue
            for value in HOSTILE[kind_of(field)]:
                yield Try(command, field.name, value, owner)


def argv_of(tried: Try) -> list[str]:
    flag = [f"--{tried.flag}={tried.value}"]
    if tried.command == "train":
        own = ["--algo", tried.owner] if tried.owner else []
        return ["--dataset", "logs.jsonl", *forks.QUICK, *own, "--output_dir", "new", *flag]
    if tried.command == "eval":
        return ["--run", "run", "--episodes", "2", "--rows", "random", *flag]
    if tried.command == "label":
        return ["logs.jsonl", "--output", "new.jsonl", *flag]
    return ["--model", "nano", *flag]


def wrong(tried: Try, folder: Path) -> str:
    """What went wrong; "" if nothing did."""
    before = forks.digests(folder)
    done = forks.run(tried.command, argv_of(tried), folder, seconds=120)
    last = (done.err.strip().splitlines() or [""])[-1][:200]
    found = ""
    if not done.clean:
        found = f"status {done.status}: {last}"
    elif done.status == 2 and not named(tried, done.err):
        found = f"refused, but not by name: {last}"
    elif done.status == 2 and forks.digests(folder) != before:
        found = f"refused, but something was changed: {last}"
    return found


def named(tried: Try, said: str) -> bool:
    """Whether a refusal says what is wrong: the flag, or the path that was given."""
    return f"--{tried.flag}" in said or (len(tried.value) > 2 and tried.value[:50] in said)


def spread(found: list[Try], most: int | None) -> list[Try]:
    """At most so many, from all over the list."""
    if not most or most >= len(found):
        return found
    return [found[i * len(found) // most] for i in range(most)]


def prepare(folder: Path) -> None:
    """Small logs, and a run on them."""
    forks.write_logs(folder / "logs.jsonl")
    argv = ["--dataset", "logs.jsonl", *forks.QUICK, "--output_dir", "run"]
    assert forks.run("train", argv, folder).status == 0


def clean(folder: Path) -> None:
    """What an accepted try has written does not stand in the way of the next."""
    for path in folder.iterdir():
        if path.name in ("logs.jsonl", "logs.skills.json", "run"):
            continue
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def conduct(commands: list[str], most: int | None) -> int:
    """How many tries went wrong."""
    failures = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(folder)
        for command in commands:
            found = spread(list(tries(command)), most)
            for tried in found:
                said = wrong(tried, folder)
                if said:
                    failures += 1
                    print(f"{command} --{tried.flag}={tried.value!r:.40}: {said}", flush=True)
                clean(folder)
            print(f"{command}: {len(found)} tries", flush=True)
    print(f"{failures} went wrong")
    return failures


if __name__ == "__main__":
    words = sys.argv[1:]
    chosen = [word for word in words if word in CONFIGS] or list(CONFIGS)
    counts = [int(word) for word in words if word.isdigit()]
    most = counts[0] if counts else None
    sys.exit(min(1, conduct(chosen, most)))
