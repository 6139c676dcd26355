"""The rows of the table of speed: what bench.py asks a process to do, once a line of its input.

The process stands in the folder of some state of this project, ours or an older one, and this file
is all that it has of ours.  Therefore modules are looked up by the names that they have or had
(`module`), and nothing is asked of them that older ones cannot do.
The teacher chooses the skills wherever a language model speaks.  So both states of the code play
the same dialogues, whatever their Experts are like."""
from __future__ import annotations

import importlib
import json
import os
import sys
import time
from functools import cached_property
from types import ModuleType
from typing import Any

GROUP = 8                                        # replies to a state, of the fixed batch
LENGTH = 48                                      # tokens of each of its replies
BATCH = 64                                       # replies of a supervised step


def module(*names: str) -> ModuleType:
    """The first of these modules that this state of the code has."""
    for name in names[:-1]:
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name not in (name, name.partition(".")[0]):
                raise
    return importlib.import_module(names[-1])


class Rows:
    """A row is a method: it does its work once and says how many units that was.

    language_model  folder of a trained `tiny`, as train.py saves it in csagent/
    customers       how many are evaluated
    """

    def __init__(self, language_model: str, customers: int):
        self.language_model = language_model
        self.customers = customers
        self.number = 0
        self.by_teacher = module("policies", "gopo").by_teacher

    @cached_property
    def shop(self) -> Any:
        return module("data").load("mgshop")

    @cached_property
    def pairs(self) -> list:
        return module("start.pairs", "warmup").warm_pairs(self.shop.train)

    # --- what is measured -----------------------------------------------------------------------

    @cached_property
    def agent(self) -> Any:
        """The Customer Service Agent that the joint and the supervised steps go on training."""
        return self.new_agent()

    def new_agent(self) -> Any:
        """The Customer Service Agent as it was taught, with its default settings, in fp32."""
        from transformers import AutoModelForCausalLM, AutoTokenizer
        model = AutoModelForCausalLM.from_pretrained(self.language_model)
        tokenizer = AutoTokenizer.from_pretrained(self.language_model)
        agent = module("csagent").CustomerServiceAgent(
            model, tokenizer, self.shop.skills, self.shop.must_not_say)
        agent.freeze_embedding([reply for _, reply in self.pairs])
        return agent

    def gopo_of(self, agent: Any, **settings: Any) -> Any:
        """GOPO with an Expert that is untrained; `settings` that it does not know are left out."""
        gopo = module("gopo")
        config = module("expert").ExpertConfig
        known = {name: x for name, x in settings.items() if name in config.__dataclass_fields__}
        expert = gopo.Gopo.new_policy(self.shop, config(**known), None)
        judge = gopo.judge_for(self.shop)
        return gopo.Gopo(self.shop, expert, agent, judge, gopo.GopoConfig())

    @cached_property
    def gopo(self) -> Any:
        made = self.gopo_of(self.agent)
        made.practises = False                   # no slips: the teacher chooses
        made.chooser = lambda *_, **__: self.by_teacher
        return made

    @cached_property
    def measured(self) -> Any:
        """Agents that nothing trains: both states of the code meet the same turns."""
        return self.gopo_of(self.new_agent())

    @cached_property
    def strategy(self) -> Any:
        """The strategy stage: the policy chooses, and then what the teacher would is played."""
        made = self.gopo_of(None, expert_epochs=1)
        made.size = 128
        choosing = made.chooser

        def chooser(*given: Any, **named: Any):
            choose = choosing(*given, **named)

            def both(states: list, episodes: list) -> list:
                choose(states, episodes)
                return self.by_teacher(states, episodes)

            return both

        made.chooser = chooser
        return made

    @cached_property
    def fixed(self) -> tuple:
        """An untrained agent, requests, and its replies: a batch that is always the same."""
        import torch
        csagent, request = module("csagent"), module("data").Request
        agent = csagent.demo_agent(max_new_tokens=LENGTH, group=GROUP)
        agent.ends = set()                       # so that every reply has LENGTH tokens
        requests = []
        for i in range(8):
            user = "I ordered a lamp some days ago. " * (2 + i % 3) + "Where is it?"
            requests.append(request(user, ("soothe",), dict.fromkeys(csagent.SLOTS, "30")))
        chance = torch.Generator().manual_seed(0)
        return agent, requests, agent.generate(requests, GROUP, generator=chance)

    # --- the rows -------------------------------------------------------------------------------

    def _step(self, gopo: Any, **named: Any) -> tuple[dict, list]:
        """The numbers of a step, and what was played; once they were returned the other way."""
        self.number += 1
        one, other = gopo.step(self.number, 0, **named)
        return (one, other) if isinstance(one, dict) else (other, one)

    def joint_16(self) -> int:
        self.gopo.size = 16
        return self._step(self.gopo)[0]["tokens"]

    def joint_64(self) -> int:
        self.gopo.size = 64
        return self._step(self.gopo)[0]["tokens"]

    def sampling(self) -> int:
        import torch
        agent, requests, _ = self.fixed
        agent.generate(requests, GROUP, generator=torch.Generator().manual_seed(1))
        return 1

    def update(self) -> int:
        agent, requests, replies = self.fixed
        if hasattr(agent, "prepare"):
            requests = agent.prepare(requests)
        agent.update(requests, replies, [[i / GROUP for i in range(GROUP)]] * len(replies))
        return 1

    def strategy_stage(self) -> int:
        _, played = self._step(self.strategy, stage=1)
        return sum(len(episode.steps) for episode in played)

    def playing(self) -> int:
        self.number += 1
        gopo, draws = self.strategy, module("gopo").keyed(1)
        episodes = gopo.episodes("train", range(128), self.number)
        if hasattr(gopo, "play"):
            gopo.play(episodes, self.by_teacher, draws=draws)
        else:
            module("gopo").rollout(
                episodes, self.by_teacher, gopo.speaker, gopo.judge, gopo.expert.perception,
                self.shop.skills, 1, None, draws, None)
        return sum(len(episode.steps) for episode in episodes)

    def supervised(self) -> int:
        first = BATCH * (self.number % 8)
        self.number += 1
        pairs = self.pairs[first:first + 2 * BATCH]
        if hasattr(self.agent, "supervised"):
            self.agent.supervised(pairs, 2)
        else:
            module("start.supervised").supervised(self.agent, pairs, 2)
        return 2

    def evaluation(self) -> int:
        measure = module("measure", "eval")
        _, played = measure.evaluate(
            self.measured, self.by_teacher, self.customers, 0, with_bleu=False)
        return sum(len(episode.steps) for episode in played)

    # --- by transformers itself -----------------------------------------------------------------

    @cached_property
    def plain(self) -> Any:
        return module("experiments.bench").work()

    def plain_sampling(self) -> int:
        module("experiments.bench").plain_generate(self.plain)
        return 1

    def plain_update(self) -> int:
        module("experiments.bench").plain_update(self.plain)
        return 1


