"""Reads TwiML as strictly as the carrier does: what is not in the schema is reported with Twilio's error number.

A document that is not XML, or whose document element is not `Response`, is error 12100 and nothing of it runs.
Misspelled or unknown verbs, nouns and attributes are warning 12200 (twilio.com/docs/api/errors/12200); the rest of
the document runs.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Callable
from dataclasses import dataclass, field

PARSE_FAILURE = 12100
SCHEMA_WARNING = 12200
INVALID_CONTENT_TYPE = 12300
CONTENT_TYPES = ("text/xml", "application/xml")

# verb -> (attributes, nouns it may hold, may it hold text)
_SCHEMA: dict[str, tuple[frozenset[str], frozenset[str], bool]] = {
    "Connect": (frozenset({"action", "method"}), frozenset({"Stream"}), False),
    "Say": (frozenset({"voice", "language", "loop"}), frozenset(), True),
    "Play": (frozenset({"loop", "digits"}), frozenset(), True),
    "Pause": (frozenset({"length"}), frozenset(), False),
    "Redirect": (frozenset({"method"}), frozenset(), True),
    "Hangup": (frozenset({"reason"}), frozenset(), False),
    "Reject": (frozenset({"reason"}), frozenset(), False),
    "Dial": (
        frozenset(
            {"action", "method", "timeout", "callerId", "answerOnBridge", "timeLimit", "hangupOnStar", "record"}
            | {"trim", "ringTone", "referUrl", "referMethod", "sequential", "recordingTrack"}
            | {"recordingStatusCallback", "recordingStatusCallbackMethod", "recordingStatusCallbackEvent"}
        ),
        frozenset({"Number", "Sip", "Client", "Conference", "Queue"}),
        True,
    ),
}
_STREAM_ATTRIBUTES = frozenset(
    {"url", "name", "track", "statusCallback", "statusCallbackMethod", "connectorName", "audioFormat", "sampleRate"}
)


@dataclass(frozen=True, slots=True)
class Problem:
    """An error or a warning as the account's debugger would show it."""

    code: int
    why: str


@dataclass(frozen=True, slots=True)
class Noun:
    name: str
    attributes: dict[str, str]
    text: str
    parameters: dict[str, str] = field(default_factory=dict)  # of a Stream


@dataclass(frozen=True, slots=True)
class Verb:
    """One instruction: its attributes, its text without surrounding white space, and its nouns."""

    name: str
    attributes: dict[str, str]
    text: str = ""
    nouns: tuple[Noun, ...] = ()


@dataclass(frozen=True, slots=True)
class Document:
    """What a web server answered, ready to be executed; `url` is what relative addresses in it are relative to."""

    url: str
    verbs: tuple[Verb, ...] = ()
    problems: tuple[Problem, ...] = ()
    text: str = ""

    @property
    def usable(self) -> bool:
        return not any(p.code in (PARSE_FAILURE, INVALID_CONTENT_TYPE) for p in self.problems)


def parse(text: str, *, url: str, content_type: str | None = None) -> Document:
    """Read one document. Never raises: what is wrong stands in `problems`."""
    if content_type is not None and content_type.split(";")[0].strip().lower() not in CONTENT_TYPES:
        why = f"content type {content_type!r} is not text/xml or application/xml"
        return Document(url, (), (Problem(INVALID_CONTENT_TYPE, why),), text)
    if "<!DOCTYPE" in text:  # entity expansion is nobody's TwiML
        return Document(url, (), (Problem(PARSE_FAILURE, "a document type declaration"),), text)
    try:
        root = ET.fromstring(text)
    except (ET.ParseError, ValueError) as error:
        return Document(url, (), (Problem(PARSE_FAILURE, str(error)),), text)
    if root.tag != "Response":
        return Document(url, (), (Problem(PARSE_FAILURE, f"the document element is {root.tag}, not Response"),), text)
    problems: list[Problem] = []
    verbs = [verb for place, element in enumerate(root) if (verb := _verb(element, place, problems)) is not None]
    return Document(url, tuple(verbs), tuple(problems), text)


def _verb(element: ET.Element, place: int, problems: list[Problem]) -> Verb | None:
    def warn(why: str) -> None:
        problems.append(Problem(SCHEMA_WARNING, why))

    schema = _SCHEMA.get(element.tag)
    if schema is None:
        warn(f"unknown verb <{element.tag}>")
        return None
    attributes, nouns, may_hold_text = schema
    for name in element.attrib.keys() - attributes:
        warn(f"<{element.tag}> has no attribute {name!r}")
    text = (element.text or "").strip()
    if text and not may_hold_text:
        warn(f"<{element.tag}> holds text")
    if element.tag == "Reject" and place > 0:
        warn("<Reject> is not the first verb")
    held = []
    for child in element:
        if child.tag not in nouns:
            warn(f"<{element.tag}> cannot hold <{child.tag}>")
        elif child.tag == "Stream":
            held.append(_stream(child, warn=warn))
        else:
            held.append(Noun(child.tag, dict(child.attrib), (child.text or "").strip()))
    if element.tag == "Connect" and len(held) != 1:
        warn(f"<Connect> holds {len(held)} nouns, not one")
    return Verb(element.tag, dict(element.attrib), text, tuple(held))


def _stream(element: ET.Element, *, warn: Callable[[str], None]) -> Noun:
    for name in element.attrib.keys() - _STREAM_ATTRIBUTES:
        warn(f"<Stream> has no attribute {name!r}")
    parameters = {}
    for child in element:
        if child.tag != "Parameter":
            warn(f"<Stream> cannot hold <{child.tag}>")
            continue
        if child.attrib.keys() != {"name", "value"}:
            warn(f"<Parameter> takes name and value, not {', '.join(sorted(child.attrib)) or 'nothing'}")
            continue
        name, value = child.attrib["name"], child.attrib["value"]
        if len(name) + len(value) >= 500:
            warn(f"<Parameter name={name!r}>: name and value together have 500 characters or more")
            continue
        parameters[name] = value
    return Noun("Stream", dict(element.attrib), (element.text or "").strip(), parameters)
