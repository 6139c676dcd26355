"""Trains GOPO: `python train.py --dataset mgshop` on a laptop, or on your own logs with `--dataset logs.jsonl`.

Reads like Sec. 3: perceive, choose skills, reply under hard constraints, reward both, update both.  Before the GOPO steps come stages
that are the same for every method: perception learns its labels; the tiny LM is pretrained ("untrained" in the tables) and warm-started;
`--strategy_steps` of GOPO without the LM (phrase book, or no reply on logs) let the Expert, untrained until then, learn its strategy
where a dialogue costs milliseconds.  Ctrl-C or SIGTERM saves and says how to go on."""
from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")      # before torch: two processes on few cores otherwise spin 20-40x slower

import resource
import shutil
import signal
import sys
import time
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Sequence

import torch
from tqdm import tqdm

import data
from data import DataError, Dataset, opt
from eval import evaluate, evaluate_run, print_table
from expert import Expert, ExpertConfig, Perception
from gopo import Gopo, GopoConfig, by_nobody, by_policy, judge_for, load_agent, save_domain, strategy_only
from runs import (Log, adam_state, load_adam_state, load_checkpoint, load_tensors, plot_curves, read_json, read_rows, run_directory, save_checkpoint,
                  save_tensors, versions, write_json)
from warmup import mixed_pairs, slot_names, vocabulary_texts, warm_pairs


@dataclass(frozen=True)
class RunConfig:
    """What is trained, on what, and where it is written."""
    dataset: str = opt("mgshop", "mgshop (simulated shop), multiwoz (real dialogues), or the path of your own logs, logs.jsonl")
    replies: str = opt("lm", "lm: a language model writes them; template: the shop's phrase book does, strategy alone is learned in half a minute")
    steps: int | None = opt(None, "GOPO steps; default 40 with a language model, 300 with template replies")
    strategy_steps: int = opt(300, "GOPO steps of the Expert alone before the language model speaks (replies by phrase book; none on logs); not counted in --steps")
    seed: int = opt(0, "one number seeds everything")
    output_dir: str | None = opt(None, "run directory; default runs/<dataset>-<gopo|alone>-<seed>, numbered if it exists")
    data_dir: str = opt(os.environ.get("GOPO_DATA", "data"), "where corpora are stored and downloaded to; default data, or the environment's GOPO_DATA")
    resume: str | None = opt(None, "go on with this run directory; its config.json is used, of the flags only --steps counts")
    overwrite: bool = opt(False, "replace the run directory if it exists")
    base: str | None = opt(None, "take perception, pretrained and warm-started LM and strategy from this finished run of the same dataset and seed")
    eval_every: int = opt(10, "GOPO steps between evaluations on held-out dev customers; 50 with template replies makes sense")
    eval_episodes: int = opt(100, "test dialogues per row of the table at the end; 0 = no table")
    save_every: int = opt(10, "GOPO steps between checkpoints")
    device: str = opt("auto", "cpu, cuda, or auto")

    def __post_init__(self):
        if self.replies not in ("lm", "template"):
            raise ValueError(f"--replies is lm or template, got {self.replies!r}")
        for name, least in (("steps", 0), ("strategy_steps", 0), ("seed", 0), ("eval_every", 1), ("eval_episodes", 0), ("save_every", 1)):
            if getattr(self, name) is not None and getattr(self, name) < least:
                raise ValueError(f"--{name} must be at least {least}, got {getattr(self, name)}")


def parse(argv: Sequence[str] | None) -> tuple[RunConfig, GopoConfig, ExpertConfig, Any]:
    """Flags -> the four configs.  A typo is an error, never ignored, and no prefix of a flag is accepted."""
    from transformers import HfArgumentParser

    from csagent import AgentConfig
    parser = HfArgumentParser([RunConfig, GopoConfig, ExpertConfig, AgentConfig], allow_abbrev=False, description=__doc__.split("\n\n")[0])
    try:
        return parser.parse_args_into_dataclasses(argv)
    except ValueError as error:
        parser.error(str(error))


