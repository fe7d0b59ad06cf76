"""What the local model knows: an agent file's `local:` section, checked and ready to answer.

A brain turns what was understood (an intent, a key, a text) into a reply: sentences to say and tools to call. It also
says which sentences may be understood at all, as a JSGF grammar. Brains are frozen and shared by all calls; a
`Dialogue` is what one call has said so far.

    local:
      name: front desk               # the model's name where nobody asks for one
      voice: en-us                   # where the session names none
      greeting: Hello, this is the front desk.
      confirm: "You asked {about}."  # before an answer; {about} and {name} of the intent, {phrase} as understood
      fallback: ["I'm sorry, I did not understand."]   # or more, taken in turn
      sorry: "I'm sorry, that did not work."           # when a tool failed
      still_there: Are you still there?                # to a caller who has been quiet, if the session asks for it
      prompts:                       # a word in the instructions of one response, and what is said then
        goodbye: Thank you for calling. Goodbye.
      intents:
        - name: hours
          about: about our opening hours
          confirm: "Our hours: "                     # in place of the brain's; "" for none
          phrases: ["[please] (what are | tell me) your opening hours", when are you open]
          answer: We are open from nine to five.     # or a list, taken in turn
          digits: "1"                                # the same by a key
        - name: order
          phrases: [where is my order]
          before: One moment.                        # said before the tool is called
          tool: {name: find_order, arguments: {number: A17}}
          answer: "Your order is {output[status]}."  # said when the tool has answered
        - name: goodbye
          phrases: [goodbye, that is all]
          answer: Thank you for calling. Goodbye.
          then: hang_up                              # a tool called after the answer, in the same response
"""

from __future__ import annotations

import json
import re
import string
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from typing import Any

SORRY = "I'm sorry, that did not work."
STILL_THERE = "Are you still there?"
DID_NOT_UNDERSTAND = "I'm sorry, I did not understand."

_MOST_WORDS = 60  # of a sentence that are compared
TEXT_LIKENESS = 0.8  # typed words this like a phrase count as the phrase

# What people wrap around a sentence. The grammar allows it, and it is taken off before looking the sentence up.
OPENERS = ("hello", "hi", "yes", "okay", "well", "um", "uh")
CLOSERS = ("please", "thanks", "thank you")
WRAPPED = 0.05  # how likely each is: cheap ones would be heard into the noise around short sentences

_QUOTED = re.compile(r'["“]([^"“”]{2,})["”]')

DIGIT_WORDS = dict(zip("0123456789", "zero one two three four five six seven eight nine".split(), strict=True))


@dataclass(frozen=True, slots=True)
class Say:
    text: str


@dataclass(frozen=True, slots=True)
class UseTool:
    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict)


Reply = tuple[Say | UseTool, ...]


@dataclass(frozen=True, slots=True)
class Heard:
    """What a recogniser made of a piece of speech. `intent` is None for sound that fits nothing we know."""

    intent: str | None
    text: str


@dataclass(frozen=True, slots=True)
class Intent:
    name: str
    phrases: tuple[str, ...]  # expanded: plain lower-case words
    answers: tuple[str, ...] = ()
    about: str = ""
    before: str = ""
    tool: UseTool | None = None
    digits: str = ""
    then: UseTool | None = None
    confirm: str | None = None  # None: the brain's


