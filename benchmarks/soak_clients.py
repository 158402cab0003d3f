"""What queues the prompts of soak.py on a server, and what became of each."""

from __future__ import annotations

import hashlib
import http.client
import subprocess
import time
from collections import deque
from collections.abc import MutableMapping, Sequence
from dataclasses import dataclass, field, replace

from soak_faults import Faults
from soak_prompts import Answer, Case

from cones_ops.errors import ConesError
from cones_ops.laboratory.comfyui.server import PromptRefusedError, PromptRun, Server

AHEAD = 3  # prompts that one client has in the queue
FULL = "No space left"


@dataclass
class Outcome:
    """What became of a prompt: its last answer, "" until then. `repeats`: why it was queued again."""

    answer: Answer | None = None
    errors: list[str] = field(default_factory=list)  # that are wrong
    repeats: list[str] = field(default_factory=list)
    pictures: dict[str, str] = field(default_factory=dict)  # node and number -> hash
    files: list[str] = field(default_factory=list)  # below the folder of models, or anywhere


def pictures_of(run: PromptRun) -> dict[str, str]:
    """A hash of every picture that a prompt showed."""
    shown = {node_id: run.images(node_id) for node_id, outputs in run.outputs.items() if outputs.get("images")}
    return {
        f"{node_id} {k}": hashlib.sha256(picture.tobytes()).hexdigest()
        for node_id, pictures in shown.items()
        for k, picture in enumerate(pictures)
    }


def files_of(run: PromptRun, case: Case) -> list[str]:
    """The file that a prompt says it has saved."""
    return [f"{case.saved[1]}/{run.text(case.saved[0])}"] if case.saved else []


def settle(outcome: Outcome, case: Case, run: PromptRun, full: bool) -> Outcome:
    """The outcome after a run; without an answer if the prompt is to be queued again. full: whether the disk was."""
    if run.status == "interrupted":
        return replace(outcome, repeats=[*outcome.repeats, "cancelled"])
    if run.status == "error" and full and FULL in run.error:
        return replace(outcome, repeats=[*outcome.repeats, "disk full"])
    wrong = []
    if run.status != case.answer:
        kind = run_class(case, run)
        wrong = [f"{case.kind}: {run.status} at {kind}: {run.error.strip()[:400]}"]
    if run.status == "error":
        return replace(outcome, answer="error", errors=outcome.errors + wrong)
    return Outcome("success", outcome.errors + wrong, outcome.repeats, pictures_of(run), files_of(run, case))


def run_class(case: Case, run: PromptRun) -> str:
    """The class of the node at which a run ended."""
    return str(case.prompt.get(run.node_id, {}).get("class_type"))


def refusal(outcome: Outcome, case: Case, answer: str, full: bool) -> Outcome:
    """The outcome of a prompt that the server's validation refused."""
    if full and FULL in answer:
        return replace(outcome, repeats=[*outcome.repeats, "disk full"])
    wrong = [] if case.answer == "refused" else [f"{case.kind}: refused: {answer[:400]}"]
    return replace(outcome, answer="refused", errors=outcome.errors + wrong)


def run_all(
    server: Server,
    cases: Sequence[Case],
    numbers: Sequence[int],
    outcomes: MutableMapping[int, Outcome],
    faults: Faults,
) -> None:
    """One client: queue prompts, a few ahead, until each has its answer or the server is gone."""
    client = replace_client(server)
    todo, pending = deque(numbers), deque[tuple[int, str, float]]()
    try:
        while todo or pending:
            while todo and len(pending) < AHEAD:
                number, since = todo.popleft(), time.monotonic()
                outcomes.setdefault(number, Outcome())
                try:
                    pending.append((number, client.queue(cases[number].prompt), since))
                except PromptRefusedError as error:
                    full = faults.excused(since)
                    outcomes[number] = refusal(outcomes[number], cases[number], str(error.answer), full)
                    if outcomes[number].answer is None:
                        todo.append(number)
                        time.sleep(0.5)
            if pending:
                number, prompt_id, since = pending.popleft()
                run = client.wait(prompt_id, 3600)
                faults.ends.append(time.monotonic())
                outcomes[number] = settle(outcomes[number], cases[number], run, faults.excused(since))
                if outcomes[number].answer is None:
                    todo.append(number)
    except (OSError, http.client.HTTPException, ConesError) as error:
        try:
            client.process.wait(10)  # a server that dies answers wrongly before it is gone
        except subprocess.TimeoutExpired:
            raise error from None


def replace_client(server: Server) -> Server:
    """The same server for another client."""
    return Server(server.url, server.base, server.process)
