"""What holds for all tests: the machine's own settings play no part, and nothing depends on its speed."""

import os

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
