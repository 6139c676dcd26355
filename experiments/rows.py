"""Which rows there are, and how each is made: weights of the runs, and who chooses the skills.

A row is a `RowSpec`: whose run, which stage of the Expert, which stage of the Customer Service
Agent, and the chooser.  Rows with the same weights form a group, and a group loads them once.
Adding a row is adding a line to a table below (and its name to layout.py)."""
from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from baselines.prompted import by_prompt
from data import Dataset
from experiments.settings import FIXED, SIZES, Settings
from gopo import Gopo, load_gopo
from infra.client import ApiConfig
from judge import Judge
from measure import hosted_gopo
from policies import Choose, by_chance, by_teacher

# --- what a row is ----------------------------------------------------------------------------

class Stage(NamedTuple):
    """Weights that a run left behind.

    file     a file or folder of the run directory
    job      of this job; None: of the row's own job
    partner  of the partner seed, see `partner`
    """
    file: str
    job: str | None = None
    partner: bool = False


EXPERT = Stage("expert.safetensors")
STRATEGY = Stage("strategy.safetensors")
UNTRAINED_EXPERT = Stage("untrained.safetensors")
LM = Stage("csagent")
WARM_LM = Stage("warm_start")
UNTRAINED_LM = Stage("untrained")


class Weights(NamedTuple):
    """What is loaded: the run of a job, with its Expert and its Customer Service Agent."""
    job: str
    expert: Stage = EXPERT
    agent: Stage = LM


class RowSpec(NamedTuple):
    """A row: weights, and who chooses the skills (a key of CHOOSERS)."""
    weights: Weights
    chooser: str = "policy"


class HostedSpec(NamedTuple):
    """A row in which hosted models take the place of one agent of GOPO, or of both."""
    expert: str | None
    cs_agent: str | None


AnySpec = RowSpec | HostedSpec


def row(
    job: str, expert: Stage = EXPERT, agent: Stage = LM, chooser: str = "policy"
) -> RowSpec:
    return RowSpec(Weights(job, expert, agent), chooser)


# --- the tables -------------------------------------------------------------------------------

# Tables 1 and 4 to 7.  An "other" agent is another seed's, trained with another partner.
PAPER_ROWS = {
    "untrained_single": row("single", UNTRAINED_EXPERT, UNTRAINED_LM),
    "single_warm": row("single", UNTRAINED_EXPERT, WARM_LM),
    "untrained_dual": row("base", UNTRAINED_EXPERT, UNTRAINED_LM, "prompted"),
    "warm_start": row("base", UNTRAINED_EXPERT, WARM_LM),
    "strategy": row("base", STRATEGY, WARM_LM),
    "sft": row("sft"),
    "ppo": row("ppo"),
    "memento": row("memento"),
    "imitation": row("imitation"),
    "gopo_tse": row("gopo_tse"),
    "gopo_soft": row("gopo_soft"),
    "gopo_single": row("gopo_single"),
    "gopo_nano": row("gopo_nano"),
    "gopo": row("gopo"),
    "teacher": row("gopo", chooser="teacher"),
    "random": row("gopo", chooser="chance"),
    "ex_prompted": row("gopo", chooser="prompted"),
    "ex_untrained": row("gopo", UNTRAINED_EXPERT),
    "ex_imitation": row("gopo", Stage(EXPERT.file, "imitation")),
    "ex_memento": row("memento", agent=Stage(LM.file, "gopo")),
    "ex_other": row("gopo", Stage(EXPERT.file, "gopo", partner=True)),
    "cs_warm": row("gopo", agent=WARM_LM),
    "cs_untrained": row("gopo", agent=UNTRAINED_LM),
    "cs_imitation": row("gopo", agent=Stage(LM.file, "imitation")),
    "cs_other": row("gopo", agent=Stage(LM.file, "gopo", partner=True)),
}

HACKING_ROWS = {
    "strategy": row("base", STRATEGY, WARM_LM),
    "long": row("long"),
    "strategy_judge": row("long_judge", STRATEGY, WARM_LM),
    "long_judge": row("long_judge"),
}


def warm_rows() -> dict[str, RowSpec]:
    """Before and after the joint steps, for every size of the warm start; then parts less."""
    specs = {}
    for size in SIZES:
        specs[f"before_{size}"] = row(f"warm_{size}", STRATEGY, WARM_LM)
        specs[f"after_{size}"] = row(f"warm_{size}")
    for size in FIXED:
        specs[f"fixed_{size}"] = row(f"fixed_{size}")
    specs["no_9c"] = row("no_9c")
    specs["no_9d"] = row("no_9d")
    specs["before_soft"] = row("warm_soft", STRATEGY, WARM_LM)
    specs["after_soft"] = row("warm_soft")
    return specs


ROWS_OF = {"paper": PAPER_ROWS, "warm_start": warm_rows(), "hacking": HACKING_ROWS}
# Rows that are also measured with the second ear.
TWO_EARS = (
    "gopo",
    "gopo_tse",
    "ppo",
    "memento",
    "imitation",
    "teacher",
    "long",
    "long_judge",
    "strategy",
    "strategy_judge",
)


def partner(seed: int) -> int:
    """The other seed; the same however many seeds there are."""
    return seed - 1 if seed else 1


