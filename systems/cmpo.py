"""Cost-aware Multi-turn Policy Optimization, the algorithm of InteractCS-RL, on GOPO's loop.

A step of CMPO, where the phrase book speaks and the Expert's skills are the actions:
  (1) every customer of the step talks to the agent several times.  These *copies* are a group.
      The customer's luck is the same in all, so they differ in what the agent drew
  (2) each turn earns R_O + weight R_P,t - lambda cost_t (Eq. 5), compared within its group
  (3) one step of Adam on Eq. 9, with a pull back to the warm start
  (4) a controller sets the price lambda anew, from the share V of dialogues with a voucher (Eq. 8)

The decision d_t of the paper is the skill `issue_voucher`.  What it is worth, and to whom, is the
shop's business.  The equations are pure functions in interactcs.py and decision.py; the flags stand
in cmpo_config.py.

Three aids are ours, and without them runs died or served badly (docs/interactcs.md):
  - a *control copy* in each group may not offer a voucher.  Where all copies decide alike, none
    stands out, and the price has no gradient however high it is
  - an *anchor* on the decision, whose gradient does not vanish where p(voucher) is near 0 or 1;
    the same on its proposal, skill `propose_voucher`, where a shop has one
  - the *pull* to the warm start is strong; it holds how the agent serves and spares the vouchers

With several processes each plays whole groups; V and the scale of rewards are those of all.
Try it:  python train.py --dataset fds --algo cmpo --replies template --steps 20
Exercise: add --control_copies 0 --decision_anchor 0, and follow `dead_groups` and `lambda`."""
from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from data import DECISION, DataError, Dataset, Episode, Request, begin
from expert import Expert, Picks
from gopo import Gopo, GopoConfig, Seeds
from infra.api import ApiConfig
from infra.client import Client
from infra.processes import all_mean, all_sum, world_size
from perception import reading
from policies import keyed
from start.pairs import may_decide
from surrogate import clipped_gain
from systems.cmpo_config import AT_MOST, DYING, NO_VOUCHER, UNREAD, WOUND_UP, CMPOConfig
from systems.cmpo_words import Words, refuse_soft_controls
from systems.decision import decision_log_odds, exact_kl, given_no, uniform_anchor
from systems.hosted_parts import Hosted, genrm_of
from systems.interactcs import (
    CONTROLLERS,
    Price,
    dialogue_advantages,
    divided,
    normalise,
    outcome,
    process_credit,
    turn_rewards,
    turn_weights,
)
from systems.shown import Shown
from systems.talks import Talk, Turns, of_groups, paid

PROPOSAL = "propose_voucher"                     # leads to it: withheld from a control copy as well
WARM_UP = 0.1                                    # of all steps, in which the step size rises
ANCHOR_END = 0.2                                 # share of the anchor's weight at the end

# B turns, S positions of a sequence, K skills


