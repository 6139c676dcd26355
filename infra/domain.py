"""dataset.json of a run directory: what a trained pair must know of its dataset to answer.

It holds the skills and the labels, but none of the dialogues."""
from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from data import Dataset, Skill
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
    )
