"""REST requests as Twilio documents them, and what its answers mean."""

import pytest

from bridge.errors import UsageError
from bridge.telephony import rest
from bridge.telephony.rest import Account
from bridge.telephony.twiml import dial, document

ACCOUNT = Account("AC1", "AC1", "secret-token", "https://api.twilio.com")
CALLS = "https://api.twilio.com/2010-04-01/Accounts/AC1/Calls"


def test_hanging_up_updates_the_call_to_completed() -> None:
    request = rest.hang_up(ACCOUNT, "CA1")
    assert (request.method, request.url) == ("POST", f"{CALLS}/CA1.json")
    assert request.form == (("Status", "completed"),)
    assert request.auth == ("AC1", "secret-token")


def test_a_transfer_gives_the_call_a_dial_document() -> None:
    twiml = document(dial("+15550100"))
    assert rest.replace_document(ACCOUNT, "CA1", twiml).form == (("Twiml", twiml),)


def test_a_document_of_more_than_four_thousand_characters_is_refused() -> None:
    rest.replace_document(ACCOUNT, "CA1", "x" * 4000)
    with pytest.raises(UsageError, match="4000"):
        rest.replace_document(ACCOUNT, "CA1", "x" * 4001)


def test_ids_cannot_leave_their_place_in_the_url() -> None:
    url = rest.hang_up(ACCOUNT, "../../Accounts/AC2/Calls/CA1?x=#").url
    assert url == f"{CALLS}/..%2F..%2FAccounts%2FAC2%2FCalls%2FCA1%3Fx%3D%23.json"


def test_another_region_is_another_address() -> None:
    account = Account("AC1", "SK1", "secret", "https://api.dublin.ie1.twilio.com/")
    assert rest.hang_up(account, "CA1").url.startswith("https://api.dublin.ie1.twilio.com/2010-04-01/Accounts/AC1/")


def test_neither_an_account_nor_a_request_shows_its_password() -> None:
    for shown in (repr(ACCOUNT), str(ACCOUNT), repr(rest.hang_up(ACCOUNT, "CA1"))):
        assert "secret" not in shown


def test_an_error_keeps_twilios_code_and_a_call_already_gone_is_known() -> None:
    gone = rest.error_of(404, b'{"code":20404,"message":"not found","more_info":"x","status":404}')
    assert gone is not None and (gone.status, gone.code) == (404, 20404) and rest.no_such_call(gone)
    busy = rest.error_of(429, b'{"code":20429,"message":"slow down"}')
    assert busy is not None and busy.code == 20429 and not rest.no_such_call(busy)
    assert rest.error_of(201, b"anything") is None


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b'{"code":"x"}', b"\xff", b"[" * 60_000])
def test_an_error_without_a_readable_body_is_still_an_error(body: bytes) -> None:
    error = rest.error_of(503, body)
    assert error is not None and (error.status, error.code) == (503, 0)


def test_a_call_is_unknown_by_the_status_or_by_the_code_alone() -> None:
    for status, body, unknown in ((404, b"", True), (400, b'{"code": 20404}', True), (400, b'{"code": 20003}', False)):
        error = rest.error_of(status, body)
        assert error is not None and rest.no_such_call(error) is unknown
