"""The pages keep their word: links lead somewhere, commands and flags exist, the README is short.

A page is README.md, docs/*.md or docs/results/README.md.  The tables in docs/results are written
by a program and are not looked at.  Flags are looked up in each command's own --help, once."""

import ast
import json
import os
import re
import shlex
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").glob("*.md")), ROOT / "docs" / "results" / "README.md"]
MAX_LINES = 250
MAX_WORDS = 2500
FIRST_COMMAND = 30                               # the first block to run begins before this line
WRITTEN_BY_RUNS = {"runs", "results", "csagent", "data"}         # folders that no checkout holds

FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`([^`]+)`")
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#{1,6} +(.+)$", re.MULTILINE)
SOURCE = re.compile(r"(?<![\w/])[\w/]+\.py\b")
FOLDER = re.compile(r"[\w.]+/[\w./-]*")
HASH = re.compile(r"\b(?=[0-9a-f]*[0-9])(?=[0-9a-f]*[a-f])[0-9a-f]{7,40}\b")

# Run in one process of its own, so that torch is imported once for all commands.
ASK_FOR_HELP = """
import contextlib, io, json, runpy, sys, traceback
said = {}
for target in list(sys.argv[1:]):
    sys.argv = [target, "--help"]
    text = io.StringIO()
    with contextlib.redirect_stdout(text), contextlib.suppress(SystemExit):
        try:
            if target.endswith(".py"):
                runpy.run_path(target, run_name="__main__")
            else:
                runpy.run_module(target, run_name="__main__", alter_sys=True)
        except Exception:
            text.write(traceback.format_exc())
    said[target] = text.getvalue()
print(json.dumps(said))
"""


class Command(NamedTuple):
    """`python ...` as a page has it."""

    page: str
    words: tuple[str, ...]                       # without the leading "python"

    @property
    def target(self) -> str:
        """What is run: a file, as train.py, or a module, as shop.mgshop."""
        return self.words[1] if self.words[0] == "-m" else self.words[0]

    @property
    def file(self) -> Path:
        if self.target.endswith(".py"):
            return ROOT / self.target
        return ROOT / (self.target.replace(".", "/") + ".py")

    @property
    def flags(self) -> list[str]:
        return [w.partition("=")[0] for w in self.words if w.startswith("--") and w != "--help"]


# --- reading pages --------------------------------------------------------------------------------


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def prose(text: str) -> str:
    return FENCE.sub("", text)


def code(text: str) -> list[str]:
    """The lines of fenced blocks, and each piece of inline code as one line."""
    lines: list[str] = []
    for block in FENCE.findall(text):
        lines += block.splitlines()[1:-1]
    return lines + [" ".join(piece.split()) for piece in INLINE.findall(prose(text))]


def anchor(heading: str) -> str:
    """The address that GitHub gives a heading."""
    kept = re.sub(r"[^\w\- ]", "", heading.replace("`", "").lower())
    return kept.replace(" ", "-")


@cache
def anchors(page: Path) -> frozenset[str]:
    return frozenset(anchor(h) for h in HEADING.findall(prose(page.read_text(encoding="utf-8"))))


def python_calls(line: str) -> list[tuple[str, ...]]:
    """The words behind each `python` of a shell line.

    >>> python_calls("cd x && A=1 python train.py --seed 0   # trains")
    [('train.py', '--seed', '0')]
    """
    if "python " not in line:
        return []
    parts: list[list[str]] = [[]]
    for word in shlex.split(line, comments=True):
        if word in ("&&", "|", ";"):
            parts.append([])
        elif parts[-1] or not re.fullmatch(r"[A-Z_]+=\S*", word):
            parts[-1].append(word)
    return [tuple(p[1:]) for p in parts if len(p) > 1 and p[0] == "python"]


def all_commands() -> list[Command]:
    found = {}
    for page in PAGES:
        for line in code(page.read_text(encoding="utf-8")):
            for words in python_calls(line):
                found[Command(name(page), words)] = None         # a set that keeps the order
    return list(found)


