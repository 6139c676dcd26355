"""dataset.json of a run directory: what a trained pair must know of its dataset to answer, without the data."""
from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from data import Dataset, Skill
from infra.files import read_json, write_json


def save_domain(dataset: Dataset, path: Path) -> None:
    """dataset.json: all that a trained pair needs of its dataset to answer, without the data."""
    write_json(path, {
        "name": dataset.name,
        "skills": [asdict(s) for s in dataset.skills.values()],
        "intents": dataset.intents,
        "emotions": dataset.emotions,
        "horizon": dataset.horizon,
        "must_not_say": dataset.must_not_say,
    })


def _skill_from(record: dict[str, Any]) -> Skill:
    return Skill(**{k: tuple(v) if isinstance(v, list) else v for k, v in record.items()})


def read_domain(path: Path) -> Dataset:
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
