"""What a terminal can show, and commands that can be pasted into one.

A terminal that lacks a character gets another one: nothing that was computed is lost because a
dash cannot be printed."""
from __future__ import annotations

import codecs
import os
import shlex
import sys
from contextlib import suppress

# What stands for characters that ASCII lacks; "?" for all others.
PLAIN = {"—": "-", "–": "-", "→": "->", "…": "...", "“": '"', "”": '"', "’": "'", "≥": ">="}


def _plain(error: UnicodeError) -> tuple[str, int]:
    """An error handler of `codecs`: what cannot be encoded is replaced."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lost = error.object[error.start:error.end]
    return "".join(PLAIN.get(letter, "?") for letter in lost), error.end


codecs.register_error("plain", _plain)


def forgive() -> None:
    """Nothing printed or typed raises an error because of its characters."""
    for stream, errors in ((sys.stdout, "plain"), (sys.stderr, "plain"), (sys.stdin, "replace")):
        # a test may have put something else in their place
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors=errors)


def flush() -> None:
    """OSError now if what was printed cannot be delivered, and not when the process ends."""
    try:
        sys.stdout.flush()
    except OSError:
        # Python would try again at its end, and complain
        with suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise


def command(script: str, *words: object) -> str:
    """A command that can be pasted, whatever blanks and quotes its words hold.

    >>> command("eval.py", "--run", "runs/my logs-gopo-0", "--chat")
    "python eval.py --run 'runs/my logs-gopo-0' --chat"
    """
    return shlex.join(["python", *script.split(), *map(str, words)])
