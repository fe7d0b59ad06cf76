"""Settings with two agents that share nothing, and calls that come for either."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bridge import settings
from bridge.settings import IncomingCall, Settings
from bridge.telephony import twilio

KEY = "sk-the-canary-0123456789"
TOKEN = "signing-canary-0123456789"
PUBLIC_URL = "https://bridge.example.test"
NUMBERS = {"alpha": "+15550100", "beta": "+15550200"}

_AGENT = """
instructions: You are {name}.
voice: {voice}
greeting: Say that you are {name}.
tools: [hang_up]
idle: {{prompt_after_s: 0, hang_up_after_s: 0}}
"""


def house(folder: Path, **given: Any) -> Settings:
    """Settings as from a folder: agents alpha and beta, a number each, one OpenAI-like service."""
    agents = folder / "agents"
    agents.mkdir(parents=True)
    for name, voice in (("alpha", "marin"), ("beta", "cedar")):
        (agents / f"{name}.yaml").write_text(_AGENT.format(name=name, voice=voice), "utf-8")
    (folder / "numbers.yaml").write_text("".join(f'"{number}": {name}\n' for name, number in NUMBERS.items()), "utf-8")
    base = {
        "port": 0,
        "default_agent": "alpha",
        "public_url": PUBLIC_URL,
        "twilio": {"auth_token": TOKEN},
        "realtime": {"profile": "openai", "url": "wss://service.example.test/v1/realtime", "api_key": KEY},
    }
    return settings.load({}, config=folder, given={**base, **given})


def incoming(call_id: str = "CA1", *, agent: str = "alpha", account_id: str = "AC1") -> IncomingCall:
    return IncomingCall(
        carrier=twilio.CAPABILITIES,
        carrier_call_id=call_id,
        account_id=account_id,
        caller="+15550001",
        called=NUMBERS[agent],
    )
