"""Two measurements of the Customer Service Agent: its speed, and what the hard constraint is worth.

Speeds are ratios of one interleaved run, for machines are noisy; nothing here is a test.
Try it:  python -m experiments.bench --speed               sampling against `transformers.generate`,
                                                           update against a plain padded fp32 step
         python -m experiments.bench --violations 20000    replies of a randomly initialised model
                                                           under random rules, hard and soft"""
from __future__ import annotations

import argparse
import random
import re
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from tqdm import tqdm

from csagent import SLOTS, CustomerServiceAgent, demo_agent
from data import Prepared, Reply, Request, Skill
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


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Speed and constraint measurements with a random tiny model.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--speed", action="store_true", help="ratios against plain transformers, fp32 and bf16"
    )
    parser.add_argument(
        "--violations", type=int, metavar="N",
        help="count rule-breaking replies among N, at temperatures 0.5, 1 and 2",
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="of weights, rules and sampling (default 0)"
    )
    args = parser.parse_args()
    if args.violations:
        count = violation_study(args.violations, args.seed)
        print(f"replies of {args.violations} that break a rule: {count}")
    if args.speed or not args.violations:
        speed()


if __name__ == "__main__":
    main()