COMMANDS = all_commands()
OURS = [c for c in COMMANDS if c.words[0] != "-c" and c.target != "pytest"]
FILES = {c.target: c.file for c in OURS}         # what is run -> where it lies
WITH_FLAGS = sorted({c.target for c in OURS if c.flags})


@cache
def helps() -> dict[str, str]:
    """The --help of every command whose flags a page shows."""
    targets = [target for target in WITH_FLAGS if FILES[target].exists()]
    ran = subprocess.run(
        [sys.executable, "-c", ASK_FOR_HELP, *targets],
        cwd=ROOT,
        env=os.environ | {"COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout.splitlines()[-1])


# --- the tests ------------------------------------------------------------------------------------


def test_the_readme_is_short():
    text = README.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= MAX_LINES
    assert len(text.split()) <= MAX_WORDS
    assert text.splitlines().index("```bash") + 1 < FIRST_COMMAND


def test_the_readme_has_the_test_command_of_ci():
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    command = next(line for line in reversed(script.splitlines()) if "pytest" in line)
    assert f"`{command.strip()}`" in README.read_text(encoding="utf-8")


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page):
    for link in LINK.findall(prose(page.read_text(encoding="utf-8"))):
        if "://" in link:
            continue
        file, _, place = link.partition("#")
        target = (page.parent / file).resolve() if file else page
        assert target.exists(), f"{name(page)}: {link}: no such file"
        if place:
            assert place in anchors(target), f"{name(page)}: {link}: no such heading"


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_only_files_that_exist_are_named(page):
    text = page.read_text(encoding="utf-8")
    missing = {source for source in SOURCE.findall(text) if not (ROOT / source).exists()}
    for piece in code(text):
        written = piece.split("/")[0] in WRITTEN_BY_RUNS
        if FOLDER.fullmatch(piece) and not written and not (ROOT / piece).exists():
            missing.add(piece)
    assert not missing, f"{name(page)} names {sorted(missing)}, which do not exist"


@pytest.mark.parametrize("page", PAGES[:-1], ids=name)
def test_no_commit_hash(page):
    """They belong into docs/results/README.md alone."""
    assert not HASH.findall(page.read_text(encoding="utf-8"))


@pytest.mark.parametrize("target", FILES)
def test_what_a_command_runs_exists(target):
    pages = {c.page for c in OURS if c.target == target}
    assert FILES[target].is_file(), f"{sorted(pages)} run {target}, which does not exist"


@pytest.mark.parametrize("target", WITH_FLAGS)
def test_flags_of_a_command_exist(target):
    shown = helps().get(target, "")
    assert "Traceback" not in shown, shown
    if "usage:" not in shown and FILES[target].exists():         # a demo that reads sys.argv itself
        shown = FILES[target].read_text(encoding="utf-8")
    for command in OURS:
        for flag in command.flags if command.target == target else ():
            known = re.search(rf"(?<![\w-]){flag}(?![\w-])", shown)
            assert known, f"{command.page}: {target} has no {flag}"


def test_lines_of_python_can_be_read_and_tests_found():
    for command in COMMANDS:
        if command.words[0] == "-c":
            ast.parse(command.words[1])
        if command.words[:2] == ("-m", "pytest"):
            for word in command.words[2:]:
                assert not word.endswith(".py") or (ROOT / word).exists(), word


def test_the_equation_table_names_what_exists():
    text = README.read_text(encoding="utf-8")
    table = text.partition("## Equation, function, test")[2].partition("\n## ")[0]
    tests: set[str] = set()
    for path in files_of_tests():
        tests |= defined(path)
    entries = INLINE.findall(table)
    assert len(entries) > 30
    for entry in entries:
        module, _, member = entry.rpartition(".")
        known = defined(ROOT / f"{module}.py") if module else tests
        assert member in known, entry


def files_of_tests() -> list[Path]:
    return [ROOT / "test_gopo.py", *(ROOT / "tests").glob("test_*.py")]


def defined(path: Path) -> set[str]:
    """What a file defines or imports at its top level."""
    names: set[str] = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        if isinstance(node, ast.ImportFrom):
            names |= {alias.asname or alias.name for alias in node.names}
    return names
