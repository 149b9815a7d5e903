"""The gateway as hosts' administrators meet it: on a TCP socket, in front of a real RPC server.

The engine behind that server is a handful of methods that remember what they were asked and answer what a test has
told them to; what the real engine answers is tested in tests/clients/test_node.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sds.gateway.app import make_guarded, make_server
from sds.rpc import Client, Handler, Server

TOKEN = "a-token-for-tests"  # noqa: S105 - it opens nothing but a test's own gateway.
START_LIMIT_S = 10


@dataclass
class ScriptedEngine:
    """Answers from `answers` (an exception is raised), and keeps what it was asked in `asked`."""

    answers: dict[str, Any] = field(default_factory=dict)
    asked: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    def methods(self) -> dict[str, Handler]:
        """The methods that the tests need, with the real ones' signatures."""

        async def volume_create(
            name: str, pool: str, size_bytes: int, logical_block_bytes: int | None = None
        ) -> object:
            return self._answer("volume_create", locals())

        async def volume_list(
            pool: str | None = None, label: str | None = None, limit: int | None = None, cursor: str | None = None
        ) -> object:
            return self._answer("volume_list", locals())

        async def volume_get(name: str) -> object:
            return self._answer("volume_get", locals())

        async def volume_update(name: str, changes: dict[str, Any]) -> object:
            return self._answer("volume_update", locals())

        async def volume_delete(name: str) -> object:
            return self._answer("volume_delete", locals())

        async def export_create(
            volume: str, protocol: str, hosts: list[str] | None = None, any_host: bool | None = None
        ) -> object:
            return self._answer("export_create", locals())

        async def health_get() -> object:
            return self._answer("health_get", locals())

        async def metrics_get() -> object:
            return self._answer("metrics_get", locals())

        made: tuple[Handler, ...] = (
            volume_create,
            volume_list,
            volume_get,
            volume_update,
            volume_delete,
            export_create,
        )
        made += (*self._of_pools(), *self._of_scrubs(), health_get, metrics_get)
        return {method.__name__: method for method in made}

    def _of_pools(self) -> tuple[Handler, ...]:
        async def pool_import(disks: list[str], name: str | None = None, *, force: bool = False) -> object:
            return self._answer("pool_import", locals())

        async def pool_export(name: str, *, force: bool = False) -> object:
            return self._answer("pool_export", locals())

        return pool_import, pool_export

    def _of_scrubs(self) -> tuple[Handler, ...]:
        async def scrub_start(pool: str, bytes_per_second_max: int | None = None) -> object:
            return self._answer("scrub_start", locals())

        async def scrub_get(pool: str) -> object:
            return self._answer("scrub_get", locals())

        async def scrub_update(pool: str, interval_hours: int, bytes_per_second_max: int | None = None) -> object:
            return self._answer("scrub_update", locals())

        async def scrub_stop(pool: str) -> object:
            return self._answer("scrub_stop", locals())

        return scrub_start, scrub_get, scrub_update, scrub_stop

    def _answer(self, method: str, params: dict[str, Any]) -> object:
        given = {name: value for name, value in params.items() if name != "self" and value is not None}
        self.asked.append((method, given))
        answer = self.answers[method]
        if isinstance(answer, Exception):
            raise answer
        return answer


@contextlib.contextmanager
def gateway(folder: Path, engine: ScriptedEngine | None) -> Iterator[str]:
    """Runs a gateway in a thread, in front of `engine` (None: nobody answers); its URL."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen()  # The thread may be late; who connects before it serves waits.
    app = make_guarded(Client(folder / "engine.sock", call_limit_s=5), TOKEN)
    server = make_server(app, TOKEN)

    async def run() -> None:
        rpc = Server(folder / "engine.sock", engine.methods()) if engine else None
        if rpc:
            await rpc.start()
        await server._serve([listener])
        if rpc:
            await rpc.stop()

    thread = threading.Thread(target=lambda: asyncio.run(run()))
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(START_LIMIT_S)
