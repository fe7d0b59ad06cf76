"""X-Twilio-Signature: did Twilio send this request?

The signed text is the URL Twilio was given, then every form parameter, and the signature is the base64 of its HMAC
under the account's auth token (Twilio, "Security", and the newer header that names SHA-256 and a shared key). The URL
is built from the configured public address and the raw path and query of the request line, never from Host or
X-Forwarded headers: whoever sends the request chooses those. Every candidate is computed and compared in constant
time before the verdict.
"""

from __future__ import annotations

import base64
import enum
import hashlib
import hmac
from collections.abc import Iterable, Sequence
from typing import Protocol
from urllib.parse import parse_qs, urlsplit

SIGNATURE = "X-Twilio-Signature"
SETTINGS = "X-Twilio-Webhooks-Signature-Settings"  # key=<id>,algorithm=HMAC_SHA256; absent: SHA-1

_DIGESTS = {"HMAC_SHA1": hashlib.sha1, "HMAC_SHA256": hashlib.sha256}
_DEFAULT_PORTS = {"https": 443, "http": 80, "wss": 443, "ws": 80}


class Headers(Protocol):
    """A case-insensitive multi-valued mapping, as HTTP libraries have it."""

    def getall(self, key: str, default: list[str]) -> list[str]: ...


class Verdict(enum.StrEnum):
    ACCEPTED = "accepted"
    UNSIGNED = "no signature, or several"
    UNKNOWN_ALGORITHM = "signed with an algorithm this version does not know"
    WRONG_HASH = "the body is not the one whose hash was signed"
    MISMATCH = "the signature is not that of the configured secrets and public URL"


class Validator:
    """Judges requests to one public address. Any one of `secrets` may have signed: tokens rotate, and shared keys
    exist.

    `public_url` is the address the carrier was given, such as `https://bridge.example.com`, with a path where a proxy
    removes one.
    """

    def __init__(self, secrets: Sequence[str], public_url: str) -> None:
        self._secrets = tuple(secret.encode() for secret in secrets)
        parts = urlsplit(public_url)
        host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.netloc.rpartition("@")[2].split(":")[0]
        web = parts.scheme
        socket = {"https": "wss", "http": "ws"}[web]
        self._web_bases = _bases(web, host, parts.port, parts.path)
        self._socket_bases = _bases(socket, host, parts.port, parts.path)

    def judge_form(self, raw_path: str, fields: Iterable[tuple[str, str]], headers: Headers) -> Verdict:
        """A form POST. `raw_path` is path and query as sent; `fields` the decoded parameters, empty ones included."""
        # Each distinct value of a repeated name counts once. Code point order is the byte order of UTF-8.
        tail = "".join(name + value for name, value in sorted(set(fields)))
        return self._judge([base + raw_path + tail for base in self._web_bases], headers)

    def judge_body(self, raw_path: str, body: bytes, headers: Headers) -> Verdict:
        """Any other POST: its query carries the SHA-256 of the raw body, and the URL alone is signed."""
        promised = parse_qs(raw_path.partition("?")[2]).get("bodySHA256", [])
        if len(promised) != 1:
            return Verdict.WRONG_HASH
        if not hmac.compare_digest(hashlib.sha256(body).hexdigest(), _plain(promised[0].lower()).decode()):
            return Verdict.WRONG_HASH
        return self._judge([base + raw_path for base in self._web_bases], headers)

    def judge_socket(self, raw_path: str, headers: Headers) -> Verdict:
        """A WebSocket upgrade. Twilio may or may not have counted one trailing slash of the path."""
        other = raw_path[:-1] if raw_path.endswith("/") else raw_path + "/"
        return self._judge([base + path for base in self._socket_bases for path in (raw_path, other)], headers)

    def _judge(self, texts: list[str], headers: Headers) -> Verdict:
        signatures = headers.getall(SIGNATURE, [])
        if len(signatures) != 1:
            return Verdict.UNSIGNED
        digest = _DIGESTS.get(_algorithm(headers.getall(SETTINGS, [])))
        if digest is None:
            return Verdict.UNKNOWN_ALGORITHM
        given = _plain(signatures[0])
        found = False
        for text in texts:
            for secret in self._secrets:
                mine = base64.b64encode(hmac.digest(secret, text.encode("utf-8", "surrogatepass"), digest))
                found |= hmac.compare_digest(mine, given)
        return Verdict.ACCEPTED if found else Verdict.MISMATCH


def sign(secret: str, url: str, fields: Iterable[tuple[str, str]] = (), *, algorithm: str = "HMAC_SHA1") -> str:
    """The signature Twilio would send for this URL and these form fields."""
    text = url + "".join(name + value for name, value in sorted(set(fields)))
    return base64.b64encode(hmac.digest(secret.encode(), text.encode(), _DIGESTS[algorithm])).decode()


def _bases(scheme: str, host: str, port: int | None, path: str) -> tuple[str, ...]:
    """With and without the port: the signing side is not consistent about it, and Twilio's own SDK tries both."""
    prefix = path.rstrip("/")
    return (f"{scheme}://{host}{prefix}", f"{scheme}://{host}:{port or _DEFAULT_PORTS[scheme]}{prefix}")


def _algorithm(settings: list[str]) -> str:
    """The algorithm a settings header names; the legacy one where nothing is said."""
    if len(settings) > 1:
        return "several"
    for part in "".join(settings).split(","):
        name, _, value = part.partition("=")
        if name.strip() == "algorithm" and value.strip():
            return value.strip().upper()
    return "HMAC_SHA1"


def _plain(text: str) -> bytes:
    """Something to compare in constant time, whatever bytes a header held."""
    return text.encode("ascii", "replace")
