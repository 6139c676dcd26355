"""Held-out dialogues -> numbers -> rows."""
from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import numpy as np
from sacrebleu.metrics import BLEU
from tqdm import tqdm

import data
from data import DataError, Dataset, base, fill, slots
from expert import ExpertState
from gopo import Choose, Episode, Gopo, NoJudge, PhraseBook, Silence, Step, by_chance, by_teacher, keyed, load_gopo, read_domain, rollout
from hosted.agents import HostedAgent, HostedExpert
from hosted.judge import hosted_model
from infra.client import ApiConfig, Client
from infra.runs import read_json
from judge import Judge
from lm.constraints import compile_constraints, violations
from lm.models import BUILT
from rewards import dialogue_return, esndcg
from tse import bleu, bleu_tokenizer, distinct_2, g_eval, gre, interval, repeated, replay_turns, skill_f1, tse

EAR_TOLERANCE = 0.05                             # a larger difference of TSE between the two ears is flagged
Row = dict[str, dict[str, float | None]]         # metric -> {mean, low, high}
def completed(episode: Episode, dataset: Dataset, spoken: bool) -> tuple:
    """(N_1, N_2, N_3): from the simulated customer; on logs by TSE-replay, from the policy's own skills (and slots, if it speaks)."""
    if dataset.environment:
        return episode.seen.outcome.completed
    def covered(step: Step) -> set[int]:
        own = [dataset.skills[s] for s in step.skills if s in (step.teacher or ())]
        said = {base(s) for s in slots(step.replies[0].text)}
        return {s.task for s in own if s.task and (not spoken or not (known := set(s.needs) & {base(k) for k in step.request.context}) or known & said)}
    return replay_turns([covered(s) for s in episode.steps])


def speaks(gopo: Gopo) -> bool:
    """Whether words of its own stand in its replies, and not a phrase book's or nobody's."""
    return not isinstance(gopo.speaker, (PhraseBook, Silence))


Forms = list[tuple[float, float, float] | None]  # what a judge answered about each reply of a dialogue
def dialogue_metrics(gopo: Gopo, episode: Episode, gres: Forms, forms: Forms) -> dict[str, float | None]:
    """One dialogue as numbers; None where the data does not say.  gres: GRE's answers per reply; forms: those of G-Eval."""
    dataset, steps, end = gopo.dataset, episode.steps, episode.seen.outcome
    labelled = [] if gopo.cfg.no_expert else [s for s in steps if s.teacher is not None]       # no skills were chosen: nothing to compare
    mean = lambda values: float(np.mean(values)) if len(values) else None
    has_tasks = any(s.task for s in dataset.skills.values())
    turns = completed(episode, dataset, speaks(gopo)) if has_tasks else (None, None, None)
    scored = [r for s in steps for r in s.r_cs()[:1] if r is not None]
    rules = [compile_constraints([dataset.skills[k] for k in s.skills], s.request.context, dataset.must_not_say) for s in steps]
    return {
        "tse": tse(turns, gamma=gopo.cfg.tse_gamma) if has_tasks else None,
        **{f"I_{i}": float(n is not None) if has_tasks else None for i, n in enumerate(turns, 1)}, **{f"N_{i}": n for i, n in enumerate(turns, 1)},
        "turns": len(steps), "success": float(end.success) if dataset.environment else None, "gre": gre(gres), "g_eval": g_eval(forms),
        "unscored": mean([float(s.scores[0] is None) for s in steps]),
        "esndcg": mean([esndcg(s.skills, s.teacher) for s in labelled]), "f1": mean([skill_f1(s.skills, s.teacher) for s in labelled]),
        "exact": mean([float(s.skills == s.teacher) for s in labelled]), "length": mean([len(s.skills) for s in steps]), "r_cs": mean(scored),
        "return": dialogue_return(gopo.rewards(episode, ending=False), dataset.horizon, gopo.gamma, end.success) if dataset.environment else None,
        "mood": end.mood, "vouchers": end.vouchers, "reply_words": mean([len(s.replies[0].text.split()) for s in steps]),
        "distinct_2": distinct_2([s.replies[0].text for s in steps]), "repeated": repeated([s.replies[0].text for s in steps]),
        "violations": float(sum(len(violations(s.replies[0].text, r)) for s, r in zip(steps, rules))),
    }


