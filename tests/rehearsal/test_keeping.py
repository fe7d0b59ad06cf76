"""What cannot be kept is said beforehand where that can be known, and trying leaves nothing behind."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from bridge.errors import UsageError
from bridge.rehearsal.keeping import can_fill, can_write, kept


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


full = pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has a device that is always full")


@full
def test_a_disk_without_any_room_is_told_beforehand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda **_: open("/dev/full", "wb"))
    with pytest.raises(UsageError, match=rf"^--out {tmp_path}: No space left on device\. Name a folder"):
        can_fill(tmp_path, "--out")
    with pytest.raises(UsageError, match=rf"^--out {tmp_path}/x: No space left on device\. Name a file"):
        can_write(tmp_path / "x", "--out")


@full
def test_a_disk_that_fills_up_and_a_folder_that_goes_are_told_with_the_file() -> None:
    with pytest.raises(
        UsageError, match=r"^/dev/full cannot be written: No space left on device\. Make room for it, or"
    ):
        with kept(file := Path("/dev/full")):
            file.write_text("x")
    with pytest.raises(UsageError, match=r"^/nowhere/x cannot be written: No such file or directory\. "):
        with kept(file := Path("/nowhere/x")):
            file.write_text("x")
