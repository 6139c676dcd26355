"""Trains GOPO: `python train.py --dataset mgshop` on a laptop, or on your own logs with `--dataset logs.jsonl`.

Reads like Sec. 3: perceive, choose skills, reply under hard constraints, reward both, update both.  Before the GOPO steps come stages
that are the same for every method: perception learns its labels; the tiny LM is pretrained ("untrained" in the tables) and warm-started;
`--strategy_steps` of GOPO without the LM (phrase book, or no reply on logs) let the Expert, untrained until then, learn its strategy
where a dialogue costs milliseconds.  Ctrl-C or SIGTERM saves and says how to go on; a stage begun before the GOPO steps starts again."""
from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")      # before torch: two processes on few cores otherwise spin 20-40x slower
if os.environ.get("RANK", "0") != "0":
    os.environ["TQDM_DISABLE"] = "1"                     # before tqdm: of several processes one shows its progress

import contextlib
import json
import resource
import signal
import sys
import time
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Sequence

import torch
from tqdm import tqdm

import data
from data import DataError, Dataset, opt
from expert import ExpertConfig
from gopo import ALGORITHMS, Gopo, GopoConfig, algorithm, algorithm_of
from hosted.judge import LLMJudge, hosted_model, judge_for
from infra.client import ApiConfig, ApiError
from infra.curves import plot_curves
from infra.domain import save_domain
from infra.files import read_json, write_json
from infra.processes import any_process, barrier, broadcast, is_main, join, leave
from infra.runs import Alarms, Log, alone_in, load_checkpoint, read_rows, run_directory, save_checkpoint, save_tensors, versions
from judge import Judge
from lm.config import BUILT, AgentConfig, LMConfig, WarmConfig, configs_of
from measure import evaluate, evaluate_run, training_row
from show import print_table
from start.stages import check_base, prepare_agent, prepare_expert, prepare_strategy, replace_folder, take_base


@dataclass(frozen=True)
class RunConfig:
    """What is trained, on what, and where it is written."""
    algo: str = opt("gopo", f"how is learned: {', '.join(ALGORITHMS)}; sft and ppo are single agents, without an Expert (baselines.py)")
    dataset: str = opt("mgshop", "mgshop (simulated shop), multiwoz or star (real dialogues), or the path of your own logs, logs.jsonl")
    replies: str = opt("lm", "lm: a language model writes them; template: the shop's phrase book does, strategy alone is learned in about a minute")
    steps: int | None = opt(None, "GOPO steps; default 25 with a language model, 300 with template replies")
    strategy_steps: int = opt(300, "GOPO steps of the Expert alone, before the language model speaks (phrase book; no reply on logs); not part of --steps")
    seed: int = opt(0, "one number seeds everything")
    output_dir: str | None = opt(None, "run directory; default runs/<dataset>-<algo>-<seed>, numbered if it exists")
    data_dir: str = opt(os.environ.get("GOPO_DATA", "data"), "where corpora are stored and downloaded to; default data, or the environment's GOPO_DATA")
    conduct: bool = opt(False, "multiwoz only: EmoWOZ 2.0's labels of the system's tone as skills; CC BY-NC 4.0, not for commercial use")
    judge: str = opt("rules", "who scores replies (Eq. 8): rules, or api:MODEL, a model of the server at --api_base")
    split: str | None = opt(None, "star only: dialogue (default), or task: the test tasks are none of the training ones")
    resume: str | None = opt(None, "go on with this run directory; its config.json is used, of the flags only --steps and those of the API count")
    overwrite: bool = opt(False, "replace the run directory if it exists")
    base: str | None = opt(None, "take from this finished run of the same dataset and seed perception, pretrained and warm-started LM and strategy, as far as "
                                  "this run would learn them in the same way; it says what it leaves")
    eval_every: int | None = opt(None, "GOPO steps between evaluations on held-out dev customers; default 10, or 50 with template replies")
    eval_episodes: int = opt(100, "test dialogues per row of the table at the end; 0 = no table")
    save_every: int | None = opt(None, "GOPO steps between checkpoints; default 10, or 50 with template replies")
    device: str = opt("auto", "cpu, cuda, or auto")
    precision: str = opt("auto", "fp32, bf16, or auto: bf16 where a probe at the start finds it clearly faster")

    def __post_init__(self):
        if self.algo not in ALGORITHMS:
            raise ValueError(f"--algo is one of {', '.join(ALGORITHMS)}, got {self.algo!r}")
        if self.replies not in ("lm", "template"):
            raise ValueError(f"--replies is lm or template, got {self.replies!r}")
        if self.device not in ("cpu", "cuda", "auto") or self.precision not in ("fp32", "bf16", "auto"):
            raise ValueError(f"--device is cpu, cuda or auto and --precision fp32, bf16 or auto, got {self.device!r}, {self.precision!r}")
        if self.judge != "rules":
            hosted_model(self.judge, "--judge", "rules")
        for name, least in (("steps", 0), ("strategy_steps", 0), ("seed", 0), ("eval_every", 1), ("eval_episodes", 0), ("save_every", 1)):
            if getattr(self, name) is not None and getattr(self, name) < least:
                raise ValueError(f"--{name} must be at least {least}, got {getattr(self, name)}")


