"""infra/client.py against a real server, `transformers serve`, of a model that was taught two
answers; from a folder, offline."""
import importlib.util
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import requests
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from infra.client import ApiConfig, ApiError, Client
from lm.models import build_tiny
from tests.asking import say, text_of

NEEDED = ("fastapi", "uvicorn", "openai", "pydantic")
MISSING = [name for name in NEEDED if importlib.util.find_spec(name) is None]
TALKS = {"Where is my lamp?": "It arrives on Monday.", "Is it red?": "No, the lamp is blue."}
QUESTIONS = [say(question) for question in TALKS]
READY_WITHIN = 600  # looks, 0.2 s apart: it imports torch and transformers

pytestmark = [
    pytest.mark.usefixtures("quick"),
    pytest.mark.skipif(
        bool(MISSING),
        reason=f"`transformers serve` needs {', '.join(MISSING)}: "
               "pip install -r requirements.txt"),
]


def ids_of(tokenizer, messages, **how):
    return tokenizer.apply_chat_template(messages, return_tensors="pt", return_dict=True, **how)


def taught(folder: Path) -> None:
    """A tiny model that has learnt the two answers, saved to the folder."""
    texts = [f"{question} {answer}" for question, answer in TALKS.items()]
    model, tokenizer = build_tiny(texts, [], seed=0, width=64, layers=1, vocabulary=320)
    rows = []
    for question, answer in TALKS.items():
        talk = [*say(question), {"role": "assistant", "content": answer}]
        rows.append(ids_of(tokenizer, talk)["input_ids"])
    optimiser = torch.optim.Adam(model.parameters(), 2e-2)
    for _ in range(40):
        loss = sum(model(input_ids=row, labels=row).loss for row in rows)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def wait_until_ready(process: subprocess.Popen, port: int, log: Path) -> None:
    for _ in range(READY_WITHIN):
        assert process.poll() is None, log.read_text()[-2000:]
        try:
            answer = requests.get(f"http://127.0.0.1:{port}/health", timeout=5)
        except requests.ConnectionError:
            time.sleep(0.2)
            continue
        assert answer.json() == {"status": "ok"}
        return
    pytest.fail(f"not ready after two minutes: {log.read_text()[-2000:]}")


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """(address, folder) of the server and of its model."""
    folder = tmp_path_factory.mktemp("model")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    taught(folder)
    torch.set_num_threads(threads)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    program = str(Path(sys.executable).parent / "transformers")
    command = [program, "serve", str(folder), "--host", "127.0.0.1", "--port", str(port),
               "--device", "cpu"]
    environment = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "NO_PROXY": "127.0.0.1"}
    with (folder / "serve.log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=os.environ | environment)
        try:
            wait_until_ready(process, port, folder / "serve.log")
            yield f"http://127.0.0.1:{port}/v1", folder
        finally:
            process.terminate()
            process.wait(20)


def greedy_answers(folder: Path) -> list[str]:
    """What the model says without a server."""
    model = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    answers = []
    for messages in QUESTIONS:
        ids = ids_of(tokenizer, messages, add_generation_prompt=True)
        out = model.generate(**ids, do_sample=False, max_new_tokens=64)
        made = out[0, ids["input_ids"].shape[1]:]
        answers.append(tokenizer.decode(made, skip_special_tokens=True))
    return answers


def test_transformers_serve(served, tmp_path):
    url, folder = served
    greedy = greedy_answers(folder)
    # the model has learnt its two answers
    assert greedy == list(TALKS.values())
    cfg = ApiConfig(url, api_cache=str(tmp_path / "cache.sqlite"), api_concurrency=2)
    first = Client(str(folder), cfg)
    again = Client(str(folder), cfg)
    other = Client("no-such-model", cfg)
    assert first.ask(QUESTIONS, text_of, max_tokens=64, logprobs=True) == greedy
    assert first.stats["sent"] == 2
    assert again.ask(QUESTIONS, text_of, max_tokens=64, logprobs=True) == greedy
    assert again.stats == {"asked": 2, "cached": 2}
    # cut off for its length
    assert again.ask(QUESTIONS[:1], text_of, max_tokens=3, attempts=1) == [None]
    assert again.stats["bad_answers"] == 1
    with pytest.raises(ApiError, match="HTTP 400.*pinned"):
        other.ask([say("hello")], text_of)
    for client in (first, again, other):
        client.close()
