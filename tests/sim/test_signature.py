from __future__ import annotations

import pytest

from bridge.sim.signature import sign

FORM = {
    "CallSid": "CA00000000000000000000000000000001",
    "From": "+15550100",
    "To": "+15550101",
    "Digits": "12 34",
    "SpeechResult": "",
}
PUBLISHED = {
    "CallSid": "CA1234567890ABCDE",
    "Caller": "+14158675309",
    "Digits": "1234",
    "From": "+14158675309",
    "To": "+18005551212",
}


@pytest.mark.parametrize(
    ("url", "form", "signature"),
    [
        ("https://mycompany.com/myapp.php?foo=1&bar=2", PUBLISHED, "RSOYDt4T1cUTdK1PDd93/VVr8B8="),
        ("https://bridge.example.test/voice?tenant=7", FORM, "FAqtixIrrS75JzsucH2dkUdAJlE="),
        ("https://bridge.example.test:443/voice?tenant=7", FORM, "W23EmRbtYqgHNAc/fCBDC3FGXos="),
        ("wss://bridge.example.test/media", {}, "HmnS4cW2uJWaePn5nuLB4QP4+9Q="),
        ("wss://bridge.example.test/media/", {}, "BmwW4ariRs0DpJP0XPEK2HFytXc="),
    ],
)
def test_the_published_and_computed_vectors_hold(url: str, form: dict[str, str], signature: str) -> None:
    assert sign("12345", url, form) == signature


def test_fragment_and_user_information_are_not_signed() -> None:
    plain = sign("12345", "https://bridge.example.test/voice", FORM)
    assert sign("12345", "https://bridge.example.test/voice#rc=3&rp=all", FORM) == plain
    assert sign("12345", "https://user:pass@bridge.example.test/voice", FORM) == plain


def test_distinct_values_of_one_name_are_sorted_and_equal_ones_counted_once() -> None:
    one = sign("12345", "https://a.example/", [("E", "b"), ("E", "a"), ("E", "b")])
    assert one == sign("12345", "https://a.example/", [("E", "a"), ("E", "b")])
    assert one != sign("12345", "https://a.example/", [("E", "a")])
