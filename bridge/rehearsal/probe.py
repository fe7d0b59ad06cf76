"""What a realtime server really does, found out by using it.

The probe trusts nothing but frames: it connects, configures and speaks as a call does, holds a turn by text and one by
voice, cancels, cuts, deletes, lets a tool be called, and breaks a few rules on purpose. Each step has its own time
limit; a step that fails says so and the next one goes on, as long as there is a session.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, Final
from urllib.parse import parse_qsl, urlsplit

import msgspec
import numpy as np
import pybase64

from bridge.audio.g711 import decode_mulaw
from bridge.audio.resample import convert
from bridge.errors import RealtimeError, UsageError
from bridge.realtime.connection import RealtimeConnection, connect
from bridge.realtime.profiles import Profile, Target, is_loopback, split_address
from bridge.realtime.session import read_format
from bridge.realtime.wire import rows, table
from bridge.rehearsal import examination
from bridge.rehearsal.examination import RATE_HZ, Event, Session, of, remedy, sounds, why_of
from bridge.rehearsal.findings import Finding, Report, State
from bridge.sim import voices

_PIECE_MS: Final = 100
PIECE_EVERY_S: Final = _PIECE_MS / 1000  # a caller speaks no faster
_PIECE_BYTES: Final = RATE_HZ * 2 * _PIECE_MS // 1000
_BEYOND_MS: Final = 60_000
_TOOL: Final[dict[str, Any]] = {
    "type": "function",
    "name": "lookup_order",
    "description": "Looks up an order by its number.",
    "parameters": {"type": "object", "properties": {"number": {"type": "string"}}},
}


def target_of(
    where: str,
    profiles: Mapping[str, Profile],
    *,
    url: str = "",
    profile: str = "",
    model: str = "",
    key: str = "",
    plain: bool,
) -> Target:
    """The server to probe: a profile's name (at `url`, where one is given), or an address with the profile it is to be
    spoken to like.

    Without one the address's host decides, else the server is spoken to like OpenAI. Raises UsageError for what is
    neither.
    """
    if profile and profile not in profiles:
        raise UsageError(f"there is no profile {profile!r}; there are {', '.join(profiles)}")
    if "://" not in where:
        if where not in profiles:
            raise UsageError(f"{where!r} is neither an address (wss://...) nor a profile: {', '.join(profiles)}")
        if profile not in ("", where):
            raise UsageError(f"{where!r} is a profile already: leave --profile {profile} out, or give an address")
        return Target(profiles[where], url, key, model, plain)
    address = split_address(where)
    if any(word in name.lower() for name, _ in parse_qsl(address.query) for word in ("key", "token", "secret")):
        raise UsageError("a key in the address is seen by everybody on this machine: put it into the environment")
    hosts = {urlsplit(one.url).hostname: one for one in reversed(list(profiles.values()))}
    known = None if is_loopback(address.hostname or "") else hosts.get(address.hostname)
    stranger = msgspec.structs.replace(profiles["openai"], model="")  # OpenAI's models are OpenAI's
    return Target(profiles[profile] if profile else known or stranger, where, key, model, plain)


async def probe(target: Target, progress: Callable[[str], object] = lambda what: None) -> Report:
    """Connect, exercise, report. Never raises for what a server does."""
    report = Report(target.where, target.profile.name, target.model)
    progress(f"Connecting to {target.where}")
    try:
        connection = await _connect(target)
    except RealtimeError as error:
        meaning = f"{remedy(error.code, error.status)} Until then no call gets beyond the apology."
        report.findings.append(Finding("connect", "no", str(error), "must", meaning))
        return report
    report.findings.append(Finding("connect", "yes", "", "must"))
    session = Session(connection, target.dialect(), report)
    try:
        if await session.begin():
            for step in STEPS:
                progress(step.__doc__ or "")
                with suppress(RealtimeError):  # the connection is over; `survived` says so
                    await step(session)
                if session.over is not None:
                    break
        session.survived()
    finally:
        await session.end()
    if report.state("session.created") == "no":
        return report
    progress("Asking for telephone audio in a session of its own")
    await _pcmu(target, report)
    return report


async def _connect(target: Target) -> RealtimeConnection:
    return await connect(
        profile=msgspec.structs.replace(target.profile, needs_key=False),  # whether it wants one, it says itself
        url=target.url,
        api_key=target.api_key,
        model=target.model,
        allow_plain=target.allow_plain,
    )


# ---------------------------------------------------------------- the steps


async def text_turn(session: Session) -> None:
    """A turn by text"""
    meaning = "The agent cannot greet, and cannot be told of keys or tools: it only answers speech."
    began = asyncio.get_running_loop().time()
    since = await session.say("Please say hello in one short sentence.")
    done = await session.answered(since)
    if done is None or done["type"] == "error":
        session.found("text turn", "no", why_of(done) if done else "no answer", missing=meaning)
        return
    first = next((at for at, event in session.events[since:] if sounds(event)), None)
    status = table(done.get("response")).get("status", "completed")
    if first is None:
        said = f"an answer without sound ({status})"
        session.found("text turn", "no", said, missing="It answers in text: the caller would hear nothing.")
        return
    detail = f"first sound after {(first - began) * 1000:.0f} ms, {session.sound_ms(since) / 1000:.1f} s of sound"
    session.found("text turn", "yes" if status == "completed" else "unclear", detail, missing=f"It ended as {status}.")


async def voice_turn(session: Session) -> None:
    """A turn by voice, in real time"""
    meaning = "The caller speaks and is never answered."
    await session.configure(
        turn_detection={
            "type": "server_vad",
            "threshold": 0.5,
            "prefix_padding_ms": 300,
            "silence_duration_ms": 500,
            "create_response": True,
            "interrupt_response": True,
        }
    )
    since, silent_at = await _speak(session)
    heard = any(event["type"] == "input_audio_buffer.speech_started" for _, event in session.events[since:])
    if not heard:
        told = "It does not tell when the caller begins to speak: the agent cannot be interrupted."
        session.found("hears the caller", "no", "no speech_started", missing=told)
    else:
        session.found("hears the caller", "yes", "speech_started came")
    first = next((at for at, event in session.events[since:] if sounds(event)), None)
    if first is None:
        error = next((event for _, event in session.events[since:] if event["type"] == "error"), None)
        why = why_of(error) if error else f"no sound within {examination.ANSWER_S:.0f} s"
        session.found("voice turn", "no", why, weight="must", missing=meaning)
        return
    late = (first - silent_at) * 1000
    session.found("voice turn", "yes", f"first sound {late:.0f} ms after the caller fell silent", weight="must")
    committed = any(event["type"] == "input_audio_buffer.committed" for _, event in session.events[since:])
    told = "The end of the caller's turn is then taken from the answer's beginning."
    session.found("committed", "yes" if committed else "no", weight="may", missing=told)
    transcribed = any("output_audio_transcript" in event["type"] for _, event in session.events[since:])
    told = "The record of the call has no words of the agent."
    session.found("transcripts", "yes" if transcribed else "no", missing=told)
    await session.configure(turn_detection=None)


async def _speak(session: Session) -> tuple[int, float]:
    """Speech at its own pace, then silence until the answer is complete: where it began, when the speech was over."""
    loop = asyncio.get_running_loop()
    samples = np.frombuffer(decode_mulaw(voices.clip("opening-hours")), "<i2")
    sound = convert(samples, 8000, RATE_HZ).astype("<i2").tobytes()
    since, due, silent_at = len(session.events), loop.time(), 0.0
    for at in range(0, len(sound) + int(examination.ANSWER_S * 1000 / _PIECE_MS) * _PIECE_BYTES, _PIECE_BYTES):
        piece = sound[at : at + _PIECE_BYTES].ljust(_PIECE_BYTES, b"\0")
        text = pybase64.b64encode(piece).decode("ascii")
        await session.send({"type": "input_audio_buffer.append", "audio": text})
        due += PIECE_EVERY_S
        await asyncio.sleep(max(0.0, due - loop.time()))
        if at + _PIECE_BYTES < len(sound):
            continue
        silent_at = silent_at or loop.time()
        came = [event["type"] for _, event in session.events[since:]]
        begun = came.index("response.created") if "response.created" in came else len(came)
        if session.over is not None or "response.done" in came[begun:]:
            break
    return since, silent_at


async def truncate(session: Session) -> None:
    """Cutting what was not heard"""
    meaning = "After an interruption the model believes that all it said was heard."
    item_id = session.spoken_item()
    if not item_id:
        session.found("truncate", "unclear", "no item with sound to cut", missing=meaning)
        return
    cut = {"type": "conversation.item.truncate", "item_id": item_id, "content_index": 0}
    beyond_ms = int(session.sound_ms(item_id=item_id)) + _BEYOND_MS
    since = await session.send({**cut, "audio_end_ms": beyond_ms})
    too_long = await session.wait(of("conversation.item.truncated", "error"), since)
    since = await session.send({**cut, "audio_end_ms": 100})
    right = await session.wait(of("conversation.item.truncated", "error"), since)
    if right is None or right[1]["type"] == "error":
        session.found("truncate", "no", why_of(right[1]) if right else "no answer", missing=meaning)
    else:
        session.found("truncate", "yes", "100 ms of an item left")
    if too_long is None:
        session.found("truncate beyond the end", "unclear", "no answer", weight="may", missing="It says nothing.")
    elif too_long[1]["type"] == "error":
        session.found("truncate beyond the end", "yes", f"refused: {why_of(too_long[1])}", weight="may")
    else:
        told = "It takes any length, so a wrong one would go unnoticed."
        session.found("truncate beyond the end", "no", "accepted", weight="may", missing=told)


async def delete(session: Session) -> None:
    """Deleting an item"""
    item_id = session.spoken_item()
    since = await session.send({"type": "conversation.item.delete", "item_id": item_id or "item_of_nobody"})
    answer = await session.wait(of("conversation.item.deleted", "error"), since)
    gone = answer is not None and answer[1]["type"] == "conversation.item.deleted"
    why = "" if gone else why_of(answer[1]) if answer else "no answer"
    meaning = "What was never heard is cut to nothing instead."
    session.found("delete", "yes" if gone else "no", why, weight="may", missing=meaning)


async def cancel(session: Session) -> None:
    """Cancelling an answer"""
    meaning = "An interrupted answer is generated, and paid for, to its end; the caller hears none of it."
    since = await session.say("Count slowly from one to sixty, in words.")
    begun = await session.wait(
        lambda event: sounds(event) or event["type"] == "response.done", since, examination.ANSWER_S
    )
    if begun is None or not sounds(begun[1]):
        session.found("cancel", "unclear", "no answer to cancel", missing=meaning)
        return
    asked = await session.send({"type": "response.cancel"})
    done = await session.wait(of("response.done"), since, examination.ANSWER_S)
    status = table(done[1].get("response")).get("status", "completed") if done else ""
    error = await session.wait(of("error"), asked, 0.5)
    if status == "cancelled":
        session.found("cancel", "yes", "the answer ended as cancelled")
    elif error is not None:
        known = "active" in why_of(error[1])
        session.found("cancel", "yes" if known else "no", why_of(error[1]), missing=meaning)
    else:
        session.found("cancel", "no", f"the answer ended as {status or 'nothing'}", missing=meaning)
    since = await session.send({"type": "response.cancel"})
    error = await session.wait(of("error"), since, 1.0)
    told = f"refused: {why_of(error[1])}" if error else "nothing happens"
    session.found("cancel with nothing to cancel", "yes", told, weight="may")


async def tool(session: Session) -> None:
    """A tool, and an answer that knows its output"""
    meaning = "The agent cannot hang up, transfer, or look anything up."
    await session.configure(tools=[_TOOL])
    choice = {"type": "function", "name": _TOOL["name"]}
    since = await session.say("Where is my order A17? Use the tool.", tool_choice=choice)
    done = await session.answered(since)
    call = next((found for _, event in session.events[since:] if (found := _tool_call(event))), None)
    if call is None:
        why = why_of(done) if done is not None and done["type"] == "error" else "no call of the tool came"
        session.found("tools", "no", why, missing=meaning)
        return
    output = {"type": "function_call_output", "call_id": call["call_id"], "output": '{"status": "on its way"}'}
    since = await session.send({"type": "conversation.item.create", "item": output})
    await session.send({"type": "response.create"})
    done = await session.answered(since)
    if done is None or done["type"] == "error":
        why = why_of(done) if done else "no answer to the tool's output"
        session.found("tools", "no", why, missing="The agent falls silent after a tool.")
    else:
        session.found("tools", "yes", f"{call.get('name', _TOOL['name'])}({call.get('arguments', '')})")
    await session.configure(tools=[])


def _tool_call(event: Event) -> Event | None:
    """The call in an event, in whichever of its three places a server puts it."""
    candidates = [event] if event["type"] == "response.function_call_arguments.done" else []
    candidates.append(table(event.get("item")))
    candidates += rows(table(event.get("response")).get("output"))
    for candidate in candidates:
        is_call = candidate is event or candidate.get("type") == "function_call"
        if is_call and isinstance(candidate.get("call_id"), str) and event["type"] != "conversation.item.added":
            return candidate
    return None


async def out_of_band(session: Session) -> None:
    """An answer beside the conversation"""
    part = {"type": "input_text", "text": "Say the word blue."}
    message = {"type": "message", "role": "user", "content": [part]}
    text = {"output_modalities": ["text"]} if session.report.shape != "beta" else {"modalities": ["text"]}
    wish = {"conversation": "none", "input": [message], "metadata": {"purpose": "probe"}, **text}
    since = await session.send({"type": "response.create", "response": wish})
    done = await session.answered(since)
    if done is None or done["type"] == "error":
        meaning = "Calls do not use it today."
        why = why_of(done) if done else "no answer"
        session.found("out of band", "no", why, weight="may", missing=meaning)
        return
    response = table(done.get("response"))
    apart = "conversation_id" in response and response["conversation_id"] is None
    told = "conversation_id is null" if apart else "not marked: its conversation_id is not null"
    meaning = "Answers beside the conversation cannot be told apart by their conversation."
    session.found("out of band", "yes" if apart else "unclear", told, weight="may", missing=meaning)


async def empty_commit(session: Session) -> None:
    """Committing nothing"""
    await session.send({"type": "input_audio_buffer.clear"})
    since = await session.send({"type": "input_audio_buffer.commit"})
    answer = await session.wait(of("error", "input_audio_buffer.committed"), since, 2.0)
    if answer is None:
        session.found("empty commit", "unclear", "no answer", weight="may", missing="It says nothing.")
    elif answer[1]["type"] == "error":
        session.found("empty commit", "yes", f"refused: {why_of(answer[1])}", weight="may")
    else:
        meaning = "An empty turn becomes an item of the conversation."
        session.found("empty commit", "no", "accepted", weight="may", missing=meaning)


async def unknown_event(session: Session) -> None:
    """An event nobody knows"""
    since = await session.send({"type": "bridge.probe"})
    answer = await session.wait(of("error"), since, 1.0)
    told = f"refused: {why_of(answer[1])}" if answer else "ignored"
    if session.over is None:
        session.found("unknown events", "yes", told, weight="may")


STEPS: Final = (text_turn, voice_turn, truncate, delete, cancel, tool, out_of_band, empty_commit, unknown_event)


async def _pcmu(target: Target, report: Report) -> None:
    """Whether the telephone's own format can be had: in a session of its own, because some fix it with the first
    sound."""
    meaning = "Audio is converted on its way, which costs a little and harms nothing."
    aside = Report(report.where, report.profile, report.model)
    try:
        connection = await _connect(target)
    except RealtimeError as error:
        report.findings.append(Finding("audio/pcmu", "unclear", str(error), "may", meaning))
        return
    dialect = msgspec.structs.replace(target.profile, shape=report.shape or target.profile.shape).dialect()
    session = Session(connection, dialect, aside)
    try:
        answer = None
        if await session.wait(of("session.created"), 0, examination.GREETING_S) is not None:
            answer = await session.configure(input_format=("mulaw", 8000), output_format=("mulaw", 8000))
        told = table(answer[1].get("session")) if answer else {}
        audio = table(told.get("audio"))
        sides = [
            read_format(table(audio.get(side)).get("format") or told.get(f"{side}_audio_format"))[0]
            for side in ("input", "output")
        ]
        state: State = "yes" if sides == ["mulaw", "mulaw"] else "no"
        why = "both ways" if state == "yes" else why_of(answer[1]) if answer and not told else f"it stays {sides[0]}"
        report.findings.append(Finding("audio/pcmu", state, why, "may", meaning))
    except RealtimeError as error:
        report.findings.append(Finding("audio/pcmu", "no", str(error), "may", meaning))
    finally:
        await session.end()
