"""The files a configuration is read from: text, YAML. What is wrong with one is told once, with what to do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bridge.reading import Loader, parse


def text_of(path: Path, wrong: list[str]) -> str | None:
    """None where it cannot be read. What it holds is not quoted: it may be a secret."""
    try:
        return path.read_text("utf-8")
    except OSError as error:
        wrong.append(f"{path}: cannot be read: {error.strerror}. Make it a file this user may read")
    except UnicodeDecodeError as error:
        wrong.append(f"{path}: cannot be read as UTF-8 text from byte {error.start + 1} on. Save it as UTF-8")
    return None


def text_if_there(path: Path, wrong: list[str]) -> str:
    try:
        path.stat()
    except FileNotFoundError:
        return ""
    except OSError:
        pass  # told by reading it
    return text_of(path, wrong) or ""


def parsed(text: str, path: Path, loader: Loader, wrong: list[str]) -> dict[str, Any]:
    try:
        found, twice = parse(text, str(path), loader)
    except ValueError as mistake:
        wrong.append(str(mistake))
        return {}
    wrong += twice
    if found is None:
        return {}
    if not isinstance(found, dict):
        wrong.append(f"{path}: found a {type(found).__name__}. Write settings as `name: value`")
        return {}
    return {str(key): value for key, value in found.items()}