def parse(argv: Sequence[str] | None) -> tuple[RunConfig, GopoConfig, ExpertConfig, LMConfig, AgentConfig, WarmConfig, ApiConfig, Any]:
    """Flags -> the seven configs and the options of the algorithm.  A typo is an error, never ignored, and no prefix of a flag is accepted."""
    from transformers import HfArgumentParser

    options = [a.Options for a in map(algorithm, ALGORITHMS) if a.Options]
    parser = HfArgumentParser([RunConfig, GopoConfig, ExpertConfig, LMConfig, AgentConfig, WarmConfig, ApiConfig, *options], allow_abbrev=False,
                              description=__doc__.split("\n\n")[0])
    try:
        configs = parser.parse_args_into_dataclasses(argv)
    except ValueError as error:
        parser.error(str(error))
    run, gopo, method = configs[0], configs[1], algorithm(configs[0].algo)
    for given in configs[7:]:
        if not isinstance(given, method.Options or ()) and given != type(given)():
            changed = next(f.name for f in fields(given) if getattr(given, f.name) != f.default)
            parser.error(f"--{changed} is none of --algo {run.algo}'s flags")
    if method.single:
        configs = (run, replace(gopo, no_expert=True), *configs[2:])
    return *configs[:7], next((given for given in configs[7:] if isinstance(given, method.Options or ())), None)


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


# --- GOPO ---------------------------------------------------------------------------------------------------------------------------

def train(run: Path, gopo: Gopo, cfg: RunConfig, steps: int, stop: Stop) -> int:
    """The loop of Sec. 3.1 and 3.3.  Returns the last step done."""
    barrier()
    found = load_checkpoint(run)
    start = found[0] if found else 0
    if found:
        gopo.restore(found[1])
    log = Log(run / "metrics.jsonl", start)
    evaluations, timings = Log(run / "evals.jsonl", start), Log(run / "timing.jsonl", start)
    alarms, stop.wait = Alarms(), True
    done = start
    with tqdm(total=steps, initial=start, desc="GOPO", unit="step") as bar:
        for done in range(start + 1, steps + 1):
            clock = time.perf_counter()
            try:
                played, learned = gopo.step(done, cfg.seed)              # Sec. 3.1, Eqs. 2-6, 8, 10; then Eq. 7 and Eqs. 9a-9d
                row = training_row(done, gopo, played, learned)
            except FloatingPointError as error:
                raise FloatingPointError(f"step {done}: {error}") from error
            except ApiError:                                             # raised while playing: nothing has been learned from this step
                if is_main() and done - 1 > start:
                    save_checkpoint(run, done - 1, gopo.parts())
                raise
            log.write(row)
            ending = any_process(stop.asked)                                  # the signal may reach one process a step later than another
            if is_main():
                for alarm in alarms(row):
                    tqdm.write(f"alarm at step {done}: {alarm}")
                timings.write({"step": done, "seconds": round(time.perf_counter() - clock, 3)})
                if done % cfg.save_every == 0 or done == steps or ending:
                    save_checkpoint(run, done, gopo.parts())             # before a judge is asked, who may refuse
                    write_samples(run, done, gopo, played)
                if done % cfg.eval_every == 0 or done == steps:
                    tqdm.write(evaluate_dev(gopo, done, evaluations))
            barrier()
            bar.update()
            bar.set_postfix({k: f"{row[k]:.2f}" for k in ("reward", "tse", "loss") if row.get(k) is not None}, refresh=False)
            if ending:
                break
    stop.wait = False
    return done


