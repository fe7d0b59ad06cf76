"""Whether what a rehearsal makes can be kept where it was asked for: found out before it is made, not after.

Only trying tells. What is tried leaves no file behind; a folder that was missing is made. Whether there is room enough
only writing tells: where there is none, `kept` makes a sentence of it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bridge.errors import UsageError


def can_fill(folder: Path, option: str) -> None:
    """Make `folder` where it is missing. Raises UsageError where it cannot be made or written to."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as tried:
            tried.write(b"\0")
    except OSError as error:
        raise UsageError(f"{option} {folder}: {error.strerror}. Name a folder that can be written") from None


def can_write(file: Path, option: str, *, besides: Path | None = None) -> None:
    """Raises UsageError where `file` cannot be written, or is the file `besides` that is being read. One that is there
    keeps what it holds.
    """
    try:
        if besides is not None and file.exists() and file.samefile(besides):
            raise UsageError(f"{option} {file}: that is the file to be read. Name another one to write")
        if file.exists():
            file.open("ab").close()
        else:
            with tempfile.TemporaryFile(dir=file.parent) as tried:
                tried.write(b"\0")
    except OSError as error:
        raise UsageError(f"{option} {file}: {error.strerror}. Name a file that can be written") from None


@contextmanager
def kept(file: Path) -> Iterator[None]:
    """Around the writing of `file`. Raises UsageError where that fails, as on a full disk; what is there stays."""
    try:
        yield
    except OSError as error:
        why = error.strerror or type(error).__name__
        raise UsageError(f"{file} cannot be written: {why}. Make room for it, or name another place") from None
