"""How Twilio signs its requests (twilio.com/docs/usage/security; the SDK's request validator).

The address exactly as it was configured, without its fragment and without user and password; for a form the
parameters follow, sorted by name, each name with its value and nothing between; HMAC-SHA1 under the account's token,
in base64.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from collections.abc import Iterable, Mapping

Form = Mapping[str, str] | Iterable[tuple[str, str]]


def signed_address(url: str) -> str:
    """The part of an address that is signed: no fragment, no user information."""
    return re.sub(r"^([a-z][a-z0-9+.-]*://)[^/@]*@", r"\1", url.split("#", 1)[0])


def sign(token: str, url: str, form: Form = ()) -> str:
    """The value of X-Twilio-Signature. A GET and a WebSocket upgrade have no form."""
    pairs = set(form.items() if isinstance(form, Mapping) else form)
    text = signed_address(url) + "".join(name + value for name, value in sorted(pairs))
    return base64.b64encode(hmac.new(token.encode(), text.encode(), hashlib.sha1).digest()).decode()