# --- stopping -------------------------------------------------------------------------------------------------------------------

class Stop:
    """Ctrl-C or SIGTERM: at once during a stage (it starts again on resume), after the step during GOPO."""

    def __init__(self):
        self.asked, self.wait = False, False
        for name in (signal.SIGINT, signal.SIGTERM):
            signal.signal(name, self._handle)

    def _handle(self, *_: object) -> None:
        if not self.wait or self.asked:
            raise KeyboardInterrupt
        self.asked = True
        tqdm.write("stopping after this step (again to stop at once) ...")


# --- stages before GOPO -----------------------------------------------------------------------------------------------------------

def stage(run: Path, name: str, make) -> None:
    """Runs `make(folder)` once; the folder appears when the stage is complete, so a killed stage starts again."""
    folder, part = run / name, run / f"{name}.part"
    if folder.exists():
        return
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir()
    make(part)
    os.replace(part, folder)


def prepare_expert(run: Path, dataset: Dataset, cfg: ExpertConfig, seed: int, device: str) -> Expert:
    """Perception learns u_t and e_t; the policy starts untrained."""
    torch.manual_seed(seed)
    expert = Expert(list(dataset.skills), Perception(dataset.intents, dataset.emotions), cfg).to(device)
    path = run / "untrained.safetensors"
    if path.exists():
        expert.load_state_dict(load_tensors(path))
        return expert
    accuracy = expert.perception.fit(dataset, seed=seed)
    if accuracy:
        print("perception, accuracy on test utterances: " + ", ".join(f"{k} {v:.2f}" for k, v in accuracy.items()))
    save_tensors(expert.state_dict(), path)
    return expert


def prepare_agent(run: Path, dataset: Dataset, config: dict) -> Any:
    """Pretraining (tiny only) and warm start: supervised, the same for every method, over before GOPO begins."""
    from csagent import AgentConfig, CustomerServiceAgent, load_model
    cfg, seed, alone = AgentConfig(**config["agent"]), config["run"]["seed"], config["gopo"]["no_expert"]

    def pretrain(folder: Path) -> None:
        model, tokenizer = load_model(cfg.model, vocabulary_texts(dataset), slot_names(dataset), seed)
        agent = CustomerServiceAgent(model, tokenizer, dataset.skills, dataset.must_not_say, cfg, config["device"], config["precision"])
        if cfg.model == "tiny" and cfg.pretrain_steps:
            agent.supervised(mixed_pairs(dataset, cfg.sft_batch * cfg.pretrain_steps, seed, alone), cfg.pretrain_steps, seed=seed, progress="pretraining on talk of mixed quality")
        agent.save(folder)

    def warm(folder: Path) -> None:
        agent = load_agent(run / "untrained", dataset, config)
        dev = warm_pairs(dataset.dev, alone)[:256] or None
        before = agent.dev_loss(dev) if dev else None
        result = agent.supervised(warm_pairs(dataset.train, alone), cfg.warm_steps, seed=seed + 1, dev=dev, progress="warm start on the training replies") if cfg.warm_steps else {}
        if "dev_loss" in result:
            print(f"warm start: dev loss {before:.3f} -> {result['dev_loss']:.3f} nats per token")
        agent.save(folder)

    stage(run, "untrained", pretrain)
    stage(run, "warm_start", warm)
    agent = load_agent(run / "warm_start", dataset, config)
    agent.freeze_embedding([reply for _, reply in warm_pairs(dataset.train, alone)])
    return agent


def prepare_strategy(run: Path, gopo: Gopo, steps: int, seed: int) -> None:
    """GOPO of the Expert alone, where dialogues are cheap; rows go to strategy.jsonl."""
    path = run / "strategy.safetensors"
    if path.exists():
        gopo.expert.load_state_dict(load_tensors(path))
        return
    alone, log = strategy_only(gopo), Log(run / "strategy.jsonl")
    with tqdm(range(1, steps + 1), desc="strategy: the Expert alone", unit="step") as bar:
        for step in bar:
            row, _ = alone.step(step, seed, stage=1)
            log.write(row)
            bar.set_postfix(R_E=f"{row['r_expert']:.2f}" if row["r_expert"] is not None else "—", refresh=False)
    save_tensors(gopo.expert.state_dict(), path)


