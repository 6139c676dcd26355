"""Labels for logs that lack them: skill sequences, intents, emotions (the paper's offline teacher).

    python -m hosted.label logs.jsonl --skills mgshop \\
        --api_base http://localhost:8000/v1 --model Qwen/Qwen3-8B
    python -m hosted.label logs.jsonl --skills pool.skills.json

Without a server, as in the second line, the rule labeller fills in skills alone.  labellers.py
says how labels are found, and label_file.py how they are written; labels that are there are never
overwritten.  A sample of those is asked for all the same, to report agreement.
Exercise: label data.load("mgshop").test with `--model rules`, its skills removed, and train on the
result: what does the Expert lose?"""
from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

import data
from corpora import jsonl
from corpora.download import digest
from data import DataError, Turn, opt
from hosted.label_file import Output, Survey, coverage, label_file, read_rows, survey
from hosted.labellers import (
    KINDS,
    Choices,
    Found,
    HostedLabeller,
    Labeller,
    RuleLabeller,
    digest_of,
    label_turns,
    labelled,
)
from infra.client import ApiConfig, BudgetSpent, Client
from infra.files import NO_SPACE, refuse_unwritable
from infra.flags import parse, parser_of
from infra.locks import refuse_growing
from infra.terminal import command, flush, forgive
from rewards import esndcg
from text import clean
from tse import skill_f1

# Asked for if nobody names a set [ours: the paper names none, GAP-9].
EMOTIONS = ("neutral", "happy", "angry", "anxious", "disappointed")
RULES = "rules"


@dataclass(frozen=True)
class LabelConfig:
    """What is labelled, with what."""
    model: str = opt(
        RULES,
        "the model's name at --api_base; rules: the rule labeller, skills only, no server")
    skills: str | None = opt(
        None,
        "skill pool: a .skills.json, or a dataset (mgshop, multiwoz, ..) whose intents and "
        "emotions are used as well; default FILE's own .skills.json")
    intents: str | None = opt(
        None,
        "intents to choose from, a,b,c; default the dataset's of --skills, or those seen in FILE; "
        "with none, intents are not asked for")
    emotions: str | None = opt(
        None,
        "emotions to choose from, a,b,c; default the dataset's, or those seen in FILE, or "
        f"{','.join(EMOTIONS)}")
    output: str | None = opt(
        None, "where to write, ending in .jsonl; default FILE with .labelled.jsonl for .jsonl")
    check: int = opt(
        100, "turns that had labels, asked for as well to report agreement; 0 = none")
    limit: int | None = opt(None, "only the first N dialogues; a later, larger N goes on")
    data_dir: str = opt(
        os.environ.get("GOPO_DATA", "data"),
        "where corpora are stored; default data, or the environment's GOPO_DATA")

    def __post_init__(self):
        if self.check < 0 or (self.limit is not None and self.limit < 1):
            raise ValueError(
                f"--check must be >= 0 and --limit >= 1, got {self.check}, {self.limit}")


# ---------------------------------------------------------------- what may be chosen

def read_pool(cfg: LabelConfig, path: Path) -> Choices:
    """The skill pool and, where a dataset brings them, its intents and emotions."""
    own = jsonl.skills_path(path)
    if cfg.skills is None:
        if not own.is_file():
            raise DataError(
                f"{path}: no skill pool to label with; write {own.name} next to it, "
                '[{"id": "apologise", "description": "say sorry", "examples": '
                '["I am sorry."], "must_say": []}, ..], or give --skills FILE.skills.json or '
                "--skills mgshop")
        return Choices(jsonl.read_skills(own))
    if cfg.skills.endswith(".json"):
        file = Path(cfg.skills)
        if not file.is_file():
            raise DataError(f"--skills {file}: no such file")
        return Choices(jsonl.read_skills(file))
    if cfg.skills not in data.DATASETS:
        raise DataError(
            f"--skills {cfg.skills}: give a .skills.json, or one of {', '.join(data.DATASETS)}")
    dataset = data.load(cfg.skills, cfg.data_dir)
    return Choices(dataset.skills, dataset.intents, dataset.emotions)


