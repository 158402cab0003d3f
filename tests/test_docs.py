"""The documentation: links lead somewhere, every page is two clicks from docs/index.md, references name everything."""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path

import pytest

import cones_ops
from cones_ops.cli import parser

ROOT = Path(__file__).absolute().parent.parent
HELP = ROOT / "web" / "docs"
INDEX = ROOT / "docs" / "index.md"
TOP = [ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md")]
PAGES = [*TOP, *sorted((ROOT / "docs").rglob("*.md")), *sorted(HELP.rglob("*.md"))]
LARGEST = 300_000  # bytes of a file in docs


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def text_of(page: Path) -> str:
    """A page without its code blocks."""
    return re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


def base_of(page: Path) -> Path:
    """The folder that a page's relative links start from; ComfyUI's frontend serves all help pages from one folder."""
    return HELP if HELP in page.parents else page.parent


def links(page: Path) -> list[tuple[Path, str]]:
    """The relative links of a page: file and anchor ("" = none)."""
    targets = re.findall(r"\]\(([^()\s]+)\)", text_of(page))
    relative = [target.partition("#") for target in targets if "://" not in target]
    return [((base_of(page) / path).resolve() if path else page, anchor) for path, _, anchor in relative]


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, by GitHub's rule: lower case, no punctuation, spaces to hyphens."""
    headings = re.findall(r"^#+ (.+)$", text_of(page), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def options_of(commands: argparse.ArgumentParser) -> set[str]:
    """The long options of a parser and of its subcommands."""
    options = {text for action in commands._actions for text in action.option_strings if text.startswith("--")}
    for action in commands._actions:
        if isinstance(action, argparse._SubParsersAction):
            options |= {option for subcommand in action.choices.values() for option in options_of(subcommand)}
    return options - {"--help"}


def test_anchors_follow_githubs_rule() -> None:
    text = ROOT / "docs" / "results" / "quality.md"
    assert {"the-papers-claims-on-the-toy-world", "more-collages"} <= anchors(text)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_link_leads_somewhere(page: Path) -> None:
    for target, anchor in links(page):
        assert target.exists(), f"{target} does not exist"
        assert not anchor or anchor in anchors(target), f"{name_of(target)} has no heading #{anchor}"


def test_every_page_is_two_clicks_from_the_index() -> None:
    first = {target for target, _ in links(INDEX)}
    second = {target for page in first if page.suffix == ".md" for target, _ in links(page)}
    assert not {name_of(page) for page in PAGES} - {name_of(page) for page in {INDEX} | first | second if page in PAGES}


def test_every_picture_in_docs_is_used_and_small() -> None:
    pictures = {file for file in (ROOT / "docs").rglob("*") if file.suffix in {".png", ".webp"}}
    linked = {target for page in PAGES for target, _ in links(page)}
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")  # icon and banner
    assert len(pictures) >= 5
    assert not {name_of(file) for file in pictures - linked if name_of(file) not in project}
    assert not {name_of(file) for file in (ROOT / "docs").rglob("*") if file.stat().st_size > LARGEST}


def test_the_command_line_page_names_every_option_of_the_main_commands() -> None:
    text = (ROOT / "docs" / "reference" / "command-line.md").read_text(encoding="utf-8")
    commands = next(action for action in parser()._actions if isinstance(action, argparse._SubParsersAction)).choices
    assert {f"## cones {command}" for command in commands} <= {*text.splitlines()}
    missing = {option for name, command in commands.items() if name != "bench" for option in options_of(command)}
    assert not {option for option in missing if option not in text}


def test_the_api_page_names_every_public_name() -> None:
    text = (ROOT / "docs" / "reference" / "python-api.md").read_text(encoding="utf-8")
    assert not [name for name in cones_ops.__all__ if f"`{name}`" not in text]


def test_messages_in_troubleshooting_are_those_of_the_linked_pages() -> None:
    page = ROOT / "docs" / "how-to" / "troubleshooting.md"
    rows = [line.split(" | ") for line in page.read_text(encoding="utf-8").splitlines() if line.startswith("| *")]
    assert len(rows) >= 15
    for message, link in rows:
        (target,) = re.findall(r"\]\(([^)#]+)#troubleshooting\)", link)
        written = (page.parent / target).read_text(encoding="utf-8")
        assert all(part in written for part in message.strip("|* ").split("...")), message


README_ROWS = {
    "**concept neurons at own tokens**": "default",
    "concept neurons everywhere": "default_everywhere",
    "the paper's Algorithm 1 as we read it": "cones",
    "LoRA, rank 4": "lora",
    "DreamBooth": "dreambooth",
    "textual inversion": "textual_inversion",
}


def percent(figure: dict[str, float]) -> str:
    return f"{100 * figure['value']:.0f} ± {100 * figure['standard_error']:.0f} %"


def size(value: float) -> str:
    return f"{value / 1e6:.1f} MB" if value >= 1e6 else f"{value / 1e3:.{1 if value < 1e3 else 0}f} kB"


def test_readmes_numbers_are_those_of_the_benchmark() -> None:
    results = json.loads((ROOT / "benchmarks" / "results" / "quality_summary.json").read_text(encoding="utf-8"))
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    for label, method in README_ROWS.items():
        figures = results[method]
        drift = figures["drift"]["value"]
        change = f"{drift:.3f}" if drift else "0, same bits"
        cells = (percent(figures["subject_share"]), percent(figures["second_object"]), change)
        assert f"| {label} | {' | '.join(cells)} | {size(figures['file_bytes']['value'])} |" in lines
    pairs = results["pairs"]
    apart, tuned = (pairs[f"{name}, own tokens"]["all"]["value"] for name in ("union", "tuned"))
    three, four = (results[name]["tuned, own tokens"]["all"]["value"] for name in ("triples", "quadruples"))
    several = json.loads((ROOT / "benchmarks" / "results" / "several_subjects.json").read_text(encoding="utf-8"))
    kept_apart = several["pairs"]["apart_regions"]["value"]
    shares = [f"{100 * share:.0f} %" for share in (apart, kept_apart, tuned, three, four)]
    (sentence,) = (line for line in lines if line.startswith("- **Several subjects.**"))
    assert re.findall(r"\d+ %", sentence) == shares


def test_readme_is_a_pitch() -> None:
    """Short, with two pictures, limits before numbers."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) < 90 and text.count("![") == 2
    assert text.index("\n## Limits\n") < text.index("\n## Numbers\n")
