"""What a TCP connection to REST may take before it asks for something: uvicorn limits neither its number nor its time.

A connection without a whole request waits for `REQUEST_LIMIT_S`, whatever it drips meanwhile. Until it had the token in
a request it reads only when the lobby lets it, and a request without the token is its last.
"""

from __future__ import annotations

import asyncio
from typing import ClassVar

from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.h11_impl import H11Protocol

from sds.gateway.guard import bears
from sds.gateway.lobby import Lobby, site

REQUEST_LIMIT_S = 30  # From the connection's start, or the answer before, to the end of the next request's headers.


class Connection(H11Protocol):
    """One connection. uvicorn makes it, from a class: `connections_of` gives a server its own."""

    lobby: ClassVar[Lobby]
    token: ClassVar[bytes]
    flow: HeldFlow
    address = ""
    _deadline: asyncio.TimerHandle | None = None
    _reads = 0  # Taken from the lobby and not given back.
    _is_trusted = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client has connected."""
        super().connection_made(transport)
        self.flow = HeldFlow(transport)
        self.address = site(self.client[0]) if self.client else ""
        self.lobby.enter(self)
        self._note()
        self._ask_to_read()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection has ended."""
        super().connection_lost(exc)
        self._leave()

    def data_received(self, data: bytes) -> None:
        """Bytes have come."""
        super().data_received(data)
        self._note()
        if not self._is_trusted:
            self._look_for_token()

    def on_response_complete(self) -> None:
        """An answer is given, and the next request may come."""
        super().on_response_complete()
        self._note()

    def let_in(self) -> None:
        """It is this connection's turn to read."""
        self._reads += 1
        self.flow.let_go()

    def turn_out(self) -> None:
        """Ends the connection."""
        self.transport.abort()
        # Its end comes some turns later; until then it is not to be counted, nor chosen again.
        self._leave()

    def _look_for_token(self) -> None:
        # There is no scope before the first request's headers are there.
        if self.scope is not None and bears(self.token, self.scope["headers"]):  # type: ignore[redundant-expr]
            self._is_trusted = True
            self.lobby.trust(self, self._reads)
            self.flow.let_go()
        elif not self.transport.is_closing():
            self._ask_to_read()

    def _ask_to_read(self) -> None:
        if self.lobby.may_read(self):
            self._reads += 1
        else:
            self.flow.hold()

    def _note(self) -> None:
        # There is no cycle before the first request, whatever its type says.
        asked = self.cycle is not None and not self.cycle.response_complete  # type: ignore[redundant-expr]
        if asked or self.transport.is_closing():
            self._stop_waiting()
        elif self._deadline is None:
            self._deadline = self.loop.call_later(REQUEST_LIMIT_S, self.turn_out)
            self.lobby.wait(self)

    def _leave(self) -> None:
        self._stop_waiting()
        self.lobby.leave(self)

    def _stop_waiting(self) -> None:
        self.lobby.stop_waiting(self)
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


class HeldFlow(FlowControl):
    """uvicorn's flow control, which the lobby can overrule: a held connection reads nothing."""

    def __init__(self, transport: asyncio.Transport) -> None:
        super().__init__(transport)
        self._is_held = False

    def hold(self) -> None:
        """Reads nothing until `let_go`."""
        self._change(held=True, paused=self.read_paused)

    def let_go(self) -> None:
        """Reads, if uvicorn wants it."""
        self._change(held=False, paused=self.read_paused)

    def pause_reading(self) -> None:
        """uvicorn has enough."""
        self._change(held=self._is_held, paused=True)

    def resume_reading(self) -> None:
        """uvicorn wants more."""
        self._change(held=self._is_held, paused=False)

    def _change(self, *, held: bool, paused: bool) -> None:
        stood, stands = self._is_held or self.read_paused, held or paused
        self._is_held, self.read_paused = held, paused
        if stands and not stood:
            self._transport.pause_reading()
        elif stood and not stands:
            self._transport.resume_reading()


def connections_of(lobby: Lobby, token: str) -> type[Connection]:
    """The class of a server's connections: what they share is an attribute of it."""
    return type("Connection", (Connection,), {"lobby": lobby, "token": token.encode()})