# --- GOPO ---------------------------------------------------------------------------------------------------------------------------

def parts_of(gopo: Gopo) -> dict[str, dict[str, torch.Tensor]]:
    """Everything a checkpoint must hold; randomness belongs to (seed, step), so there is no generator to save."""
    parts = {"expert": gopo.expert.state_dict(), "expert_adam": adam_state(gopo.learner.optimiser)}
    if gopo.agent:
        parts |= {"agent": trainable(gopo.agent), "agent_adam": gopo.agent.optimizer_state()}
    return parts


def trainable(agent) -> dict[str, torch.Tensor]:
    return {name: p.detach() for name, p in agent.model.named_parameters() if p.requires_grad}


def restore(gopo: Gopo, parts: dict[str, dict[str, torch.Tensor]]) -> None:
    gopo.expert.load_state_dict(parts["expert"])
    load_adam_state(gopo.learner.optimiser, parts["expert_adam"])
    if gopo.agent:
        gopo.agent.model.load_state_dict(parts["agent"], strict=False)
        gopo.agent.load_optimizer_state(parts["agent_adam"])


def train(run: Path, gopo: Gopo, cfg: RunConfig, steps: int, stop: Stop) -> int:
    """The loop of Sec. 3.1 and 3.3.  Returns the last step done."""
    found = load_checkpoint(run)
    start = found[0] if found else 0
    if found:
        restore(gopo, found[1])
    log = Log(run / "metrics.jsonl", start)
    evaluations = Log(run / "evals.jsonl", start)
    alarms, stop.wait = Alarms(), True
    done = start
    with tqdm(total=steps, initial=start, desc="GOPO", unit="step") as bar:
        for done in range(start + 1, steps + 1):
            clock = time.perf_counter()
            row, played = gopo.step(done, cfg.seed)                      # Sec. 3.1, Eqs. 2-6, 8, 10; then Eq. 7 and Eqs. 9a-9d
            log.write(row)
            for alarm in alarms(row):
                tqdm.write(f"alarm at step {done}: {alarm}")
            with open(run / "timing.jsonl", "a", encoding="utf-8") as f:
                f.write(f'{{"step": {done}, "seconds": {time.perf_counter() - clock:.3f}}}\n')
            bar.update()
            bar.set_postfix({k: f"{row[k]:.2f}" for k in ("reward", "tse") if row[k] is not None}, refresh=False)
            if done % cfg.eval_every == 0 or done == steps:
                tqdm.write(evaluate_dev(gopo, done, evaluations, cfg.seed))
            if done % cfg.save_every == 0 or done == steps or stop.asked:
                save_checkpoint(run, done, parts_of(gopo))
                write_samples(run, done, gopo, played)
            if stop.asked:
                break
    stop.wait = False
    return done if steps > start else start


def evaluate_dev(gopo: Gopo, step: int, log: Log, seed: int) -> str:
    """One line on held-out dev customers, most probable skills and tokens."""
    choose = by_nobody if gopo.cfg.no_expert else by_policy(gopo.expert, greedy=True)
    row, _ = evaluate(gopo, choose, 40, seed, split="dev", label=f"step {step}", with_bleu=False)
    means = {m: row[m]["mean"] for m in ("tse", "success", "turns", "esndcg", "f1", "length", "r_cs", "gre", "violations")}
    log.write({"step": step} | means)
    return f"step {step}, dev: " + "  ".join(f"{m} {v:.3f}" for m, v in means.items() if v is not None)


