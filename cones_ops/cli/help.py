"""How the commands of `cones` describe themselves: their docstring, what else there is to know, examples, defaults.

`add_command` makes a subcommand of a function's docstring; defaults are added to the help of each option by themselves.
"""

from __future__ import annotations

import argparse
import inspect
from collections.abc import Callable
from typing import Any


class Formatter(argparse.RawDescriptionHelpFormatter):
    """Keeps paragraphs and examples as they are written, and tells the default of each option that has one."""

    def _get_help_string(self, action: argparse.Action) -> str:
        told = action.help or ""
        has_none = action.default is None or action.default is False or action.default is argparse.SUPPRESS
        if has_none or not action.option_strings or "(default" in told:
            return told
        return f"{told} (default: %(default)s)"


def add_command(
    commands: Any, name: str, run: Callable[[argparse.Namespace], None], examples: str, about: str = ""
) -> argparse.ArgumentParser:
    """A subcommand that runs `run`, whose docstring is the first paragraph of its help; `about` is the second."""
    told = inspect.cleandoc(run.__doc__ or "")
    lines = "\n".join(f"  {line}" for line in inspect.cleandoc(examples).splitlines())
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=told.splitlines()[0].replace("%", "%%"),
        description="\n\n".join(part for part in (told, inspect.cleandoc(about)) if part),
        epilog=f"examples:\n{lines}",
        formatter_class=Formatter,
    )
    parser.set_defaults(run=run)
    return parser
