"""What options may be, checked while the command line is read, so before anything is loaded.

Each function turns an option's text into its value, as argparse's `type`; what it raises argparse prints with usage.
"""

from __future__ import annotations

import re
from argparse import ArgumentTypeError
from collections.abc import Callable, Sequence

import torch

from ..errors import ConesError

LARGEST_SEED = 2**63 - 1
DEVICES = ("cpu", "cuda", "mps", "xpu")


def whole(low: int, high: int) -> Callable[[str], int]:
    """A whole number from `low` to `high`."""

    def parse(text: str) -> int:
        number = int(text) if re.fullmatch(r"-?[0-9]{1,20}", text.strip()) else None
        if number is None or not low <= number <= high:
            raise ArgumentTypeError(f"{shortened(text)} is not a whole number from {low} to {high}")
        return number

    return parse


def real(low: float, high: float, above: bool = False) -> Callable[[str], float]:
    """A number from `low` (or above it) to `high`, not nan."""

    def parse(text: str) -> float:
        try:
            number = float(text)
        except ValueError:
            number = float("nan")
        if not low <= number <= high or (above and number == low):
            raise ArgumentTypeError(
                f"{shortened(text)} is not a number {'above' if above else 'from'} {low:g} to {high:g}"
            )
        return number

    return parse


def side(text: str) -> int:
    """The side of a picture in pixels, a multiple of 8."""
    pixels = whole(8, 8192)(text)
    if pixels % 8:
        raise ArgumentTypeError(f"{pixels} is not a multiple of 8; {max(8, round(pixels / 8) * 8)} is")
    return pixels


def device(text: str) -> str:
    """The name of a torch device."""
    try:
        chosen = torch.device(text)
    except RuntimeError:
        raise ArgumentTypeError(f"{shortened(text)} is no device; use one of {', '.join(DEVICES)}") from None
    if chosen.type not in DEVICES:
        raise ArgumentTypeError(f"{shortened(text)} is no device for models; use one of {', '.join(DEVICES)}")
    return text


def check_device(text: str) -> None:
    """ConesError unless torch sees the device; not when it is read, because help shows examples of any machine."""
    chosen = torch.device(text)
    count = 1
    if chosen.type == "mps":
        count = int(torch.backends.mps.is_available())
    elif chosen.type != "cpu":
        count = torch.cuda.device_count() if chosen.type == "cuda" else torch.xpu.device_count()
    if (chosen.index or 0) >= count:
        raise ConesError(f"--device {text}: this torch sees {count} {chosen.type} devices; use another, such as cpu")


def word(text: str) -> str:
    """Words that name something."""
    if not re.search(r"\w", text):
        raise ArgumentTypeError(f"{shortened(text)} has no word in it")
    return text.strip()


def dashed(text: str) -> str:
    """A value with spaces as it is shown: with dashes, which need no quotes in a shell."""
    return text.replace(" ", "-")


def spaced(choices: Sequence[str]) -> Callable[[str], str]:
    """One of `choices`, also where it is written with dashes in place of spaces; other texts as they are."""
    return lambda text: next((choice for choice in choices if dashed(choice) == dashed(text)), text)


def pattern(text: str) -> str:
    """A regular expression."""
    try:
        re.compile(text)
    except (re.error, OverflowError, RecursionError) as error:
        raise ArgumentTypeError(f"{shortened(text)} is not a regular expression ({error})") from None
    return text


def shortened(text: str) -> str:
    """A value as it was typed, for a message."""
    return repr(text if len(text) <= 40 else f"{text[:40]}...")


def printable(text: str) -> str:
    """Text from a shared file for a terminal: control characters but line ends are shown, not obeyed."""
    return "".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in text)
