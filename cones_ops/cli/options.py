"""What the commands of `cones` share: how they describe themselves, and options that several have.

`add_command` makes a subcommand of a function's docstring; the help of each option ends with its default.
"""

from __future__ import annotations

import argparse
import inspect
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..laboratory.progress import steps_on
from ..masks.concept_mask import ConceptMask
from ..masks.mask_file import save_mask_anyhow
from ..masks.whole_files import IfExists
from ..search.settings import SearchSettings
from .values import LARGEST_SEED, dashed, device, printable, side, spaced, whole

SIDE = "side of the scaled pictures in pixels; a multiple of 8, for toy of 24 (default: 512, for SDXL 1024, for toy 96)"


class Formatter(argparse.RawDescriptionHelpFormatter):
    """Keeps paragraphs and examples as they are written, and adds the default of each option that has one."""

    def _get_help_string(self, action: argparse.Action) -> str:
        text = action.help or ""
        has_none = action.default is None or action.default is False or action.default is argparse.SUPPRESS
        if has_none or not action.option_strings or "(default" in text:
            return text
        return f"{text} (default: %(default)s)"


def add_command(commands: Any, run: Callable[[argparse.Namespace], None]) -> argparse.ArgumentParser:
    """A subcommand that runs `run` and is called so; its docstring is the help, and ends with `examples:`."""
    description, examples = inspect.cleandoc(run.__doc__ or "").split("\n\nexamples:\n")
    parser: argparse.ArgumentParser = commands.add_parser(
        run.__name__.replace("_", "-"),
        help=description.splitlines()[0].replace("%", "%%"),
        description=description,
        epilog=f"examples:\n{examples}",
        formatter_class=Formatter,
    )
    parser.set_defaults(run=run)
    return parser


def with_steps(settings: SearchSettings, options: argparse.Namespace) -> SearchSettings:
    """The recommended settings, with the steps and the batch that were asked for."""
    chosen = {name: getattr(options, name) for name in ("steps", "batch")}
    return replace(settings, **{name: number for name, number in chosen.items() if number is not None})


def if_exists(options: argparse.Namespace) -> IfExists:
    """What --overwrite says of a name that is taken."""
    return "overwrite" if options.overwrite else "error"


def say(text: str) -> None:
    """Print a line, whatever a shared file put into it."""
    print(printable(text))


def save(mask: ConceptMask, file: Path, options: argparse.Namespace) -> None:
    """Save a mask; print where it is, and what kept it from where it should be."""
    path, trouble = save_mask_anyhow(mask, file, if_exists(options))
    if trouble:
        print(f"cones: {trouble}", file=sys.stderr)
    print(f"saved {path}")


def shown_on(bar: Any) -> dict[str, Any]:
    """Callbacks of a search that show its steps on a progress bar, and its estimate above."""
    return {"on_step": steps_on(bar), "on_estimate": lambda expected: bar.write(str(expected))}


def add_choice(add: Callable[..., Any], name: str, choices: Sequence[str], **more: Any) -> None:
    """An option with a choice of values; one with spaces in it, which shells split, may be written with dashes."""
    metavar = f"{{{','.join(map(dashed, choices))}}}"
    add(name, type=spaced(choices), choices=choices, metavar=metavar, **more)


def add_sampling(add: Callable[..., Any], size: str) -> None:
    """The options --size, --seed and --device."""
    add("--size", type=side, help=size)
    add("--seed", type=whole(0, LARGEST_SEED), default=0, help="of all noise, and picture i samples from seed + i")
    add("--device", type=device, default="cpu", help="where the model runs, a torch device: cpu, cuda, cuda:1, mps")
