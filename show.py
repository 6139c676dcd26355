"""What is printed: a table of rows, a dialogue, a turn.  Nothing here computes a number."""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from data import DECISION, Episode, Step, fill
from gopo import Gopo
from infra.client import Client
from judge import Judge
from lm.constraints import violations
from measure import METRICS, Row, completed
from tse import OVER_TRIALS, PASSES

# A larger difference of TSE between the two ears is flagged.
EAR_TOLERANCE = 0.05
COLUMNS = (
    "tse", "I_1", "I_2", "I_3", "N_1", "N_2", "N_3", "turns", "gre", "g_eval", "bleu", "esndcg",
    "f1", "exact", "length", "r_cs", "vouchers", "satisfaction",
    "violations",
)
DASH = "—"


def head_of(key: str) -> tuple[str, int]:
    """(name, digits) of a column.  BLEU belongs to a corpus, so it is not among the METRICS."""
    if key == "bleu":
        return "BLEU", 3
    return METRICS[key].name, METRICS[key].digits


def cell(value: float | None, digits: int) -> str:
    return DASH if value is None else f"{value:.{digits}f}"


# --- a table ------------------------------------------------------------------------------------

def print_table(table: dict[str, Row], live: bool, judge: Judge, rewarded: bool) -> None:
    """Rows of means, and below them whose judgement the starred columns are.

    live      TSE comes from a simulated customer, and not from a log
    rewarded  the run was rewarded by the same judge
    """
    width = max(20, *map(len, table))
    heads = " ".join(f"{head_of(key)[0]:>6s}" for key in COLUMNS)
    tse_name = "TSE" if live else "TSE-replay"
    print(f"{'':{width}s} {heads}   {tse_name} 95 %")
    for name, row in table.items():
        print(f"{name:{width}s} {_cells(row)}{_spread(row)}")
    _print_judge(table, live, judge, rewarded)
    _print_unscored(table)
    _print_ears(table)
    _print_budget(table)


def _cells(row: Row) -> str:
    cells = []
    for key in COLUMNS:
        head, digits = head_of(key)
        width = max(6, len(head))
        cells.append(f"{cell(row[key]['mean'], digits):>{width}s}")
    return " ".join(cells)


def _spread(row: Row) -> str:
    if row["tse"]["mean"] is None:
        return ""
    if row["tse"]["low"] is None:
        return "   — (one dialogue has no interval)"
    return f"   [{row['tse']['low']:.3f}, {row['tse']['high']:.3f}]"


def _print_judge(table: dict[str, Row], live: bool, judge: Judge, rewarded: bool) -> None:
    unscored = [row["unscored"]["mean"] for row in table.values()]
    said = "no reply was judged."
    if any(share is not None and share < 1 for share in unscored):
        said = judge.name
        if rewarded:
            said += ", also the training reward"
        said += "; by the teacher's skills where a turn is labelled."
        if not hasattr(judge, "g_eval"):
            said += "  G-Eval — (needs an LLM judge)."
    if not live:
        said += "  Logs are replayed: TSE is TSE-replay."
    print(f"* {said}")
    if "true_perception" in table:
        print(
            "true_perception: the trained agents, with the customer's true intent and emotion "
            "given to the Expert")


def _print_unscored(table: dict[str, Row]) -> None:
    shares = {name: row["unscored"]["mean"] for name, row in table.items()}
    if any(share is not None and 0 < share < 1 for share in shares.values()):
        listed = ", ".join(f"{name} {share:.1%}" for name, share in shares.items())
        print(f"replies that the judge could not score, left out: {listed}")


def _print_ears(table: dict[str, Row]) -> None:
    for name, row in table.items():
        if "tse_2nd_ear" not in row:
            continue
        first, second = row["tse"]["mean"], row["tse_2nd_ear"]["mean"]
        flag = ""
        if abs(first - second) > EAR_TOLERANCE:
            flag = "  FLAG: the policy may please one ear only"
        print(f"{name}: TSE {first:.3f}, under the second ear {second:.3f}{flag}")


def _print_budget(table: dict[str, Row]) -> None:
    """Voucher rate and satisfaction with their intervals, where a shop issues vouchers."""
    for name, row in table.items():
        V, S = row.get("voucher_rate"), row["satisfaction"]
        if V and V["low"] is not None:
            print(
                f"{name}: V {V['mean']:.3f} [{V['low']:.3f}, {V['high']:.3f}] (Wilson), "
                f"satisfaction {S['mean']:.2f} [{S['low']:.2f}, {S['high']:.2f}]")