def bleu_interval(episodes: Sequence[Episode], draws: int = 1000) -> dict[str, float | None]:
    """Corpus BLEU on text with slots, and sacrebleu's own bootstrap interval (over replies; it counts n-grams once, so it is quick)."""
    pairs = [(s.replies[0].text, s.judged.reference) for e in episodes for s in e.steps if s.judged.reference]
    if not any(reply for reply, _ in pairs):
        return {"mean": None, "low": None, "high": None}
    replies, references = map(list, zip(*pairs))
    drawn = BLEU(tokenize=bleu_tokenizer(references)).corpus_score(replies, [references], n_bootstrap=draws)
    return {"mean": bleu(replies, references), "low": (drawn._mean - drawn._ci) / 100, "high": (drawn._mean + drawn._ci) / 100}


def bleu_statistics(episodes: Sequence[Episode]) -> list[list[int]] | None:
    """What BLEU is made of, summed over each dialogue's replies: [reply words, reference words, n-grams right (n = 1..4), n-grams (n = 1..4)]."""
    references = [s.judged.reference for e in episodes for s in e.steps if s.judged.reference]
    if not references:
        return None
    metric = BLEU(tokenize=bleu_tokenizer(references))
    pairs = [[(s.replies[0].text, s.judged.reference) for s in e.steps if s.judged.reference] for e in episodes]
    return [np.sum(metric._extract_corpus_statistics([a for a, _ in p], [[b for _, b in p]]), 0).astype(int).tolist() if p else [0] * 10 for p in pairs]


def asked_of(judge: Judge, form: str, episodes: Sequence[Episode]) -> list[Forms]:
    """A form (gre, g_eval) filled in for every reply, per dialogue; all at once, for a hosted judge answers many at a time."""
    replies = [s.judged for e in episodes for s in e.steps]
    answers = iter(getattr(judge, form)(replies) if hasattr(judge, form) else [None] * len(replies))      # rules know no G-Eval
    return [[next(answers) for _ in e.steps] for e in episodes]


def at_once(gopo: Gopo, total: int) -> int:
    """Dialogues in lockstep: of a large model no more replies than a training step writes, for that is what memory.py counts."""
    return total if not gopo.agent or gopo.agent.cfg.model in BUILT else max(1, gopo.size * gopo.agent.cfg.group)


def evaluate(gopo: Gopo, choose: Choose, episodes: int, seed: int, split: str = "test", label: str = "", second_ear: bool = False,
             with_bleu: bool = True, forms: Sequence[str] = ("gre", "g_eval")) -> tuple[Row, list[Episode]]:
    """Plays `episodes` held-out dialogues with the most probable skills and tokens; `forms`: what the judge fills in beside Eq. 8."""
    numbers, played = measure(gopo, choose, episodes, seed, split, label, second_ear, forms)
    rows = {m: interval([n[m] for n in numbers], seed) for m in numbers[0]}
    if with_bleu:
        rows["bleu"] = bleu_interval(played)
    return rows, played


def measure(gopo: Gopo, choose: Choose, episodes: int, seed: int, split: str = "test", label: str = "", second_ear: bool = False,
            forms: Sequence[str] = ("gre", "g_eval")) -> tuple[list[dict[str, float | None]], list[Episode]]:
    """The same, dialogue by dialogue; with the second ear also `tse_2nd_ear`, from playing the same customers again."""
    def play(start: Callable, judge: Judge) -> tuple[list[dict[str, float | None]], list[Episode]]:
        total = episodes if gopo.dataset.environment else min(episodes, len(getattr(gopo.dataset, split)))
        size, played = at_once(gopo, total), [Episode(n, env, env.reset()) for n in range(total) for env in [start(split, n, seed)]]
        with tqdm(total=total, desc=f"evaluating {label}", unit="dialogue", leave=False) as bar:
            for first in range(0, total, size):
                rollout(played[first:first + size], choose, gopo.speaker, judge, gopo.expert.perception, gopo.dataset.skills, 1, 0.0, keyed(seed),
                        gopo.alone, True, bar.update)
        filled_in = (asked_of(judge if form in forms else NoJudge(), form, played) for form in ("gre", "g_eval"))
        return [dialogue_metrics(gopo, *row) for row in zip(played, *filled_in)], played

    numbers, played = play(gopo.dataset.play, gopo.judge)
    if second_ear and gopo.dataset.cross_check:
        heard, _ = play(gopo.dataset.cross_check, NoJudge())             # the second ear is asked for TSE alone
        numbers = [n | {"tse_2nd_ear": other["tse"]} for n, other in zip(numbers, heard)]
    return numbers, played


def told(choose: Choose) -> Choose:
    """As `choose`, with u_t and e_t as a simulated customer has them, not as perceived: what would a perfect perception be worth?"""
    def choose_told(states: list[ExpertState], episodes: list[Episode]) -> list[tuple[str, ...]]:
        return choose([s._replace(true_perception=(e.seen.labels.intent, e.seen.labels.emotion)) for s, e in zip(states, episodes)], episodes)
    return choose_told


