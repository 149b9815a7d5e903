"""/v1/exports"""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Response

from sds.gateway.models import Export, ExportCreate, Page, Viewers
from sds.gateway.routes import PROBLEMS, Cursor, Engine, Limit, created, was_there

router = APIRouter(prefix="/v1/exports", tags=["exports"], responses=PROBLEMS)


@router.post("", status_code=201, response_model=Export, responses=was_there(Export))
async def create(engine: Engine, body: ExportCreate, response: Response) -> Any:
    """Shows a volume over one protocol to the hosts named, or to any host."""
    answer = await engine.call(
        "export_create", volume=body.volume, protocol=body.protocol, hosts=body.names(), any_host=body.any_host
    )
    return created(response, answer)


@router.get("", response_model=Page[Export])
async def index(engine: Engine, volume: str | None = None, limit: Limit = None, cursor: Cursor = None) -> Any:
    """Lists exports by volume and protocol."""
    return await engine.call("export_list", volume=volume, limit=limit, cursor=cursor)


@router.get("/{export}", response_model=Export)
async def get(engine: Engine, export: str) -> Any:
    """One export; its id is VOLUME.PROTOCOL."""
    return await engine.call("export_get", export=export)


@router.patch("/{export}", response_model=Export)
async def update(engine: Engine, export: str, body: Viewers) -> Any:
    """Changes who may see an export. A host that no longer may is refused at its next login."""
    return await engine.call("export_update", export=export, hosts=body.names(), any_host=body.any_host)


@router.delete("/{export}", status_code=204)
async def delete(engine: Engine, export: str) -> None:
    """Takes a volume away from its hosts over one protocol."""
    await engine.call("export_delete", export=export)
