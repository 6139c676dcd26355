"""The decision d_t of a reply: "chat" or "voucher", said before the words, or by them.

A language model that decides first begins its reply with a tag, and its words have to agree with
it.  A reply without a tag, as a phrase book makes it, decides by its words."""
from __future__ import annotations

import re

TAG = re.compile(r"<(voucher|chat)>")


def split_decision(text: str) -> tuple[str | None, str, bool]:
    """(decision, words, valid) of a reply that may begin with its decision d_t.

    "<voucher> ..." or "<chat> ..." comes from an agent that says its decision; None: the words
    decide.  A tag in the middle, or a second one, is a format error.  Tags are never shown.

    >>> split_decision("<voucher> Here it is.")
    ('voucher', 'Here it is.', True)
    >>> split_decision("Here it is. <voucher>")
    (None, 'Here it is.', False)
    """
    found = TAG.findall(text)
    if not found:
        return None, text, True
    first = TAG.match(text.lstrip())
    words = " ".join(TAG.sub(" ", text).split())
    return first.group(1) if first else None, words, len(found) == 1 and first is not None
