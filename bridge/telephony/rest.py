"""Twilio's REST interface: what a request looks like and what its answer means. Nothing here opens a connection.

Facts from Twilio's "Call resource" reference: form bodies, HTTP Basic with the account or an API key, errors as JSON
with `code` and `message`. A live call is ended or given another document by updating it.
"""

from __future__ import annotations

from typing import Literal
from urllib.parse import quote

import msgspec

from bridge.errors import CarrierError, PeerError, UsageError
from bridge.telephony.twiml import INLINE_LIMIT

NOT_FOUND = 20404  # for a call that has ended too


class Account(msgspec.Struct, frozen=True):
    """Who asks. `user` and `password` are the account's SID and auth token, or an API key's SID and secret."""

    account_sid: str
    user: str
    password: str
    api_url: str

    def __repr__(self) -> str:
        return f"Account({self.account_sid})"


class Request(msgspec.Struct, frozen=True):
    """One request, ready to be sent: `form` goes url-encoded, `auth` as HTTP Basic."""

    method: Literal["POST", "GET"]
    url: str
    form: tuple[tuple[str, str], ...]
    auth: tuple[str, str]

    def __repr__(self) -> str:
        return f"Request({self.method} {self.url})"


def hang_up(account: Account, call_sid: str) -> Request:
    """Ends a call in any live state."""
    return _update(account, call_sid, ("Status", "completed"))


def replace_document(account: Account, call_sid: str, twiml: str) -> Request:
    """Gives a live call another document: this is how a caller is transferred. Its media stream ends."""
    return _update(account, call_sid, ("Twiml", _inline(twiml)))


class _ErrorBody(msgspec.Struct):
    code: int = 0
    message: str = ""


def error_of(status: int, body: bytes) -> CarrierError | None:
    """What an answer complains of; None when it is a success."""
    if 200 <= status < 300:
        return None
    try:
        said = msgspec.json.decode(body, type=_ErrorBody)
    except (ValueError, RecursionError):
        said = _ErrorBody()
    return CarrierError(said.message or "the carrier refused a request", status=status, code=said.code)


def no_such_call(error: PeerError) -> bool:
    """The call has ended, or is another account's."""
    return isinstance(error, CarrierError) and (error.status == 404 or error.code == NOT_FOUND)


def _update(account: Account, call_sid: str, *form: tuple[str, str]) -> Request:
    url = f"{_base(account)}/Calls/{quote(call_sid, safe='')}.json"
    return Request("POST", url, form, (account.user, account.password))


def _base(account: Account) -> str:
    return f"{account.api_url.rstrip('/')}/2010-04-01/Accounts/{quote(account.account_sid, safe='')}"


def _inline(twiml: str) -> str:
    if len(twiml) > INLINE_LIMIT:
        raise UsageError(f"a document given inline may have {INLINE_LIMIT} characters, this one has {len(twiml)}")
    return twiml
