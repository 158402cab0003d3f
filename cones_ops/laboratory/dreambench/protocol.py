"""The folder of a DreamBench: one folder of pictures per subject, and a file with each subject's class.

That file is `prompts_and_classes.txt` as the data set carries it (subject,class rows, then two Python-like lists of
prompts, which are then used instead of ours), or `subjects.csv` with the columns subject, class, live. Nothing here
opens a picture.
"""

from __future__ import annotations

import ast
import csv
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ...errors import ConesError, listed
from .prompts import LIVE_PROMPTS, OBJECT_PROMPTS

PROMPTS_FILE, SUBJECTS_FILE = "prompts_and_classes.txt", "subjects.csv"
LIVING = {"bird", "boy", "cat", "dog", "girl", "horse", "man", "person", "rabbit", "woman"}  # the file does not say
_YES, _NO = {"1", "true", "yes"}, {"0", "false", "no", ""}
_STRING = re.compile(r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"")
_PLACE = r"\{(?:\d|\w*token|)\}"  # {0}, {unique_token}, {}
_NAME = re.compile(rf"{_PLACE}(?:\s+{_PLACE})?")  # identifier and class, or both in one


@dataclass(frozen=True)
class DreamBenchSubject:
    """What is drawn: the name of its folder, what it is ("dog"), and whether it lives (which prompts it gets)."""

    name: str
    class_word: str
    live: bool


@dataclass(frozen=True)
class DreamBenchProtocol:
    """Subjects by name, the prompts of both kinds (one `{}` each), and where the prompts are from."""

    subjects: Mapping[str, DreamBenchSubject]
    object_prompts: Sequence[str] = OBJECT_PROMPTS
    live_prompts: Sequence[str] = LIVE_PROMPTS
    source: str = "our wording"

    def prompts(self, subject: DreamBenchSubject) -> Sequence[str]:
        """The templates a subject is drawn with."""
        return self.live_prompts if subject.live else self.object_prompts

    def chosen(self, names: Sequence[str] | None) -> list[DreamBenchSubject]:
        """The subjects of these names, in the protocol's order; all of them for None."""
        if unknown := set(names or ()) - set(self.subjects):
            raise ConesError(f"no subject is called {listed(unknown)}; there are {', '.join(self.subjects)}")
        return [subject for name, subject in self.subjects.items() if names is None or name in names]


def read_protocol(folder: Path) -> DreamBenchProtocol:
    """The protocol that a data folder describes; ConesError says what is missing or which line cannot be read."""
    if not folder.is_dir():
        raise ConesError(f"{folder}: no such folder; give the one that holds a folder of pictures per subject")
    if (folder / PROMPTS_FILE).is_file():
        return parse_prompts_file(_text(folder / PROMPTS_FILE), PROMPTS_FILE)
    if (folder / SUBJECTS_FILE).is_file():
        rows = read_table(folder / SUBJECTS_FILE, ("subject", "class", "live"))
        return DreamBenchProtocol(_by_name([(line, _subject(line, *row)) for line, row in rows], SUBJECTS_FILE))
    names = listed(entry.name for entry in folder.iterdir()) or "nothing"
    raise ConesError(
        f"{folder}: neither {PROMPTS_FILE} nor {SUBJECTS_FILE} there, only {names}; "
        f"write {SUBJECTS_FILE} with the columns subject,class,live"
    )


def read_pairs(file: Path, protocol: DreamBenchProtocol) -> list[tuple[DreamBenchSubject, DreamBenchSubject]]:
    """The rows of a CSV file with the columns subject_a, subject_b."""
    pairs = []
    for line, (first, second) in read_table(file, ("subject_a", "subject_b")):
        if unknown := {first, second} - set(protocol.subjects):
            known = ", ".join(protocol.subjects)
            raise ConesError(f"{file.name} line {line}: no subject is called {listed(unknown)}; there are {known}")
        if first == second:
            raise ConesError(f"{file.name} line {line}: {first} twice; a pair has two subjects")
        pairs.append((protocol.subjects[first], protocol.subjects[second]))
    return pairs


