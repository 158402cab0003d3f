"""Messages for the user: in the log, and as text on the node that is running."""

from __future__ import annotations

import logging
import sys

from comfy_execution.utils import get_executing_context

log = logging.getLogger("cones")


def warn(text: str) -> None:
    """Show `text` as a warning."""
    tell(text, logging.WARNING)


def tell(text: str, level: int = logging.INFO) -> None:
    """Show `text` in the log and, where a server runs the prompt, on the node that is running."""
    log.log(level, "%s", text)
    context = get_executing_context()
    server = getattr(getattr(sys.modules.get("server"), "PromptServer", None), "instance", None)
    if context is not None and server is not None:
        server.send_progress_text(text, context.node_id)


class WarnsOnce:
    """A run that shows each of its warnings once; `warnings` are those it has shown, a field of the run's own."""

    warnings: set[str]

    def warn_once(self, text: str, *covered: str) -> None:
        """Show a warning that this run has not shown; covered: others that it makes superfluous."""
        if text not in self.warnings:
            self.warnings |= {text, *covered}
            warn(text)
