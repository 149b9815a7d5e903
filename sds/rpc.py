"""JSON-RPC 2.0 over a Unix socket: framing, client and server, the only such module.

Framing as in SPDK's `spdk_tgt` (lib/jsonrpc; doc/jsonrpc.md): JSON objects one after the other, with no length and
no separator. The end of an object is where its braces close, which `Splitter` finds in one pass over the bytes. So the
same `Client` drives the engine and `spdk_tgt`.

Requests of one connection may be answered in any order (`id` says which is which); parameters go by name.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import itertools
import json
import logging
import os
import types
import typing
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

from sds.errors import InvalidValue, SdsError, Unavailable, from_data

log = logging.getLogger(__name__)

MESSAGE_BYTES_MAX = 16 << 20  # A full page of any list is far below; more than this is no peer of ours.
READ_BYTES = 64 << 10
CONNECTIONS_MAX = 64  # The gateway, tiering and a handful of tools.
IN_FLIGHT_PER_CONNECTION_MAX = 128
CALL_LIMIT_S = 60.0
NESTING_MAX = 64  # The deepest message of ours has five levels; Python's own parser gives up at about a thousand.

# JSON-RPC 2.0, section 5.1; APPLICATION is ours, from the range that the specification leaves to servers.
PARSE_ERROR = -32700
INVALID_REQUEST = -32600
METHOD_NOT_FOUND = -32601
INVALID_PARAMS = -32602
APPLICATION = -32000

_QUOTE, _BACKSLASH = ord('"'), ord("\\")
_OPENING, _CLOSING, _SPACE = frozenset(b"{["), frozenset(b"}]"), frozenset(b" \t\r\n")


class FramingError(ValueError):
    """The peer sent what can't begin or continue a message; the connection has to go."""


class Splitter:
    """Cuts a stream of bytes into JSON objects and arrays.

    It looks at every byte once and keeps only an unfinished message, at most `bytes_max` long.
    """

    def __init__(self, bytes_max: int = MESSAGE_BYTES_MAX) -> None:
        self._bytes_max = bytes_max
        self._kept = bytearray()
        self._depth = 0
        self._in_string = False
        self._escaped = False

    def feed(self, data: bytes) -> list[bytes]:
        """The messages that `data` completes.

        Raises:
            FramingError: a message starts with neither brace nor bracket, or is too long or too deep.
        """
        done: list[bytes] = []
        start = 0
        for at, byte in enumerate(data):
            if self._in_string:
                self._step_in_string(byte)
            elif self._depth == 0 and byte in _SPACE:
                start = at + 1
            elif self._step_outside(byte):
                done.append(bytes(self._kept + data[start : at + 1]))
                self._kept.clear()
                start = at + 1
        self._kept += data[start:]
        if len(self._kept) > self._bytes_max:
            raise FramingError(f"message is longer than {self._bytes_max} bytes")
        return done

    def _step_outside(self, byte: int) -> bool:
        if byte in _OPENING:
            self._depth += 1
            if self._depth > NESTING_MAX:
                raise FramingError(f"message is more than {NESTING_MAX} levels deep")
        elif self._depth == 0:
            raise FramingError(f"message starts with byte {byte:#04x}, not with a brace")
        elif byte == _QUOTE:
            self._in_string = True
        elif byte in _CLOSING:
            self._depth -= 1
            return self._depth == 0
        return False

    def _step_in_string(self, byte: int) -> None:
        if self._escaped:
            self._escaped = False
        elif byte == _BACKSLASH:
            self._escaped = True
        elif byte == _QUOTE:
            self._in_string = False


def encode(message: Mapping[str, object]) -> bytes:
    """A message as it goes over the wire."""
    return json.dumps(message, separators=(",", ":")).encode()