def evaluate_dev(gopo: Gopo, step: int, log: Log) -> str:
    """One line on held-out dev customers, most probable skills and tokens."""
    row, _ = evaluate(gopo, gopo.chooser(greedy=True), 40, 0, split="dev", label=f"step {step}", with_bleu=False, forms=("gre",))
    means = {m: row[m]["mean"] for m in ("tse", "success", "turns", "esndcg", "f1", "length", "r_cs", "gre", "violations", "reply_words", "distinct_2",
                                              "repeated", "vouchers")}
    log.write({"step": step} | means)
    return f"step {step}, dev: " + "  ".join(f"{m} {v:.3f}" for m, v in means.items() if v is not None)


def write_samples(run: Path, step: int, gopo: Gopo, played: list) -> None:
    """Two training dialogues of this step with skills, rewards and their parts, for reading."""
    with open(run / "dialogues.jsonl", "a", encoding="utf-8") as f:
        for e in played[:2]:
            turns = [{"user": s.state.user, "perceived": s.perceived, "skills": s.skills, "teacher": s.teacher, "reply": s.replies[0].text,
                      "context": s.seen.context, "R_E": s.R_E, "S": s.scores[0], "R_A": s.R_A[0], "R_t": s.R_t} for s in e.steps]
            f.write(json.dumps({"step": step, "dialogue": e.number, "success": e.seen.outcome.success, "turns": turns}, ensure_ascii=False) + "\n")


# --- main -----------------------------------------------------------------------------------------------------------------------------

LARGE = 1 << 30                                  # bytes of weights from which training needs a GPU
DEFAULTS = {"lm": {"steps": 25, "eval_every": 10, "save_every": 10}, "template": {"steps": 300, "eval_every": 50, "save_every": 50}}


def resolve(cfg: RunConfig, gopo: GopoConfig, expert: ExpertConfig, lm: LMConfig, agent: AgentConfig, warm: WarmConfig, api: ApiConfig, options: Any) -> tuple[Path, dict, Dataset]:
    """The run directory, its config (exactly what is used, written once, read again on resume) and the data."""
    if cfg.resume:
        run = Path(cfg.resume)
        config = read_json(run / "config.json")
        changed = {name: value for name, value in asdict(api).items() if value != getattr(ApiConfig(), name)}      # a server may have moved
        config["api"] = config.get("api", {}) | changed                  # older runs have none
        if cfg.steps is not None:
            config["run"]["steps"] = cfg.steps
        if cfg.steps is not None or changed:
            write_json(run / "config.json", config)
        if (base := config["run"]["base"]) and Path(base).exists():      # it may have been stopped while it took them over
            take_base(Path(base), run, check_base(Path(base), config))
        return run, config, data.load_used(config["run"])
    if cfg.device == "cuda" and not torch.cuda.is_available():
        raise DataError("--device cuda: PyTorch finds no GPU here; take --device cpu, or a PyTorch built for your GPU")
    dataset = data.load_used(asdict(cfg))
    judge_for(dataset, cfg.judge, api)                                   # refuses what cannot be asked before anything is trained
    replies = replies_of(dataset, cfg, gopo)
    from lm.models import pick_precision
    device = ("cuda" if torch.cuda.is_available() else "cpu") if cfg.device == "auto" else cfg.device
    chosen = asdict(cfg) | {"resume": None, "overwrite": False, "replies": replies}
    chosen |= {name: value for name, value in DEFAULTS[replies].items() if chosen[name] is None}
    config = {"run": chosen, "gopo": asdict(gopo), "expert": asdict(expert), "lm": asdict(lm),
              "agent": asdict(agent.settled_for(lm.model)), "warm": asdict(warm.settled_for(lm.model)), "api": asdict(api),
              "options": asdict(options) if options else None, "device": device,
              "precision": pick_precision(device) if cfg.precision == "auto" else cfg.precision, "threads": torch.get_num_threads(), "versions": versions()}
    if replies == "lm" and lm.model not in BUILT:
        print(memory_table(dataset, config))
    shared = check_base(Path(cfg.base), config) if cfg.base else ()
    if cfg.base:                                                         # the probe may answer differently on a busy machine
        config["precision"] = read_json(Path(cfg.base) / "config.json")["precision"]
    name = "alone" if cfg.algo == "gopo" and gopo.no_expert else cfg.algo
    run = run_directory(cfg.output_dir, f"{Path(cfg.dataset).stem}-{name}-{cfg.seed}", cfg.overwrite, cfg.base)
    write_json(run / "config.json", config)
    if cfg.base:
        take_base(Path(cfg.base), run, shared)
    return run, config, dataset


