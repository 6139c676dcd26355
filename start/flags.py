"""The flags of train.py, one for each field of some config classes.

Nothing here needs torch until the flags are known to be sound: what --help says, and a flag that is
refused, need not wait for it."""
from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from config import ALGORITHMS, OPTIONS, ExpertConfig, GopoConfig
from data import opt
from infra.api import ApiConfig, hosted_model
from infra.flags import (
    DEVICES,
    REPORTS,
    FlagParser,
    given,
    parse,
    parser_of,
    refuse_below,
    refuse_other_words,
)
from lm.config import AgentConfig, LMConfig, WarmConfig

DEV = 40                                         # customers of a look at held-out dialogues
LIKELIHOOD = "likelihood"                        # the judge of start/own_judge.py


@dataclass(frozen=True)
class RunConfig:
    """What is trained, on what, and where it is written."""
    algo: str = opt(
        "gopo", f"how is learned: {', '.join(ALGORITHMS)}; sft, ppo and dpo are single agents, "
        "without an Expert (baselines/); cmpo serves under a budget, more has several rewards "
        "(systems/)")
    dataset: str = opt(
        "mgshop", "mgshop, tmallbrand-a, tmallbrand-b, fds or sale (simulated), multiwoz or star "
        "(real dialogues), or your own: logs.jsonl, shop.json (docs/shop.md), or a function that "
        "returns a data.Dataset, package.module:function")
    replies: str = opt(
        "lm", "lm: a language model writes them; template: the shop's phrase book does, and "
        "strategy alone is learned in minutes")
    steps: int | None = opt(
        None, "GOPO steps; default 25 with a language model, 60 with template replies; with --algo "
        "cmpo 30 and 300, with more and dpo 100")
    strategy_steps: int = opt(
        60, "GOPO steps of the Expert alone, before the language model speaks (phrase book; no "
        "reply on logs); not part of --steps")
    seed: int = opt(0, "one number seeds everything")
    output_dir: str | None = opt(
        None, "run directory; default runs/<dataset>-<algo>-<seed>, numbered if it exists")
    data_dir: str = opt(
        os.environ.get("GOPO_DATA", "data"), "where corpora are stored and downloaded to; default "
        "data, or the environment's GOPO_DATA")
    conduct: bool = opt(
        False, "multiwoz only: EmoWOZ 2.0's labels of the system's tone as skills; CC BY-NC 4.0, "
        "not for commercial use")
    judge: str = opt(
        "rules", "who scores replies (Eq. 8): rules; likelihood, the rules with S_1 by the "
        "warm-started model; or api:MODEL, a model of the server at --api_base")
    split: str | None = opt(
        None, "star only: dialogue (default), or task: the test tasks are none of the training "
        "ones")
    difficulty: str | None = opt(
        None, "fds only: hard (default) or easy, the mix of its customers")
    warm_generosity: float | None = opt(
        None, "fds only: share of the customers to whom the planner of the logs, blind to cost, "
        "gives a voucher that is worth anything, in [0, 1]; default .48: V of the logs is then "
        "about .45, as that of the paper's SFT")
    sale_rates: str | None = opt(
        None, "sale only: clean (3.65 k percent, which a small model can learn) or paper (3.6 to "
        "23.9, two decimals to compute); default clean for tiny and nano, paper for others")
    woz_slots: str | None = opt(
        None, "multiwoz only: which annotated values become slots of a reply: known (of "
        "B_t) or every (all, so that imitation can reach what people reached); default every, "
        "known with template replies")
    resume: str | None = opt(
        None, "go on with this run directory; its config.json is used, of the flags only --steps "
        "and those of the API count")
    overwrite: bool = opt(False, "replace the run directory if it exists")
    base: str | None = opt(
        None, "take from this finished run of the same dataset and seed perception, pretrained and "
        "warm-started LM and strategy, as far as this run would learn them in the same way; it "
        "says what it leaves")
    eval_every: int | None = opt(
        None, "GOPO steps between evaluations on held-out dev customers; default 10, 50 with "
        "--algo more, dpo, or cmpo with template replies")
    dev_episodes: int = opt(DEV, "held-out dev customers of such an evaluation")
    eval_episodes: int = opt(
        100, "test dialogues per row of the table at the end; 0 = no table")
    save_every: int | None = opt(
        None, "GOPO steps between checkpoints; default 10, 50 with --algo cmpo and template "
        "replies, 20 with more and dpo")
    report_to: str = opt(
        "none", "tensorboard or trackio: watch the run there too, with two dialogues a step; "
        "needs the package of this name")
    device: str = opt(
        "auto", "cpu, cuda, mps (Apple's GPU; guarded, but never tried), or auto: cuda where there "
        "is one, else cpu")
    precision: str = opt(
        "auto", "fp32, bf16, or auto: bf16 where the GPU or the CPU (avx512_bf16, amx_bf16) "
        "computes in it")

    def __post_init__(self):
        if self.algo not in ALGORITHMS:
            raise ValueError(f"--algo is one of {', '.join(ALGORITHMS)}, got {self.algo!r}")
        if self.replies not in ("lm", "template"):
            raise ValueError(f"--replies is lm or template, got {self.replies!r}")
        if self.device not in DEVICES or self.precision not in ("fp32", "bf16", "auto"):
            raise ValueError(
                f"--device is one of {', '.join(DEVICES)} and --precision fp32, bf16 or auto, "
                f"got {self.device!r}, {self.precision!r}")
        if self.judge not in ("rules", LIKELIHOOD):
            hosted_model(self.judge, "--judge", f"rules or {LIKELIHOOD}")
        generosity = self.warm_generosity
        if generosity is not None and not 0 <= generosity <= 1:
            raise ValueError(f"--warm_generosity must lie in [0, 1], got {generosity}")
        refuse_other_words(self, {"report_to": REPORTS})
        least = {"steps": 0, "strategy_steps": 0, "seed": 0, "eval_every": 1, "dev_episodes": 1,
                 "eval_episodes": 0, "save_every": 1}
        refuse_below(self, least)