def parse_prompts_file(text: str, source: str) -> DreamBenchProtocol:
    """What `prompts_and_classes.txt` says: rows subject,class until the prompts begin, then quoted templates."""
    rows: list[tuple[int, DreamBenchSubject]] = []
    prompts: dict[str, list[str]] = {"object": [], "live": []}
    section = ""
    for line, content in enumerate(text.splitlines(), 1):
        if any(quote in content for quote in "'\""):
            if section not in prompts:
                raise ConesError(f"{source} line {line}: {content.strip()!r} before any heading 'Object Prompts'")
            prompts[section] += _templates(content, f"{source} line {line}")
        elif heading := re.fullmatch(r"\W*(object|live)\b.*prompts?\W*", content, re.IGNORECASE):
            section = heading[1].lower()
        elif re.fullmatch(r"\s*subject(_name)?\s*,\s*class\s*", content):
            section = "classes"
        elif section == "classes" and "," in content:
            name, class_word = (part.strip() for part in content.split(",", 1))
            rows.append((line, DreamBenchSubject(name, class_word, class_word in LIVING)))
    if not rows or not all(prompts.values()):
        counts = f"{len(rows)} subjects, {len(prompts['object'])} object and {len(prompts['live'])} live prompts"
        raise ConesError(
            f"{source}: found {counts}; expected rows under 'subject_name,class' and lists under 'Object Prompts' and "
            f"'Live Subject Prompts'. Correct it, or move it away and write {SUBJECTS_FILE}"
        )
    return DreamBenchProtocol(_by_name(rows, source), tuple(prompts["object"]), tuple(prompts["live"]), source)


def read_table(file: Path, columns: Sequence[str]) -> Iterator[tuple[int, list[str]]]:
    """(line, the cells of `columns`) of each row of a CSV file whose first line names the columns."""
    if not file.is_file():
        raise ConesError(f"{file}: no such file; write a CSV with the columns {','.join(columns)}")
    reader = csv.DictReader(_text(file).splitlines(), skipinitialspace=True)
    if missing := [name for name in columns if name not in (reader.fieldnames or ())]:
        header = ",".join(reader.fieldnames or ()) or "nothing"
        raise ConesError(f"{file.name}: no column {listed(missing)} in {header!r}; begin with {','.join(columns)}")
    for row in reader:
        yield reader.line_num, [(row[name] or "").strip() for name in columns]


def _templates(content: str, where: str) -> Iterator[str]:
    """The quoted templates of a line, with `{}` for identifier and class."""
    if any(quote in _STRING.sub("", content) for quote in "'\""):
        raise ConesError(f"{where}: a quote without its other half in {content.strip()!r}; close it")
    for literal in _STRING.findall(content):
        template = _NAME.sub("{}", ast.literal_eval(literal), count=1)
        if template.count("{}") != 1 or re.search(r"[{}]", template.replace("{}", "", 1)):
            raise ConesError(f"{where}: {literal} needs one place for the subject, such as '{{0}} {{1}}'")
        yield template


def _subject(line: int, name: str, class_word: str, live: str) -> DreamBenchSubject:
    if live.lower() not in _YES | _NO:
        raise ConesError(f"{SUBJECTS_FILE} line {line}: live is {live!r}; write yes or no")
    return DreamBenchSubject(name, class_word, live.lower() in _YES)


def _by_name(rows: Sequence[tuple[int, DreamBenchSubject]], source: str) -> dict[str, DreamBenchSubject]:
    subjects: dict[str, DreamBenchSubject] = {}
    for line, subject in rows:
        name, class_word = subject.name, subject.class_word
        if not name or not class_word or name in subjects or Path(name).name != name:
            row = f"{name},{class_word}"
            raise ConesError(f"{source} line {line}: {row!r}; each row needs a folder's name, only once, and a class")
        subjects[name] = subject
    if not subjects:
        raise ConesError(f"{source}: no subjects; write one row for each folder of pictures")
    return subjects


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ConesError(f"{file}: cannot be read ({error}); save it as UTF-8 text") from error
