"""The stages before the GOPO steps: perception, pretraining, warm start, strategy.

They are the same for every method.  Each leaves a file or a folder in the run directory, which
appears when the stage is complete.  A stage that was killed starts again; a finished one is read
back.  `--base` copies them from another run (base.py): methods are compared from one start."""
from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from data import Dataset
from expert import Expert, ExpertConfig
from gopo import Gopo, algorithm_of, decides, strategy_only
from infra.files import whole_folder
from infra.processes import barrier, is_main, main_says
from infra.progress import bar
from infra.runs import (
    Log,
    adam_state,
    load_adam_state,
    load_into,
    load_tensors,
    refuse_ruined,
    save_tensors,
    system_errors,
)
from infra.watch import SILENT, Watch, watch
from lm.config import BUILT, WarmConfig, configs_of
from measure import evaluate, training_row
from start.flags import DEV
from start.laptop import tell_duration
from start.pairs import Pair, mixed_pairs, slot_names, unfound_pairs, vocabulary_texts, warm_pairs
from start.warm_expert import warm_expert

if TYPE_CHECKING:
    from csagent import CustomerServiceAgent

LOOKED_AT = (
    "tse", "success", "turns", "esndcg", "f1", "length", "r_cs", "gre", "violations", "reply_words",
    "distinct_2", "repeated", "vouchers",
)
STRATEGY_LOOKS = 10                              # looks in the strategy stage


def replace_folder(folder: Path, make: Callable[[Path], None]) -> None:
    """`make(folder)`, but a half-written folder never bears the name.

    Of several processes the first writes and the others wait.
    """
    if is_main():
        with whole_folder(folder) as part, system_errors(folder):
            make(part)
    barrier()


def look(gopo: Gopo, step: int, log: Log, customers: int) -> str:
    """One line on held-out dev customers, with the most probable skills and tokens; also logged."""
    row, _ = evaluate(
        gopo, gopo.chooser(greedy=True), customers, 0, split="dev", label=f"step {step}",
        with_bleu=False, forms=("gre",))
    means = {key: row[key]["mean"] for key in LOOKED_AT}
    log.write({"step": step} | means)
    shown = [f"{key} {value:.3f}" for key, value in means.items() if value is not None]
    return f"step {step}, dev: " + "  ".join(shown)


# --- perception, and an untrained policy --------------------------------------------------------

def prepare_expert(
    run: Path, dataset: Dataset, method: type[Gopo], cfg: ExpertConfig, options: Any, seed: int,
    device: str,
) -> Expert:
    """Perception learns u_t and e_t; the policy starts untrained."""
    torch.manual_seed(seed)
    expert = method.new_policy(dataset, cfg, options).to(device)
    path = run / "untrained.safetensors"
    if is_main() and not path.exists():
        accuracy = expert.perception.fit(dataset, seed=seed, hidden=cfg.hide_ngrams)
        if accuracy:
            shares = ", ".join(f"{label} {share:.2f}" for label, share in accuracy.items())
            print(f"perception, accuracy on test utterances: {shares}")
        method.prepare_policy(expert, dataset)
        refuse_ruined(expert.state_dict(), "perception", "hide_ngrams")
        save_tensors(expert.state_dict(), path)
    barrier()
    load_into(expert, load_tensors(path), str(path))
    return expert


def prepare_warm_expert(run: Path, gopo: Gopo, seed: int) -> None:
    """The policy imitates the logs; perception stays as it is."""
    if not gopo.warms or gopo.cfg.no_expert or not gopo.expert.cfg.expert_warm:
        return
    path = run / "warm_expert.safetensors"
    if not main_says(path.exists()):
        # every process learns, for its steps are theirs in common
        score = warm_expert(gopo.expert, gopo.dataset, seed)
        if is_main():
            refuse_ruined(gopo.expert.state_dict(), "the Expert's warm start", "expert_warm")
            print(f"warm start of the Expert: ESNDCG {score:.3f} on dev turns of the logs")
            save_tensors(gopo.expert.state_dict(), path)
        barrier()
    load_into(gopo.expert, load_tensors(path), str(path))


# --- the language model -------------------------------------------------------------------------
# What it needs is imported where it is used: transformers takes seconds, a strategy needs it not.