def choices(cfg: LabelConfig, base: Choices, found: Survey) -> Choices:
    """Label sets: the flag's, or else the dataset's, or else those seen in the file.

    For emotions there is a standard set as the last resort.
    """
    intents = _names("--intents", cfg.intents) or base.intents or tuple(sorted(found.intents))
    emotions = _names("--emotions", cfg.emotions) or base.emotions or tuple(sorted(found.emotions))
    return Choices(base.pool, intents, emotions or EMOTIONS)


def _names(flag: str, value: str | None) -> tuple[str, ...]:
    """The names in a flag's value; () if the flag was not given."""
    if value is None:
        return ()
    names = dict.fromkeys(clean(name) for name in value.split(","))
    if not all(names):
        raise DataError(f"{flag} {value!r}: write names with commas between, a,b,c")
    return tuple(names)


# ---------------------------------------------------------------- agreement

def agreement(
    pairs: Sequence[tuple[Found, Turn]], kinds: Sequence[str]
) -> dict[str, float | int | None]:
    """How a labeller's labels compare with those that were there, over turns that have both.

    pairs    (the labeller's labels, the turn with its own)
    returns  `n_<kind>` of `of_<kind>` turns have both; means over these, None if there are none

    >>> logged = Turn("hi", skills=("a", "b"), reply="x"), Turn("ho", skills=("a",), reply="x")
    >>> agreement([({"skills": ("a",)}, logged[0]), ({}, logged[1])], ["skills"])["f1"]
    0.6666666666666666
    """
    result: dict[str, float | int | None] = {}
    for kind in kinds:
        there = [(found, turn) for found, turn in pairs if labelled(turn, [kind])]
        both = []
        for found, turn in there:
            if found.get(kind) is not None:
                both.append((found[kind], getattr(turn, kind)))
        result |= {f"n_{kind}": len(both), f"of_{kind}": len(there)}
        exact = _mean([guess == truth for guess, truth in both])
        if kind == "skills":
            result["exact"] = exact
            result["f1"] = _mean([skill_f1(guess, truth) for guess, truth in both])
            result["esndcg"] = _mean([esndcg(guess, truth) for guess, truth in both])
        else:
            result[f"accuracy_{kind}"] = exact
    return result


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def check(
    path: Path, labeller: Labeller, found: Survey, number: int
) -> dict[str, float | int | None]:
    """Agreement on `number` turns that had labels, chosen by hash: the same at every call."""
    known = [entry for entry in found.labelled if set(entry.kinds) & set(labeller.kinds)]
    # dialogue -> its turns in the sample
    sample: dict[str, list[int]] = {}
    for entry in sorted(known)[:number]:
        sample.setdefault(entry.dialogue, []).append(entry.turn)
    asked = []
    names = []
    for row in islice(read_rows(path), found.dialogues):
        if row.dialogue.id in sample:
            asked.append((row.dialogue.turns, sample[row.dialogue.id]))
            names.append(row.name)
    pairs = []
    for (turns, numbers), labels in zip(asked, label_turns(labeller, asked, names)):
        pairs += [(labels.get(i, {}), turns[i]) for i in numbers]
    return agreement(pairs, labeller.kinds)


# ---------------------------------------------------------------- the report

def report(cfg: LabelConfig, path: Path, out: Output, labeller: Labeller, found: Survey) -> None:
    """Prints how many turns have which label, and the agreement."""
    print(f"{out.path}: labelled by {labeller.name}")
    for kind, counts in coverage(path, out).items():
        not_asked = ""
        if kind not in labeller.kinds:
            not_asked = "rules label skills only" if cfg.model == RULES else f"give --{kind}s a,b,c"
        print(_coverage_line(kind, counts, not_asked))
    if not cfg.check:
        return
    values = check(path, labeller, found, cfg.check)
    if not any(values.get(f"of_{kind}") for kind in KINDS):
        print("agreement: — (no turn had labels to compare with)")
        return
    print(f"agreement of {labeller.name} with the labels that were there:")
    for kind in labeller.kinds:
        print(_agreement_line(kind, values))


def report_client(client: Client, out: Output) -> None:
    """What was asked, which windows got no answer and why, and how to ask for them again."""
    print("\n".join([client.report(), *client.losses()]))
    if client.losses():
        print(f"to ask for these again: remove {out.path}, {out.skills.name} and "
              f"{out.meta.name}, and give the same command; what was answered is not sent again")


