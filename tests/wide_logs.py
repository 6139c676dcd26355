"""Logs with a fault of any kind, through the whole of train.py: no traceback, no silence.

A good log of 40 dialogues is damaged in one of many ways, at a random place, and trained on for a
step without a language model.  Either training ends (status 0), or it refuses the log in one line
(status 2) that names the file.

    python -m tests.wide_logs --count 500 --seed 0        about ten minutes
"""
from __future__ import annotations

import argparse
import contextlib
import io
import json
import random
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import train
from tests.training import SHORT

FLAGS = [*SHORT, "--steps", "1", "--eval_episodes", "2", "--eval_every", "9", "--judge", "rules"]
NAMES = ("user", "reply", "skills", "intent", "emotion", "context", "id", "turns", "goal", "other")
STRANGE = (
    None, True, -1, 1.5, 10**40, "", " ", "\x00", "\ud83d", "e\u0301\u0301", "किताब", "a" * 5000,
    [], {}, [None], [""], ["greet", "greet"], ["x"] * 7, {"": "x"}, {"a b": 1}, {"fit_1": "maybe"},
    {"price": None}, {"price": [1]}, {"price": {"a": 1}}, "{price}", "{{price}}", "{", "}",
    "\\ud83d",
)
RAW = (b"", b"{", b"null", b"[]", b"\xff\xfe", b"\xef\xbb\xbf", b'{"id": "x"}', b'{"id": 1e999}',
       b'{"turns": [{"user": "hi", "user": "ho"}]}', b"\x00\x00", b"NaN", b'{"turns": 3}',
       b'{"turns": []}', b'{"turns": [{"user": 1}]}', b'{"turns": [[]]}', b"// a comment")


def good() -> list[dict[str, Any]]:
    """Forty dialogues, some turns of which have every field."""
    found = []
    for number in range(40):
        price = f"{10 + number}.50"
        turns = [
            {"user": f"Hello, do you have tea number {number}?", "intent": "find",
             "emotion": "neutral", "skills": ["greet", "ask_need"], "reply": "Hello! Which one?"},
            {"user": "How much is it?", "intent": "ask_price", "emotion": "happy",
             "skills": ["state_price"], "context": {"price": price, "stock": number},
             "reply": f"It costs {price}."},
            {"user": "Thanks.", "skills": ["close"], "reply": "Anything else?"},
        ]
        found.append({"id": f"d{number}", "turns": turns})
    return found


# --- damage -------------------------------------------------------------------------------------

def some_turn(rng: random.Random, logs: list[dict]) -> dict:
    return rng.choice(rng.choice(logs)["turns"])


def strange_field(rng: random.Random, logs: list[dict]) -> None:
    some_turn(rng, logs)[rng.choice(NAMES)] = rng.choice(STRANGE)


def strange_everywhere(rng: random.Random, logs: list[dict]) -> None:
    name, value = rng.choice(NAMES), rng.choice(STRANGE)
    for dialogue in logs:
        for turn in dialogue["turns"]:
            turn[name] = value


def strange_dialogue(rng: random.Random, logs: list[dict]) -> None:
    rng.choice(logs)[rng.choice(NAMES)] = rng.choice(STRANGE)


def strange_slot(rng: random.Random, logs: list[dict]) -> None:
    name = rng.choice(("price", "fit_1", "fit_x", "_names", "a b", "कीमत", "price_1", "é", "1", ""))
    some_turn(rng, logs)["context"] = {name: rng.choice(STRANGE)}


def lost_field(rng: random.Random, logs: list[dict]) -> None:
    name = rng.choice(NAMES)
    for dialogue in logs:
        for turn in dialogue["turns"]:
            turn.pop(name, None)


def few(rng: random.Random, logs: list[dict]) -> None:
    del logs[rng.randint(0, 5):]


def copies(rng: random.Random, logs: list[dict]) -> None:
    logs[1:] = [logs[0] | {"id": str(i)} for i in range(rng.randint(1, 40))]


def one_turn(rng: random.Random, logs: list[dict]) -> None:
    for dialogue in logs:
        del dialogue["turns"][rng.randint(0, 1):]


