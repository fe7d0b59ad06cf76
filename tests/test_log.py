"""What is written, and what must never be."""

import io
import json
import logging
import os
import sys
from collections.abc import Iterator

import pytest
import structlog

from bridge import log
from bridge.settings.service import Log

SECRET = "canary-0123"


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()


def written(settings: Log | None = None, **fields: object) -> str:
    out = io.StringIO()
    log.configure(settings or Log(format="json"), secrets=[SECRET], stream=out)
    structlog.get_logger().info("happened", **fields)
    return out.getvalue()


@pytest.mark.parametrize(
    "fields",
    [
        {"detail": f"the key {SECRET} was refused"},
        {"detail": {"deep": [{"deeper": SECRET}]}},
        {"detail": ValueError(SECRET)},
        {"auth_token": "canary-other"},
        {"headers": {"Authorization": "Bearer canary-other", "Cookie": "canary-other"}},
        {"url": "wss://h/v1/realtime?api_key=canary-other&model=m"},
        {"detail": "Bearer canary-other"},
        {"detail": "sk-proj-canary-other"},
        {"detail": "openai-insecure-api-key.canary-other"},
        {f"name-{SECRET}": 1},
    ],
)
def test_secrets_are_not_written(fields: dict[str, object]) -> None:
    line = written(**fields)
    assert "canary" not in line and "***" in line


def test_audio_is_not_written() -> None:
    assert json.loads(written(audio=b"\xff" * 160))["audio"] == "<160 bytes>"


def test_telephone_numbers_are_masked_unless_told_otherwise() -> None:
    assert json.loads(written(caller="+15550100123"))["caller"] == "+15***23"
    assert json.loads(written(target="sip:+15550100123@pbx"))["target"] == "sip:+15***23@pbx"
    plain = Log(format="json", mask_numbers=False)
    assert json.loads(written(plain, caller="+15550100123"))["caller"] == "+15550100123"


@pytest.mark.parametrize("how", ["json", "console"])
def test_an_entry_is_one_line_whatever_is_in_it(how: str) -> None:
    line = written(Log.model_validate({"format": how}), caller="a\r\nforged=1\x1b[31m\u2028\x00\ud800")
    assert line.count("\n") == 1 and line.endswith("\n")
    assert "\x1b" not in line and "\r" not in line


def test_an_entry_is_written_in_one_piece() -> None:
    """Where nothing buffers, another process's entry would come between an entry and its end of line."""

    class Pieces(io.StringIO):
        def write(self, text: str) -> int:
            pieces.append(text)
            return len(text)

    pieces: list[str] = []
    log.configure(Log(format="json"), stream=Pieces())
    structlog.get_logger().info("happened")
    logging.getLogger("library").warning("happened")
    assert len(pieces) == 2 and all(piece.endswith("\n") for piece in pieces)


def test_an_endless_text_is_cut() -> None:
    assert len(written(detail="x" * 100_000)) < 3000


def test_libraries_go_through_the_same_redaction() -> None:
    out = io.StringIO()
    log.configure(Log(format="json"), secrets=[SECRET], stream=out)
    logging.getLogger("websockets.client").error("handshake with %s failed", SECRET)
    assert SECRET not in out.getvalue() and "handshake with *** failed" in out.getvalue()


def test_a_traceback_keeps_its_lines_and_loses_its_secrets() -> None:
    out = io.StringIO()
    log.configure(Log(format="json"), secrets=[SECRET], stream=out)
    try:
        raise RuntimeError(f"refused {SECRET}")
    except RuntimeError:
        structlog.get_logger().exception("broke")
    entry = json.loads(out.getvalue())
    assert "Traceback" in entry["exception"] and entry["exception"].count("\n") > 2
    assert SECRET not in out.getvalue()


def test_what_is_less_important_than_the_level_is_not_written() -> None:
    out = io.StringIO()
    log.configure(Log(format="json", level="warning"), stream=out)
    structlog.get_logger().info("happened")
    logging.getLogger("x").info("happened")
    assert out.getvalue() == ""


def test_debug_is_for_our_own_entries_not_the_libraries() -> None:
    out = io.StringIO()
    log.configure(Log(format="json", level="debug"), stream=out)
    logging.getLogger("websockets.client").debug("< TEXT frame of audio")
    structlog.get_logger().debug("ours")
    assert "audio" not in out.getvalue() and "ours" in out.getvalue()


class Full(io.StringIO):
    """A disk without room."""

    tried = 0

    def write(self, text: str) -> int:
        self.tried += 1
        raise OSError(28, "No space left on device")


def test_a_reader_that_stands_still_keeps_nobody_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    reading, writing = os.pipe()
    monkeypatch.setattr(sys, "stderr", os.fdopen(writing, "w"))
    monkeypatch.setattr(log, "_WRITTEN_S", 0.05)
    log.configure(Log(format="json"))
    for number in range(log._MOST_LINES + 2000):
        structlog.get_logger().info("happened", number=number, detail="x" * 200)
    log.wait_written()
    told = b""
    while b"log_lines_lost" not in told:
        told += os.read(reading, 1 << 20)
    lines = [json.loads(line) for line in told.splitlines() if line.endswith(b"}")]
    assert [line["number"] for line in lines if line["event"] == "happened"][:1000] == list(range(1000))
    assert sum(line["lines"] for line in lines if line["event"] == "log_lines_lost") > 1000
    os.close(reading)


def test_a_stream_that_cannot_be_written_breaks_nothing() -> None:
    full, closed = Full(), io.StringIO()
    for out in (full, closed):
        log.configure(Log(format="json"), stream=out)
        closed.close()
        structlog.get_logger().info("happened")
        logging.getLogger("library").warning("happened")
    assert full.tried >= 2 and closed.closed
