"""Run, pressed in the real frontend: progress, previews, pictures, and what our nodes say when something is wrong."""

from __future__ import annotations

import re

FIND = "ConesFindConceptNeurons"


def test_run_on_find_a_concept_shows_progress_a_curve_and_a_picture(canvas, server):
    canvas.open("find-a-concept")
    canvas.set_widgets(FIND, steps=6, batch=16, density=0.01)
    canvas.set_widgets("KSampler", steps=20)
    canvas.set_widgets("ConesSaveConceptMask", name="from the browser")
    canvas.complaints.clear()
    saved = server.base / "output" / "cones"
    before = set(saved.glob("*.png"))
    canvas.watch_nodes()
    canvas.press_run()
    canvas.page.wait_for_function("window.seen.some(look => look.preview)", timeout=240_000)
    canvas.fit()
    canvas.screenshot("find-a-concept-progress")
    canvas.wait_for_outputs("SaveImage", timeout=240)
    canvas.page.wait_for_timeout(1500)
    canvas.screenshot("find-a-concept-run")
    for node_type in (FIND, "KSampler"):
        moved = canvas.progress_of(node_type)
        assert len(moved) >= 2 and moved == sorted(moved) and 0 < moved[-1] <= 1, node_type  # a busy browser skips some
    assert any(look["type"] == FIND and look["preview"] >= 256 for look in canvas.evaluate("window.seen"))
    assert len(set(saved.glob("*.png")) - before) == 4
    widths = canvas.evaluate(
        "window.app.graph.nodes.filter(node => node.type === 'SaveImage').flatMap(node => node.imgs)"
        ".map(image => image.naturalWidth)"
    )
    assert widths == [384] * 4
    assert (server.base / "models" / "concept_masks" / "from the browser.safetensors").is_file()
    assert not canvas.ours()


def test_missing_words_are_told_on_the_node(canvas):
    canvas.open("compose-two-concepts")
    canvas.set_widgets("ConesEncodePrompt", text="a sks cat and a robot")
    canvas.set_widgets("KSampler", steps=2)
    canvas.complaints.clear()
    canvas.press_run()
    canvas.wait_for_outputs("SaveImage", timeout=120)
    canvas.fit()
    canvas.page.wait_for_timeout(1500)
    canvas.screenshot("missing-words")
    told = canvas.evaluate(
        "window.app.graph.nodes.filter(node => node.type === 'ConesEncodePrompt')"
        ".flatMap(node => node.widgets.map(widget => String(widget.value)))"
    )
    assert any("not in the prompt: zwx robot" in text for text in told)
    assert not canvas.ours()


def test_a_mask_that_is_not_there_is_told_with_what_to_do(canvas):
    """Refused before anything runs: the node is marked, and our words are in the errors panel."""
    canvas.open("compose-two-concepts")
    script = """() => {
        const node = window.app.graph.nodes.find(node => node.type === "ConesLoadConceptMask");
        node.widgets[0].value = "no such mask.safetensors";
        return node.id;
    }"""
    loader = canvas.evaluate(script)
    canvas.press_run()
    canvas.page.wait_for_function("id => window.app.graph.getNodeById(id).has_errors", arg=loader)
    marked = canvas.evaluate("window.app.graph.nodes.filter(node => node.has_errors).map(node => node.id)")
    assert marked == [loader]
    canvas.page.get_by_test_id("error-overlay-see-errors").click()
    canvas.page.get_by_label("Info for Load Concept Mask - mask_name").click()
    text = re.compile('no concept mask "no such mask.safetensors" in .*Save a mask with Save Concept Mask')
    canvas.page.get_by_text(text).first.wait_for(timeout=10_000)
    canvas.fit()
    canvas.screenshot("invalid-input")


def test_an_error_while_running_is_told_with_what_to_do(canvas):
    """A mask for own tokens given to a hook: the node that refused is marked, its message is shown."""
    canvas.open("compose-with-hooks")
    canvas.set_widgets("ConesLoadConceptMask", mask_name="toy-zwx-robot.safetensors")
    canvas.press_run()
    canvas.page.get_by_test_id("error-overlay-see-errors").click(timeout=60_000)
    told = "the concept mask acts at its own tokens, and so already differs from prompt to prompt"
    canvas.page.get_by_text(told).first.wait_for(timeout=10_000)
    canvas.fit()
    canvas.screenshot("error-while-running")
    marked = canvas.evaluate("window.app.lastExecutionError?.node_type")
    assert marked == "ConesConceptMaskHook"