def memory_table(dataset: Dataset, config: dict) -> str:
    """What QLoRA of this model will need beside what is free, and what each flag would save if that is too little."""
    from lm.memory import Setting, estimate, free_memory, load_config, savings, table
    (lm, agent, warm), device = configs_of(config), config["device"]
    shape, turns = load_config(lm.model), [t for d in dataset.train for t in d.turns]        # refuses what cannot be trained
    prompt = lm.user_tokens + max((len(str(t.context)) for t in turns), default=0) // 3 + 256           # three letters a token; 256 for skills and template
    reply = max((len(t.reply or "") for t in turns), default=0) // 3
    setting = Setting(shape, lm, agent, warm, config["gopo"]["dialogues"] or 16, prompt, config["precision"], device)
    try:
        needed = estimate(setting)
    except DataError as error:
        return f"memory: {error}"
    if device == "cpu" and config["run"]["device"] == "auto" and needed.phases["update"]["weights"] > LARGE:
        raise DataError(f"--model {lm.model}: no GPU found, and on a CPU one step of a model of this size takes hours; add --device cpu if you mean it")
    free = free_memory(device)
    told = table(needed, free)
    if free is not None and needed.total > free:
        told += "\n" + savings(setting)
    longer = f"\nthe longest training reply has about {reply} tokens, more than --max_new_tokens {lm.max_new_tokens}: the warm start needs more than this"
    return told + longer * (reply > lm.max_new_tokens and warm.warm_steps > 0)


def resolve_together(*configs: Any) -> tuple[Path, dict, Dataset]:
    """Of several processes the first resolves, and the others read what it wrote; if it refuses, all stop."""
    found = None
    try:
        found = resolve(*configs) if is_main() else None
    finally:
        run = broadcast(str(found[0]) if found else "")
    if found:
        return found
    if not run:
        raise SystemExit(2)                                              # the first process said why
    sys.stdout = open(os.devnull, "w")                                   # one process speaks
    config = read_json(Path(run) / "config.json")
    return Path(run), config, data.load_used(config["run"])


def replies_of(dataset: Dataset, cfg: RunConfig, gopo: GopoConfig) -> str:
    """lm or template, as far as the data allows; says what it does not allow."""
    turns = [t for d in dataset.train for t in d.turns]
    if not any(t.skills for t in turns) and not gopo.no_expert:
        raise DataError(f"{dataset.name}: no turn has skills, so the Expert has nothing to learn from: label them (python data.py label "
                        f"{cfg.dataset} --help), or use --no_expert")
    replies = cfg.replies
    if replies == "lm" and not any(t.reply for t in turns):
        print(f"{dataset.name}: no turn has a reply, so there is nothing for a language model to learn: training the Expert alone")
        replies = "template"
    if replies == "template" and gopo.no_expert:
        raise DataError("without an Expert (--no_expert, --algo sft, ppo) and without a language model nothing is left to train")
    return replies


