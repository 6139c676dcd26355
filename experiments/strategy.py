"""What GOPO is compared with: supervised fine-tuning, imitation, a prompted Expert; and what strategy alone is worth, without a language model.

The algorithms here override one method of `Gopo` each and share everything else: rollout, judge, stages, checkpoints, evaluation.
(PPO and Memento have files of their own.)  `python train.py --algo sft` trains one; `python eval.py --paper` all of them.

Run by itself, this file compares strategies alone: on the simulated shop the phrase book writes every reply; on logs nothing is said, for
the next state ignores it.  The rows: random, most frequent sequence, best constant five, imitation (cross-entropy on the teacher's
sequences: offline on the logged states; on-policy on the states the Expert itself reaches), Memento, and GOPO with R^E only, with the
joint reward of Eq. 10, and with terminal TSE.
"Without stop" lets the same supervised Expert never stop before the fifth skill: ESNDCG as printed does not charge for that (GAP-2).
Try it:  python baselines.py --dataset mgshop --seeds 1
         python baselines.py --dataset multiwoz --seeds 3 --json results.json"""
from __future__ import annotations

import argparse
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

import data
from baselines.imitation import imitate_offline
from data import MAX_SKILLS, DataError, Dataset
from expert import ExpertConfig
from gopo import Gopo, GopoConfig, algorithm
from hosted.judge import judge_for
from infra.files import read_json, write_json
from measure import evaluate
from policies import Choose, by_chance, by_policy, by_teacher
from rewards import esndcg
from start.pairs import labelled_states

SHOWN = ("tse", "I_1", "I_2", "I_3", "N_1", "N_2", "N_3", "turns", "success", "esndcg", "f1", "exact", "length", "vouchers")


# --- algorithms ---------------------------------------------------------------------------------------------------------------


# --- strategy alone -----------------------------------------------------------------------------------------------------------

def by_constant(skills: Sequence[str]) -> Choose:
    return lambda states, episodes: [tuple(skills)] * len(states)


def most_frequent(dataset: Dataset) -> tuple[str, ...]:
    """The teacher's most frequent sequence on the training split."""
    return Counter(t for _, t in labelled_states(dataset.train)).most_common(1)[0][0]


def best_constant(dataset: Dataset) -> tuple[str, ...]:
    """The five skills that, said every turn, score the highest ESNDCG on the training split; greedy, position by position."""
    teachers, chosen = Counter(t for _, t in labelled_states(dataset.train)), ()
    for _ in range(min(MAX_SKILLS, len(dataset.skills))):
        rest = [s for s in dataset.skills if s not in chosen]
        chosen = max(((*chosen, s) for s in rest), key=lambda p: sum(n * esndcg(p, t) for t, n in teachers.items()))
    return chosen


def fresh(dataset: Dataset, seed: int, algo: str = "gopo", **rewards: object) -> Gopo:
    """An untrained policy with trained perception, and no language model."""
    torch.manual_seed(seed)
    method = algorithm(algo)
    options = method.Options() if method.Options else None
    policy = method.new_policy(dataset, ExpertConfig(), options)
    policy.perception.fit(dataset, seed=seed)
    method.prepare_policy(policy, dataset)
    return method(dataset, policy, None, judge_for(dataset), GopoConfig(**rewards), options=options)


def learn(gopo: Gopo, seed: int, steps: int, name: str) -> Gopo:
    for step in tqdm(range(1, steps + 1), desc=name, leave=False):
        gopo.step(step, seed)
    return gopo