# --- flags --------------------------------------------------------------------------------------

@dataclass(frozen=True)
class Configs:
    """All flags of a training run."""
    run: RunConfig
    gopo: GopoConfig
    expert: ExpertConfig
    lm: LMConfig
    agent: AgentConfig
    warm: WarmConfig
    api: ApiConfig
    options: Any = None                          # the algorithm's own
    given: frozenset[str] = frozenset()          # names of the flags that were given


PARTS = ("run", "gopo", "expert", "lm", "agent", "warm", "api")
SHARED = (RunConfig, GopoConfig, ExpertConfig, LMConfig, AgentConfig, WarmConfig, ApiConfig)


def options_of(name: str) -> type | None:
    """The config class of an algorithm's own flags; None if it has none."""
    if name not in OPTIONS:
        return None
    module, _, found = OPTIONS[name].partition(":")
    return getattr(importlib.import_module(module), found)


def parser_for(description: str) -> FlagParser:
    """The parser of all flags, those of every algorithm included."""
    return parser_of([*SHARED, *map(options_of, OPTIONS)], description)


def refuse_early(description: str) -> None:
    """Prints what --help says, or refuses a flag, before anything heavy is imported."""
    parse(parser_for(description), sys.argv[1:])


def parse_flags(argv: Sequence[str] | None, description: str) -> Configs:
    """Flags -> configs.  A flag of another algorithm is refused, whatever its value."""
    # imported here: the algorithms need torch
    from gopo import algorithm
    argv = sys.argv[1:] if argv is None else list(argv)
    parser = parser_for(description)
    found = parse(parser, argv)
    configs = Configs(*found[:len(SHARED)])
    method, own = algorithm(configs.run.algo), options_of(configs.run.algo)
    for options in found[len(SHARED):]:
        foreign = given(type(options), argv)
        if type(options) is own:
            configs = replace(configs, options=options)
        elif foreign:
            parser.error(f"{foreign} is none of --algo {configs.run.algo}'s flags")
    refused = unread(method, argv)
    if refused:
        parser.error(f"--algo {configs.run.algo} does not read {refused}")
    configs = replace(configs, given=frozenset(map(field_of, argv)))
    if method.single or (method.decides and configs.run.replies == "lm"):
        configs = replace(configs, gopo=replace(configs.gopo, no_expert=True))
    return configs


def unread(method: type, argv: Sequence[str]) -> str | None:
    """The first flag on the command line that the algorithm would pass over, and its cure."""
    for word in argv:
        name = field_of(word)
        if word.startswith("--") and name in method.unread:
            return f"--{name}: {method.unread[name]}"
    return None


def field_of(word: str) -> str:
    """The field that a word of the command line names.

    >>> field_of("--sft-lr=0.1")
    'sft_lr'
    """
    return word.partition("=")[0].removeprefix("--").replace("-", "_")