def hosted_rows(s: Settings) -> dict[str, HostedSpec]:
    """Tables 2, 3, 6 and 7 with a server: its model in the place of one agent, and of both."""
    specs = {}
    if s.cs_agent:
        specs[hosted_name("cs_", s.cs_agent)] = HostedSpec(None, s.cs_agent)
    if s.expert:
        specs[hosted_name("ex_", s.expert)] = HostedSpec(s.expert, None)
    if s.expert and s.expert == s.cs_agent:
        specs[hosted_name("", s.expert)] = HostedSpec(s.expert, s.cs_agent)
    return specs


def hosted_name(place: str, model: str) -> str:
    """A row's name, which becomes part of a file's name.

    >>> hosted_name("cs_", "api:org/Big-1")
    'api_cs_org-Big-1'
    """
    safe = re.sub(r"[^0-9A-Za-z_.]", "-", model.removeprefix("api:"))
    return f"api_{place}{safe}"


def rows(s: Settings) -> dict[str, AnySpec]:
    """All rows of a study; those with a partner's weights need a second seed."""
    specs: dict[str, AnySpec] = {}
    for name, spec in ROWS_OF[s.study].items():
        if s.seeds > 1 or not needs_partner(spec):
            specs[name] = spec
    return specs | hosted_rows(s)


def needs_partner(spec: RowSpec) -> bool:
    return spec.weights.expert.partner or spec.weights.agent.partner


def runs_read(spec: AnySpec, seed: int) -> set[str]:
    """The names of the run directories that a row reads."""
    if isinstance(spec, HostedSpec):
        return {f"gopo-{seed}"}
    weights = spec.weights
    found = {f"{weights.job}-{seed}"}
    for stage in (weights.expert, weights.agent):
        if stage.job:
            found.add(run_of(stage, seed))
    if spec.chooser == "prompted":
        found.add(f"base-{seed}")
    return found


def run_of(stage: Stage, seed: int) -> str:
    """The run directory of a stage that is another run's."""
    return f"{stage.job}-{partner(seed) if stage.partner else seed}"


# --- groups of rows with the same weights -----------------------------------------------------

def grouped(specs: Mapping[str, AnySpec]) -> list[dict[str, AnySpec]]:
    """The rows in groups that need the same weights; a hosted model is a group of its own.

    >>> [list(group) for group in grouped({"a": row("x"), "b": row("y"), "c": row("x")})]
    [['a', 'c'], ['b']]
    """
    groups: dict[Any, dict[str, AnySpec]] = {}
    for name, spec in specs.items():
        key = spec.weights if isinstance(spec, RowSpec) else spec
        groups.setdefault(key, {})[name] = spec
    return list(groups.values())


class Maker:
    """Loads the weights of a seed's rows, and makes their choosers."""

    def __init__(self, s: Settings, seed: int, dataset: Dataset, judge: Judge, api: ApiConfig):
        self.s = s
        self.seed = seed
        self.dataset = dataset
        self.judge = judge
        self.api = api

    def group(self, specs: Mapping[str, AnySpec]) -> Iterable[tuple[str, Gopo, Choose]]:
        """(name, agents, who chooses the skills) of each row; the agents are the same for all."""
        first = next(iter(specs.values()))
        if isinstance(first, HostedSpec):
            for name, spec in specs.items():
                yield name, *self.with_host(spec)
            return
        agents = self.load(first.weights)
        for name, spec in specs.items():
            yield name, agents, self.chooser(spec, agents)

    def load(self, weights: Weights) -> Gopo:
        run = self.s.run(weights.job, self.seed)
        return load_gopo(
            run,
            self.dataset,
            expert=self.path_of(weights.expert),
            agent=self.path_of(weights.agent),
            judge=self.judge,
        )

    def path_of(self, stage: Stage) -> str:
        """A stage seen from the row's own run directory."""
        if not stage.job:
            return stage.file
        return f"../{run_of(stage, self.seed)}/{stage.file}"

    def with_host(self, spec: HostedSpec) -> tuple[Gopo, Choose]:
        run = self.s.run("gopo", self.seed)
        return hosted_gopo(
            run, self.dataset, self.judge, spec.expert, spec.cs_agent, self.api)

    def chooser(self, spec: RowSpec, agents: Gopo) -> Choose:
        return CHOOSERS[spec.chooser](self, spec, agents)

    def policy(self, spec: RowSpec, agents: Gopo) -> Choose:
        return agents.chooser(greedy=True)

    def teacher(self, spec: RowSpec, agents: Gopo) -> Choose:
        return by_teacher

    def chance(self, spec: RowSpec, agents: Gopo) -> Choose:
        return by_chance(list(self.dataset.skills), self.seed)

    def prompted(self, spec: RowSpec, agents: Gopo) -> Choose:
        """The untrained LM of the base is asked for the skills."""
        untrained = agents
        if spec.weights.agent != UNTRAINED_LM:
            untrained = self.load(Weights("base", agent=UNTRAINED_LM))
        return by_prompt(untrained.agent, self.dataset, agents.expert.perception)


CHOOSERS = {
    "policy": Maker.policy,
    "teacher": Maker.teacher,
    "chance": Maker.chance,
    "prompted": Maker.prompted,
}
