"""A configuration folder to write files into."""

from pathlib import Path

import pytest

from bridge import settings
from bridge.errors import ConfigError

AGENT = "instructions: Answer the telephone.\n"


class Folder:
    """`config` in a temporary directory, with one agent that needs nothing."""

    def __init__(self, path: Path) -> None:
        self.path = path
        (path / "agents").mkdir(parents=True)
        self.write("agents/front-desk.yaml", AGENT)

    def write(self, name: str, text: str) -> None:
        (self.path / name).write_text(text, encoding="utf-8")

    def load(self, env: dict[str, str] | None = None, **more: object) -> settings.Settings:
        return settings.load(env or {}, config=self.path, **more)  # type: ignore[arg-type]

    def mistakes(self, env: dict[str, str] | None = None, **more: object) -> tuple[str, ...]:
        """What is wrong, with the folder's path left out."""
        with pytest.raises(ConfigError) as caught:
            self.load(env, **more)
        return tuple(
            line.replace(str(self.path) + "/", "").replace(str(self.path), "config") for line in caught.value.mistakes
        )


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path / "config")
