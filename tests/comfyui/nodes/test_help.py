"""Every node, input and output is explained: in the schema, in the locales, and with a help page the server serves."""

from __future__ import annotations

import ast
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).absolute().parents[3]
DOCS = ROOT / "web" / "docs"
LANGUAGES = sorted(path.name for path in (ROOT / "locales").iterdir())
TROUBLESHOOTING = {"en": "## Troubleshooting", "zh": "## 常见问题"}
LARGEST = 60_000  # bytes of a picture


@pytest.fixture(scope="module")
def locales() -> Iterator[ModuleType]:
    """tools/build_locales.py as a module."""
    sys.path.insert(0, str(ROOT / "tools"))
    import build_locales

    yield build_locales
    sys.path.remove(str(ROOT / "tools"))


def read(language: str) -> dict[str, Any]:
    return dict(json.loads((ROOT / "locales" / language / "nodeDefs.json").read_text(encoding="utf-8")))


def page(node_id: str, language: str) -> str:
    """A help page: where the frontend looks for it."""
    path = DOCS / f"{node_id}.md" if language == "en" else DOCS / node_id / f"{language}.md"
    return path.read_text(encoding="utf-8")


def to_name(sockets: dict[str, dict[str, str]]) -> dict[str, str]:
    """What a page must name, of a numbered row such as mask_1 ... mask_8 the first and the last: id -> name."""
    rows: dict[str, list[str]] = {}
    for socket in sockets:
        stem, _, number = socket.rpartition("_")
        rows.setdefault(stem if number.isdigit() else socket, []).append(socket)
    return {socket: sockets[socket]["name"] for row in rows.values() for socket in (row[0], row[-1])}


def words(text: str) -> str:
    """A text's words without punctuation, numbers and names with numbers, between single spaces."""
    plain = re.sub(r"\.\.\.|[,:;()\"'.?]", " ", text)
    return " ".join(word for word in plain.split() if not re.search(r"\d", word))


def text_of(node: ast.AST) -> str:
    """A string in a source, or an f-string with a gap for each value."""
    if isinstance(node, ast.JoinedStr):
        return "".join(text_of(part) or " " for part in node.values)
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""


@pytest.fixture(scope="module")
def said() -> str:
    """The words of every text in the pack's sources, joined by bars."""
    files = [*(ROOT / "nodes").rglob("*.py"), *(ROOT / "cones_ops").rglob("*.py")]
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in files]
    return " | ".join(words(text_of(node)) for tree in trees for node in ast.walk(tree))


def shape(tree: Any) -> Any:
    return {key: shape(value) for key, value in tree.items()} if isinstance(tree, dict) else None


def test_english_is_what_the_schemas_say(server, locales):
    assert read("en") == locales.locale(server.object_info())


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_language_says_everything(language, locales):
    assert {"en", "zh"} <= set(LANGUAGES)
    assert shape(read(language)) == shape(read("en"))
    texts = locales.leaves(read(language))
    assert all(texts) and not locales.SPECIAL.search("".join(texts))


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("node_id", read("en"))
def test_a_page_explains_its_node(node_id, language):
    text, texts, english = page(node_id, language), read(language)[node_id], read("en")[node_id]
    assert text.startswith(f"# {texts['display_name']}\n")
    outputs = {english["outputs"][k]["name"]: one for k, one in texts["outputs"].items()}
    named = {**to_name(texts["inputs"]), **to_name(outputs)}
    told = [f"`{socket}`" if language == "en" else f"{name} `{socket}`" for socket, name in named.items()]
    assert not [one for one in told if one not in text]


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("node_id", read("en"))
def test_a_page_shows_its_node(node_id, language):
    """Relative paths lead to the docs folder for every language: the frontend puts it before them."""
    ((told, path),) = re.findall(r"!\[(.*)\]\((.*)\)", page(node_id, language))
    assert read(language)[node_id]["display_name"] in told
    assert path == f"{node_id}/node.png"
    picture = DOCS / path
    assert picture.read_bytes().startswith(b"\x89PNG") and picture.stat().st_size <= LARGEST


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("node_id", read("en"))
def test_a_page_quotes_messages_that_the_pack_has(node_id, language, said):
    """Each quoted message shares three words in a row with a text of the sources, or all it has if it has fewer."""
    _, _, troubles = page(node_id, language).partition(TROUBLESHOOTING[language] + "\n\n")
    assert sum(line.startswith("- ") for line in troubles.splitlines()) >= 2
    for quote in re.findall(r"(?<![*\w])\*([^*]*[A-Za-z][^*]*)\*(?!\*)", troubles):
        parts = words(quote).split()
        runs = {" ".join(parts[i : i + 3]) for i in range(max(1, len(parts) - 2))}
        assert any(f" {run} " in f" {said} " for run in runs), quote


def test_the_server_serves_locales_and_help_pages(server, locales):
    nodes = locales.pack_nodes(server.object_info())
    translated = server.json("/i18n")
    for language in LANGUAGES:
        assert {name: translated[language]["nodeDefs"][name] for name in nodes} == read(language)
    for name, info in nodes.items():
        served = f"/extensions/cones-concept-neurons/docs/{name}"
        assert server.request(f"{served}.md").decode().startswith(f"# {info['display_name']}\n")
        for language in sorted({*LANGUAGES} - {"en"}):
            assert server.request(f"{served}/{language}.md").decode() == page(name, language)
        assert server.request(f"{served}/node.png").startswith(b"\x89PNG")
    assert {path.stem for path in DOCS.glob("*.md")} == set(nodes)


def test_the_server_lists_the_workflows(server):
    listed = server.json("/workflow_templates")["cones-concept-neurons"]
    assert set(listed) == {path.stem for path in (ROOT / "workflows").glob("*.json")}
