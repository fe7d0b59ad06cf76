"""Reads an agent file's `local:` section, checks it, and says everything that is wrong with it at once."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Mapping
from typing import Any

from bridge.errors import ConfigError
from bridge.localmodel.brain import DID_NOT_UNDERSTAND, SORRY, STILL_THERE, Brain, Intent, UseTool, words_of
from bridge.reading import nearest

KEYS = frozenset("name greeting confirm fallback sorry still_there voice intents prompts".split())
INTENT_KEYS = frozenset("name phrases answer about before tool digits then confirm".split())
MAX_EXPANSIONS = 200  # sentences one phrase may stand for


class Reader:
    """Checks a section and collects what is wrong with it."""

    def __init__(self, source: str) -> None:
        self._source = source
        self._mistakes: list[str] = []

    def brain(self, section: Mapping[str, Any]) -> Brain:
        if not isinstance(section, Mapping):
            raise ConfigError([f"{self._source}: local: expected a mapping, found {type(section).__name__}"])
        self._unknown("local", section, KEYS)
        intents = section.get("intents", [])
        if not isinstance(intents, list):
            self._wrong("local.intents", intents, "make it a list")
            intents = []
        read = [self._intent(f"local.intents[{number}]", entry) for number, entry in enumerate(intents, 1)]
        self._twice("name", [intent.name for intent in read])
        self._twice("digits", [intent.digits for intent in read if intent.digits])
        self._twice("phrase", [phrase for intent in read for phrase in intent.phrases])
        prompts = section.get("prompts", {})
        if not isinstance(prompts, Mapping):
            self._wrong("local.prompts", prompts, "map a word of the instructions to a sentence")
            prompts = {}
        brain = Brain(
            name=self._text("local.name", section.get("name", "local")),
            greeting=self._text("local.greeting", section.get("greeting", "Hello, how can I help you?")),
            intents=tuple(read),
            fallback=self._texts("local.fallback", section.get("fallback", DID_NOT_UNDERSTAND)),
            confirm=self._template("local.confirm", section.get("confirm", "")),
            sorry=self._text("local.sorry", section.get("sorry", SORRY)),
            still_there=self._text("local.still_there", section.get("still_there", STILL_THERE)),
            voice=self._text("local.voice", section.get("voice", "")),
            prompts=tuple((str(word).lower(), str(text)) for word, text in prompts.items()),
        )
        if not brain.fallback:
            self._wrong("local.fallback", [], "give at least one sentence")
        if self._mistakes:
            raise ConfigError(self._mistakes)
        return brain

    def _intent(self, where: str, entry: Any) -> Intent:
        if not isinstance(entry, Mapping):
            self._wrong(where, entry, "write name, phrases and answer")
            return Intent("", ())
        self._unknown(where, entry, INTENT_KEYS)
        phrases: list[str] = []
        for number, phrase in enumerate(self._texts(f"{where}.phrases", entry.get("phrases", [])), 1):
            phrases.extend(self._expanded(f"{where}.phrases[{number}]", phrase))
        intent = Intent(
            name=self._text(f"{where}.name", entry.get("name", "")),
            phrases=tuple(dict.fromkeys(phrases)),
            answers=self._texts(f"{where}.answer", entry.get("answer", [])),
            about=self._text(f"{where}.about", entry.get("about", "")),
            before=self._text(f"{where}.before", entry.get("before", "")),
            tool=self._tool(f"{where}.tool", entry.get("tool")),
            digits=self._digits(f"{where}.digits", entry.get("digits", "")),
            then=self._tool(f"{where}.then", entry.get("then")),
            confirm=self._template(f"{where}.confirm", entry["confirm"]) if "confirm" in entry else None,
        )
        if not intent.name:
            self._wrong(f"{where}.name", entry.get("name"), "give the intent a name")
        if not intent.phrases and not intent.digits:
            self._wrong(f"{where}.phrases", entry.get("phrases"), "give a phrase, or digits, to reach it by")
        if not intent.answers and intent.tool is None:
            self._wrong(f"{where}.answer", entry.get("answer"), "give an answer or a tool")
        for answer in intent.answers:
            if intent.tool is None and "{output" in answer:
                self._wrong(f"{where}.answer", answer, "{output} needs a tool")
            elif not _can_be_filled(answer):
                self._wrong(f"{where}.answer", answer, "in braces there is {output}, or a part of it, and nothing else")
        return intent

    def _expanded(self, where: str, phrase: str) -> list[str]:
        try:
            expansions = expand(phrase)
        except ValueError as wrong:
            self._wrong(where, phrase, str(wrong))
            return []
        plain = [words_of(expansion) for expansion in expansions]
        if not all(plain):
            self._wrong(where, phrase, "a phrase needs at least one word")
        return [words for words in plain if words]

    def _tool(self, where: str, value: Any) -> UseTool | None:
        if value is None:
            return None
        if isinstance(value, str) and value:
            return UseTool(value)
        if isinstance(value, Mapping) and isinstance(value.get("name"), str):
            arguments = value.get("arguments", {})
            if isinstance(arguments, Mapping) and set(value) <= {"name", "arguments"}:
                return UseTool(value["name"], dict(arguments))
        self._wrong(where, value, "write a tool's name, or {name: ..., arguments: {...}}")
        return None

    def _digits(self, where: str, value: Any) -> str:
        digits = str(value) if isinstance(value, str | int) else "?"
        if digits and not re.fullmatch(r"[0-9*#]+", digits):
            self._wrong(where, value, 'write keys of a telephone, in quotes ("1")')
        return digits

    def _text(self, where: str, value: Any) -> str:
        if isinstance(value, str):
            return value.strip()
        self._wrong(where, value, "write a text")
        return ""

    def _template(self, where: str, value: Any) -> str:
        text = self._text(where, value)
        try:
            text.format(about="", phrase="", name="")
        except (LookupError, ValueError, AttributeError):
            self._wrong(where, value, "in braces there is {about}, {phrase} or {name}, and nothing else")
        return text

    def _texts(self, where: str, value: Any) -> tuple[str, ...]:
        listed = value if isinstance(value, list | tuple) else [value]
        return tuple(text for text in (self._text(where, entry) for entry in listed) if text)

    def _unknown(self, where: str, section: Mapping[str, Any], known: frozenset[str]) -> None:
        for key in section:
            if key not in known:
                self._mistakes.append(f"{self._source}: {where}.{key}: unknown key{nearest(str(key), known)}")

    def _twice(self, what: str, values: list[str]) -> None:
        for value, count in Counter(values).items():
            if count > 1:
                self._mistakes.append(f"{self._source}: local.intents: {what} {value!r} occurs {count} times, keep one")

    def _wrong(self, where: str, value: Any, remedy: str) -> None:
        self._mistakes.append(f"{self._source}: {where}: found {value!r}: {remedy}")


def _can_be_filled(answer: str) -> bool:
    """Whether a tool's output is all that it takes."""
    try:
        fields = [field for _, field, _, _ in string.Formatter().parse(answer) if field is not None]
    except ValueError:
        return False
    return all(re.match(r"output(?=[.\[]|$)", field) for field in fields)


def expand(phrase: str) -> list[str]:
    """Every sentence a phrase stands for: `[a]` may be left out, `(a | b)` is one of them. Raises ValueError."""
    tokens = re.findall(r"[\[\]()|]|[^\[\]()|\s]+", phrase)
    position = 0

    def alternatives(closing: str) -> list[str]:
        nonlocal position
        found: list[str] = []
        current = [""]
        while True:
            token = tokens[position] if position < len(tokens) else ""
            position += 1
            if token == closing:
                return found + current
            if token == "":
                raise ValueError(f"{closing!r} is missing")
            if token == "|":
                found += current
                current = [""]
                continue
            if token in ("]", ")"):
                raise ValueError(f"{token!r} has no beginning")
            match token:
                case "[":
                    pieces = ["", *alternatives("]")]
                case "(":
                    pieces = alternatives(")")
                case word:
                    pieces = [word]
            current = [f"{before} {piece}".strip() for before in current for piece in pieces]
            if len(current) > MAX_EXPANSIONS:
                raise ValueError(f"it stands for more than {MAX_EXPANSIONS} sentences, split it")

    tokens.append("\0")
    return list(dict.fromkeys(alternatives("\0")))