def _coverage_line(kind: str, counts: Counter, not_asked: str) -> str:
    missing = counts["unlabelled"] + counts["no reply"]
    line = (
        f"  {kind:8s} {counts.total()} turns: {counts['had']} had it, {counts['labelled']} "
        f"labelled now, {missing} null")
    if counts["no reply"]:
        line += f" ({counts['no reply']} have no reply)"
    if missing and not_asked:
        line += f"  (not asked for: {not_asked})"
    return line


def _agreement_line(kind: str, values: dict[str, float | int | None]) -> str:
    line = f"  {kind:8s} {values[f'n_{kind}']} of {values[f'of_{kind}']} labelled: "
    if kind != "skills":
        return line + f"accuracy {_figure(values[f'accuracy_{kind}'])}"
    names = {"exact": "exact", "F1": "f1", "ESNDCG": "esndcg"}
    return line + ", ".join(f"{name} {_figure(values[key])}" for name, key in names.items())


def _figure(value: float | None) -> str:
    return "—" if value is None else f"{value:.3f}"


# ---------------------------------------------------------------- the command

def output_of(cfg: LabelConfig, path: Path) -> Output:
    """Where the labelled logs go; never into the input."""
    out = path.with_name(path.name.removesuffix(".jsonl") + ".labelled.jsonl")
    if cfg.output:
        out = Path(cfg.output)
    if not out.name.endswith(".jsonl"):
        raise DataError(
            f"--output {out}: give a name that ends in .jsonl, or train.py will not read it")
    if out.resolve() == path.resolve() or (out.exists() and out.samefile(path)):
        raise DataError(
            f"--output {out} is the input itself, which is never overwritten; give another name")
    refuse_unwritable("--output", out, file=True)
    return Output(out)


def run(path: Path, cfg: LabelConfig, api: ApiConfig) -> None:
    """Everything but the command line: reads, labels, reports."""
    _check_model(cfg, api)
    if not path.is_file():
        raise DataError(f"{path}: no such file; give the path of your logs")
    refuse_growing(path)
    out = output_of(cfg, path)
    base = read_pool(cfg, path)
    found = survey(path, cfg.limit, base.pool)
    if not found.dialogues:
        raise DataError(f"{path}: no dialogue in it")
    chosen = choices(cfg, base, found)
    client = None
    if cfg.model == RULES:
        labeller = RuleLabeller(chosen)
    else:
        client = Client(cfg.model, api)
        labeller = HostedLabeller(client, chosen)
    made_of = {
        "input": digest(path),
        "skill pool": digest_of([asdict(skill) for skill in chosen.pool.values()]),
        "labeller": labeller.name,
        "prompt": labeller.signature,
    }
    try:
        with out.begun(made_of, chosen.pool) as file:
            label_file(path, out, labeller, found.dialogues, file)
        report(cfg, path, out, labeller, found)
        if client is not None:
            report_client(client, out)
    finally:
        if client is not None:
            client.close()
    print(f"next: {command('train.py', '--dataset', out.path)}")


def _check_model(cfg: LabelConfig, api: ApiConfig) -> None:
    if cfg.model == RULES and api.api_base:
        raise DataError(f"--model {cfg.model}: --api_base is given, so name the model there")
    if cfg.model != RULES and not api.api_base:
        raise DataError(f"--model {cfg.model}: a hosted model needs --api_base http://.../v1")


def main(argv: Sequence[str] | None = None) -> int:
    forgive()
    parser = parser_of([LabelConfig, ApiConfig], __doc__.split("\n\n")[0])
    parser.prog = "python -m hosted.label"
    parser.add_argument("file", type=Path, help="your logs, one dialogue a line (docs/logs.md)")
    cfg, api, rest = parse(parser, argv)
    go_on = "what was labelled is kept: the same command goes on from there"
    try:
        run(rest.file, cfg, api)
        flush()
    except BudgetSpent as error:
        print(f"label.py: {error}\n{go_on}", file=sys.stderr)
        return 3
    except (DataError, OSError) as error:
        said = str(error)
        if getattr(error, "errno", None) in NO_SPACE:
            said += f": free some space; {go_on}"
        print(f"label.py: {said}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"\nstopped; {go_on}", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
