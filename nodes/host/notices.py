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
