"""What one Python reads otherwise than another, looked for in the syntax tree of every Python file.

CPython 3.12 (3.12.1 and 3.12.3 were seen) raises UnboundLocalError where a comprehension has a variable of a global's
name and another comprehension of the same function uses that global.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).absolute().parent.parent
COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)


def stored(node: ast.AST) -> set[str]:
    return {one.id for one in ast.walk(node) if isinstance(one, ast.Name) and isinstance(one.ctx, ast.Store)}


def globals_of(tree: ast.Module) -> set[str]:
    """Names that the file itself defines or imports."""
    names: set[str] = set()
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign):
            names |= {name for target in node.targets for name in stored(target)}
        elif isinstance(node, ast.AnnAssign):
            names |= stored(node.target)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names |= {(alias.asname or alias.name).split(".")[0] for alias in node.names}
    return names


def read(node: ast.AST, hidden: frozenset[str] = frozenset()) -> Iterator[ast.Name]:
    """Names that are read below a node where no comprehension has a variable of that name."""
    if isinstance(node, COMPREHENSIONS):
        hidden |= {name for generator in node.generators for name in stored(generator.target)}
    if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) and node.id not in hidden:
        yield node
    for child in ast.iter_child_nodes(node):
        yield from read(child, hidden)


def hidden_globals(file: str, source: str) -> list[str]:
    tree = ast.parse(source)
    known, found = globals_of(tree), []
    for function in ast.walk(tree):
        if isinstance(function, ast.FunctionDef):
            variables = {
                name
                for node in ast.walk(function)
                if isinstance(node, COMPREHENSIONS)
                for generator in node.generators
                for name in stored(generator.target)
            }
            found += [f"{file}:{one.lineno}: {one.id}" for one in read(function) if one.id in variables & known]
    return found


def test_no_comprehension_has_a_variable_of_a_globals_name_that_is_used_beside_it() -> None:
    paths = [path.relative_to(ROOT) for path in ROOT.rglob("*.py")]
    files = [path for path in paths if not any(part.startswith(".") for part in path.parts)]
    assert len(files) > 100
    found = [line for file in files for line in hidden_globals(str(file), (ROOT / file).read_text(encoding="utf-8"))]
    assert not found, "rename the variable: " + ", ".join(found)


@pytest.mark.parametrize(
    ("source", "count"),
    [
        ("def line(x): ...\ndef f(a):\n    b = [line for line in a]\n    return [line(c) for c in b]", 1),
        ("from x import line\ndef f(a):\n    return {line: 1 for line in a}, line", 1),
        ("def line(x): ...\ndef f(a):\n    b = [one for one in a]\n    return [line(c) for c in b]", 0),
        ("def line(x): ...\ndef f(a):\n    return [line for line in a]", 0),
    ],
)
def test_the_check_itself(source: str, count: int) -> None:
    assert len(hidden_globals("x.py", source)) == count
