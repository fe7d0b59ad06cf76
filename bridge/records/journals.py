"""A journal for every call, in one folder: opened when the call begins, closed when it ends.

A folder that takes no more files costs journals, never calls.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import structlog

from bridge.call.plan import CallPlan
from bridge.errors import ConfigError
from bridge.records.journal import Journal

log = structlog.get_logger()


class Journals:
    """Files `<call id>.jsonl` in `folder`, which is made if need be, for its owner alone. Raises ConfigError."""

    def __init__(self, folder: Path) -> None:
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            tempfile.NamedTemporaryFile(dir=folder).close()  # a folder that is there need not take files
        except OSError as error:
            raise ConfigError([f"--journal {folder}: {error.strerror}. Name a folder that can be written"]) from None
        self._folder = folder
        self._open: dict[str, Journal] = {}  # by our own call id

    def begin(self, plan: CallPlan) -> Journal | None:
        """The journal of a new call; None where it cannot be had."""
        try:
            journal = Journal(self._folder / f"{plan.call_id}.jsonl", plan)
        except OSError as error:
            log.error("no_journal", call_id=plan.call_id, why=error.strerror)
            return None
        self._open[plan.call_id] = journal
        return journal

    def end(self, call_id: str) -> None:
        """The call is over. Returns at once; what is left is written meanwhile."""
        journal = self._open.pop(call_id, None)
        if journal is None:
            return
        journal.close()

        def tell() -> None:
            if journal.lost:
                log.warning("journal_incomplete", call_id=call_id, lost=journal.lost)

        journal.when_written(tell)

    def wait_closed(self) -> None:
        """Closes all that are open and blocks until everything is written."""
        while self._open:
            self._open.popitem()[1].wait_closed()
