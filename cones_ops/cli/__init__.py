"""The `cones` command: one module for each of its commands, loaded by `main`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from ..errors import ConesError
from . import apply, bench, demo, export, find, find_many, info, prompt, tune
from .values import check_device, printable


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; 0 = done, 2 = something the user can put right, 130 = stopped by Ctrl-C."""
    options = parser().parse_args(arguments)
    try:
        if "device" in options and not getattr(options, "address", None):  # a cluster's machines may have others
            check_device(options.device)
        options.run(options)
    except (ConesError, OSError) as error:
        print(printable(f"cones: {error}"), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("cones: stopped; the same command resumes a search that it had begun", file=sys.stderr)
        return 130
    return 0


def parser() -> argparse.ArgumentParser:
    """All commands and options."""
    top = argparse.ArgumentParser(
        prog="cones",
        description="Concept neurons for diffusion models: find, tune, apply, prompt, inspect and export masks.",
        epilog="`cones COMMAND --help` has examples. Exit code: 0 = done, 2 = something you can put right.",
    )
    commands = top.add_subparsers(required=True, metavar="command")
    for command in (demo, find, find_many, tune, apply, prompt, info, export, bench):
        command.describe(commands)
    return top