def methods(run: Path, dataset: Dataset, judge: Judge) -> dict[str, Callable[[], tuple[Gopo, Choose]]]:
    """Row name -> how to make it.  Loaded one at a time: two large models would not fit."""
    config = read_json(run / "config.json")
    lm, alone, trained = config["run"]["replies"] == "lm", config["gopo"]["no_expert"], config["run"].get("algo", "gopo")
    def stage(expert: str, agent: str) -> Callable[[], tuple[Gopo, Choose]]:
        def make():
            g = load_gopo(run, dataset, expert, agent, judge)
            return g, g.chooser(greedy=True)
        return make
    def with_chooser(choose: Choose) -> Callable[[], tuple[Gopo, Choose]]:
        return lambda: (load_gopo(run, dataset, judge=judge), choose)
    rows = {"untrained": stage("untrained.safetensors", "untrained")}
    if lm:
        rows["warm_start"] = stage("untrained.safetensors", "warm_start")
        if not alone and (run / "strategy.safetensors").exists():
            rows["strategy"] = stage("strategy.safetensors", "warm_start")
    rows[trained] = stage("expert.safetensors", "csagent")
    if not alone and dataset.environment:
        def with_truth() -> tuple[Gopo, Choose]:
            g = load_gopo(run, dataset, judge=judge)
            return g, told(g.chooser(greedy=True))
        rows["told"] = with_truth
    if not alone:
        rows |= {"teacher": with_chooser(by_teacher), "random": with_chooser(by_chance(list(dataset.skills), 0))}
    if lm and not alone:
        rows["untrained_lm_teacher"] = lambda: (load_gopo(run, dataset, agent="untrained", judge=judge), by_teacher)
    return rows


def hosted(run: Path, dataset: Dataset, judge: Judge, expert: str | None, cs_agent: str | None, api: ApiConfig) -> dict[str, Callable]:
    """The row in which hosted models take the place of one agent of the run, or of both (Tables 2, 3, 6, 7).  SOPs are soft there."""
    def make() -> tuple[Gopo, Choose]:
        speaker = HostedAgent(Client(hosted_model(cs_agent, "--cs_agent", "nothing"), api), dataset) if cs_agent else None
        g = load_gopo(run, dataset, judge=judge, speaker=speaker)
        asked = Client(hosted_model(expert, "--expert", "nothing"), api) if expert else None
        return g, HostedExpert(asked, dataset, g.expert.perception) if asked else g.chooser(greedy=True)
    return {f"{expert or 'gopo'} + {cs_agent or 'gopo'}": make} if expert or cs_agent else {}


def evaluate_run(run: Path, dataset: Dataset, episodes: int, seed: int, judge: Judge, show: int = 0, only: Sequence[str] = (),
                 more: Mapping[str, Callable] = MappingProxyType({})) -> dict[str, Row]:
    """The rows of a run, or `only` some, and always the rows in `more`."""
    table, trained = {}, read_json(run / "config.json")["run"].get("algo", "gopo")
    chosen = {name: make for name, make in methods(run, dataset, judge).items() if not only or name in only}
    for name, make in (dict(more) | chosen).items():                     # what another server may refuse comes first
        gopo = choose = None                                             # the row before goes first: two large models would not fit
        gopo, choose = make()
        table[name], played = evaluate(gopo, choose, episodes, seed, label=name, second_ear=name in (trained, "teacher"))
        if name == trained or name in more:
            for episode in played[:show]:
                show_dialogue(gopo, episode)
            print_unanswered(gopo.speaker, choose)
    return table


COLUMNS = (("tse", "TSE", 3), ("I_1", "I1", 2), ("I_2", "I2", 2), ("I_3", "I3", 2), ("N_1", "N1", 1), ("N_2", "N2", 1), ("N_3", "N3", 1), ("turns", "turns", 1),
           ("gre", "GRE*", 2), ("g_eval", "G-Eval*", 2), ("bleu", "BLEU", 3), ("esndcg", "ESNDCG", 3), ("f1", "F1", 3), ("exact", "exact", 2),
           ("length", "len", 1), ("r_cs", "R^A*", 3), ("vouchers", "vouch.", 2), ("violations", "viol.", 2))
def print_unanswered(*hosts: object) -> None:
    for host in hosts:
        if getattr(host, "unanswered", 0):
            print(f"{type(host).__name__}: {host.unanswered} turns without a usable answer were played with an empty one")


