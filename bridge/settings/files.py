"""The files a configuration is read from: text, YAML. What is wrong with one is told once, with what to do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from bridge.reading import written_twice


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


def parsed(
    text: str, path: Path, loader: type[yaml.SafeLoader] | type[yaml.BaseLoader], wrong: list[str]
) -> dict[str, Any]:
    try:
        twice = written_twice(text)
        document = yaml.load(text, Loader=loader)
    except ValueError:
        wrong.append(f"{path}: not YAML: it holds a date that is none. Mend it, or put it in quotes")
        return {}
    except yaml.YAMLError as error:
        # Not the error's own text: it quotes the file, which may hold a secret.
        mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
        where = f", line {mark.line + 1}" if mark is not None else ""
        wrong.append(f"{path}{where}: not YAML: {problem or 'it holds characters no text has'}. Mend the line")
        return {}
    wrong += [f"{path}, {mistake}" for mistake in twice]
    if document is None:
        return {}
    if not isinstance(document, dict):
        wrong.append(f"{path}: found a {type(document).__name__}. Write settings as `name: value`")
        return {}
    return {str(key): value for key, value in document.items()}
