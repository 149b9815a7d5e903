"""What a TCP connection to REST may take before it asks for something: uvicorn limits neither its number nor its time.

A connection without a whole request waits for `REQUEST_LIMIT_S`, whatever it drips meanwhile; where there are more
than `CONNECTIONS_MAX`, the one that waits longest is closed. So who opens connections and says nothing pushes out
others of that kind, and an administrator's request, which comes at once, is served.
"""

from __future__ import annotations

import asyncio
from typing import ClassVar

from uvicorn.protocols.http.h11_impl import H11Protocol

CONNECTIONS_MAX = 512
REQUEST_LIMIT_S = 30  # From the connection's start, or the answer before, to the end of the next request's headers.


class Connection(H11Protocol):
    """One connection."""

    _open: ClassVar[set[Connection]] = set()
    _waiting: ClassVar[dict[Connection, None]] = {}  # Those of them without a whole request, the oldest first.
    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client has connected."""
        super().connection_made(transport)
        self._note()
        self._open.add(self)
        if len(self._open) > CONNECTIONS_MAX:
            # It may be this one itself, if all others are being answered.
            next(iter(self._waiting), self)._abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection has ended."""
        super().connection_lost(exc)
        self._open.discard(self)
        self._stop_waiting()

    def data_received(self, data: bytes) -> None:
        """Bytes have come."""
        super().data_received(data)
        self._note()

    def on_response_complete(self) -> None:
        """An answer is given, and the next request may come."""
        super().on_response_complete()
        self._note()

    def _note(self) -> None:
        # There is no cycle before the first request, whatever its type says.
        asked = self.cycle is not None and not self.cycle.response_complete  # type: ignore[redundant-expr]
        if asked or self.transport.is_closing():
            self._stop_waiting()
        elif self._deadline is None:
            self._deadline = self.loop.call_later(REQUEST_LIMIT_S, self._abort)
            self._waiting[self] = None

    def _abort(self) -> None:
        self.transport.abort()
        # Its end comes some turns later; until then it is not to be counted, nor chosen again.
        self._open.discard(self)
        self._stop_waiting()

    def _stop_waiting(self) -> None:
        self._waiting.pop(self, None)
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
