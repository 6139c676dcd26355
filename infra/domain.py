"""dataset.json of a run directory: what a trained pair must know of its dataset to answer.

It holds the skills and the labels, but none of the dialogues."""
from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from data import DataError, Dataset, Skill
from infra.files import read_json, write_json


def save_domain(dataset: Dataset, path: Path) -> None:
    kept = {
        "name": dataset.name,
        "skills": [asdict(skill) for skill in dataset.skills.values()],
        "intents": dataset.intents,
        "emotions": dataset.emotions,
        "horizon": dataset.horizon,
        "must_not_say": dataset.must_not_say,
    }
    if dataset.made_of:
        kept["made_of"] = dataset.made_of
    write_json(path, kept)


def _skill_from(record: dict[str, Any]) -> Skill:
    """A Skill from JSON, which writes tuples as lists."""
    fields = {}
    for name, value in record.items():
        fields[name] = tuple(value) if isinstance(value, list) else value
    return Skill(**fields)


def read_domain(path: Path) -> Dataset:
    """A dataset without dialogues, environment and phrase book."""
    kept = read_json(path)
    skills = [_skill_from(record) for record in kept["skills"]]
    return Dataset(
        kept["name"],
        {skill.id: skill for skill in skills},
        tuple(kept["intents"]),
        tuple(kept["emotions"]),
        train=[],
        dev=[],
        test=[],
        horizon=kept["horizon"],
        must_not_say=tuple(kept["must_not_say"]),
        made_of=kept.get("made_of", ""),
    )


# --- the order of a network's outputs -----------------------------------------------------------

KINDS = ("skills", "intents", "emotions")


def as_trained(dataset: Dataset, run: Path) -> Dataset:
    """The dataset with the skills, intents and emotions of a run, in the order of its networks."""
    return in_the_order_of(read_domain(run / "dataset.json"), dataset, str(run))


def in_the_order_of(kept: Dataset, dataset: Dataset, whose: str) -> Dataset:
    """The dataset with the skills, intents and emotions of the one that was trained on, `kept`.

    Output k of a trained network is the k-th name of the run's dataset.json.  Logs sorted in
    another way, or another shop, list the same names otherwise: they are matched by name.  What a
    skill asks for is the dataset's own; of a skill that it lacks it is the run's.

    raises  DataError that names what the run has never learned
    """
    refuse_strange(dataset, kept, whose)
    refuse_changed(dataset, kept, whose)
    skills = {id: dataset.skills.get(id, skill) for id, skill in kept.skills.items()}
    horizon = kept.horizon if kept.name == dataset.name else dataset.horizon
    return replace(
        dataset, skills=skills, intents=kept.intents, emotions=kept.emotions, horizon=horizon)


def refuse_strange(dataset: Dataset, trained: Dataset, whose: str) -> None:
    """DataError that names skills or labels of the dataset that `whose` networks do not have.

    A phrase book has no words for skills of others, so a shop with one must have all of them.
    """
    for kind in KINDS:
        ours, theirs = list(getattr(dataset, kind)), list(getattr(trained, kind))
        strange = [name for name in ours if name not in theirs]
        missing = [name for name in theirs if name not in ours]
        said = ""
        if strange:
            said = f"its {kind} {_listed(strange)} are unknown to {whose}"
        elif missing and dataset.template:
            said = f"the {kind} {_listed(missing)} of {whose} are not there"
        if said and dataset.name != trained.name:
            said = f"its {kind} are not those of {trained.name}, which was trained on: {said}"
        elif said:
            said = f"the data changed: {said}; put the data back as they were, or train again"
        if said:
            raise DataError(f"--dataset {dataset.name}: {said}")


def refuse_changed(dataset: Dataset, trained: Dataset, whose: str) -> None:
    """DataError if a shop or a function of one's own is no longer what it was in training."""
    if dataset.name == trained.name and dataset.made_of != trained.made_of:
        raise DataError(
            f"--dataset {dataset.name}: it is not as it was when {whose} was trained; put it back "
            "as it was, give the new one another name, or train again")


def _listed(names: list[str], most: int = 5) -> str:
    shown = ", ".join(map(repr, names[:most]))
    if len(names) > most:
        shown += f" and {len(names) - most} more"
    return shown
