"""Every command of `cones` says what it does, every option what it is, and the examples in the help are valid."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Iterator

import pytest

from cones_ops.cli import main, parser
from cones_ops.search.settings import recommended


def commands(at: argparse.ArgumentParser, name: str = "cones") -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """(full name, parser) of every command that can be run."""
    below = [action for action in at._actions if isinstance(action, argparse._SubParsersAction)]
    if not below:
        yield name, at
    for action in below:
        for word, one in action.choices.items():
            yield from commands(one, f"{name} {word}")


ALL = dict(commands(parser()))


def test_there_are_as_many_commands_as_the_readme_says() -> None:
    bench = {"cones bench quality", "cones bench dreambench", "cones bench several", "cones bench speed"}
    names = ("demo", "find", "find-many", "tune", "apply", "prompt", "info", "show", "shelf", "export")
    assert set(ALL) == {f"cones {name}" for name in names} | bench


@pytest.mark.parametrize("name", ALL)
def test_every_command_and_option_has_help(name: str) -> None:
    command = ALL[name]
    assert len(command.description or "") > 80
    for action in command._actions:
        assert action.help and len(action.help) > 8, f"{name} {action.dest}"
    text = command.format_help()
    assert "(default: None)" not in text and "(default: False)" not in text
    assert all(option in text for action in command._actions for option in action.option_strings)


@pytest.mark.parametrize("name", ALL)
def test_the_examples_are_valid_commands(name: str) -> None:
    told = (ALL[name].epilog or "").removeprefix("examples:\n").replace("\\\n", " ")
    lines = [line.strip() for line in told.splitlines() if line.strip()]
    assert lines
    for line in lines:
        assert line.startswith(name)
        parser().parse_args(shlex.split(line)[1:])


def test_defaults_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["find", "--help"])
    told = " ".join(capsys.readouterr().out.split())
    assert ended.value.code == 0
    steps = f"(default: {recommended('own tokens').steps} at own tokens, {recommended('everywhere').steps} everywhere)"
    assert steps in told and "(default: own-tokens)" in told and "(default: 0)" in told