class CMPO(Gopo):
    """Gopo's loop, with groups of dialogues, a price, and Eq. 9 in the place of Eq. 7."""
    Options = CMPOConfig
    samples = True
    decides = True
    usual = {"steps": 600, "eval_every": 100, "save_every": 100}
    usual_of_words = {"steps": 30, "eval_every": 10, "save_every": 10}
    usual_of_expert = {"expert_lr": 2e-3}        # ours, chosen on dev customers
    unread = UNREAD

    @classmethod
    def refuse_unsuited(cls, dataset: Dataset, cfg: GopoConfig, speaks: bool) -> None:
        if dataset.environment is None:
            raise DataError(
                f"--algo cmpo needs customers who answer: {dataset.name} is replayed; use fds")
        if DECISION not in dataset.skills:
            raise DataError(
                f"--algo cmpo needs something to decide on: {dataset.name} has no skill "
                f"{DECISION}; use --dataset fds")
        super().refuse_unsuited(dataset, cfg, speaks)

    @classmethod
    def refuse_options(cls, dataset: Dataset, options: CMPOConfig, speaks: bool) -> None:
        if world_size() > options.customers:
            raise DataError(
                f"--customers {options.customers} is fewer than the {world_size()} processes: "
                "every one needs a customer")
        genrm_of(options.genrm, dataset)

    @classmethod
    def options_of(cls, config: dict) -> CMPOConfig:
        # runs from before the flag existed spared nothing
        options = {"kl_spares": "nothing"} | config["options"]
        return super().options_of(config | {"options": options})

    @classmethod
    def settled_options(cls, options: CMPOConfig, speaks: bool) -> CMPOConfig:
        return options.settled(speaks)

    @classmethod
    def refuse_words(cls, dataset: Dataset, lm: Any, options: CMPOConfig) -> None:
        if dataset.offers is None:
            raise DataError(
                "--algo cmpo with a language model needs to know which words issue a voucher: "
                f"{dataset.name} does not say; use --dataset fds, or --replies template")
        if options.kl_spares == "vouchers":
            raise DataError(
                "--kl_spares vouchers: a language model's vouchers are words; leave it out")
        refuse_soft_controls(lm.constraints, options.control_copies)

    def __init__(
        self, dataset, expert, agent, judge, cfg: GopoConfig, speaker=None, options=None
    ):
        options = (options or CMPOConfig()).settled(bool(agent))
        super().__init__(dataset, expert, agent, judge, cfg, speaker, options)
        self.size = self.options.customers
        self.gains = self.options.gains
        self.price = Price.start(self.options.lambda0, self.gains)
        # the frozen warm start, by which every run of `train` begins; never written to disk
        self.reference: Expert | None = None
        self.genrm = genrm_of(self.options.genrm, dataset)
        self.hosted: Hosted | None = None        # customers or a process judge that are models
        self.marked: dict[int, list] = {}        # marks of a hosted judge, by the episode's number
        self.withheld = tuple(name for name in (DECISION, PROPOSAL) if name in dataset.skills)
        self.words: Words | None = None
        if agent:
            agent.decide_by(dataset.offers)
            self.words = Words(agent, self.options)

    @classmethod
    def refuse_unreachable(cls, dataset: Dataset, options: CMPOConfig, api: ApiConfig) -> None:
        Hosted(options, dataset, api).close()

    def reach(self, api: ApiConfig) -> None:
        self.hosted = Hosted(self.options, self.dataset, api)

    @property
    def clients(self) -> Sequence[Client]:
        return self.hosted.clients if self.hosted else ()

    def freeze(self) -> None:
        """Keeps the policy as it is now as the reference of Eq. 9, unless there is one."""
        if self.words:
            self.words.freeze()
        elif self.reference is None:
            self.reference = copy.deepcopy(self.expert).requires_grad_(False)

    # --- (1) playing ----------------------------------------------------------------------------

    def copies(self, split: str, customers: Sequence[int], seed: int) -> list[Episode]:
        """Each customer's group of dialogues.  The last ones of a group are its control copies.

        An episode's number belongs to its copy, for what the agent draws is keyed by it; the
        customer's own draws are keyed by the customer.
        """
        G, free = self.options.copies, self.options.copies - self.options.control_copies
        episodes = []
        for customer in customers:
            for place in range(G):
                episode, = self.practice(split, [customer], seed)
                episode.number = customer * G + place
                if place >= free:
                    episode.withheld = self.withheld
                if self.options.customer_noise == "own":
                    self._other_luck(episode, place)
                episodes.append(episode)
        return episodes

    def practice(self, split: str, customers: Sequence[int], seed: int) -> list[Episode]:
        """Dialogues to learn from, before their first turn."""
        if self.hosted and self.hosted.customers:
            return begin(self.hosted.customers.play, split, customers, seed)
        return self.episodes(split, customers, seed)

    def _other_luck(self, episode: Episode, place: int) -> None:
        if not hasattr(episode.env, "luck"):
            raise DataError(
                f"--customer_noise own: the customers of {self.dataset.name} have no luck apart "
                "from their own; use paired")
        episode.env.luck = 1 + place

    def _practise(self, numbers: Sequence[int], seed: int, seeds: Seeds) -> list[Episode]:
        """Groups of dialogues with training customers; no slips, whose rewards are nobody's."""
        words = keyed(seeds.words)
        if self.options.customer_noise == "paired" and not self.words:
            # the phrase book's wording is luck as well; a language model's is what it does
            def words(number: int, turn: int, drawn=words) -> torch.Generator:
                return drawn(number // self.options.copies, turn)
        played = self.play(
            self.copies("train", numbers, seed), self.chooser(keyed(seeds.skills)), draws=words,
            judge_by=self.cfg.judge_by)
        self.ask_marks(played)
        return played

    def ask_marks(self, played: Sequence[Episode]) -> None:
        """A hosted judge marks all turns at once, here: where it is gone, no process learns."""
        if not (self.hosted and self.hosted.genrm):
            return
        self.marked = {}
        judged = []
        for episode in played:
            judged += [step.judged for step in episode.steps]
        marks = iter(self.hosted.genrm.score(judged))
        for episode in played:
            self.marked[episode.number] = [next(marks) for _ in episode.steps]

    def ask_decision(self, episode: Episode, request: Request) -> None:
        """The decision d_t before the words, where a language model speaks; at most one voucher."""
        if not self.words:
            return
        issued = DECISION in episode.seen.banned or self._said_issued(episode)
        control = DECISION in episode.withheld
        asked = may_decide(request, issued, control)
        request.context, request.decisions = asked.context, asked.decisions
        if control:
            request.unheard = self.withheld

    def _said_issued(self, episode: Episode) -> bool:
        """Whether a reply of a talk that nobody plays was heard as issuing (`Answer.respond`)."""
        said = [reply for _, reply in episode.state().history]
        return any(DECISION in self.dataset.offers(reply, {}) for reply in said)

    # --- (2) rewards ----------------------------------------------------------------------------

    def talk(self, episode: Episode) -> Talk:
        """A dialogue with what Eqs. 5 and 6 need of it."""
        issued = [int(DECISION in step.skills) for step in episode.steps]
        if self.words:
            issued = paid(episode)
        control = DECISION in episode.withheld
        group = episode.number // self.options.copies
        return Talk(episode, group, control, issued, self.ended(episode), self.process(episode))

    def ended(self, episode: Episode) -> float | None:
        """R_O; None if the customer gave no mark."""
        end = episode.seen
        if not end.outcome.valid:
            return outcome(None, valid=False)
        if end.truncated:
            return outcome(None, timeout=True)
        if end.outcome.satisfaction is None:
            return None
        return outcome(end.outcome.satisfaction)

    def process(self, episode: Episode) -> list[float | None]:
        """R_P,t of each turn; 0 where nobody marks turns."""
        marks = self.marked.get(episode.number)
        if marks is None and self.genrm is None:
            return [0.0] * len(episode.steps)
        if marks is None:
            marks = self.genrm.score([step.judged for step in episode.steps])
        return [None if row is None else process_credit(row) for row in marks]

    def comparable(self, talks: Sequence[Talk]) -> list[Talk]:
        """Dialogues that were scored, in groups of at least two such."""
        scored = [talk for talk in talks if talk.scored]
        groups = [talk.group for talk in scored]
        return [talk for talk in scored if groups.count(talk.group) > 1]

    def advantages(self, talks: Sequence[Talk]) -> list[list[float]]:
        """A_t of Eq. 5 for each turn of each dialogue, by the present price."""
        cfg, lam = self.options, self.price.lam
        groups = [talk.group for talk in talks]
        if cfg.credit == "dialogue":
            ends = [cfg.session_weight * talk.R_O for talk in talks]
            marks = [talk.process for talk in talks]
            issued = [talk.issued for talk in talks]
            return dialogue_advantages(ends, marks, issued, lam, groups, cfg.process_weight)
        rewards = [self.turn_rewards(talk) for talk in talks]
        if cfg.scale != "batch":
            return normalise(rewards, groups, cfg.scale)
        # one number for the dialogues of all processes; centred values have mean 0
        centred = normalise(rewards, groups, "none")
        flat = np.concatenate(centred) if centred else np.zeros(0)
        count, squares = all_sum(len(flat), float(np.square(flat).sum()))
        divisor = (squares / max(count, 1)) ** 0.5 + 1e-6
        return [divided(row, divisor) for row in centred]

    def turn_rewards(self, talk: Talk) -> list[float]:
        """The bracket of Eq. 5."""
        cfg = self.options
        R_O = cfg.session_weight * talk.R_O
        return turn_rewards(
            R_O, talk.process, talk.issued, self.price.lam, cfg.cost, cfg.process_weight)

    # --- (3) and (4) learning ---------------------------------------------------------------------

    def learn(self, played: list[Episode], seed: int = 0) -> dict[str, float | None]:
        """Eq. 9 on what was played, then the next price."""
        self.freeze()
        talks = [self.talk(episode) for episode in played]
        kept = self.comparable(talks)
        row = self.told(talks, kept)
        turns = self.turns(kept, self.advantages(kept))
        learn = self.speak_better if self.words else self.update
        row |= learn(turns, len(kept))
        self.price = CONTROLLERS[self.options.control](
            self.price, row["voucher_rate"], self.gains)
        row["voucher_rate_ema"] = self.price.rate
        return row

    def turns(self, talks: Sequence[Talk], advantages: Sequence[Sequence[float]]) -> Turns:
        flat = Turns()
        for number, (talk, row) in enumerate(zip(talks, advantages)):
            for step, advantage in zip(talk.episode.steps, row):
                flat.states.append(step.state)
                flat.skills.append(step.skills)
                flat.advantage.append(advantage)
                flat.dialogue.append(number)
                if self.words:
                    flat.spoken.add(step.prepared, step.replies[0], advantage, number)
        return flat

    def update(self, turns: Turns, dialogues: int) -> dict[str, float | None]:
        """Adam on Eq. 9, over the turns of all processes; what it reports is of the last epoch."""
        n, decisions = all_sum(dialogues, sum(turns.could(DECISION)))
        shown = Shown(decisions)
        if not n:
            return shown.row()
        anchor = self.schedule()
        old, reference = self._before(turns)
        for _ in range(self.options.cmpo_epochs):
            shown = Shown(decisions)
            loss = self._loss(turns, n, old, reference, anchor, shown)
            shown.norm = self.learner.step(loss, "Eq. 9 of CMPO")
        self.expert.rollouts += 1
        return shown.row()

    def speak_better(self, turns: Turns, dialogues: int) -> dict[str, float | None]:
        """AdamW on Eq. 9 where a language model speaks."""
        n, decisions = all_sum(dialogues, turns.spoken.open())
        if not n:
            return Shown(decisions, "grad_norm").row()
        shown = self.words.learn(turns.spoken, n, decisions, self.schedule())
        self.expert.rollouts += 1
        return shown.row()

    def schedule(self) -> float:
        """Sets the step size of this step; returns the anchor's weight.  Both fall by a cosine."""
        cfg, options = self.expert.cfg, self.options
        optimiser, highest = self.learner.optimiser, cfg.expert_lr
        if self.words:
            optimiser, highest = self.agent.optimizer, self.agent.cfg.agent_lr
        total = cfg.expert_decay or 1
        done = min(int(self.expert.rollouts), total)
        rising = max(1, round(WARM_UP * total))
        falling = 0.5 * (1 + math.cos(math.pi * max(0, done - rising) / max(1, total - rising)))
        lr = highest * (options.lr_end + (1 - options.lr_end) * falling)
        if done < rising:
            lr = highest * (done + 1) / rising
        for group in optimiser.param_groups:
            group["lr"] = lr
        return options.decision_anchor * (ANCHOR_END + (1 - ANCHOR_END) * falling)

    @torch.no_grad()
    def _before(self, turns: Turns) -> tuple[Tensor | None, Tensor | None]:
        """log p of each pick in play [B, S], and of everything by the reference [B, S, K + 1]."""
        if not turns.states:
            return None, None
        picks = self.expert.picks(turns.skills, turns.states)
        old = None
        if self.options.cmpo_epochs > 1:
            old = self.expert.log_probs(self.expert.read(turns.states), picks)[0]
        # it reads what the policy reads: the same sentences are hidden from it
        with reading(self.reference, self.expert.user_reader.hiding):
            inputs = self.reference.read(turns.states)
            return old, self.reference.distributions(inputs, picks)

    def _loss(
        self,
        turns: Turns,
        dialogues: float,
        old: Tensor | None,
        reference: Tensor | None,
        anchor: float,
        shown: Shown,
    ) -> Tensor:
        """This process's share of -J + anchor KL(uniform || pi(d)), over `dialogues` in all.

        The anchor holds the proposal open as well: who proposes nothing issues nothing.
        """
        if not turns.states:
            return self.learner.nothing()
        expert = self.expert
        picks = expert.picks(turns.skills, turns.states)
        log_p = expert.distributions(expert.read(turns.states), picks)               # [B, S, K+1]
        weight = turn_weights(torch.tensor(turns.dialogue, device=expert.device), dialogues)
        gained = self._gained(log_p, picks, old, turns.advantage, shown, weight)
        kl = self._pull(log_p, reference, picks)
        loss = -(weight * (gained - self.options.kl * kl)).sum()
        shown.add(loss=loss, kl=(weight * kl).sum())
        for name in self.withheld:
            decides = torch.tensor(turns.could(name), device=expert.device)
            if decides.any():
                log_yes, log_no = decision_log_odds(
                    log_p[decides], picks.mask[decides], expert.index[name])
                if name == DECISION:
                    shown.decide(log_yes, log_no)
                loss = loss + anchor * (weight[decides] * uniform_anchor(log_yes, log_no)).sum()
        return loss

    def _pull(self, log_p: Tensor, reference: Tensor, picks: Picks) -> Tensor:
        """[B] how far each turn is from the warm start, nats: of what was not a voucher."""
        if self.options.kl_spares == "vouchers":
            spared = [self.expert.index[name] for name in self.withheld]
            log_p, reference = given_no(log_p, spared), given_no(reference, spared)
        return exact_kl(log_p, reference, picks.mask)

    def _gained(
        self,
        log_p: Tensor,
        picks: Picks,
        old: Tensor | None,
        advantage: Sequence[float],
        shown: Shown,
        weight: Tensor,
    ) -> Tensor:
        """[B] min(r A, clip(r) A) of each turn; with --ratio token, the sum over its picks."""
        clip = self.options.cmpo_clip
        A = torch.tensor(advantage, dtype=torch.float32, device=log_p.device)
        made = log_p.gather(-1, picks.number[..., None]).squeeze(-1)
        logp = torch.where(picks.mask, made, 0.0)                                      # [B, S]
        if old is None:
            old = logp.detach()
        log_ratio = logp - old
        if self.options.ratio == "turn":
            log_ratio, A = log_ratio.sum(-1, keepdim=True), A
        outside = ((log_ratio.detach().exp() - 1).abs() > clip).any(-1)
        shown.add(clipped=(weight * outside).sum())
        A = A[:, None].expand_as(log_ratio)
        gained = clipped_gain(log_ratio, A, clip)
        if self.options.ratio == "token":
            gained = gained * picks.mask
        return gained.sum(-1)

    # --- what is reported -------------------------------------------------------------------------

    def told(self, talks: Sequence[Talk], kept: Sequence[Talk]) -> dict[str, float | None]:
        """The columns of metrics.jsonl about a step's dialogues; V without the control copies."""
        free = [talk for talk in talks if not talk.control]
        ends = [talk.episode.seen.outcome for talk in free]
        marks = [end.satisfaction for end in ends if end.satisfaction is not None]
        issued = [float(any(talk.issued)) for talk in free]
        valid = [float(end.valid) for end in ends]
        unscored = [float(not talk.scored) for talk in talks]
        # a voucher where nothing had gone wrong; only some shops know
        shops = [talk.episode.env for talk in free]
        unfair = [float(shop.unfair) for shop in shops if hasattr(shop, "unfair")]
        spreads, dead = of_groups(kept, [self.turn_rewards(talk) for talk in kept])
        process: list[float] = []
        for talk in kept:
            process += talk.process
        return {
            "satisfaction": all_mean(marks),
            "voucher_rate": all_mean(issued),
            "voucher_rate_ema": None,
            "lambda": self.price.lam,
            "price_in_stars": 4 * self.price.lam,
            "integral": self.price.integral,
            "process": all_mean(process),
            "format_ok": all_mean(valid),
            "unfair": all_mean(unfair),
            "unscored_dialogues": all_mean(unscored),
            "sd_group": all_mean(spreads),
            "dead_groups": all_mean(dead),
        }

    def signs(self, row: Mapping[str, Any]) -> list[tuple[str, bool, int]]:
        gains = self.gains
        moves = self.options.control not in ("fixed", "off")
        full = gains.k_i and row["integral"] >= gains.lambda_max / gains.k_i
        return [
            (NO_VOUCHER, row["voucher_rate"] < DYING and row["lambda"] > 0, 10),
            (AT_MOST, moves and row["lambda"] >= gains.lambda_max, 10),
            (WOUND_UP, bool(self.options.control == "pid" and full), 10),
        ]

    # --- checkpoints ----------------------------------------------------------------------------

    def parts(self) -> dict[str, dict[str, Tensor]]:
        return super().parts() | {"price": {"price": self.price.tensor()}}

    def restore(self, parts: dict[str, dict[str, Tensor]]) -> None:
        """The policy is still the warm start here: that is the reference of a resumed run too."""
        self.freeze()
        super().restore(parts)
        self.price = Price.of(parts["price"]["price"])
