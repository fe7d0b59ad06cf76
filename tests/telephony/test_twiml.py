"""Every text survives as itself and stays where it was put: no string can add a verb or an attribute."""

import random
import xml.etree.ElementTree as ElementTree

import pytest

from bridge.errors import UsageError
from bridge.telephony.twiml import (
    Verb,
    connect_stream,
    dial,
    document,
    hangup,
    redirect,
    say,
)

STREAM = "wss://bridge.example.test/twilio/media"
PIECES = [
    "</Say>",
    "<Hangup/>",
    "]]>",
    "<![CDATA[",
    "<!--",
    "-->",
    "<?xml",
    "?>",
    "&amp;",
    "&#60;",
    "&",
    "<",
    ">",
    '"',
    "'",
    '" url="',
    "<!ENTITY x SYSTEM 'file:///etc/passwd'>",
    "&x;",
    "\r\n",
    "\n",
    "\t",
    " ",
    "\x00",
    "\x1b[31m",
    "\x0b",
    "\x85",
    "\u2028",
    "\ud800",
    "\udfff",
    "\ufffe",
    "\uffff",
    "\U0001f600",
    "é",
    "١٢",
    "%0d%0a",
    "../",
    "a",
    "Redirect",
]


def hostile_strings(count: int) -> list[str]:
    chance = random.Random(7)
    return ["".join(chance.choices(PIECES, k=chance.randint(1, 6))) for _ in range(count)]


def as_xml_holds_it(text: str) -> str:
    def held(char: str) -> bool:
        point = ord(char)
        return point in (9, 10, 13) or 0x20 <= point <= 0xD7FF or 0xE000 <= point <= 0xFFFD or point >= 0x10000

    return "".join(char if held(char) else "\ufffd" for char in text)


def tree(element: ElementTree.Element) -> tuple[object, ...]:
    return element.tag, dict(element.attrib), element.text or "", [tree(child) for child in element]


def parsed(*verbs: Verb) -> list[object]:
    root = ElementTree.fromstring(document(*verbs).encode("utf-8"))
    assert root.tag == "Response" and not root.attrib
    return [tree(child) for child in root]


def test_ten_thousand_hostile_strings_change_no_tree() -> None:
    for hostile in hostile_strings(10_000):
        held = as_xml_holds_it(hostile)
        verbs = (
            connect_stream(STREAM, parameters={hostile: hostile}, status_callback=hostile),
            say(hostile, language=hostile),
            dial("+15550100", caller_id=hostile),
            hangup(),
        )
        assert parsed(*verbs) == [
            (
                "Connect",
                {},
                "",
                [
                    (
                        "Stream",
                        {"url": STREAM, "statusCallback": held},
                        "",
                        [("Parameter", {"name": held, "value": held}, "", [])],
                    )
                ],
            ),
            ("Say", {"language": held}, held, []),
            (
                "Dial",
                {"callerId": held, "answerOnBridge": "true", "timeout": "25"},
                "",
                [("Number", {}, "+15550100", [])],
            ),
            ("Hangup", {}, "", []),
        ]


def test_hostile_addresses_are_refused_or_stay_the_content_of_their_verb() -> None:
    for hostile in hostile_strings(10_000):
        held = as_xml_holds_it(hostile)
        for prefix, make, name in (
            ("https://h.example/", redirect, "Redirect"),
            ("sip:", dial, "Dial"),
            ("+1555", dial, "Dial"),
            ("", dial, "Dial"),
        ):
            try:
                verb = make(prefix + hostile)
            except (UsageError, ValueError):
                continue
            (found,) = parsed(verb)
            tag, _, text, children = found  # type: ignore[misc]
            assert tag == name
            if name == "Dial":
                assert children in ([("Number", {}, prefix + held, [])], [("Sip", {}, prefix + held, [])])
            else:
                assert (text, children) == (prefix + held, [])


def test_the_answer_to_a_call_reads_as_documented() -> None:
    answer = document(
        connect_stream(STREAM, parameters={"token": "t0k"}, status_callback="https://bridge.example.test/s"),
        redirect("https://bridge.example.test/twilio/resume#rc=3&rp=all"),
    )
    assert answer == (
        '<?xml version="1.0" encoding="UTF-8"?><Response><Connect>'
        '<Stream url="wss://bridge.example.test/twilio/media" statusCallback="https://bridge.example.test/s">'
        '<Parameter name="token" value="t0k"/></Stream></Connect>'
        '<Redirect method="POST">https://bridge.example.test/twilio/resume#rc=3&amp;rp=all</Redirect></Response>'
    )


@pytest.mark.parametrize("target", ["+15550100", "4711", "sip:desk@pbx.example?X-Ref=1", "sips:desk@pbx.example"])
def test_a_number_and_a_sip_address_can_be_dialled(target: str) -> None:
    (found,) = parsed(dial(target))
    assert found[3] == [("Sip" if target.startswith("sip") else "Number", {}, target, [])]  # type: ignore[index]


@pytest.mark.parametrize(
    "target",
    ["", "+", "1", "+1" + "5" * 15, "+1555 0100", "+١٢٣٤", "desk@pbx", "sip:", "sip:a b", "sip:a\r\nVia: x", "tel:+1"],
)
def test_anything_else_is_not_a_transfer_target(target: str) -> None:
    with pytest.raises(UsageError, match="transfer target"):
        dial(target)


@pytest.mark.parametrize("url", ["https://h/m", "wss://h/m?a=1", "wss://h/m#a", "wss:///m", "/m", ""])
def test_a_stream_goes_to_a_websocket_address_without_a_query(url: str) -> None:
    with pytest.raises(UsageError, match="stream URL"):
        connect_stream(url, parameters={})


def test_a_parameter_stays_under_five_hundred_characters() -> None:
    connect_stream(STREAM, parameters={"n": "v" * 498})
    with pytest.raises(UsageError, match="under 500"):
        connect_stream(STREAM, parameters={"n": "v" * 499})
    with pytest.raises(UsageError, match="parameter"):
        connect_stream(STREAM, parameters={"": "v"})


@pytest.mark.parametrize("url", ["ftp://h/x", "javascript:alert(1)"])
def test_the_next_document_is_at_a_web_address(url: str) -> None:
    with pytest.raises(UsageError, match="http"):
        redirect(url)


def test_no_verbs_are_an_empty_answer() -> None:
    assert document() == '<?xml version="1.0" encoding="UTF-8"?><Response/>'