def prepare_agent(run: Path, dataset: Dataset, config: dict) -> CustomerServiceAgent:
    """Pretraining (of a model built here) and warm start: supervised, over before GOPO."""
    from csagent import load_agent
    from start.supervised import supervised
    seed = config["run"]["seed"]
    warm = configs_of(config)[2]
    history_turns = config["expert"]["history"] if config["gopo"]["no_expert"] else None
    agent = None                                 # what was just made is used as it is
    if not main_says((run / "untrained").exists()):
        agent = new_agent(dataset, config)
        if agent.lm.model in BUILT and warm.pretrain_steps:
            count = warm.sft_batch * warm.pretrain_steps
            pairs = mixed_pairs(dataset, count, seed, history_turns, decides(config))
            supervised(
                agent, pairs, warm.pretrain_steps, warm, seed=seed,
                progress="pretraining")
        save_agent(agent, run / "untrained", "pretraining")
    if not main_says((run / "warm_start").exists()):
        agent = agent or load_agent(run / "untrained", dataset, config)
        logs = dataset.train[:warm.warm_dialogues]
        read = warm_pairs(logs, history_turns, decides(config))
        dev = warm_pairs(dataset.dev, history_turns, decides(config)) or read
        unfound = unfound_pairs(dataset, read, seed)
        method, options = algorithm_of(config)
        further = method.more_pairs(dataset, read, options, seed)
        tell_duration(agent, read, config)
        warm_start(
            agent, read + unfound + further, dev[:warm.dev_pairs], warm, seed + 1)
        save_agent(agent, run / "warm_start", "the warm start")
    agent = agent or load_agent(run / "warm_start", dataset, config)
    agent.freeze_embedding([reply for _, reply in warm_pairs(dataset.train, history_turns)])
    return agent


def save_agent(agent: CustomerServiceAgent, folder: Path, stage: str) -> None:
    weights = {name: p.detach() for name, p in agent.model.named_parameters() if p.requires_grad}
    refuse_ruined(weights, f"the language model after {stage}", "sft_lr")
    replace_folder(folder, agent.save)


def new_agent(dataset: Dataset, config: dict) -> CustomerServiceAgent:
    """The model before any training here: built, or loaded, with an adapter that is still idle."""
    from csagent import CustomerServiceAgent
    from lm.deciding import TAGS
    from lm.models import load_model, with_adapter
    lm, cfg, _ = configs_of(config)
    seed, precision, device = config["run"]["seed"], config["precision"], config["device"]
    tags = TAGS if decides(config) else ()
    model, tokenizer = load_model(
        lm.model, vocabulary_texts(dataset), slot_names(dataset), seed, lm.quantise, precision,
        device, frozen=lm.lora_rank > 0, tags=tags)
    if lm.lora_rank:
        model = with_adapter(model, lm.lora_rank, seed)
    agent = CustomerServiceAgent(
        model, tokenizer, dataset.skills, dataset.must_not_say, cfg, lm, device, precision)
    return agent.showing(dataset.train)


def warm_start(
    agent: CustomerServiceAgent, pairs: list[Pair], dev: list[Pair], warm: WarmConfig, seed: int
) -> None:
    """Cross-entropy on the training split's own replies; nothing where there is nothing to read."""
    if not warm.warm_steps or not pairs:
        return
    from start.supervised import dev_loss, supervised
    before = dev_loss(agent, dev, warm)
    result = supervised(
        agent, pairs, warm.warm_steps, warm, seed=seed, dev=dev,
        progress="warm start of the LM")
    print(f"warm start: dev loss {before:.3f} -> {result['dev_loss']:.3f} nats per token")


# --- the strategy -------------------------------------------------------------------------------

def prepare_strategy(
    run: Path, gopo: Gopo, steps: int, seed: int, report_to: str = "none"
) -> None:
    """GOPO of the Expert alone, where dialogues are cheap.  Its Adam goes on into the joint steps.

    Rows go to strategy.jsonl, looks at dev customers to strategy_evals.jsonl.
    """
    path = run / "strategy.safetensors"
    adam = run / "strategy_adam.safetensors"
    if main_says(path.exists()):
        load_into(gopo.expert, load_tensors(path), str(path))
        load_adam_state(gopo.learner.optimiser, load_tensors(adam))
        return
    reporter = watch(report_to, run, "strategy")
    learn_strategy(run, strategy_only(gopo), steps, seed, reporter)
    reporter.close()
    refuse_ruined(gopo.expert.state_dict(), "the Expert after the strategy stage", "expert_lr")
    if is_main():
        # Adam's state first, for `path` marks the stage as complete.
        save_tensors(adam_state(gopo.learner.optimiser), adam)
        save_tensors(gopo.expert.state_dict(), path)
    barrier()


def learn_strategy(
    run: Path, gopo: Gopo, steps: int, seed: int, reporter: Watch = SILENT
) -> None:
    """The steps of the strategy stage."""
    log = Log(run / "strategy.jsonl", also=reporter.rows("strategy"))
    looks = Log(run / "strategy_evals.jsonl", also=reporter.rows("strategy_dev"))
    every = max(1, steps // STRATEGY_LOOKS)
    with bar("strategy", steps) as shown:
        for step in range(1, steps + 1):
            played, learned = gopo.step(step, seed, stage=1)
            row = training_row(step, gopo, played, learned)
            reporter.dialogues("strategy", step, played)
            log.write(row)
            if row["r_expert"] is not None:
                shown.set_postfix(R_E=f"{row['r_expert']:.2f}", refresh=False)
            if is_main() and (step % every == 0 or step == steps):
                look(gopo, step, looks, DEV)
            barrier()
            shown.update()
