"""STAR (Mosig et al. 2020) as replayed logs: people who follow a flow chart serve people.

Each of the 24 tasks has a chart, its SOP (sop.py).  star_turns.py says how u_t, T, B_t and the
reply are read, and star_files.py where they come from.  Here: the dataset (Sec. 4, GAP-9).

Rules      The SOPs order actions and prescribe no wording.  `must_say` is empty.  `must_not_say`
           (sop.py): a claim of success belongs to its own action; actions before the query on
           which it depends, and those on its other branches, may not make it.  `needs`: the slots
           of the action's template, which B_t lacks until the knowledge base has returned them.
           This is the order of the SOP as a hard constraint.
Tasks      of Eq. 11: the table TASKS (ours, GAP-9).
Splits     `dialogue`: about 80/10/10 % by hash.  `task`: zero-shot, test and dev are of domains
           that train never saw.

Try it:    GOPO_DATA=data python -m corpora.star
           prints a dialogue, the SOP of one task and how often each skill is used; --download
           fetches the files"""
from __future__ import annotations

import argparse
import hashlib
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from corpora.dialogues import count_skills, examples, horizon, show_dialogue, turns_of, used_skills
from corpora.dialogues import split as split_by_hash
from corpora.sop import prohibitions
from corpora.star_files import Tasks, corpus, download, needs, templates
from data import DataError, Dataset, Dialogue, Skill

# of the split by task
SEED = 0
# task of Eq. 11, labels; the first line that fits counts
TASKS = (
    (None, r"hello|out_of_scope"),
    (3, r"anything_else|goodbye_\d|\w+_bye|trip_instructions_done"),
    # exceptions: "ask" in these names asks for no requirement
    (2, r"trivia_ask_question|trivia_inform_answer_\w+|trip_inform_\w*step\w*"),
    # nothing matches
    (1, r"\w+_inform_(nothing_found|\w*unavailable\w*)|\w+_unavailable"
        r"|party_(no_)?venue_(not_)?available"),
    # offers to book
    (3, r"\w+_(ask_confirm_booking|flight_available|inform_\w+_available)"),
    # what next?
    (3, r"\w+_ask_(search_more|more_questions|continue_searching)"),
    # done
    (3, r"\w+_(confirm_\w+|confirmed|successful|succeeded|submitted)"),
    (1, r"(\w+_)?ask_\w+|plane_request_optional|\w+_criteria"),
    (2, r"\w+_(inform|provide)_\w+|\w+_failed"),
)


# ---------------------------------------------------------------- the dataset

@dataclass
class Star(Dataset):
    """A Dataset that brings its SOPs: task -> {node: next node}."""
    sops: dict[str, dict[str, str]] = field(default_factory=dict)


def load(data_dir: Path, split: str = "dialogue") -> Star:
    """The 5,818 complete dialogues that hold any talk, from `data_dir`/star.

    Fetches them if they are not there.
    split   "dialogue": about 80/10/10 % by a hash of the id; "task": zero-shot, see `by_domain`
    """
    if split not in ("dialogue", "task"):
        raise DataError(f"split {split!r}: STAR is split by dialogue or by task")
    dialogues, tasks = corpus(Path(data_dir) / "star")
    note = (
        "STAR: real people, logs replayed. No labels of emotion; an intent only where the wizard "
        "changed the task; one action a turn, none where the wizard wrote freely.")
    if split == "dialogue":
        train, dev, test = split_by_hash(dialogues)
    else:
        (train, dev, test), domains = by_domain(dialogues)
        note += domains
    intents = {turn.intent for turn in turns_of(train) if turn.intent}
    used = used_skills(turns_of(dialogues))
    return Star(
        "star",
        pool(sorted(used), tasks, train),
        intents=tuple(sorted(intents)),
        emotions=(),
        train=train,
        dev=dev,
        test=test,
        horizon=horizon(train),
        note=note,
        sops=charts(tasks),
    )


def charts(tasks: Tasks) -> dict[str, dict[str, str]]:
    return {name: task["graph"] for name, task in tasks.items()}


def pool(labels: Sequence[str], tasks: Tasks, train: Sequence[Dialogue]) -> dict[str, Skill]:
    """P_skill: every label in use.

    The templates come first among a label's examples, so that a skill that train never saw has
    some as well.
    """
    banned = prohibitions(charts(tasks))
    found = {}
    for label in labels:
        texts = templates(label, tasks)
        description = label.replace("_", " ")
        if texts:
            description += f': "{texts[0]}"'
        shown = dict.fromkeys([*texts, *examples(label, train)])
        found[label] = Skill(
            label,
            description,
            tuple(shown)[:8],
            must_not_say=banned.get(label, ()),
            needs=needs(texts),
            task=task_of(label),
        )
    return found


