"""A terminal that lacks a character, bytes that are no text, commands that can be pasted."""
import io
import shlex
import sys

import pytest

from infra.terminal import command, flush, forgive


@pytest.mark.parametrize("encoding, shown", [
    ("ascii", "a - b -> ? ?"), ("latin-1", "a - b -> ü ?"), ("utf-8", "a — b → ü ?")])
def test_what_cannot_be_printed_is_replaced(encoding, shown, monkeypatch):
    raw = io.BytesIO()
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, io.TextIOWrapper(raw, encoding=encoding))
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"Gr\xfc\xdfe"), "utf-8"))
    forgive()
    print("a — b → ü \udcff", end="", flush=True)
    assert raw.getvalue().decode(encoding) == shown
    assert sys.stdin.read() == "Gr\ufffd\ufffde"


def test_what_cannot_be_delivered_is_an_error_in_time(monkeypatch):
    full = open("/dev/full", "w")
    monkeypatch.setattr(sys, "stdout", full)
    print("lost")
    with pytest.raises(OSError, match="No space left"):
        flush()
    full.close()                                 # and no second complaint at the end


def test_a_printed_command_can_be_pasted():
    run = "runs/my logs' $HOME-gopo-0"
    words = shlex.split(command("-m hosted.label", run, "--help"))
    assert words == ["python", "-m", "hosted.label", run, "--help"]