class Alarms:
    """What goes wrong silently: a judge's score without variance within groups, an Expert without entropy, an LM whose entropy runs away."""

    def __init__(self, patience: int = 20):
        self.patience, self.runs, self.first = patience, {}, None

    def __call__(self, row: dict[str, Any]) -> list[str]:
        entropy = row.get("entropy")
        self.first = self.first or entropy
        signs = {f"{k} has been 0 for {self.patience} steps: this score no longer tells replies apart": row[k] < 1e-6
                 for k in row if k.startswith("std_") and row[k] is not None}
        if row.get("entropy_expert") is not None:
            signs[f"entropy_expert below 0.05 nats for {self.patience} steps: the Expert no longer explores, raise --alpha"] = row["entropy_expert"] < 0.05
        raised = [text for text, bad in signs.items() if self._count(text, bad) == self.patience]
        if entropy and self._count("runaway", entropy > 4 * self.first) == 1:
            raised.append(f"the LM's entropy rose from {self.first:.2f} to {entropy:.2f} nats: lower --lambda_d or --agent_lr")
        return raised

    def _count(self, sign: str, bad: bool) -> int:
        self.runs[sign] = self.runs.get(sign, 0) + 1 if bad else 0
        return self.runs[sign]


def write_samples(run: Path, step: int, gopo: Gopo, played: list) -> None:
    """Two training dialogues of this step with skills, rewards and their parts, for reading."""
    import json
    with open(run / "dialogues.jsonl", "a", encoding="utf-8") as f:
        for e in played[:2]:
            turns = [{"user": s.state.user, "perceived": s.perceived, "skills": s.skills, "teacher": s.teacher, "reply": s.replies[0].text, "context": s.request.context,
                      "R_E": s.r_expert(gopo.expert.cfg.skill_cost), "S": s.scores[0], "R_A": s.r_cs()[0], "R_t": r} for s, r in zip(e.steps, gopo.rewards(e, ending=False))]
            f.write(json.dumps({"step": step, "dialogue": e.number, "success": e.seen.info["success"], "turns": turns}, ensure_ascii=False) + "\n")


# --- main -----------------------------------------------------------------------------------------------------------------------------

def resolve(cfg: RunConfig, gopo: GopoConfig, expert: ExpertConfig, agent) -> tuple[Path, dict]:
    """The run directory and its config: exactly what is used, written once, read again on resume."""
    if cfg.resume:
        run = Path(cfg.resume)
        config = read_json(run / "config.json")
        if cfg.steps is not None:
            config["run"]["steps"] = cfg.steps
            write_json(run / "config.json", config)
        return run, config
    from csagent import pick_precision
    device = ("cuda" if torch.cuda.is_available() else "cpu") if cfg.device == "auto" else cfg.device
    run = run_directory(cfg.output_dir, f"{Path(cfg.dataset).stem}-{'alone' if gopo.no_expert else 'gopo'}-{cfg.seed}", cfg.overwrite)
    chosen = asdict(cfg) | {"steps": cfg.steps if cfg.steps is not None else (40 if cfg.replies == "lm" else 300), "resume": None, "overwrite": False}
    config = {"run": chosen, "gopo": asdict(gopo), "expert": asdict(expert), "agent": asdict(agent), "device": device,
              "precision": pick_precision(device), "threads": torch.get_num_threads(), "versions": versions()}
    write_json(run / "config.json", config)
    if cfg.base:
        take_base(Path(cfg.base), run, config)
    return run, config


def take_base(base: Path, run: Path, config: dict) -> None:
    theirs = read_json(base / "config.json")
    for key in ("dataset", "seed", "replies"):
        if theirs["run"][key] != config["run"][key]:
            raise DataError(f"--base {base} was trained with --{key} {theirs['run'][key]}, this run has {config['run'][key]}")
    for name in ("untrained.safetensors", "strategy.safetensors", "untrained", "warm_start"):
        if (base / name).is_dir():
            shutil.copytree(base / name, run / name)
        elif (base / name).exists():
            shutil.copy2(base / name, run / name)


