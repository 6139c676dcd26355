"""The house stands: imports run downwards and in no circle, and a line says one thing.

The rules of form are in line_rules.py; what breaks one is printed as file:line."""
import ast
from pathlib import Path
from statistics import median

import pytest

from tests.line_rules import RULES, Source, lengths, parsed

HOUSE = Path(__file__).parent.parent
# Lowest first; a room may import from lower floors and from rooms of its own floor.
# A folder is one room, with its files inside.
FLOORS = (
    ("data", "text", "tse", "surrogate"),
    ("infra", "corpora"),
    ("rewards", "judge", "lm", "shop", "perception", "expert", "expert_learner",
     "config"),
    ("hosted", "csagent"),
    ("policies", "play", "gopo"),
    ("metrics", "measure", "start", "show", "serving"),
    ("baselines", "systems"),
    ("train",),
    ("experiments",),
    ("eval", "serve"),
)
FLOOR = {}
for number, rooms_of_floor in enumerate(FLOORS):
    FLOOR |= dict.fromkeys(rooms_of_floor, number)


def modules() -> dict[str, Path]:
    """Dotted name -> file, of all code but tests and lessons."""
    files = [*HOUSE.glob("*.py"), *HOUSE.glob("*/*.py")]
    named = {}
    for path in files:
        name = ".".join(path.relative_to(HOUSE).with_suffix("").parts)
        if name.split(".")[0] in FLOOR:
            named[name.removesuffix(".__init__")] = path
    return named


MODULES = modules()


def imported(path: Path) -> set[str]:
    """Modules of this project that a file imports, inside functions too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found & set(MODULES)


IMPORTS = {name: imported(path) for name, path in MODULES.items()}


def room(module: str) -> str:
    return module.split(".")[0]


def circle(graph: dict[str, set[str]]) -> list[str]:
    """A circle in the graph, as a path back to its start; empty if there is none."""
    done: set[str] = set()

    def walk(node: str, path: list[str]) -> list[str]:
        if node in path:
            return [*path[path.index(node):], node]
        if node in done:
            return []
        for other in sorted(graph.get(node, ())):
            if found := walk(other, [*path, node]):
                return found
        done.add(node)
        return []

    for start in sorted(graph):
        if found := walk(start, []):
            return found
    return []


def test_a_circle_is_found():
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"a"}}) == ["a", "b", "c", "a"]
    assert circle({"a": {"b", "c"}, "b": {"c"}}) == []


def test_every_room_stands_on_a_floor():
    rooms = {path.parent.name for path in HOUSE.glob("*/__init__.py")}
    rooms |= {path.stem for path in HOUSE.glob("*.py")}
    assert rooms - set(FLOOR) <= {"lesson", "tests", "conftest", "test_gopo"}


@pytest.mark.parametrize("module", sorted(MODULES))
def test_imports_run_downwards(module):
    for other in IMPORTS[module]:
        above = FLOOR[room(other)] > FLOOR[room(module)]
        assert not above, f"{module} imports {other} from a floor above"


def test_no_circle_of_files():
    assert not circle(IMPORTS)


def test_no_circle_of_rooms():
    rooms: dict[str, set[str]] = {}
    for module, others in IMPORTS.items():
        rooms.setdefault(room(module), set()).update(map(room, others))
    assert not circle({name: others - {name} for name, others in rooms.items()})


# --- a line says one thing ----------------------------------------------------------------------

LONGEST = {"test_gopo.py": 600}                  # lines; 500 for all others
LONG = 50                                        # lines of a function that counts as long


def sources() -> dict[str, Source]:
    """File -> source, of all Python files of the project: code, lessons and tests."""
    found = {}
    for path in sorted([*HOUSE.glob("*.py"), *HOUSE.glob("*/*.py")]):
        name = path.relative_to(HOUSE).as_posix()
        found[name] = parsed(path.read_text(encoding="utf-8"))
    return found


SOURCES = sources()


def offenders(name: str) -> list[str]:
    """What breaks a rule in a file, as "file:line: rule"."""
    found = []
    for rule in RULES:
        found += [f"{name}:{line}: {rule.__doc__}" for line in rule(SOURCES[name])]
    return found


def listed(found: list[str]) -> str:
    return "\n".join([f"{len(found)} offenders:", *found])


@pytest.mark.parametrize("name", sorted(SOURCES))
def test_a_line_says_one_thing(name):
    found = offenders(name)
    assert not found, listed(found)


@pytest.mark.parametrize("name", sorted(SOURCES))
def test_files_are_short(name):
    assert len(SOURCES[name].text.splitlines()) <= LONGEST.get(name, 500)


def test_functions_are_short():
    every = []
    long = []
    for name, source in SOURCES.items():
        for line, length in lengths(source):
            every.append(length)
            if length > LONG:
                long.append(f"{name}:{line} {length} lines")
    assert median(every) <= 15
    assert len(long) <= 0.02 * len(every), listed(long)


CROWDED = """
def f(rows, a):
    total = sum(x for row in rows for x in row)
    both = [a for a in rows] + [b for b in rows]
    kept = [y for row in rows if (y := row)]
    g(1 if a else 2, k=[z for z in rows])
    h(key=1 if a else 2)
    for row in [x for x in rows]:
        print([x for x in row])
    return {x: [y for y in x] for x in rows}
"""


def test_the_rules_find_what_they_forbid():
    source = parsed(CROWDED + "# " + "-" * 98 + "\n# " + "-" * 99)
    found = {rule.__name__: sorted(rule(source)) for rule in RULES}
    assert found == {
        "wide_lines": [12],
        "crowded_statements": [4, 10],
        "double_loops": [3],
        "walrus_conditions": [5],
        "conditional_arguments": [6, 7],
    }
    assert lengths(source) == [(2, 9)]
