"""A brain's section is checked, its grammar generated, its answers given."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from bridge.errors import ConfigError
from bridge.localmodel import brain
from bridge.localmodel.brain import Brain, Dialogue, Heard, Say, UseTool, digits_in, words_of
from bridge.localmodel.reader import INTENT_KEYS, KEYS, expand
from tests.localmodel.stage import SHOP

TOOLS = ["find_order", "hang_up"]


@pytest.fixture
def shop() -> Brain:
    return Brain.from_dict(SHOP, source="shop.yaml")


@pytest.mark.parametrize(
    ("phrase", "sentences"),
    [
        ("a b", ["a b"]),
        ("[please] a", ["a", "please a"]),
        ("(a | b c) d", ["a d", "b c d"]),
        ("a [b [c]]", ["a", "a b", "a b c"]),
        ("a | b", ["a", "b"]),
    ],
)
def test_a_phrase_stands_for_its_sentences(phrase: str, sentences: list[str]) -> None:
    assert expand(phrase) == sentences


@pytest.mark.parametrize("phrase", ["(a", "a]", "[a)", "(a|b)" * 9])
def test_a_phrase_that_cannot_be_expanded_is_refused(phrase: str) -> None:
    with pytest.raises(ValueError):
        expand(phrase)


def test_every_mistake_is_told_at_once_with_its_place() -> None:
    section: dict[str, Any] = {
        "greting": "hello",
        "confirm": "You asked {abuot}.",
        "intents": [
            {"name": "a", "phrases": ["when (are", "same"], "answer": "x"},
            {"name": "a", "phrases": ["same"], "answer": "{output[x]}", "digits": "one"},
            {"phrases": []},
        ],
    }
    with pytest.raises(ConfigError) as raised:
        Brain.from_dict(section, source="agents/a.yaml")
    told = "\n".join(raised.value.mistakes)
    for expected in (
        "agents/a.yaml: local.greting: unknown key; did you mean greeting?",
        "local.confirm: found 'You asked {abuot}.': in braces there is {about}, {phrase} or {name}",
        "local.intents[1].phrases[1]",
        "name 'a' occurs 2 times",
        "phrase 'same' occurs 2 times",
        "{output} needs a tool",
        "local.intents[2].digits",
        "local.intents[3].name",
        "local.intents[3].phrases",
        "local.intents[3].answer",
    ):
        assert expected in told


@pytest.mark.parametrize(
    "answer", ["{outptu[status]}", "Wait {name}, {about}", "{}", "{output", "output}", "{outputs}"]
)
@pytest.mark.parametrize("more", [{}, {"tool": "find_order"}])
def test_an_answer_that_cannot_be_filled_is_refused(answer: str, more: dict[str, Any]) -> None:
    intent = {"name": "a", "phrases": ["b"], "answer": ["Yes.", answer], **more}
    with pytest.raises(ConfigError, match=r"needs a tool|in braces there is") as raised:
        Brain.from_dict({"intents": [intent]}, source="agents/a.yaml")
    assert repr(answer) in str(raised.value)


@pytest.mark.parametrize("answer", ["{output}", "{output[a][b]} and {output[c]:.2f}", "{{}} {output!r}"])
def test_an_answer_may_take_any_part_of_a_tools_output(answer: str) -> None:
    intent = {"name": "a", "phrases": ["b"], "answer": answer, "tool": "find_order"}
    assert Brain.from_dict({"intents": [intent]}, source="agents/a.yaml").intents[0].answers == (answer,)


def test_the_grammar_holds_every_phrase_and_what_people_wrap_around_it(shop: Brain) -> None:
    grammar = shop.grammar()
    assert grammar.startswith("#JSGF V1.0;\ngrammar shop;\n")
    assert "<intent_0> = when are you open;" in grammar
    assert "<closer> = please | thanks | thank you;" in grammar


@pytest.mark.parametrize(
    ("text", "intent"),
    [
        ("When are you open?", "hours"),
        ("Hello, when are you open please", "hours"),
        ("when you are open", None),
        ("when are you all open", "hours"),
        ("bananas", None),
        ("", None),
    ],
)
def test_typed_text_is_understood_when_it_is_very_like_a_phrase(shop: Brain, text: str, intent: str | None) -> None:
    assert shop.understand(text).intent == intent


def test_answers_take_turns(shop: Brain) -> None:
    dialogue = Dialogue(shop)
    heard = Heard("hours", "when are you open")
    said = [dialogue.answer(heard, tools=()) for _ in range(3)]
    assert said == [(Say("From nine to five."),), (Say("Nine to five."),), (Say("From nine to five."),)]


def test_what_was_understood_is_confirmed_where_the_brain_says_so() -> None:
    section = {**SHOP, "confirm": "You said: {phrase}."}
    dialogue = Dialogue(Brain.from_dict(section, source="test"))
    reply = dialogue.answer(Heard("hours", "when are you open"), tools=())
    assert reply[0] == Say("You said: when are you open.")


def test_what_is_not_understood_gets_the_fallbacks_in_turn(shop: Brain) -> None:
    dialogue = Dialogue(shop)
    assert dialogue.answer(Heard(None, ""), tools=()) == (Say("Pardon?"),)
    assert dialogue.answer(Heard(None, ""), tools=()) == (Say("Sorry, what was that?"),)


def test_a_tool_is_used_after_the_words_before_it(shop: Brain) -> None:
    reply = Dialogue(shop).answer(Heard("order", "where is my order"), tools=TOOLS)
    assert reply == (Say("One moment."), UseTool("find_order", {"number": "A17"}))


@pytest.mark.parametrize(
    ("output", "said"),
    [
        ('{"status": "ready"}', "Your order is ready."),
        ('{"error": "no such order"}', "I'm sorry, that did not work."),
        ("plain text", "I'm sorry, that did not work."),
        ("{}", "I'm sorry, that did not work."),
    ],
)
def test_the_answer_after_a_tool_is_filled_with_its_output(shop: Brain, output: str, said: str) -> None:
    assert Dialogue(shop).after_tool("find_order", output) == (Say(said),)


def test_after_the_last_words_tool_nothing_is_left_to_say(shop: Brain) -> None:
    assert Dialogue(shop).after_tool("hang_up", '{"ok": true}') == ()


@pytest.mark.parametrize(
    ("text", "digits"),
    [("The caller pressed 1.", "1"), ("DTMF: 4 2 #", "42#"), ("7", "7"), ("I live at 12 Station Road", ""), ("", "")],
)
def test_keys_are_found_in_messages_about_keys_only(text: str, digits: str) -> None:
    assert digits_in(text) == digits


def test_digits_are_spelled_for_the_recogniser() -> None:
    assert words_of("Room 21, please!") == "room two one please"


def test_the_documented_section_holds_every_key_and_means_what_it_says() -> None:
    shown = (brain.__doc__ or "").partition("\n    local:\n")[2]
    section = yaml.safe_load(shown)
    assert set(section) == KEYS
    assert {key for intent in section["intents"] for key in intent} == INTENT_KEYS
    assert Brain.from_dict(section, source="the docstring").fallback == ("I'm sorry, I did not understand.",)


def test_the_packaged_front_desk_holds() -> None:
    brain = Brain.default()
    assert brain.intent_of_digits("1") is not None
    assert len(brain.intents) >= 8