def check(dataset: Dataset, cfg: dict) -> None:
    turns = [t for d in dataset.train for t in d.turns]
    if not any(t.skills for t in turns) and not cfg["gopo"]["no_expert"]:
        raise DataError(f"{dataset.name}: no turn has skills, so the Expert has nothing to learn from: label them (field \"skills\"), or use --no_expert")
    if not any(t.reply for t in turns) and cfg["run"]["replies"] == "lm":
        print(f"{dataset.name}: no turn has a reply, so there is nothing for a language model to learn: training the Expert alone")
        cfg["run"]["replies"] = "template"
    if cfg["run"]["replies"] == "template" and cfg["gopo"]["no_expert"]:
        raise DataError("--no_expert with --replies template leaves nothing to train")


def execute(run: Path, config: dict, stop: Stop) -> int:
    cfg = RunConfig(**config["run"])
    dataset = data.load(cfg.dataset, cfg.data_dir)
    check(dataset, config)
    write_json(run / "config.json", config)
    cfg = RunConfig(**config["run"])
    print(f"{dataset.note}\nrun: {run}   device {config['device']}, {config['precision']}, {config['threads']} threads")
    torch.set_num_threads(config["threads"])
    save_domain(dataset, run / "dataset.json")
    expert_cfg, gopo_cfg = ExpertConfig(**config["expert"]), GopoConfig(**config["gopo"])
    expert = prepare_expert(run, dataset, expert_cfg, cfg.seed, config["device"])
    agent = prepare_agent(run, dataset, config) if cfg.replies == "lm" else None
    gopo = Gopo(dataset, expert, agent, judge_for(dataset), gopo_cfg)
    if agent and not gopo_cfg.no_expert and cfg.strategy_steps:
        prepare_strategy(run, gopo, cfg.strategy_steps, cfg.seed)
    done = train(run, gopo, cfg, cfg.steps, stop)
    save_tensors(expert.state_dict(), run / "expert.safetensors")
    if agent:
        stage_again(run, agent)
    plot_curves(read_rows(run / "metrics.jsonl"), read_rows(run / "evals.jsonl"), run / "curves.png", run.name)
    if done < cfg.steps:
        print(f"stopped at step {done} of {cfg.steps}; go on with: python train.py --resume {run}")
        return 0
    finish(run, dataset, cfg)
    return 0


def stage_again(run: Path, agent) -> None:
    """csagent/ replaced as a whole."""
    part, folder = run / "csagent.part", run / "csagent"
    shutil.rmtree(part, ignore_errors=True)
    agent.save(part)
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(part, folder)


def finish(run: Path, dataset: Dataset, cfg: RunConfig) -> None:
    """The table, the paths, and what to do next."""
    if cfg.eval_episodes:
        table = evaluate_run(run, dataset, cfg.eval_episodes, cfg.seed)
        write_json(run / "results.json", table)
        print(f"\n{cfg.eval_episodes} test dialogues, the same for every row, most probable skills and tokens:")
        print_table(table, dataset.environment is not None)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2 ** 20
    print(f"\nwritten to {run}: config.json metrics.jsonl curves.png dialogues.jsonl expert.safetensors" + (" csagent/" if cfg.replies == "lm" else "")
          + f"   (peak memory {peak:.1f} GiB)\nnext:  python eval.py --run {run} --show 1\n       python eval.py --run {run} --chat")


def main(argv: Sequence[str] | None = None) -> int:
    cfg, gopo, expert, agent = parse(argv)
    stop, run = Stop(), None
    try:
        run, config = resolve(cfg, gopo, expert, agent)
        return execute(run, config, stop)
    except KeyboardInterrupt:
        print(f"\nstopped; go on with: python train.py --resume {run}" if run else "\nstopped before anything was written")
        return 0
    except FloatingPointError as error:
        print(f"train.py: {error}. The last checkpoint in {run}/checkpoint is untouched; go on from it with other settings", file=sys.stderr)
        return 3
    except (DataError, OSError, ValueError) as error:
        print(f"train.py: {error}" + (f" (run directory {run})" if run and isinstance(error, OSError) else ""), file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
