"""What the commands of `cones` share: how they describe themselves, and options that several have.

`add_command` makes a subcommand of a function's docstring; the help of each option ends with its default.
"""

# ruff: noqa: T201 - a command line answers by printing

from __future__ import annotations

import argparse
import inspect
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..masks.whole_files import IfExists
from ..search.settings import OnStep, SearchSettings, Step

SIDE = "side to which the pictures are scaled, in pixels; a multiple of 8 (default: 512)"


class Formatter(argparse.RawDescriptionHelpFormatter):
    """Keeps paragraphs and examples as they are written, and adds the default of each option that has one."""

    def _get_help_string(self, action: argparse.Action) -> str:
        text = action.help or ""
        has_none = action.default is None or action.default is False or action.default is argparse.SUPPRESS
        if has_none or not action.option_strings or "(default" in text:
            return text
        return f"{text} (default: %(default)s)"


def add_command(
    commands: Any, name: str, run: Callable[[argparse.Namespace], None], examples: str, about: str = ""
) -> argparse.ArgumentParser:
    """A subcommand that runs `run`, whose docstring is the first paragraph of its help; `about` is the second."""
    about_run = inspect.cleandoc(run.__doc__ or "")
    lines = "\n".join(f"  {line}" for line in inspect.cleandoc(examples).splitlines())
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=about_run.splitlines()[0].replace("%", "%%"),
        description="\n\n".join(part for part in (about_run, inspect.cleandoc(about)) if part),
        epilog=f"examples:\n{lines}",
        formatter_class=Formatter,
    )
    parser.set_defaults(run=run)
    return parser


def with_steps(settings: SearchSettings, options: argparse.Namespace) -> SearchSettings:
    """The recommended settings, with the steps and the batch that were asked for."""
    return replace(settings, steps=options.steps or settings.steps, batch=options.batch or settings.batch)


def if_exists(options: argparse.Namespace) -> IfExists:
    """What --overwrite says of a name that is taken."""
    return "overwrite" if options.overwrite else "error"


def say_saved(path: Path, trouble: str) -> None:
    """Print where a result is, and what kept it from where it should be."""
    if trouble:
        print(f"cones: {trouble}", file=sys.stderr)
    print(f"saved {path}")


def shown_on(bar: Any) -> OnStep:
    """Show a search's steps and loss on a progress bar."""

    def on_step(step: Step) -> None:
        bar.set_postfix(loss=f"{step.loss:.4f}", phase=step.phase)
        bar.update(step.phase == "search")

    return on_step


def add_sampling(command: argparse.ArgumentParser, size: str) -> None:
    """The options --size, --seed and --device."""
    command.add_argument("--size", type=int, help=size)
    command.add_argument("--seed", type=int, default=0, help="of all noise, and picture i samples from seed + i")
    command.add_argument("--device", default="cpu", help="where the model runs, a torch device: cpu, cuda, cuda:1, mps")
