"""Node ids, inputs, widgets and outputs are for life: what schemas.json records may be added to, never moved.

Saved workflows store widget values by position and links by slot. After appending something, record it:
`COMFYUI_PATH=... CONES_RECORD_SCHEMAS=1 pytest tests/comfyui/nodes/test_schema.py`.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

FILES = ("mask_name",)  # lists of files, different on each machine
FIND, TEACH = "ConesFindConceptNeurons", "ConesTeachConcept"
RECORD = Path(__file__).with_name("schemas.json")


@pytest.fixture(scope="module")
def nodes(pack):
    async def listed():
        return await (await pack.comfy_entrypoint()).get_node_list()

    with ThreadPoolExecutor(1) as pool:  # a thread of its own: Playwright leaves an event loop running in this one
        return pool.submit(lambda: asyncio.run(listed())).result()


def described(node):
    """What a saved workflow depends on."""
    schema = node.GET_SCHEMA()
    return {
        "inputs": [[one.id, one.get_io_type(), bool(one.optional)] for one in schema.inputs],
        "outputs": [[one.display_name, one.get_io_type()] for one in schema.outputs],
        "options": {
            one.id: one.options for one in schema.inputs if one.get_io_type() == "COMBO" and one.id != "mask_name"
        },
    }


def begins(now, recorded):
    return now[: len(recorded)] == recorded


def test_schemas_only_grow(nodes):
    now = {node.GET_SCHEMA().node_id: described(node) for node in nodes}
    if os.environ.get("CONES_RECORD_SCHEMAS"):
        RECORD.write_text(json.dumps(now, indent=1) + "\n")
    recorded = json.loads(RECORD.read_text())
    assert set(recorded) <= set(now), "a node id has gone"
    for node_id, old in recorded.items():
        new = now[node_id]
        assert begins(new["inputs"], old["inputs"]), f"{node_id}: inputs moved or changed"
        assert begins(new["outputs"], old["outputs"]), f"{node_id}: outputs moved or changed"
        for widget, options in old["options"].items():
            assert set(options) <= set(new["options"][widget]), f"{node_id}.{widget}: an option has gone"
    assert now == recorded, "something was appended: record it (see the top of this file)"


def test_everything_is_explained(nodes):
    for node in nodes:
        schema = node.GET_SCHEMA()
        assert schema.display_name and schema.description and schema.search_aliases, schema.node_id
        assert schema.category.startswith("Cones")
        for one in (*schema.inputs, *schema.outputs):
            assert one.tooltip, f"{schema.node_id}.{one.id or one.display_name} has no tooltip"
        for one in schema.inputs:
            if one.get_io_type() in ("INT", "FLOAT") and one.id != "seed":
                assert re.search(r"\d", one.tooltip), f"{schema.node_id}.{one.id}: no range, no usual value"


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("dreambooth", {FIND, TEACH}),
        ("train", {FIND, TEACH}),
        ("lora", {FIND, TEACH}),
        ("textual inversion", {FIND, TEACH}),
        ("lora alternative", {"ConesApplyConceptMasks", "ConesEncodePrompt", "ConesPromptWithConcepts"}),
        ("trigger word", {"ConesEncodePrompt", "ConesPromptWithConcepts"}),
    ],
)
def test_the_words_of_users_lead_to_the_nodes_that_do_it(nodes, words, found):
    assert {node.GET_SCHEMA().node_id for node in nodes if words in node.GET_SCHEMA().search_aliases} == found


def test_every_node_is_found_by_the_pack_s_name(nodes):
    for node in nodes:
        aliases = node.GET_SCHEMA().search_aliases
        assert {"cones", "concept neurons"} < set(aliases)
        assert len(aliases) == len(set(aliases)) and all(alias == alias.lower() for alias in aliases)


def test_ids_are_what_the_manager_reads_from_the_source(nodes):
    """The registry's scanner sees only literals: the base `io.ComfyNode` and node_id="...", here the class name."""
    folder = Path(__file__).absolute().parents[3] / "nodes"
    source = "".join(path.read_text(encoding="utf-8") for path in folder.glob("*.py"))
    found = re.findall(r"class (\w+)\(io\.ComfyNode\).*?node_id=\"(\w+)\"", source, re.DOTALL)
    assert sorted(found) == sorted((node.__name__, node.GET_SCHEMA().node_id) for node in nodes)
    assert all(name == node_id for name, node_id in found)


def test_the_host_accepts_the_schemas(nodes):
    for node in nodes:
        info = node.GET_NODE_INFO_V1()
        assert info["name"] == node.GET_SCHEMA().node_id
        json.dumps(info)


def test_sources_are_cp1252():
    """The Manager reads sources as cp1252 on Windows."""
    root = Path(__file__).absolute().parents[3]
    for path in [root / "__init__.py", *(root / "nodes").rglob("*.py")]:
        source = path.read_text(encoding="utf-8")
        assert source.encode("cp1252", errors="ignore").decode("cp1252") == source, path
