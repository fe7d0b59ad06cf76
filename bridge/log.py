"""Logs: events with fields, one line each, with the call's id; no secrets, no audio, telephone numbers masked unless
told otherwise.

Whoever logs need not think of any of that: a processor looks at every value of every entry, ours and the libraries',
just before it is written.
"""

from __future__ import annotations

import atexit
import logging
import re
import sys
from collections.abc import Collection, Mapping
from queue import SimpleQueue
from threading import Event, Thread
from typing import Any, TextIO, cast

import structlog
from structlog.typing import EventDict, Processor

from bridge.settings.service import Log

_NAMES = re.compile(r"(?i)(^|_)(authorization|cookie|password|secret|signature|token|auth_token|api_key|apikey)$")
_KEYS = re.compile(r"\b(?:(?:sk|pk|rk|xai|gsk)-[A-Za-z0-9_-]{8,}|Bearer\s+\S+|openai-insecure-api-key\.\S+)")
_QUERY = re.compile(r"(?i)([?&](?:api[_-]?key|token|key|secret)=)[^&\s\"']+")
_NUMBER = re.compile(r"(?<![\w.])\+([0-9]{2})[0-9]{3,11}([0-9]{2})(?![0-9])")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_TRACES = ("exception", "stack")  # texts of several lines that are ours
_HIDDEN = "***"
_LONGEST = 2000
_MOST_LINES = 5000  # waiting for their reader
_WRITTEN_S = 1.0  # for the last of them, when the process ends


def configure(settings: Log, *, secrets: Collection[str] = (), stream: TextIO | None = None) -> None:
    """Sets up structlog and the standard library's logging together. `secrets` never appear in what is written.

    Standard error is written to by a thread: a reader of it that stands still keeps no call waiting. A `stream` of
    somebody's own is written to at once.
    """
    global _queue
    out = stream or sys.stderr
    written = _Outlet(out)
    if stream is None:
        _queue = _Queue(written)
    outlet = cast(TextIO, written if stream is not None else _queue)
    as_json = settings.format == "json" or (settings.format == "auto" and not out.isatty())
    redact = Redaction(secrets, mask_numbers=settings.mask_numbers)
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    last: list[Processor] = [structlog.processors.format_exc_info, redact]
    renderer: Processor = (
        structlog.processors.JSONRenderer(ensure_ascii=False)
        if as_json
        else structlog.dev.ConsoleRenderer(colors=out.isatty())
    )
    level = logging.getLevelNamesMapping()[settings.level.upper()]
    structlog.configure(
        processors=[*shared, *last, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(outlet),
        cache_logger_on_first_use=False,  # modules hold loggers from before this call
    )
    handler = logging.StreamHandler(outlet)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last, renderer],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(max(level, logging.INFO))  # libraries' debug output holds frames of audio and headers


class _Outlet:
    """A stream that may go away (a closed pipe, a full disk): a line that cannot be written is lost, and no call."""

    def __init__(self, out: TextIO) -> None:
        self._out = out

    def write(self, text: str) -> int:
        try:
            return self._out.write(text)
        except (OSError, ValueError):  # ValueError: the stream was closed
            return 0

    def flush(self) -> None:
        try:
            self._out.flush()
        except (OSError, ValueError):
            pass


class _Queue:
    """In front of an outlet. What does not fit any more is lost, and said when there is room again."""

    def __init__(self, outlet: _Outlet) -> None:
        self._outlet = outlet
        self._lines: SimpleQueue[str | Event] = SimpleQueue()  # one that a signal's handler may use in mid-use
        self._lost = 0
        Thread(target=self._write, name="log", daemon=True).start()

    def write(self, text: str) -> int:
        if self._lines.qsize() < _MOST_LINES:
            self._lines.put(text)
        else:
            self._lost += 1
        return len(text)

    def flush(self) -> None:
        """Nobody waits for a line."""

    def wait(self, limit_s: float) -> None:
        """Until all is written, or lost."""
        written = Event()
        self._lines.put(written)
        written.wait(limit_s)

    def _write(self) -> None:
        while True:
            line = self._lines.get()
            if isinstance(line, Event):
                line.set()
                continue
            self._outlet.write(line)
            self._outlet.flush()
            if self._lost and self._lines.qsize() < _MOST_LINES // 2:  # there is room to say so
                lost, self._lost = self._lost, 0
                structlog.get_logger().error("log_lines_lost", lines=lost)


def wait_written() -> None:
    """All that was logged is written, unless its reader stands still."""
    if _queue is not None:
        _queue.wait(_WRITTEN_S)


_queue: _Queue | None = None
atexit.register(wait_written)


class Redaction:
    """A processor that takes out of an entry what does not belong into a log."""

    def __init__(self, secrets: Collection[str] = (), *, mask_numbers: bool = True) -> None:
        longest_first = sorted((secret for secret in secrets if len(secret) >= 4), key=len, reverse=True)
        self._secrets = re.compile("|".join(map(re.escape, longest_first))) if longest_first else None
        self._mask_numbers = mask_numbers

    def __call__(self, logger: Any, method: str, entry: EventDict) -> EventDict:
        return {self._text(str(name)): self._value(str(name), value) for name, value in entry.items()}

    def _value(self, name: str, value: Any) -> Any:
        if _NAMES.search(name) and value is not None:
            return _HIDDEN
        if isinstance(value, str):
            return "\n".join(map(self._text, value.split("\n"))) if name in _TRACES else self._text(value)
        if isinstance(value, bytes | bytearray | memoryview):
            return f"<{len(value)} bytes>"
        if isinstance(value, Mapping):
            return {self._text(str(key)): self._value(str(key), inner) for key, inner in value.items()}
        if isinstance(value, list | tuple | set | frozenset):
            return [self._value("", inner) for inner in value]
        if value is None or isinstance(value, bool | int | float):
            return value
        return self._text(str(value))

    def _text(self, text: str) -> str:
        text = text.encode("utf-8", "replace").decode("utf-8")  # lone surrogates cannot be written
        if self._secrets is not None:
            text = self._secrets.sub(_HIDDEN, text)
        text = _QUERY.sub(rf"\1{_HIDDEN}", _KEYS.sub(_HIDDEN, text))
        if self._mask_numbers:
            text = _NUMBER.sub(rf"+\1{_HIDDEN}\2", text)
        text = _CONTROL.sub(lambda found: f"\\x{ord(found.group()):02x}", text)
        return text if len(text) <= _LONGEST else text[:_LONGEST] + "..."
