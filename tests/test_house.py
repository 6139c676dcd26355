"""The house stands: each floor imports only from floors below it, nothing imports in a circle."""
import ast
from pathlib import Path

import pytest

HOUSE = Path(__file__).parent.parent
# Lowest first; a room may import from lower floors and from rooms of its own floor.  A folder is one room, with its files inside.
FLOORS = (
    ("data", "tse"),
    ("infra", "corpora"),
    ("rewards", "judge", "lm", "shop", "expert"),
    ("hosted", "csagent"),
    ("policies", "play", "gopo"),
    ("metrics", "measure", "start", "show"),
    ("baselines", "systems"),
    ("train",),
    ("experiments",),
    ("eval",),
)
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}


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
    rooms = {path.parent.name for path in HOUSE.glob("*/__init__.py")} | {path.stem for path in HOUSE.glob("*.py")}
    assert rooms - set(FLOOR) <= {"lesson", "tests", "conftest", "test_gopo"}


@pytest.mark.parametrize("module", sorted(MODULES))
def test_imports_run_downwards(module):
    for other in IMPORTS[module]:
        assert FLOOR[room(other)] <= FLOOR[room(module)], f"{module} imports {other} from a floor above"


def test_no_circle_of_files():
    assert not circle(IMPORTS)


def test_no_circle_of_rooms():
    rooms: dict[str, set[str]] = {}
    for module, others in IMPORTS.items():
        rooms.setdefault(room(module), set()).update(room(other) for other in others)
    assert not circle({name: others - {name} for name, others in rooms.items()})
