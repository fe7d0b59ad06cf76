from __future__ import annotations

import pytest

from bridge.sim.twiml import Document, parse

URL = "https://bridge.example.test/voice"


def codes(document: Document) -> list[int]:
    return [problem.code for problem in document.problems]


def test_a_document_is_read_into_verbs_nouns_and_parameters() -> None:
    document = parse(
        '<?xml version="1.0" encoding="UTF-8"?><Response><Connect action="/after"><Stream url="wss://h/m" name="main">'
        '<Parameter name="t" value="a &amp; b"/></Stream></Connect><Say voice="x"> Sorry. </Say><Hangup/></Response>',
        url=URL,
        content_type="text/xml; charset=utf-8",
    )
    assert document.problems == ()
    assert [verb.name for verb in document.verbs] == ["Connect", "Say", "Hangup"]
    assert document.verbs[0].attributes == {"action": "/after"}
    assert document.verbs[0].nouns[0].parameters == {"t": "a & b"}
    assert document.verbs[1].text == "Sorry."


@pytest.mark.parametrize(
    "text",
    [
        "",
        "hello",
        "<Response><Say>unclosed</Response>",
        "<response/>",
        "<Twiml/>",
        ' <?xml version="1.0"?><Response/>',
        '<!DOCTYPE r [<!ENTITY a "b">]><Response><Say>&a;</Say></Response>',
        "<Response><Say>a & b</Say></Response>",
    ],
)
def test_what_is_not_a_response_document_is_error_12100_and_nothing_runs(text: str) -> None:
    document = parse(text, url=URL)
    assert codes(document) == [12100]
    assert not document.usable
    assert document.verbs == ()


@pytest.mark.parametrize("content_type", ["text/plain", "application/json", ""])
def test_the_wrong_content_type_is_error_12300(content_type: str) -> None:
    assert codes(parse("<Response/>", url=URL, content_type=content_type)) == [12300]


@pytest.mark.parametrize(
    "verb",
    [
        "<say>hi</say>",
        "<Speak>hi</Speak>",
        '<Say speed="2">hi</Say>',
        '<Connect><Stream url="wss://h/m" codec="x"/></Connect>',
        "<Connect><Room>r</Room></Connect>",
        "<Connect/>",
        '<Stream url="wss://h/m"/>',
        '<Connect><Stream url="wss://h/m"><Parameter name="a"/></Stream></Connect>',
        f'<Connect><Stream url="wss://h/m"><Parameter name="a" value="{"x" * 499}"/></Stream></Connect>',
        "<Hangup>now</Hangup>",
        "<Say>hi</Say><Reject/>",
    ],
)
def test_what_is_not_in_the_schema_is_warning_12200(verb: str) -> None:
    document = parse(f"<Response>{verb}<Pause/></Response>", url=URL)
    assert set(codes(document)) == {12200}
    assert document.verbs[-1].name == "Pause", "the rest of the document runs"


def test_an_overlong_parameter_never_reaches_the_stream() -> None:
    value = "x" * 499
    document = parse(
        f'<Response><Connect><Stream url="wss://h/m"><Parameter name="a" value="{value}"/></Stream></Connect>'
        "</Response>",
        url=URL,
    )
    assert document.verbs[0].nouns[0].parameters == {}
