"""Signatures: published and computed vectors, Twilio's own library as an oracle, and forgeries by the thousand."""

import hashlib
import random
from urllib.parse import quote, urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict
from twilio.request_validator import RequestValidator

from bridge.telephony.signature import SETTINGS, SIGNATURE, Validator, Verdict, sign

TOKEN = "12345"
SHA256 = "key=webhooks_sharedkey_1,algorithm=HMAC_SHA256"
BRIDGE = "https://bridge.example.test"
FORM = [
    ("CallSid", "CA00000000000000000000000000000001"),
    ("From", "+15550100"),
    ("To", "+15550101"),
    ("Digits", "12 34"),
    ("SpeechResult", ""),
]


def headers(signature: str, settings: str = "") -> CIMultiDict[str]:
    found = CIMultiDict({SIGNATURE.lower(): signature})
    if settings:
        found[SETTINGS] = settings
    return found


def bridge(*secrets: str, url: str = BRIDGE) -> Validator:
    return Validator(secrets or (TOKEN,), url)


def test_twilios_published_example() -> None:
    fields = [
        ("CallSid", "CA1234567890ABCDE"),
        ("Caller", "+14158675309"),
        ("Digits", "1234"),
        ("From", "+14158675309"),
        ("To", "+18005551212"),
    ]
    given_headers = headers("RSOYDt4T1cUTdK1PDd93/VVr8B8=")
    validator = bridge(url="https://mycompany.com")
    assert validator.judge_form("/myapp.php?foo=1&bar=2", fields, given_headers) is Verdict.ACCEPTED


@pytest.mark.parametrize(
    ("signature", "settings"),
    [
        ("FAqtixIrrS75JzsucH2dkUdAJlE=", ""),
        ("FAqtixIrrS75JzsucH2dkUdAJlE=", "algorithm=HMAC_SHA1"),
        ("FAqtixIrrS75JzsucH2dkUdAJlE=", "key=webhooks_sharedkey_1"),
        ("W23EmRbtYqgHNAc/fCBDC3FGXos=", ""),  # signed with :443 in the URL
        ("dTTRh8tuoeHqfJ0V7546gu/KFEJmbx4VSdw4N5JvFLM=", SHA256),
    ],
)
@pytest.mark.parametrize("url", [BRIDGE, BRIDGE + "/", BRIDGE + ":443"])
def test_a_form_is_accepted_with_and_without_the_port_under_both_algorithms(
    signature: str, settings: str, url: str
) -> None:
    verdict = bridge(url=url).judge_form("/voice?tenant=7", FORM, headers(signature, settings))
    assert verdict is Verdict.ACCEPTED


def test_a_json_body_is_accepted_when_its_hash_is_the_signed_one() -> None:
    path = "/json?bodySHA256=015abd7f5cc57a2dd94b7590f04ad8084273905ee33ec5cebeae62276a97f862"
    signed = headers("5tCq1EG+jyr5Kpwo6REOtYMjWe4=")
    assert bridge().judge_body(path, b'{"a":1}', signed) is Verdict.ACCEPTED
    assert bridge().judge_body(path, b'{"a":2}', signed) is Verdict.WRONG_HASH
    assert bridge().judge_body("/json", b'{"a":1}', signed) is Verdict.WRONG_HASH
    assert bridge().judge_body(path + "&bodySHA256=00", b'{"a":1}', signed) is Verdict.WRONG_HASH


@pytest.mark.parametrize("signature", ["HmnS4cW2uJWaePn5nuLB4QP4+9Q=", "BmwW4ariRs0DpJP0XPEK2HFytXc="])
@pytest.mark.parametrize("path", ["/media", "/media/"])
def test_a_websocket_is_accepted_with_and_without_a_trailing_slash(signature: str, path: str) -> None:
    assert bridge().judge_socket(path, headers(signature)) is Verdict.ACCEPTED


def test_a_websocket_is_accepted_with_the_port_of_its_scheme() -> None:
    signed = sign(TOKEN, "wss://bridge.example.test:443/media")
    assert bridge().judge_socket("/media", headers(signed)) is Verdict.ACCEPTED


def test_an_unusual_port_may_be_signed_or_left_out() -> None:
    validator = bridge(url="https://bridge.example.test:8443")
    for url in ("https://bridge.example.test:8443/voice", "https://bridge.example.test/voice"):
        assert validator.judge_form("/voice", FORM, headers(sign(TOKEN, url, FORM))) is Verdict.ACCEPTED
    other = sign(TOKEN, "https://bridge.example.test:8444/voice", FORM)
    assert validator.judge_form("/voice", FORM, headers(other)) is Verdict.MISMATCH


def test_a_path_that_a_proxy_removes_is_part_of_the_public_url() -> None:
    validator = bridge(url="https://bridge.example.test/phone/")
    signed = sign(TOKEN, "https://bridge.example.test/phone/voice", FORM)
    assert validator.judge_form("/voice", FORM, headers(signed)) is Verdict.ACCEPTED


def test_an_address_in_brackets_keeps_them() -> None:
    signed = sign(TOKEN, "http://[::1]:8080/voice", FORM)
    assert bridge(url="http://[::1]:8080").judge_form("/voice", FORM, headers(signed)) is Verdict.ACCEPTED


def test_any_one_of_several_secrets_may_have_signed() -> None:
    for secret in ("old", "new", "shared"):
        signed = headers(sign(secret, BRIDGE + "/voice", FORM))
        assert bridge("old", "new", "shared").judge_form("/voice", FORM, signed) is Verdict.ACCEPTED
    assert bridge("old", "new").judge_form("/voice", FORM, signed) is Verdict.MISMATCH


