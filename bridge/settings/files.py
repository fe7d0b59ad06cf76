"""The files a configuration is read from: text, YAML. What is wrong with one is told once, with what to do."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml


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
        node = yaml.compose(text, Loader=loader)
        if node is None:
            return {}
        wrong += [f"{path}, line {line}: {key} is written twice. Keep one" for key, line in _repeated(node)]
        document = yaml.load(text, Loader=loader)
    except yaml.YAMLError as error:
        # Not the error's own text: it quotes the file, which may hold a secret.
        mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
        where = f", line {mark.line + 1}" if mark is not None else ""
        wrong.append(f"{path}{where}: not YAML: {problem or 'it holds characters no text has'}. Mend the line")
        return {}
    if not isinstance(document, dict):
        wrong.append(f"{path}: found a {type(document).__name__}. Write settings as `name: value`")
        return {}
    return {str(key): value for key, value in document.items()}


def _repeated(node: yaml.Node) -> Iterator[tuple[str, int]]:
    """Keys written twice in one mapping, which YAML readers let pass: the last would win."""
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            if key.value in seen:
                yield str(key.value), key.start_mark.line + 1
            seen.add(key.value if isinstance(key.value, str) else "")
            yield from _repeated(value)
    elif isinstance(node, yaml.SequenceNode):
        for item in node.value:
            yield from _repeated(item)