class RpcError(SdsError):
    """A peer that is no engine of ours refused; `code` is its own (spdk_tgt: a negative errno)."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


class Client:
    """Calls over one connection, made when needed and made again after it broke. Many calls may be in flight."""

    def __init__(self, path: Path, *, call_limit_s: float = CALL_LIMIT_S) -> None:
        self._path = path
        self._call_limit_s = call_limit_s
        self._ids = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._writer: asyncio.StreamWriter | None = None
        self._reading: asyncio.Task[None] | None = None
        self._connecting = asyncio.Lock()

    async def call(self, method: str, **params: object) -> Any:
        """The result of a method. A parameter of None is left out, so that the method's own default holds.

        Raises:
            Unavailable: nobody listens, the connection broke, or `call_limit_s` passed. Whether the method was
                carried out is unknown then.
            SdsError: the peer refused; the class that its slug names.
        """
        return await self.call_within(self._call_limit_s, method, **params)

    async def call_within(self, limit_s: float, method: str, **params: object) -> Any:
        """The same for a method that takes longer than most."""
        writer = await self._connected()
        number = next(self._ids)
        answer = asyncio.get_running_loop().create_future()
        self._waiting[number] = answer
        given = {name: value for name, value in params.items() if value is not None}
        request: dict[str, object] = {"jsonrpc": "2.0", "id": number, "method": method}
        if given:
            request["params"] = given
        try:
            writer.write(encode(request))
            async with asyncio.timeout(limit_s):
                await writer.drain()
                return await answer
        except TimeoutError:
            raise Unavailable(f"{method} was not answered within {limit_s:g} s") from None
        except (ConnectionError, OSError) as error:
            raise Unavailable(f"the connection to {self._path} broke: {error}") from error
        finally:
            self._waiting.pop(number, None)
            if answer.done() and not answer.cancelled():
                answer.exception()  # Seen: a call that could not even be sent does not wait for it.

    async def close(self) -> None:
        """Closes the connection; calls in flight fail."""
        if self._reading:
            self._reading.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._reading
        self._drop("the client was closed")

    async def _connected(self) -> asyncio.StreamWriter:
        async with self._connecting:
            if self._writer is None:
                try:
                    reader, self._writer = await asyncio.open_unix_connection(str(self._path))
                except OSError as error:
                    raise Unavailable(f"nothing answers on {self._path}: {error.strerror or error}") from error
                self._reading = asyncio.create_task(self._read(reader))
            return self._writer

    async def _read(self, reader: asyncio.StreamReader) -> None:
        splitter = Splitter()
        why = "the peer closed the connection"
        try:
            while data := await reader.read(READ_BYTES):
                for message in splitter.feed(data):
                    self._settle(json.loads(message))
        except (OSError, ValueError) as error:
            why = f"the connection broke: {error}"
        self._drop(why)

    def _settle(self, message: Any) -> None:
        number = message.get("id") if isinstance(message, dict) else None
        answer = self._waiting.pop(number, None) if isinstance(number, int) else None
        if answer is None or answer.done():
            return  # Its caller gave up at the time limit.
        error = message.get("error")
        if error is None:
            answer.set_result(message.get("result"))
        elif isinstance(error.get("data"), dict):
            answer.set_exception(from_data(str(error.get("message")), error["data"]))
        else:
            answer.set_exception(RpcError(int(error.get("code", 0)), str(error.get("message"))))

    def _drop(self, why: str) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None
        waiting, self._waiting = self._waiting, {}
        for answer in waiting.values():
            if not answer.done():
                answer.set_exception(Unavailable(why))


Handler = Callable[..., Awaitable[object]]


class Method:
    """A handler with what its signature says about its parameters.

    The checks are made here by hand and not by pydantic: the engine must serve within two seconds of a kill, and the
    import alone would take a good part of a tenth of one.
    """

    def __init__(self, handler: Handler) -> None:
        self._handler = handler
        hints = typing.get_type_hints(handler)
        parameters = inspect.signature(handler).parameters
        self._types = {name: hints[name] for name in parameters}
        self._required = [name for name, one in parameters.items() if one.default is inspect.Parameter.empty]

    async def __call__(self, params: Mapping[str, object]) -> object:
        """Calls the handler.

        Raises:
            InvalidValue: a parameter is missing, unknown or of the wrong type.
        """
        for name in self._required:
            if name not in params:
                raise InvalidValue(name, f"{name} is missing", _words(self._types[name]))
        for name, value in params.items():
            if name not in self._types:
                raise InvalidValue(name, f"there is no parameter {name}", "one of " + ", ".join(self._types))
            if not _fits(value, self._types[name]):
                kind = type(value).__name__
                raise InvalidValue(name, f"{name} is of type {kind}", _words(self._types[name]))
        return await self._handler(**params)


def _fits(value: object, wanted: Any) -> bool:
    if isinstance(wanted, types.UnionType):
        return any(_fits(value, one) for one in typing.get_args(wanted))
    if typing.get_origin(wanted) is list:
        (item,) = typing.get_args(wanted)
        return isinstance(value, list) and all(_fits(one, item) for one in value)
    if typing.get_origin(wanted) is dict:
        return isinstance(value, dict)  # Its fields are its handler's to check.
    if wanted is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if wanted is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    return isinstance(value, wanted)


def _words(wanted: Any) -> str:
    names = {str: "a string", int: "an integer", bool: "true or false", type(None): "null", float: "a number"}
    if isinstance(wanted, types.UnionType):
        return " or ".join(_words(one) for one in typing.get_args(wanted))
    if typing.get_origin(wanted) is list:
        return f"a list, each {_words(typing.get_args(wanted)[0])}"
    return names.get(wanted, str(wanted))


class Server:
    """Answers calls of the methods given, on a Unix socket that only its owner may open (mode 0600)."""

    def __init__(self, path: Path, methods: Mapping[str, Handler]) -> None:
        self._path = path
        self._methods = {name: Method(handler) for name, handler in methods.items()}
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Listens. A socket left by a predecessor is replaced: whoever calls holds the lock of the data folder."""
        self._path.unlink(missing_ok=True)
        # The mask makes the socket private from its first moment; the event loop runs nothing else meanwhile.
        mask = os.umask(0o177)
        try:
            self._server = await asyncio.start_unix_server(self._accept, str(self._path))
        finally:
            os.umask(mask)

    async def stop(self) -> None:
        """Ends every connection; calls in flight are cut off."""
        if self._server:
            self._server.close()
        for task in list(self._connections):
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)
        self._path.unlink(missing_ok=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._connections) >= CONNECTIONS_MAX:
            log.warning("refused a connection: %d are open, the limit", CONNECTIONS_MAX)
            writer.close()
            return
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("asyncio runs a connection's handler in a task")
        self._connections.add(task)
        try:
            await self._serve(reader, writer)
        except asyncio.CancelledError:
            pass
        finally:
            self._connections.discard(task)
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        splitter = Splitter()
        places = asyncio.Semaphore(IN_FLIGHT_PER_CONNECTION_MAX)

        async def answer(message: bytes) -> None:
            try:
                reply = await self._answer(message)
                if reply is not None:
                    writer.write(encode(reply))
                    await writer.drain()
            except ConnectionError:
                pass  # The caller left before its answer came.
            finally:
                places.release()

        async with asyncio.TaskGroup() as calls:
            # Errors end here, within the group: what was asked before them is carried out, not cut off half-way.
            try:
                while data := await reader.read(READ_BYTES):
                    for message in splitter.feed(data):
                        await places.acquire()
                        calls.create_task(answer(message))
            except FramingError as error:
                log.warning("ended a connection: %s", error)
            except ConnectionError:
                pass

    async def _answer(self, message: bytes) -> dict[str, object] | None:
        try:
            request = json.loads(message)
        except ValueError as error:
            return _refusal(None, PARSE_ERROR, f"not JSON: {error}")
        if not isinstance(request, dict) or not isinstance(request.get("method"), str):
            return _refusal(None, INVALID_REQUEST, "a request is an object with a method")
        number, params = request.get("id"), request.get("params", {})
        method = self._methods.get(request["method"])
        if method is None:
            return _refusal(number, METHOD_NOT_FOUND, f"there is no method {request['method']}")
        if not isinstance(params, dict):
            return _refusal(number, INVALID_PARAMS, "parameters go by name")
        try:
            result = await method(params)
        except SdsError as error:
            code = INVALID_PARAMS if isinstance(error, InvalidValue) else APPLICATION
            return _refusal(number, code, error.detail, error.data())
        except Exception as error:
            # A bug must not take the connection's other calls with it; the log has the trace.
            log.exception("%s failed", request["method"])
            fault = SdsError(f"{request['method']} failed: {error}")
            return _refusal(number, APPLICATION, fault.detail, fault.data())
        if "id" not in request:
            return None  # A notification (JSON-RPC 2.0, section 4.1) has no answer.
        return {"jsonrpc": "2.0", "id": number, "result": result}


def _refusal(number: object, code: int, message: str, data: Mapping[str, object] | None = None) -> dict[str, object]:
    error: dict[str, object] = {"code": code, "message": message}
    if data is not None:
        error["data"] = dict(data)
    return {"jsonrpc": "2.0", "id": number, "error": error}