def long_dialogue(rng: random.Random, logs: list[dict]) -> None:
    logs[0]["turns"] *= rng.randint(2, 60)


def strange_words(rng: random.Random, logs: list[dict]) -> None:
    turn = some_turn(rng, logs)
    turn["user"] = "".join(chr(rng.choice((9, 65, 0x300, 0x5d0, 0x4e00, 0x1f600, 0x200d, 0x202e)))
                           for _ in range(rng.randint(1, 60)))


DAMAGE: tuple[Callable[[random.Random, list[dict]], None], ...] = (
    strange_field, strange_everywhere, strange_dialogue, strange_slot, lost_field, few, copies,
    one_turn, long_dialogue, strange_words)


def damaged(seed: int) -> tuple[str, bytes]:
    """(what was done, the file's bytes); the same for the same seed."""
    rng = random.Random(seed)
    logs = good()
    if rng.random() < 0.3:
        return damaged_bytes(rng, written(logs))
    damage = rng.choice(DAMAGE)
    damage(rng, logs)
    return damage.__name__, written(logs)


def written(logs: list[dict]) -> bytes:
    lines = [json.dumps(dialogue) for dialogue in logs]
    return "\n".join(lines).encode() + b"\n"


def damaged_bytes(rng: random.Random, content: bytes) -> tuple[str, bytes]:
    """Damage below JSON: lines, cuts, single bytes."""
    lines = content.splitlines()
    what = rng.choice(("line", "cut", "bytes", "crlf"))
    if what == "line":
        lines[rng.randrange(len(lines))] = rng.choice(RAW)
    elif what == "cut":
        return what, content[:rng.randrange(len(content))]
    elif what == "bytes":
        changed = bytearray(content)
        for _ in range(rng.randint(1, 4)):
            changed[rng.randrange(len(changed))] = rng.randrange(256)
        return what, bytes(changed)
    else:
        return what, b"\r\n".join(lines)
    return what, b"\n".join(lines)


# --- the trial ----------------------------------------------------------------------------------

class Trial(NamedTuple):
    seed: int
    damage: str
    status: int | str                            # of train.py, or the name of an exception
    said: str                                    # on stderr


def tried(seed: int, folder: Path) -> Trial:
    damage, content = damaged(seed)
    log = folder / f"logs{seed}.jsonl"
    log.write_bytes(content)
    said = io.StringIO()
    arguments = ["--dataset", str(log), *FLAGS, "--output_dir", str(folder / f"run{seed}")]
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(said):
        try:
            status: int | str = train.main(arguments)
        except BaseException as error:           # whatever it is: that is what is looked for
            status = type(error).__name__
            traceback.print_exc(file=said)
    return Trial(seed, damage, status, said.getvalue())


def fault(trial: Trial) -> str | None:
    """What is wrong with how a log was met; None if nothing is."""
    if trial.status == 0:
        return None
    if trial.status != 2:
        return f"status {trial.status}"
    refusals = [line for line in trial.said.splitlines() if line.startswith("train.py: ")]
    if len(refusals) != 1:
        return f"{len(refusals)} lines of refusal"
    if f"logs{trial.seed}.jsonl" not in refusals[0] and f"logs{trial.seed}" not in refusals[0]:
        return "the file is not named"
    return None


def main() -> int:
    parser = argparse.ArgumentParser(description="Damaged logs through the whole of train.py.")
    parser.add_argument("--count", type=int, default=500, help="damaged logs (default 500)")
    parser.add_argument("--seed", type=int, default=0, help="of the first (default 0)")
    args = parser.parse_args()
    statuses: Counter[str] = Counter()
    wrong = 0
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(args.seed, args.seed + args.count):
            trial = tried(seed, Path(folder))
            statuses[f"{trial.damage}: status {trial.status}"] += 1
            found = fault(trial)
            if found:
                wrong += 1
                print(f"seed {seed}, {trial.damage}: {found}\n{trial.said[-2000:]}", flush=True)
    for name, count in sorted(statuses.items()):
        print(f"{count:4d}  {name}")
    print(f"{wrong} of {args.count} were met wrongly")
    return min(wrong, 1)


if __name__ == "__main__":
    sys.exit(main())