def task_of(label: str) -> int | None:
    """Task of Eq. 11.

    >>> task_of("bank_ask_pin"), task_of("bank_inform_balance"), task_of("hello")
    (1, 2, None)
    """
    for task, pattern in TASKS:
        if re.fullmatch(pattern, label):
            return task
    raise DataError(f"corpora/star.py: no line of TASKS fits the action {label!r}; add one")


# ---------------------------------------------------------------- the split by task

Parts = tuple[list[Dialogue], list[Dialogue], list[Dialogue]]


def by_domain(dialogues: Sequence[Dialogue]) -> tuple[Parts, str]:
    """((train, dev, test), what the dataset's note says of them).

    Tasks of one domain share actions, so whole domains move.  In the order of a seeded hash, the
    first two domains are test, the next two dev.  A dialogue whose tasks lie on several sides
    belongs to none.
    """
    domains = sorted(_domains(dialogues), key=_hash)
    side = dict.fromkeys(domains, "train")
    side |= dict.fromkeys(domains[:2], "test")
    side |= dict.fromkeys(domains[2:4], "dev")
    parts: dict[str, list[Dialogue]] = {"train": [], "dev": [], "test": []}
    left = 0
    for dialogue in dialogues:
        sides = {side[domain] for domain in _named(dialogue) if domain in side}
        if len(sides) == 1:
            parts[sides.pop()].append(dialogue)
        else:
            left += 1
    note = (
        f" Split by task: test is {domains[0]} and {domains[1]}, dev {domains[2]} and "
        f"{domains[3]}; {left} dialogues that mix sides are left out.")
    return (parts["train"], parts["dev"], parts["test"]), note


def _hash(domain: str) -> str:
    return hashlib.sha256(f"{SEED} {domain}".encode()).hexdigest()


def _domains(dialogues: Sequence[Dialogue]) -> set[str]:
    """The first words of all tasks."""
    found = set()
    for dialogue in dialogues:
        found |= {task.split("_")[0] for task in dialogue.goal["tasks"]}
    return found


def _named(dialogue: Dialogue) -> set[str]:
    """The first words of a dialogue's tasks and actions.

    A wizard may act for a task that was not selected.
    """
    names = [*dialogue.goal["tasks"], *used_skills(dialogue.turns)]
    return {name.split("_")[0] for name in names}


# ---------------------------------------------------------------- the command

def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="One STAR dialogue as GOPO sees it, the SOP of a task, how often each skill is "
                    "used.",
        allow_abbrev=False)
    parser.add_argument(
        "--data_dir", type=Path, default=Path(os.environ.get("GOPO_DATA", "data")),
        help="folder that holds star/")
    parser.add_argument(
        "--split", default="dialogue", choices=("dialogue", "task"),
        help="by dialogue, or by task (zero-shot)")
    parser.add_argument(
        "--number", type=int, default=0, help="which training dialogue to print")
    parser.add_argument(
        "--task", default="bank_balance", help="whose SOP to print (default bank_balance)")
    parser.add_argument("--download", action="store_true", help="fetch GitHub's zip first")
    return parser.parse_args()


def main() -> None:
    args = arguments()
    if args.download:
        download(args.data_dir / "star")
    star = load(args.data_dir, args.split)
    if not 0 <= args.number < len(star.train):
        last = len(star.train) - 1
        raise DataError(f"--number {args.number}: there are training dialogues 0 to {last}")
    print(star.note)
    print(f"{len(star.train)} train, {len(star.dev)} dev, {len(star.test)} test dialogues; "
          f"{len(star.skills)} skills; horizon {star.horizon}\n")
    show_dialogue(star.train[args.number])
    if args.task not in star.sops:
        raise DataError(f"--task {args.task}: STAR has {', '.join(star.sops)}")
    print(f"SOP of {args.task}")
    for node, after in star.sops[args.task].items():
        print(f"  {node:32} -> {after}")
    print(f"\n{'skill':46} used  task  needs")
    for label, n in count_skills(star.train):
        skill = star.skills[label]
        print(f"{label:46} {n:4}  {skill.task or '-'}     {' '.join(skill.needs)}")


if __name__ == "__main__":
    try:
        main()
    except DataError as error:
        print(f"star.py: {error}", file=sys.stderr)
        sys.exit(2)
