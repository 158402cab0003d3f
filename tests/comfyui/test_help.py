"""Every node, input and output is explained: in the schema, in the locales, and with a help page the server serves."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).absolute().parent.parent.parent
LANGUAGES = sorted(path.name for path in (ROOT / "locales").iterdir())


@pytest.fixture(scope="module")
def locales() -> Iterator[ModuleType]:
    """tools/build_locales.py as a module."""
    sys.path.insert(0, str(ROOT / "tools"))
    import build_locales

    yield build_locales
    sys.path.remove(str(ROOT / "tools"))


def read(language: str) -> dict[str, Any]:
    return dict(json.loads((ROOT / "locales" / language / "nodeDefs.json").read_text(encoding="utf-8")))


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


def test_the_server_serves_locales_and_help_pages(server, locales):
    nodes = locales.pack_nodes(server.object_info())
    translated = server.json("/i18n")
    for language in LANGUAGES:
        assert {name: translated[language]["nodeDefs"][name] for name in nodes} == read(language)
    for name, info in nodes.items():
        page = server.request(f"/extensions/cones-concept-neurons/docs/{name}.md").decode()
        assert page.startswith(f"# {info['display_name']}\n")
    assert {path.stem for path in (ROOT / "web" / "docs").glob("*.md")} == set(nodes)


def test_the_server_lists_the_workflows(server):
    listed = server.json("/workflow_templates")["cones-concept-neurons"]
    assert set(listed) == {path.stem for path in (ROOT / "workflows").glob("*.json")}
