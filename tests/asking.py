"""What the tests of the client share: prompts, the cache as another program sees it, processes."""
from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent.parent
KEY = "sk-secret-0123456789"


def say(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def said(body: dict[str, Any]) -> str:
    """The words of a prompt that `say` made, in a request."""
    return body["messages"][0]["content"]


def text_of(answer) -> str:
    return answer.text


def itself(answer):
    return answer


def choice(text, **more) -> dict[str, Any]:
    """A completion that says `text`."""
    message = {"role": "assistant", "content": text}
    return {"choices": [{"index": 0, "message": message, "finish_reason": "stop"} | more]}


def stored(path) -> list[tuple[Any, Any]]:
    """(request, answer) of all that is in a cache file."""
    with sqlite3.connect(path) as db:
        rows = db.execute("SELECT request, answer FROM answers").fetchall()
    return [(json.loads(request), json.loads(answer)) for request, answer in rows]


def start(script: str, *args: object) -> subprocess.Popen[str]:
    """A Python script in a process of its own."""
    command = [sys.executable, "-c", script, *map(str, args)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
