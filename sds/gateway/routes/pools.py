"""/v1/pools"""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Response

from sds.gateway.models import Page, Pool, PoolCreate
from sds.gateway.routes import PROBLEMS, Cursor, Engine, Limit, created

router = APIRouter(prefix="/v1/pools", tags=["pools"], responses=PROBLEMS)


@router.post("", status_code=201, response_model=Pool)
async def create(engine: Engine, body: PoolCreate, response: Response) -> Any:
    """Makes a pool. It has no disk at first."""
    return created(response, await engine.call("pool_create", **body.model_dump()))


@router.get("", response_model=Page[Pool])
async def index(engine: Engine, limit: Limit = None, cursor: Cursor = None) -> Any:
    """Lists pools by name."""
    return await engine.call("pool_list", limit=limit, cursor=cursor)


@router.get("/{name}", response_model=Pool)
async def get(engine: Engine, name: str) -> Any:
    """One pool."""
    return await engine.call("pool_get", name=name)


@router.delete("/{name}", status_code=204)
async def delete(engine: Engine, name: str) -> None:
    """Deletes a pool without volumes; its disks are blank after."""
    await engine.call("pool_delete", name=name)
