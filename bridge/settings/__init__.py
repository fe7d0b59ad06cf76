"""The door: configuration comes in here, is checked as a whole, and leaves as frozen plans.

Pydantic lives in this room and no further in. `load` reads the environment, `.env`, the secrets folder and the config
folder and lists every mistake at once; `plans.Directory` answers which agent takes a call and makes its plan.
"""

from bridge.settings.describing import agent_schema, describe, describe_agent, insecure
from bridge.settings.loading import agent_document, config_folder, load, profiles_in, sample, variable
from bridge.settings.plans import Directory, IncomingCall
from bridge.settings.service import Settings

__all__ = [
    "Directory",
    "IncomingCall",
    "Settings",
    "agent_document",
    "agent_schema",
    "config_folder",
    "describe",
    "describe_agent",
    "insecure",
    "load",
    "profiles_in",
    "sample",
    "variable",
]
