"""What holds for all tests: the machine's own settings play no part, and nothing depends on its speed."""

import logging
import os
from collections.abc import Iterator

import pytest
import structlog
from hypothesis import HealthCheck, settings

for name in [name for name in os.environ if name.upper().startswith("BRIDGE_")]:
    del os.environ[name]

settings.register_profile(
    "any machine",
    deadline=None,
    derandomize=bool(os.environ.get("CI")),  # a run that decides over a change fails because of the change
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("any machine")


@pytest.fixture(autouse=True)
def _brief_logs() -> Iterator[None]:
    """Each test logs as if it were alone, and briefly: structlog's own way of drawing a traceback takes seconds."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    brief = structlog.dev.ConsoleRenderer(colors=False, exception_formatter=structlog.dev.plain_traceback)
    structlog.reset_defaults()
    structlog.configure(processors=[structlog.contextvars.merge_contextvars, structlog.processors.add_log_level, brief])
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
