"""The model's side: every realtime service we know, as data, dialects, and a client for Python programmers."""

from bridge.errors import RealtimeError
from bridge.realtime.client import RealtimeClient
from bridge.realtime.connection import RealtimeConnection, RealtimeMessage, connect

__all__ = ["RealtimeClient", "RealtimeConnection", "RealtimeError", "RealtimeMessage", "connect"]
