"""Logs, a skill pool, and a model that labels by one word, for the tests of the labellers.

The model answers directly, or behind a server on 127.0.0.1."""
import json
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from data import Skill

POOL = [
    {
        "id": "sorry",
        "description": "say sorry",
        "examples": ["I am very sorry for the trouble."],
    },
    {
        "id": "price",
        "description": "state the price",
        "examples": ["It costs {price} in our shop."],
        "needs": ["price"],
    },
    {
        "id": "refund",
        "description": "state what comes back",
        "must_say": ["Refunds take five working days."],
    },
    {
        "id": "close",
        "description": "end",
        "examples": ["Is there anything else I can do for you?"],
        "must_say": ["Terms apply."],
    },
    {
        "id": "upsell",
        "description": "suggest more",
        "must_say": ["Terms apply."],
    },
]
SORRY = "I am very sorry for the trouble."
PRICE = "It costs 30 euros in our shop."


def _skill(record):
    fields = {}
    for name, value in record.items():
        fields[name] = tuple(value) if isinstance(value, list) else value
    return Skill(**fields)


SKILLS = {record["id"]: _skill(record) for record in POOL}


# ---------------------------------------------------------------- files

def dialogue(id, *turns):
    """A line of the logs; the customer's words are made up."""
    rows = [{"user": f"{id} asks {i}", **turn} for i, turn in enumerate(turns)]
    return {"id": id, "turns": rows}


def logs(folder, rows, pool=POOL, name="logs.jsonl"):
    path = folder / name
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
    path.write_text("".join(lines), encoding="utf-8")
    if pool:
        skills = folder / name.replace(".jsonl", ".skills.json")
        skills.write_text(json.dumps(pool), encoding="utf-8")
    return path


def rows_of(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


# ---------------------------------------------------------------- prompts and a model

def block(prompt):
    """The data of a prompt."""
    return json.loads(prompt[1]["content"].split("\n")[1])


def wanted_of(prompt):
    """The numbers of the turns that a prompt asks for."""
    last_line = prompt[1]["content"].split("\n")[-1]
    return [int(number) for number in re.findall(r"\d+", last_line)]


def good(prompt):
    """The model: it reads the price skill off the word "costs" and calls everybody angry."""
    turns = {turn["turn"]: turn for turn in block(prompt)["turns"]}
    rows = []
    for number in wanted_of(prompt):
        reply = turns[number].get("agent", "")
        skills = ["price"] if "costs" in reply else []
        rows.append({"turn": number, "skills": skills, "intent": "buy", "emotion": "angry"})
    return json.dumps({"turns": rows})


# ---------------------------------------------------------------- a server

@contextmanager
def desk(folder) -> Iterator[type]:
    """A server with that model.

    `.asked` are the prompts, `.say(prompt)` the answer, `.delay` its seconds; `.flags` are those of
    a command that asks it, with a cache in `folder`.
    """
    class Desk(BaseHTTPRequestHandler):
        asked = []
        delay = 0
        say = staticmethod(good)

        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            Desk.asked.append(body["messages"])
            time.sleep(Desk.delay)
            message = {"content": Desk.say(body["messages"])}
            out = json.dumps({"choices": [{"message": message}]}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(out)))
            self.end_headers()
            self.wfile.write(out)

        def log_message(self, *args):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Desk) as served:
        threading.Thread(target=served.serve_forever, daemon=True).start()
        Desk.flags = [
            "--api_base", f"http://127.0.0.1:{served.server_port}/v1",
            "--model", "m",
            "--api_cache", str(folder / "cache.sqlite"),
            "--intents", "buy,return",
            "--emotions", "calm,angry",
            "--api_concurrency", "2",
        ]
        yield Desk
        served.shutdown()
