"""Playing (Sec. 3.1): the turn of the hierarchical MDP, and what it earns.

  (1) perceive   u_t and e_t from the customer's words
  (2) choose     the Expert picks the skills a^E_t
  (3) speak      the Customer Service Agent writes a^A_t under the hard constraints of these skills
  (4) judge, score, answer   the reply earns R^A_t, the skills earn R^E_t, both together earn R_t
                 (Eq. 10), and the customer answers
`Player.take_turn` is that turn, for several dialogues at once.  Training, evaluation, `--chat` and
`Answer.respond` all use it.  `Player.play` takes turns until every dialogue is over.
The customer hears reply 0 of the group of replies to a state, never the best one.
Nothing here learns: that is in gopo.py.  Who chooses and who speaks is in policies.py."""
from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from config import GopoConfig
from corpora.jsonl import facts_of
from data import (
    Dataset,
    Episode,
    Judged,
    Message,
    Observation,
    Prepared,
    Reply,
    Request,
    Scores,
    Skill,
    Step,
    answered,
    begin,
    delexicalise,
    fill,
)
from expert import Expert
from infra.answers import HALF_CHARACTERS
from infra.places import next_turn
from judge import Judge
from policies import Choose, Draws, Silence, Speaker, allowed, by_talk, request_of
from rewards import (
    CS_WEIGHTS,
    cs_reward,
    end_bonus,
    extra_cost,
    joint_reward,
    pick_gains,
    prefix_esndcg,
)
from tse import tse

JUDGE_BY = ("chosen", "needed", "nobody")


