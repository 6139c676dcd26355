"""How fast everything is, beside transformers and older code; what a hard constraint is worth.

Machines are noisy.  Therefore what is compared takes turns in one run, each state of the code in a
process of its own (bench_rows.py), and CPU seconds stand beside those of the clock.  Nothing here
is a test.
Try it:  python -m experiments.bench                       the table of speed, of this code
         python -m experiments.bench --against v1 --quick  beside that of another commit
         python -m experiments.bench --speed               sampling against `transformers.generate`,
                                                           update against a plain padded fp32 step
         python -m experiments.bench --violations 20000    replies of a randomly initialised model
                                                           under random rules, hard and soft"""
from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch
from torch import Tensor
from tqdm import tqdm

from csagent import SLOTS, CustomerServiceAgent, demo_agent
from data import DataError, Prepared, Reply, Request, Skill
from infra.terminal import forgive
from lm.constraints import violations
from lm.precision import pick_precision

STATES = 8
GROUP = 8
LENGTH = 48
PLAIN_GENERATE = "generate, transformers fp32"
PLAIN_UPDATE = "update, plain fp32"


# ------------------------------------------------------------------------------ speed
@dataclass
class Work:
    """The same batch for both sides: STATES x GROUP replies of LENGTH tokens."""
    agent: CustomerServiceAgent
    chance: torch.Generator
    prepared: list[Prepared]
    replies: list[list[Reply]]
    prompt: Tensor              # [B, P] padded on the left
    seen: Tensor                # [B, P] 1 where there is a token
    said: Tensor                # [B, LENGTH]
    drawn: Tensor               # [B, LENGTH] True where the agent drew


def work() -> Work:
    agent = demo_agent(max_new_tokens=LENGTH, group=GROUP)
    chance = torch.Generator().manual_seed(0)
    context = dict.fromkeys(SLOTS, "30")
    requests = []
    for i in range(STATES):
        user = "I ordered a lamp some days ago. " * (2 + i % 3) + "Where is it?"
        requests.append(Request(user, ("soothe",), context))
    prepared = agent.prepare(requests)
    replies = agent.speak(prepared, GROUP, generator=chance)
    prompts = []
    flat = []
    for p, group in zip(prepared, replies):
        prompts += [p.ids] * GROUP
        flat += group
    width = max(map(len, prompts))
    left = [width - len(ids) for ids in prompts]
    prompt = torch.tensor([[0] * n + ids for n, ids in zip(left, prompts)])
    seen = torch.tensor([[0] * n + [1] * len(ids) for n, ids in zip(left, prompts)])
    said = torch.tensor([r.ids + [0] * (LENGTH - len(r.ids)) for r in flat])
    drawn = torch.tensor([r.mask + [False] * (LENGTH - len(r.mask)) for r in flat])
    return Work(agent, chance, prepared, replies, prompt, seen, said, drawn)


def plain_generate(w: Work) -> None:
    w.agent.model.generate(
        input_ids=w.prompt, attention_mask=w.seen, do_sample=True, top_k=0,
        max_new_tokens=LENGTH, min_new_tokens=LENGTH,
    )


def plain_update(w: Work) -> None:
    """Whole sequences, all logits, the same terms."""
    w.agent.optimizer.zero_grad()
    first = w.prompt.shape[1] - 1
    for i in range(0, len(w.said), 16):
        k = slice(i, i + 16)
        ids = torch.cat([w.prompt[k], w.said[k]], 1)
        mask = torch.cat([w.seen[k], torch.ones_like(w.said[k])], 1)
        out = w.agent.model(input_ids=ids, attention_mask=mask)
        logp = out.logits.log_softmax(-1)
        entropy = -(logp.exp() * logp)[:, first:-1].sum(-1)
        chosen = logp[:, first:-1].gather(-1, w.said[k, :, None])[..., 0]
        (-(chosen * w.drawn[k]).mean() - 0.01 * entropy.mean()).backward()
    w.agent.optimizer.step()


def our_generate(w: Work, precision: str) -> None:
    w.agent.precision = precision
    requests = [p.request for p in w.prepared]
    w.agent.generate(requests, GROUP, generator=w.chance)