def rows(dataset: Dataset, steps: int) -> dict[str, Callable[[int], tuple[Gopo, Choose]]]:
    """Row name -> how a seed of it is made: (agents, who chooses)."""
    greedy = lambda g, **how: (g, by_policy(g.expert, greedy=True, **how))
    supervised = cache(lambda seed: imitate_offline(fresh(dataset, seed), seed))         # one Expert, asked with and without its stop
    plain = lambda choose: lambda seed: (fresh(dataset, seed), choose(seed))
    table = {"random": plain(lambda seed: by_chance(list(dataset.skills), seed))}
    if dataset.environment:
        table["teacher"] = plain(lambda seed: by_teacher)
    if hasattr(dataset, "sops"):                 # STAR comes with the flow charts its agents were given
        from corpora.sop import by_sop
        table["SOP graph"] = plain(lambda seed: by_sop(dataset))
    table |= {
        "most frequent sequence": plain(lambda seed: by_constant(most_frequent(dataset))),
        "best constant five": plain(lambda seed: by_constant(best_constant(dataset))),
        "imitation, offline": lambda seed: greedy(supervised(seed)),
        "imitation, offline, without stop": lambda seed: greedy(supervised(seed), stops=False),
    }
    if dataset.environment:
        table["imitation, on-policy"] = lambda seed: greedy(learn(fresh(dataset, seed, "imitation"), seed, steps, "imitation, on-policy"))
        table["Memento"] = lambda seed: (gopo := learn(fresh(dataset, seed, "memento"), seed, steps, "Memento"), gopo.chooser(greedy=True))
        table["GOPO, R^E only"] = lambda seed: greedy(learn(fresh(dataset, seed, reward="expert"), seed, steps, "GOPO, R^E only"))
        table["GOPO, R^A only"] = lambda seed: greedy(learn(fresh(dataset, seed, reward="cs"), seed, steps, "GOPO, R^A only"))
        table["GOPO, joint (Eq. 10)"] = lambda seed: greedy(learn(fresh(dataset, seed), seed, steps, "GOPO, joint"))
        table["GOPO, joint, from imitation"] = lambda seed: greedy(learn(imitate_offline(fresh(dataset, seed), seed), seed, steps, "GOPO, from imitation"))
        table["GOPO, joint + terminal TSE"] = lambda seed: greedy(learn(fresh(dataset, seed, outcome_weight=1.0), seed, steps, "GOPO, joint + TSE"))
    else:
        table["GOPO (R^E; replayed logs)"] = lambda seed: greedy(learn(fresh(dataset, seed), seed, steps, "GOPO"))
    return table


def study(dataset: Dataset, seeds: int, steps: int, episodes: int, only: Sequence[str], path: Path | None) -> dict[str, dict]:
    """All rows over training seeds; the test customers are the same throughout (seed 0)."""
    results: dict[str, dict] = read_json(path) if path and path.exists() else {}          # rows of an earlier call stay
    for name, make in rows(dataset, steps).items():
        if only and not any(o in name for o in only):
            continue
        runs, clock = [], time.perf_counter()
        for seed in range(seeds if name not in ("teacher", "most frequent sequence", "best constant five", "SOP graph") else 1):
            gopo, choose = make(seed)
            row, _ = evaluate(gopo, choose, episodes, 0, label=f"{name}, seed {seed}", with_bleu=False)
            runs.append({m: row[m]["mean"] for m in SHOWN})
        results[name] = {m: summary([r[m] for r in runs]) for m in SHOWN} | {"seconds": (time.perf_counter() - clock) / len(runs)}
        tqdm.write(line(name, results[name]))
        if path:
            write_json(path, results)
    return results


def summary(values: Sequence[float | None]) -> dict[str, float | list | None]:
    known = [v for v in values if v is not None]
    return {"mean": float(np.mean(known)) if known else None, "std": float(np.std(known, ddof=1)) if len(known) > 1 else None, "seeds": list(values)}


def line(name: str, row: dict) -> str:
    def cell(metric: str) -> str:
        value = row[metric]
        return "—" if value["mean"] is None else f"{value['mean']:.3f}" + (f"±{value['std']:.3f}" if value["std"] is not None else "")
    return f"{name:34s} " + "  ".join(f"{m} {cell(m)}" for m in SHOWN if row[m]["mean"] is not None) + f"  ({row['seconds']:.0f} s a seed)"


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Simple policies, imitation and GOPO over skills, without a language model.", allow_abbrev=False)
    parser.add_argument("--dataset", default="mgshop", help="mgshop, multiwoz, star, or the path of your logs (default mgshop)")
    parser.add_argument("--split", help="star only: dialogue, or task (the test tasks are none of the training ones)")
    parser.add_argument("--data_dir", default=os.environ.get("GOPO_DATA", "data"), help="where corpora lie (default data, or GOPO_DATA)")
    parser.add_argument("--seeds", type=int, default=1, help="training seeds 0, 1, ... (default 1)")
    parser.add_argument("--steps", type=int, default=300, help="GOPO steps, and steps of on-policy imitation (default 300)")
    parser.add_argument("--episodes", type=int, default=200, help="test dialogues per row and seed (default 200)")
    parser.add_argument("--rows", nargs="*", default=(), help="only rows whose name contains one of these words")
    parser.add_argument("--json", type=Path, help="also write the table to this file, after every row")
    args = parser.parse_args(argv)
    if min(args.seeds, args.steps, args.episodes) < 1:
        parser.error("--seeds, --steps and --episodes must be at least 1")
    try:
        dataset = data.load(args.dataset, args.data_dir, split=args.split)
        if not labelled_states(dataset.train):
            raise DataError(f"{dataset.name}: no turn has skills, there is no strategy to compare")
        print(f"{dataset.note}\ntest dialogues {args.episodes}, training seeds {args.seeds}, mean±std over seeds")
        study(dataset, args.seeds, args.steps, args.episodes, args.rows, args.json)
    except (DataError, OSError) as error:
        print(f"baselines.py: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nstopped", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
