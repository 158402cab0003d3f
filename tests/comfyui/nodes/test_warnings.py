"""What users see first of a warning or an error.

A node shows its warnings in a box of two lines, so each warning in the sources begins with what to do.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from cones_concept_neurons.cones_ops.errors import ConesError
from execution import full_type_name

NODES = Path(__file__).absolute().parents[3] / "nodes"
FIRST = 60  # letters
VERBS = {"Choose", "Connect", "Merge", "Put", "Remove", "Save", "Turn", "Use", "Wait,", "Write"}
REPORTS = {  # warnings that are put together elsewhere: reports of nodes, and the notes of each concept
    *("nodes/masks.py", "nodes/encode.py", "nodes/prompt.py", "nodes/teach.py"),
    "nodes/host/samples.py",  # says that nothing needs to be done
}


def text_of(node: ast.AST, constants: dict[str, str]) -> str:
    """A string in a source, each value in it as a word of five letters."""
    if isinstance(node, ast.JoinedStr):
        return "".join(text_of(part, constants) or "value" for part in node.values)
    if isinstance(node, ast.Name):
        return constants.get(node.id, "")
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""


def warnings_of(tree: ast.AST, constants: dict[str, str]) -> Iterator[tuple[int, str]]:
    """Line and text of each warning, and of what functions named `notes` and `no_effect` say."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and getattr(node.func, "attr", getattr(node.func, "id", "")) in (
            "warn",
            "warn_once",
        ):
            yield node.lineno, text_of(node.args[0], constants)
        elif isinstance(node, ast.FunctionDef) and node.name in ("notes", "no_effect"):
            for part in ast.walk(node):
                if isinstance(part, ast.Yield | ast.Return) and part.value is not None:
                    yield part.lineno, text_of(part.value, constants)


def test_a_warning_begins_with_what_to_do():
    trees = {
        path.relative_to(NODES.parent).as_posix(): ast.parse(path.read_text("utf-8")) for path in NODES.rglob("*.py")
    }
    constants = {
        node.targets[0].id: node.value.value
        for tree in trees.values()
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign)
        and isinstance(node.targets[0], ast.Name)
        and isinstance(node.value, ast.Constant)
    }
    texts = {
        f"{file}:{line}": text
        for file, tree in trees.items()
        for line, text in warnings_of(tree, constants)
        if file not in REPORTS and text
    }
    advice = {place: re.split(r"[:.;]( |$)", text)[0] for place, text in texts.items()}
    assert len(texts) >= 16
    assert not {place: text for place, text in advice.items() if len(text) > FIRST or text.split()[0] not in VERBS}


def test_the_frontend_shows_a_short_name_of_our_errors():
    assert full_type_name(ConesError) == "cones_ops.ConesError"