@dataclass(frozen=True, slots=True)
class Brain:
    name: str
    greeting: str
    intents: tuple[Intent, ...]
    fallback: tuple[str, ...]
    confirm: str = ""
    sorry: str = SORRY
    still_there: str = STILL_THERE
    voice: str = ""
    prompts: tuple[tuple[str, str], ...] = ()  # (word in the instructions of a response, what to say then)

    @classmethod
    def from_dict(cls, section: Mapping[str, Any], *, source: str) -> Brain:
        """Raises ConfigError with every mistake; `source` is the file they are reported against."""
        from bridge.localmodel.reader import Reader

        return Reader(source).brain(section)

    @classmethod
    def default(cls) -> Brain:
        """The front desk of a small company: what answers when nobody configured anything."""
        from bridge.localmodel.frontdesk import FRONT_DESK

        return cls.from_dict(FRONT_DESK, source="the packaged front desk")

    def grammar(self) -> str:
        """JSGF, one rule per intent (JSpeech Grammar Format 1.0, W3C note of June 2000)."""
        name = re.sub(r"\W", "_", self.name) or "brain"
        rules = [f"#JSGF V1.0;\ngrammar {name};"]
        spoken = [intent for intent in self.intents if intent.phrases]
        turn = " | ".join(f"<intent_{index}>" for index in range(len(spoken)))
        wrap = "( /{:.2f}/ <NULL> | /{:.2f}/ <{}> )"
        before, after = (wrap.format(1 - WRAPPED, WRAPPED, rule) for rule in ("opener", "closer"))
        rules.append(f"public <turn> = {before} ( {turn} ) {after};")
        rules.append(f"<opener> = {' | '.join(OPENERS)};")
        rules.append(f"<closer> = {' | '.join(CLOSERS)};")
        rules.extend(f"<intent_{index}> = {' | '.join(intent.phrases)};" for index, intent in enumerate(spoken))
        return "\n".join(rules) + "\n"

    def words(self) -> frozenset[str]:
        phrases = [phrase for intent in self.intents for phrase in intent.phrases]
        return frozenset(word for phrase in (*phrases, *OPENERS, *CLOSERS) for word in phrase.split())

    def intent(self, name: str | None) -> Intent | None:
        return next((intent for intent in self.intents if intent.name == name), None)

    def intent_of_digits(self, digits: str) -> Intent | None:
        return next((intent for intent in self.intents if intent.digits and intent.digits == digits), None)

    def intent_of_sentence(self, sentence: str) -> Intent | None:
        """The intent one of whose phrases this is, openers and closers aside."""
        plain = words_of(sentence)
        for candidate in (plain, _unwrapped(plain)):
            for intent in self.intents:
                if candidate in intent.phrases:
                    return intent
        return None

    def understand(self, text: str) -> Heard:
        """What a typed text means: a phrase, or something very like one."""
        exact = self.intent_of_sentence(text)
        plain = _unwrapped(words_of(text))
        if exact:
            return Heard(exact.name, plain)
        best = max(
            ((_likeness(plain, phrase), intent.name, phrase) for intent in self.intents for phrase in intent.phrases),
            default=(0.0, "", ""),
        )
        return Heard(best[1], best[2]) if best[0] >= TEXT_LIKENESS else Heard(None, plain)