def our_update(w: Work, precision: str) -> None:
    w.agent.precision = precision
    rewards = [[i / GROUP for i in range(GROUP)]] * STATES
    w.agent.update(w.prepared, w.replies, rewards)


def interleaved(tasks: dict[str, Callable[[], None]], rounds: int) -> dict[str, float]:
    """Median seconds of each task; they take turns, and the first round warms up."""
    times: dict[str, list[float]] = {name: [] for name in tasks}
    for _ in range(rounds + 1):
        for name, task in tasks.items():
            start = time.perf_counter()
            task()
            times[name].append(time.perf_counter() - start)
    return {name: sorted(seconds[1:])[rounds // 2] for name, seconds in times.items()}


def speed(rounds: int = 7) -> None:
    """Prints median times, and their ratios to plain transformers in fp32."""
    w = work()
    tasks = {
        PLAIN_GENERATE: lambda: plain_generate(w),
        "generate, here fp32": lambda: our_generate(w, "fp32"),
        "generate, here bf16": lambda: our_generate(w, "bf16"),
        PLAIN_UPDATE: lambda: plain_update(w),
        "update, here fp32": lambda: our_update(w, "fp32"),
        "update, here bf16": lambda: our_update(w, "bf16"),
    }
    median = interleaved(tasks, rounds)
    for name, seconds in median.items():
        plain = median[PLAIN_UPDATE if "update" in name else PLAIN_GENERATE]
        print(f"{name:30} {1000 * seconds:8.1f} ms   {plain / seconds:5.2f}x")
    print(
        f"{w.prompt.shape[1]} prompt tokens at most, {int(w.drawn.sum())} drawn; "
        f"--precision auto is {pick_precision()} here"
    )


# ------------------------------------------------------------------------------ the table
HOUSE = Path(__file__).parent.parent
WORKER = Path(__file__).with_name("bench_rows.py")
# Row -> what it is called, in what it is told (1e6: microseconds a unit; 1: seconds), and the aim
# as a ratio to the other commit; the last four to transformers, or none.
TABLE: dict[str, tuple[str, str, float, str]] = {
    "joint_16": ("joint step, 16 dialogues", "us a token", 1e6, "2"),
    "joint_64": ("joint step, 64 dialogues", "us a token", 1e6, "3, to 16 dialogues"),
    "strategy_stage": ("strategy stage, one epoch", "us a turn", 1e6, "3"),
    "playing": ("playing alone, phrase book", "us a turn", 1e6, "3"),
    "supervised": ("supervised step, 64 replies", "s", 1, "2"),
    "evaluation": ("evaluation with the LM", "us a turn", 1e6, "3"),
    "help": ("train.py --help", "s", 1, "under 2 s"),
    "import": ("import gopo", "s", 1, "under 2 s"),
    "sampling": ("sampling 64 x 48", "s", 1, ""),
    "update": ("update of the same", "s", 1, ""),
    "plain_sampling": ("sampling, transformers' generate", "s", 1, "3.4 of ours"),
    "plain_update": ("update, plain padded step", "s", 1, "4 of ours"),
}
COMMANDS = {"help": ["train.py", "--help"], "import": ["-c", "import gopo"]}
Figure = Mapping[str, float]                     # "cpu" and "wall" seconds a unit


class Code:
    """A state of the project's code, and a process in its folder that does rows."""

    def __init__(self, folder: Path, model: Path, customers: int, threads: int):
        self.folder = folder
        self.plain = folder == HOUSE
        self.environment = environment(threads)
        self.process = subprocess.Popen(
            [sys.executable, WORKER, model, str(customers)], cwd=folder, env=self.environment,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def measure(self, row: str) -> Figure:
        if row in COMMANDS:
            return self._command(COMMANDS[row])
        self.process.stdin.write(f"{row}\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            raise DataError(f"{row}: the process in {self.folder} ended, see above for its reason")
        found = json.loads(answer)
        return {name: found[name] / found["units"] for name in ("cpu", "wall")}

    def _command(self, words: list[str]) -> Figure:
        before, start = os.times(), time.perf_counter()
        subprocess.run([sys.executable, *words], cwd=self.folder, env=self.environment,
                       check=True, stdout=subprocess.DEVNULL)
        after, wall = os.times(), time.perf_counter() - start
        user = after.children_user - before.children_user
        system = after.children_system - before.children_system
        return {"cpu": user + system, "wall": wall}

    def close(self) -> None:
        with contextlib.suppress(OSError):       # it may have ended
            self.process.stdin.close()
        self.process.wait()


def environment(threads: int) -> dict[str, str]:
    alone = {"OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "PASSIVE", "TQDM_DISABLE": "1"}
    return os.environ | alone


@contextlib.contextmanager
def worktree(commit: str) -> Iterator[Path]:
    """A folder with the code of this commit; afterwards it is gone."""
    if shutil.which("git") is None:
        raise DataError("--against needs git, which is not installed here")
    with tempfile.TemporaryDirectory() as above:
        folder = Path(above) / "code"
        git = ["git", "-C", str(HOUSE), "worktree"]
        made = subprocess.run([*git, "add", "--detach", str(folder), commit],
                              capture_output=True, text=True)
        if made.returncode:
            said = made.stderr.strip().splitlines() or ["nothing"]
            raise DataError(f"--against {commit}: git says: {said[-1]}")
        try:
            yield folder
        finally:
            subprocess.run([*git, "remove", "--force", str(folder)], capture_output=True)


def table(against: str | None, model: str | None, quick: bool, threads: int,
          chosen: list[str]) -> None:
    """Every row, in turns: this code, then the other commit's."""
    if model and not (Path(model) / "config.json").exists():
        raise DataError(f"--model {model} holds no config.json: give RUN/csagent of a run of tiny")
    rounds, customers, steps = (1, 16, 20) if quick else (3, 100, 60)
    with contextlib.ExitStack() as held:
        folders = [HOUSE]
        if against:
            folders.append(held.enter_context(worktree(against)))
        learned = Path(model or held.enter_context(tempfile.TemporaryDirectory()))
        if not model:
            subprocess.run([sys.executable, WORKER, "teach", learned, str(steps)], cwd=HOUSE,
                           env=environment(threads), check=True)
        codes = []
        for folder in folders:
            codes.append(Code(folder, learned.resolve(), customers, threads))
            held.callback(codes[-1].close)
        print(f"{rounds} rounds, {threads} threads, {customers} customers evaluated; CPU seconds, "
              "median (least to most), of the clock in brackets")
        found: dict[str, list[list[Figure]]] = {}
        for row in chosen:
            found[row] = in_turns(codes, row, rounds)
            others = found[row][1:]
            if row == "joint_64":
                others = found.get("joint_16", found[row])[1:]
            print(line_of(row, found[row][0], others), flush=True)


def in_turns(codes: list[Code], row: str, rounds: int) -> list[list[Figure]]:
    """For each state of the code its figures; a first round, which warms up, is left out."""
    doing = [code for code in codes if code.plain or not row.startswith("plain")]
    figures: list[list[Figure]] = [[] for _ in doing]
    for number in range(rounds + 1):
        for code, found in zip(doing, figures):
            measured = code.measure(row)
            if number:
                found.append(measured)
    return figures


def line_of(row: str, ours: list[Figure], others: list[list[Figure]]) -> str:
    """A row of the table: ours, the other's, and how many times as long that takes, CPU and clock.

    others  the other commit's figures, if any
    """
    name, unit, factor, aim = TABLE[row]
    parts = [f"{name:34} {unit:10}", cell(ours, factor)]
    for other in others:
        parts.append(cell(other, factor))
        for kind in ("cpu", "wall"):
            parts.append(f"{middle(other, kind) / middle(ours, kind):.2f}x")
    if aim:
        parts.append(f"(aim {aim})")
    return "  ".join(parts)


def middle(figures: list[Figure], kind: str) -> float:
    return median(figure[kind] for figure in figures)


def cell(figures: list[Figure], factor: float) -> str:
    spent = sorted(factor * figure["cpu"] for figure in figures)
    clock = factor * middle(figures, "wall")
    digits = 0 if factor > 1 else 2
    return (f"{median(spent):7.{digits}f} ({spent[0]:.{digits}f} to {spent[-1]:.{digits}f}) "
            f"[{clock:.{digits}f}]")


# ------------------------------------------------------------------------------ violations
def random_phrase(agent: CustomerServiceAgent, rng: random.Random, parts: int) -> str:
    """Cut from the model's own tokens and Chinese characters, case and spaces shuffled."""
    pieces = [rng.choice(agent.vocab.pieces) for _ in range(parts)]
    words = [piece.decode("utf-8", "ignore") for piece in pieces]
    words.append(rng.choice(["", "", *"很抱歉您的包裹"]))
    text = (" " * rng.randrange(2)).join(words)
    text = re.sub(r"[{}]|<\|.*?\|>", "", text)
    return text.swapcase() if rng.random() < 0.5 else text


def random_request(agent: CustomerServiceAgent, rng: random.Random, number: int) -> Request:
    """A turn under random rules."""
    bans = []
    for _ in range(rng.randrange(12)):
        phrase = random_phrase(agent, rng, rng.randint(1, 2))
        if any(char.isalnum() for char in phrase):
            bans.append(phrase)
    say = [f"Note {random_phrase(agent, rng, 1)}" for _ in range(rng.randrange(3))]
    name = f"random{number}"
    agent.skills[name] = Skill(name, must_say=tuple(say), must_not_say=tuple(bans))
    known = rng.sample(SLOTS, rng.randrange(len(SLOTS)))
    return Request("Hello?", (name,), dict.fromkeys(known, "1"))


def violation_study(n: int, seed: int) -> dict[str, int]:
    """Replies of n that break a rule, with random weights and rules: once hard, once soft."""
    return {mode: broken_replies(mode, n, seed) for mode in ("hard", "soft")}


def broken_replies(mode: str, n: int, seed: int) -> int:
    agent = demo_agent(seed=seed, constraints=mode)
    rng = random.Random(seed)
    chance = torch.Generator().manual_seed(seed)
    broken = 0
    for start in tqdm(range(0, n, 256), desc=mode):
        states = -(-min(256, n - start) // 4)
        requests = [random_request(agent, rng, i) for i in range(states)]
        heat = rng.choice([0.5, 1.0, 2.0])
        prepared = agent.prepare(requests)
        replies = agent.speak(prepared, 4, temperature=heat, generator=chance)
        for p, group in zip(prepared, replies):
            broken += sum(bool(violations(r.text, p.constraints)) for r in group)
    return broken


def parser_of_flags() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Speed, and what a hard constraint is worth.", allow_abbrev=False)
    parser.add_argument("--against", metavar="COMMIT", help="measure this commit beside ours")
    parser.add_argument(
        "--rows", nargs="+", choices=TABLE, default=list(TABLE), metavar="ROW",
        help=f"of the table, instead of all: {', '.join(TABLE)}")
    parser.add_argument(
        "--model", metavar="FOLDER", help="a trained tiny, RUN/csagent, instead of one that is "
        "taught for a minute before")
    parser.add_argument("--threads", type=int, default=1, help="of every process (default 1)")
    parser.add_argument("--quick", action="store_true", help="one round, 16 customers")
    parser.add_argument(
        "--speed", action="store_true", help="ratios against plain transformers, fp32 and bf16")
    parser.add_argument(
        "--violations", type=int, metavar="N",
        help="count rule-breaking replies among N, at temperatures 0.5, 1 and 2")
    parser.add_argument(
        "--seed", type=int, default=0,
        help="of weights, rules and sampling of --violations (default 0)")
    return parser


def main() -> int:
    forgive()
    parser = parser_of_flags()
    args = parser.parse_args()
    if args.threads < 1:
        parser.error(f"--threads must be at least 1, got {args.threads}")
    if args.violations:
        count = violation_study(args.violations, args.seed)
        print(f"replies of {args.violations} that break a rule: {count}")
    if args.speed:
        speed()
    if args.violations or args.speed:
        return 0
    # so that a table that is terminated removes its worktree
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        table(args.against, args.model, args.quick, args.threads, args.rows)
    except DataError as error:
        print(f"bench.py: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