def print_trials(table: dict[str, Row], trials: int) -> None:
    """pass^k of every row, with its interval over customers."""
    passes = [f"pass_{k}" for k in PASSES if k <= trials]
    if not passes:
        return
    width = max(20, *map(len, table))
    print(f"\nthe same customers {trials} times, replies drawn as in training: pass^k is the share "
          "whom k trials of k serve")
    heads = [f"{'pass^' + key.removeprefix('pass_'):>20s}" for key in passes]
    heads += [f"{head_of(key)[0]:>6s}" for key in OVER_TRIALS]
    print(f"{'':{width}s} {' '.join(heads)}")
    for name, row in table.items():
        cells = [f"{_with_interval(row[key]):>20s}" for key in passes]
        for key in OVER_TRIALS:
            cells.append(f"{cell(row[f'trials_{key}']['mean'], head_of(key)[1]):>6s}")
        print(f"{name:{width}s} {' '.join(cells)}")


def _with_interval(found: dict[str, float | None]) -> str:
    if found["low"] is None:
        return cell(found["mean"], 2)
    return f"{found['mean']:.2f} [{found['low']:.2f}, {found['high']:.2f}]"


def print_service(table: dict[str, Row]) -> None:
    """Comm, Logic and Compensation, where a hosted judge marked whole dialogues."""
    for name, row in table.items():
        said = []
        for key, high in (("comm", 28), ("logic", 12), ("compensation", 6)):
            if row.get(key) and row[key]["mean"] is not None:
                said.append(f"{key} {row[key]['mean']:.2f} of {high}")
        if said:
            print(f"{name}: {', '.join(said)} (the hosted judge, whole dialogues)")


def print_price(rows: Sequence[Mapping[str, Any]]) -> None:
    """What a voucher cost in the last step of training, if there was a price (metrics.jsonl)."""
    if rows and rows[-1].get("lambda") is not None:
        last = rows[-1]
        print(
            f"in step {last['step']} of training a voucher cost lambda {last['lambda']:.3f}, "
            f"{last['price_in_stars']:.2f} stars; here none is charged")


def print_unanswered(*hosts: object) -> None:
    """How many turns a hosted model left without a usable answer."""
    for host in hosts:
        count = getattr(host, "unanswered", 0)
        if count:
            print(
                f"{type(host).__name__}: {count} turns without a usable answer were played "
                "with an empty one")
            print_client(host.client)


def print_client(client: Client) -> None:
    """What a hosted model was asked, and what it left without a usable answer."""
    print("\n".join([client.report(), *client.losses()]))


# --- a dialogue ---------------------------------------------------------------------------------

def several(words: Sequence[str]) -> str:
    return ", ".join(words) or "(none)"


def show_turn(step: Step, number: int, rewarded: bool = True) -> None:
    """One turn as a reader wants it: what was perceived, chosen, required, said and earned.

    rewarded  False: nobody knows the teacher's skills, so R_t is not shown (`--chat`)
    """
    labels = step.seen.labels
    rules = step.prepared.constraints
    scores = step.scores[0] or (None,) * 4
    truth = ""
    if labels.intent or labels.emotion:
        truth = f"   (in truth {labels.intent}, {labels.emotion})"
    teacher = ""
    if step.teacher is not None:
        teacher = f"   teacher: {several(step.teacher)}"
    marks = " ".join(cell(score, 2) for score in scores)
    r_expert = cell(step.R_E, 2)
    r_cs = cell(step.R_A[0], 2)
    joint = cell(step.R_t, 2) if rewarded else DASH
    broken = several(violations(step.reply, rules))
    print(f"\n[turn {number}] customer: {step.state.user}")
    print(f"  perceived  intent {step.perceived[0]}, emotion {step.perceived[1]}{truth}")
    print(f"  skills     {several(step.skills)}{teacher}")
    print(
        f"  must say   {several(rules.must_say)}   must not say {several(rules.must_not_say)}"
        f"   dropped {several(rules.dropped)}")
    if step.replies[0].decision:
        print(f"  decision   {step.replies[0].decision}")
    print(f"  reply      {fill(step.reply, step.seen.context)}")
    print(
        f"  rewards    R^E {r_expert}   S {marks}   R^A {r_cs}   R_t {joint}"
        f"   violations {broken}")


def decisions(episode: Episode) -> list[str]:
    """d_t of each turn, as the customer saw it: "voucher" or "chat"."""
    ends = [step.seen.outcome for step in episode.steps] + [episode.seen.outcome]
    counts = [end.vouchers or 0 for end in ends]
    named = {True: "voucher", False: "chat"}
    return [named[after > before] for before, after in zip(counts, counts[1:])]


def show_dialogue(gopo: Gopo, episode: Episode) -> None:
    print(f"\n===== dialogue {episode.number}")
    decides = DECISION in gopo.dataset.skills
    for number, (step, decision) in enumerate(zip(episode.steps, decisions(episode)), 1):
        show_turn(step, number)
        if decides:
            print(f"  decision   {decision}")
    end = "not everything done"
    if gopo.dataset.environment is None:
        end = "end of the log"
    elif episode.seen.outcome.success:
        end = "all tasks done"
    mark = episode.seen.outcome.satisfaction
    if mark is not None:
        end += f", {mark} of 5 stars"
    print(f"\n  customer: {episode.seen.user}\n  end: {end}, N = {completed(gopo, episode)}")
