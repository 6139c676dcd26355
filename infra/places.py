"""Where something stands, in words, for messages: file, dialogue and turn."""
from __future__ import annotations

from data import Dialogue, Episode, Replay


def place_of(dialogue: Dialogue) -> str:
    """File, line and id, as far as they are known.

    >>> place_of(Dialogue("d7", (), source="logs.jsonl, line 8"))
    'logs.jsonl, line 8, dialogue d7'
    """
    return ", ".join(filter(None, (dialogue.source, f"dialogue {dialogue.id}")))


def next_turn(episode: Episode) -> str:
    """The turn that an episode plays now: of a logged dialogue, or of a simulated customer.

    A negative number is of neither: somebody asks for one answer.
    """
    if episode.number < 0:
        return "this dialogue"
    place = f"customer {episode.number}"
    if isinstance(episode.env, Replay):
        place = place_of(episode.env.dialogue)
    return f"{place}, turn {len(episode.steps) + 1}"
