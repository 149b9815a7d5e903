"""What stands before every request: its size, its time, its token. Plain ASGI, so nothing runs before it."""

from __future__ import annotations

import asyncio
import hmac
import logging
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any

from sds.errors import SdsError, TooLarge, Unauthorized, Unavailable
from sds.gateway.problems import problem_response

log = logging.getLogger("sds.gateway")

BODY_BYTES_MAX = 64 << 10  # The largest body of ours, an export with 256 hosts, has a quarter of that.
BODY_LIMIT_S = 10
OPEN_PATHS = frozenset({"/healthz", "/openapi.json"})  # Of what there is they name pools and disks in trouble.
READING = frozenset({"GET", "HEAD", "OPTIONS"})

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


class Guard:
    """Refuses what has no token, is too large or comes too slowly; logs every request that changes something."""

    def __init__(self, app: App, token: str) -> None:
        self._app = app
        self._token = token.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One ASGI scope."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers: dict[bytes, bytes] = dict(scope["headers"])
        trusted = bears(self._token, scope["headers"])
        if not trusted:
            send = _last_answer(send)
        try:
            if not trusted and scope["path"] not in OPEN_PATHS:
                what = "the token is wrong" if b"authorization" in headers else "the request has no token"
                raise Unauthorized(what, field="authorization", accepted="Bearer and the token in DIR/admin.token")
            body = await _read(headers, receive)
        except SdsError as error:
            await problem_response(error, scope["path"])(scope, receive, send)
            return
        replayed = False

        async def replay() -> Message:
            nonlocal replayed
            if replayed:
                return await receive()
            replayed = True
            return {"type": "http.request", "body": body, "more_body": False}

        async def watched(message: Message) -> None:
            if message["type"] == "http.response.start" and scope["method"] not in READING:
                log.info("%s %s: %d", scope["method"], scope["path"], message["status"])
            await send(message)

        await self._app(scope, replay, watched)


def bears(token: bytes, headers: Iterable[tuple[bytes, bytes]]) -> bool:
    """Whether a request's headers, their names in lower case, have the token (RFC 6750, section 2.1)."""
    for name, value in headers:
        if name == b"authorization":
            scheme, _, given = value.partition(b" ")
            return scheme.lower() == b"bearer" and hmac.compare_digest(given.strip(), token)
    return False


def _last_answer(send: Send) -> Send:
    """A connection ends with its first answer to a request without the token: one is all that it gets for one wait."""

    async def closing(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message["headers"], (b"connection", b"close")]
        await send(message)

    return closing


async def _read(headers: dict[bytes, bytes], receive: Receive) -> bytes:
    declared = headers.get(b"content-length", b"0")
    if declared.isdigit() and int(declared) > BODY_BYTES_MAX:
        raise _too_large()
    body = bytearray()
    more = True
    try:
        async with asyncio.timeout(BODY_LIMIT_S):
            while more:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise Unavailable("the client left before its request was complete")
                body += message.get("body", b"")
                more = message.get("more_body", False)
                if len(body) > BODY_BYTES_MAX:
                    raise _too_large()
    except TimeoutError:
        raise Unavailable(f"the request's body did not come within {BODY_LIMIT_S} s") from None
    return bytes(body)


def _too_large() -> TooLarge:
    return TooLarge("the request's body is too large", accepted=f"{BODY_BYTES_MAX} bytes at most")
