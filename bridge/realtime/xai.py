"""xAI's shape: GA event names and audio objects, but voice and turn detection flat as in the beta.

Source: docs.x.ai, Voice Agent API, as read from two clients of it in 2026. Its turn detection documents no
create_response, interrupt_response or semantic detection, its responses no modalities.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bridge.realtime.openai import GaDialect

_VAD_FIELDS = ("type", "threshold", "prefix_padding_ms", "silence_duration_ms", "idle_timeout_ms")


class HybridDialect(GaDialect):
    def render(self, session: Mapping[str, Any]) -> dict[str, Any]:
        flat = {name: session[name] for name in ("voice", "turn_detection") if name in session}
        nested = {name: value for name, value in session.items() if name not in flat and name != "modalities"}
        rendered = super().render(nested)
        del rendered["type"]
        detection = flat.get("turn_detection")
        if isinstance(detection, dict):
            known = {name: detection[name] for name in _VAD_FIELDS if name in detection}
            known["type"] = "server_vad"
            if "threshold" in known:
                known["threshold"] = min(0.9, max(0.1, known["threshold"]))
            flat["turn_detection"] = known
        return rendered | flat

    def response_fields(self, *, instructions: str) -> dict[str, Any]:
        return {"instructions": instructions} if instructions else {}