def teach(folder: str, steps: int) -> None:
    """A `tiny` that has learned for so many supervised steps, into a folder."""
    data = module("data").load("mgshop")
    pairs = module("start.pairs")
    texts, slots = pairs.vocabulary_texts(data), pairs.slot_names(data)
    model, tokenizer = module("lm.models").build_tiny(texts, slots, 0)
    agent = module("csagent").CustomerServiceAgent(
        model, tokenizer, data.skills, data.must_not_say)
    module("start.supervised").supervised(agent, pairs.warm_pairs(data.train), steps)
    agent.save(folder)


def main() -> None:
    """Reads names of rows; answers each with {"units": .., "cpu": .., "wall": ..}, in seconds."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)                                # whatever else is printed is no answer
    sys.path[0] = os.getcwd()                    # not the folder of this file
    import torch
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    if sys.argv[1] == "teach":
        teach(sys.argv[2], int(sys.argv[3]))
        return
    rows = Rows(sys.argv[1], int(sys.argv[2]))
    for line in sys.stdin:
        cpu, wall = time.process_time(), time.perf_counter()
        units = getattr(rows, line.strip())()
        found = {"units": units, "cpu": time.process_time() - cpu,
                 "wall": time.perf_counter() - wall}
        print(json.dumps(found), file=answers, flush=True)


if __name__ == "__main__":
    main()