class Player:
    """Plays dialogues with two agents and scores every turn.

    judge          who fills in S_1..S_4 of Eq. 8
    speaker        who writes the replies
    history_turns  k of H_t that a single agent reads; None: an Expert chooses skills
    """

    def __init__(
        self, dataset: Dataset, expert: Expert, speaker: Speaker, judge: Judge, cfg: GopoConfig
    ):
        self.dataset = dataset
        self.expert = expert
        self.speaker = speaker
        self.judge = judge
        self.cfg = cfg
        self.gamma = cfg.gamma
        self.history_turns = expert.cfg.history if cfg.no_expert else None

    def episodes(self, split: str, numbers: Sequence[int], seed: int) -> list[Episode]:
        """Dialogues `numbers` of a split, before their first turn."""
        return begin(self.dataset.play, split, numbers, seed)

    def play(
        self,
        episodes: list[Episode],
        choose: Choose,
        *,
        group: int = 1,
        temperature: float | None = None,
        draws: Draws | None = None,
        judge_by: str = "chosen",
        progress: Callable[[int], None] | None = None,
    ) -> list[Episode]:
        """Plays dialogues in lockstep to their ends (Sec. 3.1, steps 1-4).

        group        replies to each state
        temperature  None = the agent's own; 0 = the most probable token
        draws        a generator for each (dialogue, turn), as `keyed` makes them
        judge_by     the skills by which replies are judged.  "chosen": those that were chosen;
                     "needed": the teacher's, where the turn is labelled; "nobody": no reply is
                     judged.  A single agent chooses none and is always judged by what was needed.
        progress     is called after each turn with the number of dialogues that ended
        """
        while live := [e for e in episodes if not e.over]:
            self.take_turn(
                live, choose, group=group, temperature=temperature, draws=draws, judge_by=judge_by)
            if progress:
                progress(sum(e.over for e in live))
        return episodes

    def take_turn(
        self,
        live: list[Episode],
        choose: Choose,
        *,
        group: int = 1,
        temperature: float | None = None,
        draws: Draws | None = None,
        judge_by: str = "chosen",
    ) -> None:
        """One turn of every dialogue: perceive -> choose -> speak -> judge -> score -> answer."""
        states = [e.state() for e in live]
        perceived = self.expert.perception.perceive([s.user for s in states])
        skills = [allowed(s, e.banned) for s, e in zip(choose(states, live), live)]
        prepared = self._prepare(live, states, skills, perceived)
        groups = self._speak(live, prepared, group, temperature, draws)
        judged, scores = self._judge(live, states, skills, groups, judge_by)
        for i, episode in enumerate(live):
            step = Step(
                episode.seen, states[i], perceived[i], skills[i], prepared[i], groups[i], judged[i],
                scores[i])
            self.score(step, len(episode.steps) + 1)
            episode.steps.append(step)
        sent = [episode.steps[-1].sent for episode in live]
        for episode, seen in zip(live, answered([e.env for e in live], sent)):
            episode.seen = seen

    def _prepare(self, live, states, skills, perceived) -> list[Prepared]:
        requests = []
        for e, state, chosen, labels in zip(live, states, skills, perceived):
            request = request_of(state, chosen, e.seen.context, labels, self.history_turns)
            request.where = next_turn(e)
            self.ask_decision(e, request)
            requests.append(request)
        return self.speaker.prepare(requests)

    def ask_decision(self, episode: Episode, request: Request) -> None:
        """Asks for a decision before the words, where an algorithm has one; see systems/cmpo.py."""

    def _speak(self, live, prepared, group, temperature, draws) -> list[list[Reply]]:
        generators = None
        if draws:
            generators = [draws(e.number, len(e.steps)) for e in live]
        return self.speaker.speak(prepared, group, temperature, generators)

    def _judge(self, live, states, skills, groups, judge_by):
        """Per dialogue: what the judge sees of reply 0, and the scores of all replies."""
        asked = []
        for e, state, chosen, replies in zip(live, states, skills, groups):
            wanted = self._wanted(e, chosen, judge_by)
            asked += [self._judged(e, state, wanted, reply) for reply in replies]
        group = len(groups[0])
        if judge_by == "nobody" or isinstance(self.speaker, Silence):
            scores = [None] * len(asked)
        else:
            scores = self.judge.score(asked)
        by_dialogue = [scores[i:i + group] for i in range(0, len(scores), group)]
        return asked[::group], by_dialogue

    def _wanted(self, episode: Episode, chosen: tuple[str, ...], judge_by: str) -> list[Skill]:
        """The skills by which a reply is judged."""
        if judge_by not in JUDGE_BY:
            raise ValueError(f"judge_by is one of {', '.join(JUDGE_BY)}, got {judge_by!r}")
        teacher = episode.seen.labels.teacher
        names = chosen
        if self.cfg.no_expert:
            names = teacher or ()
        elif judge_by == "needed" and teacher is not None:
            names = teacher
        return [self.dataset.skills[name] for name in names]

    def _judged(self, episode, state, wanted, reply) -> Judged:
        seen = episode.seen
        return Judged(
            state.user, seen.context, tuple(wanted), reply.text, tuple(episode.replies),
            seen.labels.reference, state.history, next_turn(episode))

    # --- rewards: Eqs. 2-6, 8, 10 ---------------------------------------------------------------

    def score(self, step: Step, turn: int) -> None:
        """Every reward of a turn is born here, once: Eqs. 2-6, 8 and 10."""
        cost = self.expert.cfg.skill_cost
        step.R_A = [self._r_cs(scores) for scores in step.scores]
        if step.teacher is not None:
            m, n = len(step.skills), len(step.teacher)
            prefixes = prefix_esndcg(step.skills, step.teacher)
            step.esndcg = prefixes[-1]
            step.gains = pick_gains(prefixes, n, cost)
            step.R_E = prefixes[-1] - extra_cost(m, n, cost)
        step.R_t = self.turn_reward(step, turn)

    @staticmethod
    def _r_cs(scores: Scores | None) -> float | None:
        return None if scores is None else cs_reward(scores, CS_WEIGHTS)

    def turn_reward(self, step: Step, turn: int) -> float:
        """R_t of Eq. 10, or one of its two parts, or nothing (ablations).

        R_t is R^A alone where no label gives R^E, and R^E alone where no reply has a score.
        """
        kind = self.cfg.reward
        if kind == "end":
            return 0.0
        if kind == "cs" or (step.R_E is None and kind == "joint"):
            return step.R_A_mean or 0.0
        if step.R_E is None:
            return 0.0
        r_cs = step.R_A_mean if kind == "joint" else None
        return joint_reward(step.R_E, r_cs, turn, self.dataset.horizon)

    def rewards(self, episode: Episode) -> list[float]:
        """R_t of each turn; the last with what the end of the dialogue is worth (GAP-4)."""
        earned = [step.R_t for step in episode.steps]
        end = episode.seen
        if end.terminated:
            earned[-1] += self.cfg.end_weight * end_bonus(
                len(earned), self.dataset.horizon, self.gamma, end.outcome.success)
        earned[-1] += self.cfg.outcome_weight * self.tse(episode)
        return earned

    def tse(self, episode: Episode) -> float:
        """Eq. 11, with the turns in which the environment saw each task done."""
        return tse(episode.seen.outcome.completed, gamma=self.cfg.tse_gamma)


