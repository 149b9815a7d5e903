"""/v1/hosts"""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Response

from sds.gateway.models import Host, HostCreate, Page
from sds.gateway.routes import PROBLEMS, Cursor, Engine, Limit, created, was_there

router = APIRouter(prefix="/v1/hosts", tags=["hosts"], responses=PROBLEMS)


@router.post("", status_code=201, response_model=Host, responses=was_there(Host))
async def create(engine: Engine, body: HostCreate, response: Response) -> Any:
    """Notes a host by its NQN, its IQN or both."""
    return created(response, await engine.call("host_create", **body.model_dump()))


@router.get("", response_model=Page[Host])
async def index(engine: Engine, limit: Limit = None, cursor: Cursor = None) -> Any:
    """Lists hosts by name."""
    return await engine.call("host_list", limit=limit, cursor=cursor)


@router.get("/{name}", response_model=Host)
async def get(engine: Engine, name: str) -> Any:
    """One host."""
    return await engine.call("host_get", name=name)


@router.delete("/{name}", status_code=204)
async def delete(engine: Engine, name: str) -> None:
    """Forgets a host. One that an export names is refused."""
    await engine.call("host_delete", name=name)
