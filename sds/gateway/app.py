"""The REST application, and the process around it."""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import uvicorn
from fastapi import FastAPI

from sds import __version__
from sds.config import Address, Config, ensure_token
from sds.errors import SdsError
from sds.gateway import problems
from sds.gateway.connections import connections_of
from sds.gateway.guard import App, Guard
from sds.gateway.lobby import Lobby
from sds.gateway.routes import disks, exports, hosts, node, pools, volumes
from sds.process import until_stopped
from sds.rpc import Client

log = logging.getLogger("sds.gateway")

CALL_LIMIT_S = 30.0
KEEP_ALIVE_S = 30
STOP_LIMIT_S = 5
HEADERS_BYTES_MAX = 32 << 10

DESCRIPTION = """
Disks into pools, thin volumes out of them, mounted by hosts over NVMe/TCP and iSCSI.

* Every request but `/healthz` and `/openapi.json` carries `Authorization: Bearer TOKEN`: the token in `DIR/admin.token`
* Sizes are whole bytes.
* Names are idempotent: a POST of what is there already answers 200, one that differs from it 409.
* Lists come in pages: `next` of one is the `cursor` of the next.
* Errors are problem documents (RFC 9457); their `type` is stable, `field` and `accepted` say what to change.
"""


def make_app(engine: Client) -> FastAPI:
    """The application, asking `engine`; without the guard that checks tokens."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await engine.close()

    # No interactive pages: they load scripts from elsewhere, which a storage network does not reach.
    app = FastAPI(
        title="sds",
        version=__version__,
        description=DESCRIPTION,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        lifespan=lifespan,
    )
    app.state.engine = engine
    for part in (pools, disks, volumes, hosts, exports, node):
        app.include_router(part.router)
    problems.install(app)
    return app


def make_guarded(engine: Client, token: str) -> App:
    """The application behind its guard."""
    return Guard(make_app(engine), token)


def make_server(app: App, token: str) -> uvicorn.Server:
    """An HTTP server within limits, those without the token behind those with it; `_serve` runs it on sockets."""
    return uvicorn.Server(
        uvicorn.Config(
            app,
            http=connections_of(Lobby(time.monotonic), token),
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=STOP_LIMIT_S,
            h11_max_incomplete_event_size=HEADERS_BYTES_MAX,
            ws="none",
        )
    )


async def main(config: Config) -> None:
    """Serves REST until SIGTERM or SIGINT.

    Raises:
        SdsError: it can't listen.
    """
    token = ensure_token(config.token)
    app = make_guarded(Client(config.socket, call_limit_s=CALL_LIMIT_S), token)
    listener = _listen(config.rest)
    server = make_server(app, token)
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    # `_serve` leaves the signals to us; `serve` takes them and ends the process by them, pid file and all.
    serving = asyncio.create_task(server._serve([listener]))
    stopped = asyncio.create_task(until_stopped())
    await asyncio.wait({serving, stopped}, return_when=asyncio.FIRST_COMPLETED)
    stopped.cancel()
    server.should_exit = True
    await serving


def _listen(address: Address) -> socket.socket:
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    listener = socket.socket(family)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((address.host, address.port))
    except OSError as error:
        listener.close()
        raise SdsError(f"REST can't listen on {address}: {error.strerror}", field="rest") from error
    return listener
