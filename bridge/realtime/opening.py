"""The opening handshake of the client library with a service: an open socket, or an error that says why there is none
and holds no key.
"""

from __future__ import annotations

import logging
import ssl

import websockets
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import InvalidStatus, WebSocketException
from websockets.typing import Subprotocol

from bridge.errors import RealtimeError
from bridge.realtime.dialect import code_of_status
from bridge.realtime.envelope import read_error
from bridge.realtime.profiles import Target
from bridge.realtime.wire import clean, read_object

MAX_FRAME_BYTES = 32 << 20  # three minutes of audio retrieved with its item are 12 MB
PING_S = 5.0
CLOSE_S = 2.0

# At level DEBUG the library writes the handshake, and with it the key, to its logger.
_quiet = logging.getLogger("bridge.realtime.socket")
_quiet.setLevel(logging.WARNING)


class _Dialling(websockets.connect):
    """A redirect is an answer like any other: the key goes to the host it was meant for, or nowhere."""

    def process_redirect(self, exc: Exception) -> Exception | str:
        return exc


async def open_socket(target: Target, *, timeout_s: float = 5.0) -> ClientConnection:
    """The opening handshake with a service.

    Raises RealtimeError: the code of the service's JSON answer where it gave one, else a word for its HTTP status, else
    `connection_failed`, `connection_timeout` or `tls_failed`. `Dialect.cure` knows what each means.
    """
    url, headers, subprotocols = target.request()
    try:
        return await _Dialling(
            url,
            additional_headers=headers,
            subprotocols=[Subprotocol(name) for name in subprotocols] or None,
            compression=None,
            proxy=None,
            open_timeout=timeout_s,
            ping_interval=PING_S,
            ping_timeout=PING_S,
            close_timeout=CLOSE_S,
            max_size=MAX_FRAME_BYTES,
            logger=_quiet,
        )
    except InvalidStatus as refusal:
        error = _refusal(refusal, target)
    except TimeoutError:
        error = RealtimeError(f"{target.where} did not answer in {timeout_s:g} s", code="connection_timeout")
    except ssl.SSLError as failure:
        error = RealtimeError(f"TLS to {target.where} failed: {failure.reason}", code="tls_failed")
    except OSError as failure:
        why = failure.strerror or type(failure).__name__
        error = RealtimeError(f"{target.where} cannot be reached: {why}", code="connection_failed")
    except (WebSocketException, EOFError, ValueError, TypeError) as failure:
        # Their texts may quote the request, and with it the key.
        why = type(failure).__name__
        error = RealtimeError(f"the handshake with {target.where} failed: {why}", code="connection_failed")
    raise error


def _refusal(refusal: InvalidStatus, target: Target) -> RealtimeError:
    response = refusal.response
    code = code_of_status(response.status_code)
    message = f"{target.where} answered {response.status_code} {response.reason_phrase}".rstrip()
    body = read_object(bytes(response.body or b""))
    param, request_id = "", clean(response.headers.get("x-request-id"), 200)
    if isinstance(body, dict):
        said_code, said, param, said_id = read_error(body)
        code = code if said_code == "unknown" else said_code
        message = f"{message}: {said}"
        request_id = request_id or said_id
    return RealtimeError(
        redacted(message, target),
        code=code,
        param=param or None,
        request_id=request_id or None,
        status=response.status_code,
    )


def redacted(text: str, target: Target) -> str:
    return text.replace(target.api_key, "[key]") if target.api_key else text