class Dialogue:
    """One call's way through a brain: which answers were used, which tool's output is awaited."""

    def __init__(self, brain: Brain) -> None:
        self.brain = brain
        self._used: Counter[str] = Counter()

    def greeting(self) -> Reply:
        return (Say(self.brain.greeting),) if self.brain.greeting else ()

    def answer(self, heard: Heard, *, tools: Iterable[str]) -> Reply:
        """What to say and do about what was heard; tools the session does not declare cannot be called."""
        intent = self.brain.intent(heard.intent)
        if intent is None:
            return (Say(self._next("", self.brain.fallback)),)
        return self._act(intent, heard.text, frozenset(tools))

    def digits(self, digits: str, *, tools: Iterable[str]) -> Reply:
        intent = self.brain.intent_of_digits(digits)
        if intent is None:
            return (Say(self._next("", self.brain.fallback)),)
        return self._act(intent, "", frozenset(tools))

    def next_line(self) -> Reply:
        """Without ears: the answers one after the other, whatever was said."""
        lines = [answer for intent in self.brain.intents for answer in intent.answers if "{" not in answer]
        return (Say(self._next("\0line", tuple(lines) or self.brain.fallback)),)

    def after_tool(self, name: str, output: str) -> Reply:
        """What to say once tool `name` answered `output` (JSON or plain text)."""
        value = _parsed(output)
        if isinstance(value, Mapping) and value.get("error"):
            return (Say(self.brain.sorry),)
        intent = next((i for i in self.brain.intents if i.tool and i.tool.name == name), None)
        if intent is None or not intent.answers:
            return ()  # a tool called after the last word: nothing is left to say
        filled = _filled(self._next(intent.name, intent.answers), value)
        return (Say(filled if filled is not None else self.brain.sorry), *_optional(intent.then))

    def instructed(self, instructions: str) -> Reply:
        """What instructions for one response amount to, as far as a brain without understanding can tell.

        A quoted sentence is said as it stands; else the first prompt whose word occurs.
        """
        now = _last_paragraph(instructions)
        quoted = _QUOTED.search(now)
        if quoted:
            return (Say(quoted.group(1).strip()),)
        lowered = now.lower()
        for word, text in self.brain.prompts:
            if word in lowered:
                return (Say(text),)
        return ()

    def quotes(self, instructions: str) -> bool:
        """Whether the words to say are given: they go before any question."""
        return _QUOTED.search(_last_paragraph(instructions)) is not None

    def _act(self, intent: Intent, phrase: str, tools: frozenset[str]) -> Reply:
        then = tuple(use for use in _optional(intent.then) if use.name in tools)
        confirmation = self._confirmation(intent, phrase)
        if intent.tool is None:
            return (*confirmation, Say(self._next(intent.name, intent.answers)), *then)
        if intent.tool.name in tools:
            before = (Say(intent.before),) if intent.before else ()
            return (*confirmation, *before, intent.tool)
        plain = [answer for answer in intent.answers if "{output" not in answer]
        return (*confirmation, Say(self._next(intent.name, tuple(plain)) if plain else self.brain.sorry), *then)

    def _confirmation(self, intent: Intent, phrase: str) -> tuple[Say, ...]:
        template = self.brain.confirm if intent.confirm is None else intent.confirm
        if not template or ("{about}" in template and not intent.about) or ("{phrase}" in template and not phrase):
            return ()
        return (Say(template.format(about=intent.about, phrase=phrase, name=intent.name)),)

    def _next(self, key: str, lines: tuple[str, ...]) -> str:
        line = lines[self._used[key] % len(lines)]
        self._used[key] += 1
        return line


def digits_in(text: str) -> str:
    """The keys a message tells of ("The caller pressed 1."), or nothing."""
    if re.fullmatch(r"\s*[0-9*#]+\s*", text):
        return text.strip()
    found = re.search(r"(?i)\b(?:press(?:ed)?|dtmf|digits?|keys?)\b\D*?([0-9*#](?:[\s,]*[0-9*#])*)", text)
    return re.sub(r"[\s,]", "", found.group(1)) if found else ""


def words_of(text: str) -> str:
    """Lower-case words, digits spelled out: the form in which sentences are compared."""
    spelled = re.sub(r"[0-9]", lambda match: f" {DIGIT_WORDS[match.group()]} ", text.lower())
    return " ".join(re.findall(r"[a-z']+", spelled.replace("’", "'")))


def _unwrapped(plain: str) -> str:
    changed = True
    while changed:
        changed = False
        for opener in OPENERS:
            if plain.startswith(opener + " "):
                plain, changed = plain[len(opener) + 1 :], True
        for closer in CLOSERS:
            if plain.endswith(" " + closer):
                plain, changed = plain[: -len(closer) - 1], True
    return plain


def _likeness(left: str, right: str) -> float:
    """Of as many words as a sentence has: it is compared with every sentence an agent knows."""
    return SequenceMatcher(a=left.split()[:_MOST_WORDS], b=right.split()[:_MOST_WORDS], autojunk=False).ratio()


def _parsed(output: str) -> Any:
    try:
        return json.loads(output)
    except ValueError:
        return output


def _filled(template: str, output: Any) -> str | None:
    try:
        return string.Formatter().vformat(template, (), {"output": output})
    except (KeyError, IndexError, AttributeError, TypeError, ValueError):
        return None


def _optional(use: UseTool | None) -> tuple[UseTool, ...]:
    return (use,) if use else ()


def _last_paragraph(instructions: str) -> str:
    """Clients put what is wanted now behind what holds for the whole call, because the one replaces the other."""
    return instructions.strip().rpartition("\n\n")[2]
