"""What holds for all tests: the machine's own settings play no part, and nothing depends on its speed."""

import os

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
def _brief_logs() -> None:
    """structlog's own default draws each traceback with all its variables, which takes seconds."""
    brief = structlog.dev.ConsoleRenderer(colors=False, exception_formatter=structlog.dev.plain_traceback)
    structlog.configure(processors=[structlog.contextvars.merge_contextvars, structlog.processors.add_log_level, brief])
