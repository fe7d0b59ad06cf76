"""Named events over one connection: what the client sends and receives, under the names `client.<type>` and
`server.<type>`.

The thin layer of OpenAI's reference client. Server events are dispatched as sent, and again under the other shape's
name, so that a listener for `server.response.text.delta` hears a GA service too.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from typing import Any

import pybase64

from bridge.errors import RealtimeError, UsageError
from bridge.realtime import given
from bridge.realtime.connection import Opening, RealtimeConnection, RealtimeMessage, pieces
from bridge.realtime.dialect import BETA_NAMES, GA_NAMES
from bridge.realtime.emitter import Emitter
from bridge.realtime.profiles import Target


class RealtimeAPI(Emitter):
    """One session at a time with the service of `target`.

    Dispatches `client.<type>` and `client.*` for what is sent, `server.<type>` and `server.*` for what comes, and
    `close` with `{"error": bool}`. A listener that raises is logged; the session goes on.
    """

    def __init__(self, target: Target, *, timeout_s: float = 5.0) -> None:
        super().__init__()
        self.target = target
        self._dialect = target.dialect()
        self._timeout_s = given.seconds("timeout_s", timeout_s)
        self._connection: RealtimeConnection | None = None
        self._leaving: RealtimeConnection | None = None  # its end is still to be told
        self._closing: set[asyncio.Task[None]] = set()
        self._one_by_one = asyncio.Lock()  # connecting and disconnecting, in the order they were asked for
        self._events = 0
        self._sent_at = 0.0
        self._keeper: asyncio.Task[None] | None = None

    @property
    def is_connected(self) -> bool:
        return self._connection is not None

    async def connect(self) -> None:
        """Raises UsageError when connected already or without a key the profile's own host wants, RealtimeError when no
        connection can be had.
        """
        async with self._one_by_one:
            if self._connection is not None:
                raise UsageError("already connected; disconnect first")
            connection = await Opening(self.target, strict=False, timeout_s=self._timeout_s)
            self._connection = connection
            connection.on("message", lambda message: self._message(connection, message))
            connection.on("close", lambda code, reason: self._closed(connection, code))
            if self.target.profile.keepalive_s:
                self._keeper = asyncio.create_task(self._keep_alive(connection), name="realtime keepalive")

    async def disconnect(self) -> None:
        """Close the session; harmless without one. One that is just being opened is waited for, and closed. When
        cancelled the session is left all the same; its closing goes on.
        """
        async with self._one_by_one:
            connection, self._connection = self._connection, None
            self._stop_keeping()
            if connection is None:
                return
            self._leaving = connection
            closing = asyncio.create_task(connection.close(), name="realtime closing")
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)
            try:
                await asyncio.shield(closing)
            finally:
                self._closed(connection, 1000)  # given up: nobody waits for what the service answers

    async def send(self, name: str, fields: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """One client event: `name` is its type, `fields` the rest (an `event_id` in it replaces ours). Returns what was
        sent.

        Raises RealtimeError when not connected, UsageError for a name or fields that make no event.
        """
        connection, event = self._made(name, fields)
        data = given.as_json("the event", event)
        self._sending(name, event)
        await connection.send(data)
        return event

    async def send_audio(self, audio: bytes) -> None:
        """Caller audio: an `input_audio_buffer.append`, or, where the profile says so, a binary frame told as one; more
        than a service takes at once goes in several.
        """
        for piece in pieces(given.sound("audio", audio)):
            fields = {"audio": pybase64.b64encode(piece).decode("ascii")}
            if self.target.profile.binary_audio:
                connection, event = self._made("input_audio_buffer.append", fields)
                self._sending("input_audio_buffer.append", event)
                await connection.send_audio(piece)
            else:
                await self.send("input_audio_buffer.append", fields)

    def _made(self, name: str, fields: Mapping[str, Any] | None) -> tuple[RealtimeConnection, dict[str, Any]]:
        """What is to be sent, and over what."""
        given.event_name(name)
        if fields is not None and not isinstance(fields, Mapping):
            raise UsageError("the fields of an event are a mapping")
        if self._connection is None:
            raise RealtimeError("the client is not connected", code="not_connected")
        self._events += 1
        return self._connection, {"event_id": f"evt_{self._events:017d}", "type": name, **(fields or {})}

    def _sending(self, name: str, event: dict[str, Any]) -> None:
        self.dispatch(f"client.{name}", event)
        self.dispatch("client.*", event)
        self._sent_at = asyncio.get_running_loop().time()

    # ------------------------------------------------------------ what comes

    def _message(self, connection: RealtimeConnection, message: RealtimeMessage) -> None:
        if connection not in (self._connection, self._leaving):
            return  # of a session whose end was told
        event = message.event
        if event is None and message.audio is not None:
            delta = pybase64.b64encode(message.audio).decode("ascii")  # a binary frame: bare audio
            event = {"type": "response.output_audio.delta", "delta": delta}
        if event is None or not isinstance(event.get("type"), str):
            return
        kind = event["type"]
        self.dispatch(f"server.{kind}", event)
        other = GA_NAMES.get(kind) or BETA_NAMES.get(kind)
        if other is not None:
            self.dispatch(f"server.{other}", event)
        self.dispatch("server.*", event)

    def _closed(self, connection: RealtimeConnection, code: int | None) -> None:
        """Told once of each connection."""
        if connection is self._connection:  # not by us
            self._connection = None
            self._stop_keeping()
            error = code not in (1000, 1001, 1005)
        elif connection is self._leaving:
            self._leaving = None
            error = False
        else:
            return
        self.dispatch("close", {"error": error, "code": code})
        self.end_waits()

    def _stop_keeping(self) -> None:
        if self._keeper is not None:
            self._keeper.cancel()
            self._keeper = None

    async def _keep_alive(self, connection: RealtimeConnection) -> None:
        """Some services close a socket that is quiet; a small frame says we are still here."""
        every_s = self.target.profile.keepalive_s or 0.0
        loop = asyncio.get_running_loop()
        with contextlib.suppress(RealtimeError):
            while connection.close_code is None:
                await asyncio.sleep(every_s)
                if loop.time() - self._sent_at >= every_s * 0.9:
                    await connection.send(self._dialect.keepalive())