# --- a single answer ----------------------------------------------------------------------------

Facts = Mapping[str, str | int | float | None] | None


@dataclass
class Answer:
    """`load(run)`: a trained pair, ready to answer."""
    gopo: Player

    def respond(
        self, history: Sequence[str], context: Facts, previous: Sequence[str] = ()
    ) -> tuple[tuple[str, ...], str]:
        """(skills, reply) to the last message of the customer.

        history   messages in turn: customer, agent, customer, ...; the last is the customer's
        context   B_t: what the shop knows, slot -> value, as logs may hold it: a number counts as
                  its text, None as not known; may be empty
        previous  the skills of the turn before, if known (a_{t-1})
        raises    ValueError (DataError) that names the argument
        """
        step = self.take([self.begin(history, context, previous)])[0]
        return step.skills, fill(step.reply, step.seen.context)

    def begin(
        self, history: Sequence[str], context: Facts, previous: Sequence[str] = ()
    ) -> Episode:
        """The turn that `respond` takes, before it is taken; arguments and errors are the same."""
        history = _texts("history", history)
        previous = _texts("previous", previous or ())
        context = facts_of(context, "context")
        if len(history) % 2 == 0:
            raise ValueError(
                f"history must end with a customer's message: got {len(history)} messages")
        if unknown := set(previous) - set(self.gopo.dataset.skills):
            raise ValueError(
                f"previous: unknown skills {sorted(unknown)}; "
                "the pool is in dataset.json of the run")
        # With slots, as in training.
        replies = [delexicalise(reply, context) for reply in history[1:-1:2]]
        said = tuple(zip(history[:-1:2], replies))
        message = Message(Observation(history[-1], context, history=said))
        return Episode(-1, message, message.reset(), previous=tuple(previous))

    def take(self, begun: list[Episode]) -> list[Step]:
        """Takes turns that are independent of each other; each as if it were the only one."""
        for place, episode in enumerate(begun, 1):
            episode.number = -place
        choose = self.gopo.chooser(greedy=True)
        draws = by_talk(begun)
        self.gopo.take_turn(begun, choose, temperature=0.0, draws=draws, judge_by="nobody")
        return [episode.steps[0] for episode in begun]


def _texts(name: str, value: Sequence[str]) -> list[str]:
    """A list of texts; a plain string is refused, for it would be read letter by letter."""
    if isinstance(value, (str, bytes)):
        raise ValueError(f"{name} is one string, {value[:40]!r}: give a list, [{value[:40]!r}]")
    if isinstance(value, Mapping) or not isinstance(value, Iterable):
        raise ValueError(f"{name} is {type(value).__name__}: give a list of strings")
    texts = list(value)
    for i, text in enumerate(texts):
        if not isinstance(text, str):
            raise ValueError(f"{name}[{i}] is {text!r:.40}: give a string")
    # Half characters can be neither encoded nor written.
    return [HALF_CHARACTERS.sub("\ufffd", text) for text in texts]