def execute(run: Path, config: dict, dataset: Dataset, stop: Stop) -> int:
    cfg = RunConfig(**config["run"])
    print(f"{dataset.note or dataset.name}\nrun: {run}   device {config['device']}, {config['precision']}, {config['threads']} threads")
    torch.set_num_threads(config["threads"])
    if is_main():
        save_domain(dataset, run / "dataset.json")
    expert_cfg, gopo_cfg = ExpertConfig(**config["expert"]), GopoConfig(**config["gopo"])
    method, options = algorithm_of(config)
    expert = prepare_expert(run, dataset, method, expert_cfg, options, cfg.seed, config["device"])
    agent = prepare_agent(run, dataset, config) if cfg.replies == "lm" else None
    judge = judge_for(dataset, cfg.judge, ApiConfig(**config.get("api", {})))
    gopo = method(dataset, expert, agent, judge, gopo_cfg, options=options)
    if agent and not gopo_cfg.no_expert and cfg.strategy_steps:
        prepare_strategy(run, gopo, cfg.strategy_steps, cfg.seed)
    done = train(run, gopo, cfg, cfg.steps, stop)
    if agent:
        replace_folder(run / "csagent", agent.save)
    leave()                                                               # one process is enough for the table
    if not is_main():
        return 0
    save_tensors(expert.state_dict(), run / "expert.safetensors")
    plot_curves(read_rows(run / "metrics.jsonl"), read_rows(run / "evals.jsonl"), run / "curves.png", run.name)
    del gopo, agent, expert                                              # the table reads its rows from the run directory
    if done < cfg.steps:
        print(f"stopped at step {done} of {cfg.steps}; go on with: python train.py --resume {run}")
    else:
        finish(run, dataset, cfg, judge)
    return 0


def finish(run: Path, dataset: Dataset, cfg: RunConfig, judge: Judge) -> None:
    """The table, the paths, and what to do next."""
    if cfg.eval_episodes:
        table = evaluate_run(run, dataset, cfg.eval_episodes, 0, judge)          # seed 0: the same customers whatever was trained
        write_json(run / "results.json", table)
        total = cfg.eval_episodes if dataset.environment else min(cfg.eval_episodes, len(dataset.test))
        print(f"\n{total} test dialogues, the same for every row, most probable skills and tokens:")
        print_table(table, dataset.environment is not None, judge, rewarded=True)
    if isinstance(judge, LLMJudge):
        print(f"judge: {judge.client.report()}")
    peak = torch.cuda.max_memory_allocated() / 2 ** 30 if torch.cuda.is_available() else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2 ** 20
    print(f"\nwritten to {run}: config.json metrics.jsonl curves.png dialogues.jsonl expert.safetensors" + (" csagent/" if cfg.replies == "lm" else "")
          + f"   (peak memory {peak:.1f} GiB)\nnext:  python eval.py --run {run} --show 1\n       python eval.py --run {run} --chat")


def main(argv: Sequence[str] | None = None) -> int:
    configs = parse(argv)
    cfg, stop, run = configs[0], Stop(), None
    try:
        device = read_json(Path(cfg.resume) / "config.json")["device"] if cfg.resume else cfg.device
        join("cuda" if device != "cpu" and torch.cuda.is_available() else "cpu")
        run, config, dataset = resolve_together(*configs)
        with alone_in(run) if is_main() else contextlib.nullcontext():
            return execute(run, config, dataset, stop)
    except KeyboardInterrupt:
        print(f"\nstopped; go on with: python train.py --resume {run}" if run else "\nstopped before anything was written")
        return 0
    except FloatingPointError as error:
        print(f"train.py: {error}. Checkpoints in {run}/checkpoint are untouched: lower expert_lr or agent_lr in {run}/config.json "
              f"and go on with --resume {run}", file=sys.stderr)
        return 3
    except ApiError as error:
        print(f"train.py: {error}" + (f"\ngo on with: python train.py --resume {run}; no answered request is sent again" if run else ""), file=sys.stderr)
        return 2
    except torch.OutOfMemoryError as error:
        print(f"train.py: out of memory ({str(error).splitlines()[0]}); lower --micro_batch, --group, --max_new_tokens or --dialogues, or take a smaller "
              f"--model; python memory.py says how much each saves. Checkpoints in {run}/checkpoint are untouched", file=sys.stderr)
        return 2
    except (DataError, OSError, ValueError) as error:
        print(f"train.py: {error}" + (f" (run directory {run})" if run and isinstance(error, OSError) else ""), file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
