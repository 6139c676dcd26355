"""A line says one thing: the rules of form, each a function from a parsed file to line numbers.

test_house.py holds every file of the project to them."""
from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import NamedTuple

COLUMNS = 100
COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
# Their bodies are statements of their own.
BLOCKS = (*FUNCTIONS, ast.ClassDef)


class Source(NamedTuple):
    """A file, read and parsed."""
    text: str
    tree: ast.Module


def parsed(text: str) -> Source:
    return Source(text, ast.parse(text))


# --- parts of a file ----------------------------------------------------------------------------

def own_expressions(statement: ast.stmt) -> Iterator[ast.AST]:
    """Every node of a statement's own expressions, without those of statements inside it."""
    for part in ast.iter_child_nodes(statement):
        if not isinstance(part, (ast.stmt, ast.ExceptHandler)):
            yield from _expressions(part)


def _expressions(node: ast.AST) -> Iterator[ast.AST]:
    """The node and all below it; the body of a `case` is left out."""
    yield node
    for part in ast.iter_child_nodes(node):
        if not isinstance(part, ast.stmt):
            yield from _expressions(part)


def comprehensions(source: Source) -> Iterator[ast.expr]:
    for node in ast.walk(source.tree):
        if isinstance(node, COMPREHENSIONS):
            yield node


def lengths(source: Source) -> list[tuple[int, int]]:
    """(line, length in lines) of each function."""
    found = []
    for node in ast.walk(source.tree):
        if isinstance(node, FUNCTIONS):
            found.append((node.lineno, node.end_lineno - node.lineno + 1))
    return found


# --- the rules ----------------------------------------------------------------------------------

def wide_lines(source: Source) -> Iterator[int]:
    """Lines of more than 100 columns."""
    for number, line in enumerate(source.text.splitlines(), 1):
        if len(line) > COLUMNS:
            yield number


def crowded_statements(source: Source) -> Iterator[int]:
    """Statements with more than one comprehension."""
    for statement in ast.walk(source.tree):
        if not isinstance(statement, ast.stmt) or isinstance(statement, BLOCKS):
            continue
        parts = own_expressions(statement)
        if sum(isinstance(part, COMPREHENSIONS) for part in parts) > 1:
            yield statement.lineno


def double_loops(source: Source) -> Iterator[int]:
    """Comprehensions with more than one `for`."""
    for comprehension in comprehensions(source):
        if len(comprehension.generators) > 1:
            yield comprehension.lineno


def walrus_conditions(source: Source) -> Iterator[int]:
    """Comprehensions whose condition assigns a name with `:=`."""
    for comprehension in comprehensions(source):
        if any(_assigns(loop) for loop in comprehension.generators):
            yield comprehension.lineno


def _assigns(loop: ast.comprehension) -> bool:
    for condition in loop.ifs:
        if any(isinstance(node, ast.NamedExpr) for node in ast.walk(condition)):
            return True
    return False


def conditional_arguments(source: Source) -> Iterator[int]:
    """Calls that are given `a if b else c`."""
    for node in ast.walk(source.tree):
        if not isinstance(node, ast.Call):
            continue
        arguments = [*node.args, *(keyword.value for keyword in node.keywords)]
        if any(isinstance(argument, ast.IfExp) for argument in arguments):
            yield node.lineno


RULES = (
    wide_lines, crowded_statements, double_loops, walrus_conditions, conditional_arguments)