def print_table(table: dict[str, Row], live: bool, judge: Judge, rewarded: bool) -> None:
    """Rows of means; whose judgement the starred columns are stands below, and whether the run was rewarded by the same judge."""
    width = max(20, *map(len, table))
    print(f"{'':{width}s} " + " ".join(f"{head:>6s}" for _, head, _ in COLUMNS) + f"   {'TSE' if live else 'TSE-replay'} 95 %")
    for name, row in table.items():
        cells = " ".join(f"{'—' if row[m]['mean'] is None else format(row[m]['mean'], f'.{digits}f'):>{max(6, len(head))}s}" for m, head, digits in COLUMNS)
        spread = "" if row["tse"]["mean"] is None else f"   [{row['tse']['low']:.3f}, {row['tse']['high']:.3f}]"
        print(f"{name:{width}s} {cells}{spread}")
    unscored = [row["unscored"]["mean"] for row in table.values()]
    no_forms = "" if hasattr(judge, "g_eval") else "  G-Eval — (needs an LLM judge)."
    by = f"{judge.name}{', also the training reward' * rewarded}; by the teacher's skills where a turn is labelled."
    said = by + no_forms if any(u is not None and u < 1 for u in unscored) else "no reply was judged."
    print(f"* {said}" + ("" if live else "  Logs are replayed: TSE is TSE-replay."))
    if "told" in table:
        print("told: the trained agents, the Expert knowing the customer's true u_t and e_t")
    if any(u is not None and 0 < u < 1 for u in unscored):
        print("replies that the judge could not score, left out: " + ", ".join(f"{name} {row['unscored']['mean']:.1%}" for name, row in table.items()))
    for name, row in table.items():
        if "tse_2nd_ear" in row:
            difference = row["tse"]["mean"] - row["tse_2nd_ear"]["mean"]
            flag = "  FLAG: the policy may please one ear only" if abs(difference) > EAR_TOLERANCE else ""
            print(f"{name}: TSE {row['tse']['mean']:.3f}, under the second ear {row['tse_2nd_ear']['mean']:.3f}{flag}")


def show_turn(gopo: Gopo, number: int, step: Step, reward: float | None) -> None:
    rules = compile_constraints([gopo.dataset.skills[k] for k in step.skills], step.request.context, gopo.dataset.must_not_say)
    r_e, r_a, scores = step.r_expert(gopo.expert.cfg.skill_cost), step.r_cs()[0], step.scores[0] or (None,) * 4
    two = lambda x: "—" if x is None else f"{x:.2f}"
    several = lambda words: ", ".join(words) or "(none)"
    truth = f"   (in truth {step.truth[0]}, {step.truth[1]})" if any(step.truth) else ""
    print(f"\n[turn {number}] customer: {step.state.user}")
    print(f"  perceived  intent {step.perceived[0]}, emotion {step.perceived[1]}{truth}")
    print(f"  skills     {several(step.skills)}" + (f"   teacher: {several(step.teacher)}" if step.teacher is not None else ""))
    print(f"  must say   {several(rules.must_say)}   must not say {several(rules.must_not_say)}   dropped {several(rules.dropped)}")
    print(f"  reply      {fill(step.replies[0].text, step.request.context)}")
    print(f"  rewards    R^E {two(r_e)}   S {' '.join(map(two, scores))}   R^A {two(r_a)}   R_t {two(reward)}"
          f"   violations {several(violations(step.replies[0].text, rules))}")


def show_dialogue(gopo: Gopo, episode: Episode) -> None:
    print(f"\n===== dialogue {episode.number}")
    for number, (step, reward) in enumerate(zip(episode.steps, gopo.rewards(episode, ending=False)), 1):
        show_turn(gopo, number, step, reward)
    live = gopo.dataset.environment is not None
    end = "end of the log" if not live else "all tasks done" if episode.seen.outcome.success else "not everything done"
    print(f"\n  customer: {episode.seen.user}\n  end: {end}, N = {completed(episode, gopo.dataset, speaks(gopo))}")


def data_of(run: Path, name: str | None, data_dir: str | None) -> Dataset:
    """The dataset of the run, or another with the same skills and labels: transfer."""
    config = read_json(run / "config.json")
    if not name or name == config["run"]["dataset"]:
        return data.load_used(config["run"], data_dir)
    other = data.load(name, data_dir or config["run"]["data_dir"])
    refuse_other_labels(read_domain(run / "dataset.json"), other)
    return other


def refuse_other_labels(trained: Dataset, tested: Dataset) -> None:
    """A policy can be tested in another shop only if it knows the same skills, intents and emotions."""
    for kind in ("skills", "intents", "emotions"):
        if list(getattr(trained, kind)) != list(getattr(tested, kind)):
            raise DataError(f"--dataset {tested.name}: its {kind} are not those of {trained.name}, which was trained on")
