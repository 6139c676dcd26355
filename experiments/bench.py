"""Two measurements of the Customer Service Agent: speed against plain transformers, and what the hard constraint is worth.

Speeds are ratios of one interleaved run, for machines are noisy; nothing here is a test.
Try it:  python bench.py --speed                sampling against `transformers.generate`, update against a plain padded fp32 step
         python bench.py --violations 20000     replies of a randomly initialised model under random rules, hard and soft"""
from __future__ import annotations

import argparse
import random
import re
import time

import torch
from tqdm import tqdm

from csagent import SLOTS, CustomerServiceAgent, demo_agent
from data import Request, Skill
from lm.constraints import violations
from lm.models import pick_precision


def speed(rounds: int = 7) -> None:
    """Median ratios of one interleaved run: 8 states x 8 replies x 48 tokens, random tiny model, against plain transformers in fp32."""
    agent, chance = demo_agent(max_new_tokens=48, group=8), torch.Generator().manual_seed(0)
    requests = [Request("I ordered a lamp some days ago. " * (2 + i % 3) + "Where is it?", ("soothe",), dict.fromkeys(SLOTS, "30")) for i in range(8)]
    prompts = [agent.prompt(r) for r in requests for _ in range(8)]
    width = max(map(len, prompts))
    padded = torch.tensor([[0] * (width - len(p)) + p for p in prompts])
    seen = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts])
    replies = agent.generate(requests, 8, generator=chance)
    flat = [r for group in replies for r in group]
    said = torch.tensor([r.ids + [0] * (48 - len(r.ids)) for r in flat])
    weight = torch.tensor([r.mask + [False] * (48 - len(r.mask)) for r in flat])

    def plain_generate():
        return agent.model.generate(input_ids=padded, attention_mask=seen, do_sample=True, top_k=0, max_new_tokens=48, min_new_tokens=48)

    def plain_update() -> None:                                                      # whole sequences, all logits, the same terms
        agent.optimizer.zero_grad()
        for k in (slice(i, i + 16) for i in range(0, 64, 16)):
            mask = torch.cat([seen[k], torch.ones_like(said[k])], 1)
            logp = agent.model(input_ids=torch.cat([padded[k], said[k]], 1), attention_mask=mask).logits.log_softmax(-1)
            entropy = -(logp.exp() * logp)[:, width - 1:-1].sum(-1)
            (-(logp[:, width - 1:-1].gather(-1, said[k, :, None])[..., 0] * weight[k]).mean() - .01 * entropy.mean()).backward()
        agent.optimizer.step()

    def here(precision: str, update: bool) -> None:
        agent.precision = precision
        if update:
            agent.update(requests, replies, [[i / 8 for i in range(8)]] * 8)
        else:
            agent.generate(requests, 8, generator=chance)

    tasks = {"generate, transformers fp32": plain_generate,
             "generate, here fp32": lambda: here("fp32", False), "generate, here bf16": lambda: here("bf16", False),
             "update, plain fp32": plain_update, "update, here fp32": lambda: here("fp32", True), "update, here bf16": lambda: here("bf16", True)}
    times: dict[str, list[float]] = {name: [] for name in tasks}
    for _ in range(rounds + 1):
        for name, task in tasks.items():
            start = time.perf_counter()
            task()
            times[name].append(time.perf_counter() - start)
    median = {name: sorted(seconds[1:])[rounds // 2] for name, seconds in times.items()}                    # the first round warms up
    for name, seconds in median.items():
        plain = median["update, plain fp32" if "update" in name else "generate, transformers fp32"]
        print(f"{name:30} {1000 * seconds:8.1f} ms   {plain / seconds:5.2f}x")
    print(f"{width} prompt tokens at most, {int(weight.sum())} drawn; start-up probe: {pick_precision()}")


def random_request(agent: CustomerServiceAgent, rng: random.Random, number: int) -> Request:
    """A turn under random rules: phrases cut from the model's own tokens, case and spaces shuffled, and from Chinese characters."""
    def phrase(parts: int) -> str:
        words = [rng.choice(agent.vocab.pieces).decode("utf-8", "ignore") for _ in range(parts)] + [rng.choice(["", "", *"很抱歉您的包裹"])]
        text = re.sub(r"[{}]|<\|.*?\|>", "", (" " * rng.randrange(2)).join(words))
        return text.swapcase() if rng.random() < .5 else text

    bans = [p for p in (phrase(rng.randint(1, 2)) for _ in range(rng.randrange(12))) if any(c.isalnum() for c in p)]
    name = f"random{number}"
    agent.skills[name] = Skill(name, must_not_say=tuple(bans), must_say=tuple(f"Note {phrase(1)}" for _ in range(rng.randrange(3))))
    return Request("Hello?", (name,), dict.fromkeys(rng.sample(SLOTS, rng.randrange(len(SLOTS))), "1"))


def violation_study(n: int, seed: int) -> dict[str, int]:
    """Replies of n that break a rule, with random weights and random rules: once hard, once soft."""
    count = {"hard": 0, "soft": 0}
    for mode in count:
        agent, rng, chance = demo_agent(seed=seed, constraints=mode), random.Random(seed), torch.Generator().manual_seed(seed)
        for start in tqdm(range(0, n, 256), desc=mode):
            requests = [random_request(agent, rng, i) for i in range(-(-min(256, n - start) // 4))]
            replies = agent.generate(requests, 4, temperature=rng.choice([0.5, 1.0, 2.0]), generator=chance)
            count[mode] += sum(bool(violations(r.text, agent.constraints(q))) for q, group in zip(requests, replies) for r in group)
    return count


def main() -> None:
    parser = argparse.ArgumentParser(description="Speed and constraint measurements with a random tiny model.", allow_abbrev=False)
    parser.add_argument("--speed", action="store_true", help="ratios against plain transformers, fp32 and bf16")
    parser.add_argument("--violations", type=int, metavar="N", help="count rule-breaking replies among N, at temperatures 0.5, 1 and 2")
    parser.add_argument("--seed", type=int, default=0, help="of weights, rules and sampling (default 0)")
    args = parser.parse_args()
    if args.violations:
        print(f"replies of {args.violations} that break a rule: {violation_study(args.violations, args.seed)}")
    if args.speed or not args.violations:
        speed()


if __name__ == "__main__":
    main()
