"""What cannot be kept is said beforehand, and trying leaves nothing behind."""

from __future__ import annotations

from pathlib import Path

import pytest

from bridge.errors import UsageError
from bridge.rehearsal.keeping import can_fill, can_write


def test_a_missing_folder_is_made_and_left_empty(tmp_path: Path) -> None:
    can_fill(tmp_path / "a" / "b", "--out")
    assert list((tmp_path / "a" / "b").iterdir()) == []


def test_a_file_that_can_be_written_is_neither_made_nor_changed(tmp_path: Path) -> None:
    can_write(tmp_path / "x", "--out")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "x").write_text("kept")
    can_write(tmp_path / "x", "--out")
    assert (tmp_path / "x").read_text() == "kept"


def test_a_place_that_takes_nothing_is_named_with_the_option_and_the_remedy(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    for folder in (file, file / "below"):
        with pytest.raises(UsageError, match=rf"^--out {folder}: .*\. Name a folder that can be written$"):
            can_fill(folder, "--out")
    for path in (tmp_path, file / "below", tmp_path / "nowhere" / "x"):
        with pytest.raises(UsageError, match=rf"^--out {path}: .*\. Name a file that can be written$"):
            can_write(path, "--out")