def test_without_a_secret_nothing_is_accepted() -> None:
    signed = headers(sign("", BRIDGE + "/voice", FORM))
    assert Validator((), BRIDGE).judge_form("/voice", FORM, signed) is Verdict.MISMATCH


@pytest.mark.parametrize("algorithm", ["HMAC_MD5", "none", "HMAC_SHA512", "HMAC_SHA1 or so"])
def test_an_unknown_algorithm_is_refused_by_name(algorithm: str) -> None:
    signed = headers(sign(TOKEN, BRIDGE + "/voice", FORM), f"key=k,algorithm={algorithm}")
    assert bridge().judge_form("/voice", FORM, signed) is Verdict.UNKNOWN_ALGORITHM


def test_no_signature_two_signatures_and_two_settings_are_refused() -> None:
    good = sign(TOKEN, BRIDGE + "/voice", FORM)
    assert bridge().judge_form("/voice", FORM, CIMultiDict()) is Verdict.UNSIGNED
    twice = CIMultiDict([(SIGNATURE, good), (SIGNATURE, good)])
    assert bridge().judge_form("/voice", FORM, twice) is Verdict.UNSIGNED
    settings = CIMultiDict([(SIGNATURE, good), (SETTINGS, "algorithm=HMAC_SHA1"), (SETTINGS, "algorithm=HMAC_SHA1")])
    assert bridge().judge_form("/voice", FORM, settings) is Verdict.UNKNOWN_ALGORITHM


def test_a_repeated_parameter_counts_each_distinct_value_once_in_order() -> None:
    signed = headers(sign(TOKEN, BRIDGE + "/voice", [("a", "1"), ("a", "2"), ("b", "")]))
    fields = [("b", ""), ("a", "2"), ("a", "1"), ("a", "2")]
    assert bridge().judge_form("/voice", fields, signed) is Verdict.ACCEPTED


@given(
    path=st.text(st.characters(codec="utf-8", exclude_characters="?#"), max_size=10),
    query=st.dictionaries(
        st.text(st.characters(codec="utf-8"), min_size=1, max_size=5), st.text(max_size=5).filter(str.isascii)
    ),
    fields=st.dictionaries(
        st.text(st.characters(codec="utf-8"), max_size=8), st.text(st.characters(codec="utf-8"), max_size=8)
    ),
    port=st.sampled_from(["", ":443", ":8443"]),
    signed_port=st.sampled_from(["", ":443", ":8443", ":9"]),
    algorithm=st.sampled_from(["HMAC_SHA1", "HMAC_SHA256"]),
    tamper=st.booleans(),
)
def test_the_verdict_is_that_of_twilios_own_library(
    path: str,
    query: dict[str, str],
    fields: dict[str, str],
    port: str,
    signed_port: str,
    algorithm: str,
    tamper: bool,
) -> None:
    raw_path = "/" + quote(path) + ("?" + urlencode(query) if query else "")
    oracle = RequestValidator(TOKEN)
    signature = oracle.compute_signature(BRIDGE + signed_port + raw_path, fields, algorithm)
    seen = {**fields, "CallSid": "another"} if tamper else fields
    theirs = oracle.validate(BRIDGE + port + raw_path, seen, signature, algorithm)
    ours = bridge(url=BRIDGE + port).judge_form(
        raw_path, seen.items(), headers(signature, f"key=k,algorithm={algorithm}")
    )
    assert (ours is Verdict.ACCEPTED) == theirs


def test_of_ten_thousand_mutated_requests_none_is_accepted() -> None:
    chance = random.Random(1)
    path = "/twilio/voice?tenant=7"
    good = sign(TOKEN, BRIDGE + path, FORM)
    validator = bridge()
    assert validator.judge_form(path, FORM, headers(good)) is Verdict.ACCEPTED

    def changed(text: str) -> str:
        at = chance.randrange(len(text) + 1)
        filler = chance.choice(["", "A", "é", "0", "+", "/", "=", " ", "%20", "\x00", "\udcff"])
        return text[:at] + filler + text[at + chance.randint(0, 1) :]

    tried = 0
    while tried < 10_000:
        signature, raw_path, fields = good, path, list(FORM)
        for _ in range(chance.randint(1, 3)):
            what = chance.choice(["signature", "path", "name", "value", "drop", "add"])
            at = chance.randrange(len(fields)) if fields else 0
            if what == "signature":
                signature = changed(signature)
            elif what == "path":
                raw_path = changed(raw_path)
            elif what == "add" or not fields:
                fields.append((chance.choice(["From", "x", ""]), chance.choice(["+15550199", "x"])))
            elif what == "drop":
                del fields[at]
            else:
                name, value = fields[at]
                fields[at] = (changed(name), value) if what == "name" else (name, changed(value))
        text_signed = raw_path + "".join(name + value for name, value in sorted(set(fields)))
        same_text = text_signed == path + "".join(name + value for name, value in sorted(FORM))
        if signature == good and same_text:
            continue  # nothing that is signed was changed
        assert validator.judge_form(raw_path, fields, headers(signature)) is not Verdict.ACCEPTED
        tried += 1


def test_two_settings_are_refused_whatever_they_say_together() -> None:
    signed = headers(sign(TOKEN, BRIDGE + "/voice", FORM))
    for parts in (("key=a,", "algorithm=HMAC_SHA1"), ("", "")):
        given_headers = signed.copy()
        for part in parts:
            given_headers.add(SETTINGS, part)
        assert bridge().judge_form("/voice", FORM, given_headers) is Verdict.UNKNOWN_ALGORITHM


def test_the_hash_of_a_body_may_be_written_in_capitals() -> None:
    body = b"{}"
    path = f"/twilio/events?bodySHA256={hashlib.sha256(body).hexdigest().upper()}"
    assert bridge().judge_body(path, body, headers(sign(TOKEN, BRIDGE + path))) is Verdict.ACCEPTED
