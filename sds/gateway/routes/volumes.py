"""/v1/volumes"""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Response

from sds.gateway.models import Page, Volume, VolumeCreate, VolumeUpdate
from sds.gateway.routes import PROBLEMS, Cursor, Engine, Limit, created, was_there

router = APIRouter(prefix="/v1/volumes", tags=["volumes"], responses=PROBLEMS)


@router.post("", status_code=201, response_model=Volume, responses=was_there(Volume))
async def create(engine: Engine, body: VolumeCreate, response: Response) -> Any:
    """Makes a thin volume. It may be larger than its pool."""
    return created(response, await engine.call("volume_create", **body.model_dump()))


@router.get("", response_model=Page[Volume])
async def index(
    engine: Engine, pool: str | None = None, label: str | None = None, limit: Limit = None, cursor: Cursor = None
) -> Any:
    """Lists volumes by name; `label` is KEY or KEY=VALUE."""
    return await engine.call("volume_list", pool=pool, label=label, limit=limit, cursor=cursor)


@router.get("/{name}", response_model=Volume)
async def get(engine: Engine, name: str) -> Any:
    """One volume."""
    return await engine.call("volume_get", name=name)


@router.patch("/{name}", response_model=Volume)
async def update(engine: Engine, name: str, body: VolumeUpdate) -> Any:
    """Changes a volume while its hosts go on: name, size, labels, terms. What is not named stays as it is.

    Exports of a volume that is renamed keep the names that hosts know. A smaller size is refused in this release.
    """
    return await engine.call("volume_update", name=name, changes=body.model_dump(exclude_unset=True))


@router.delete("/{name}", status_code=204)
async def delete(engine: Engine, name: str) -> None:
    """Deletes a volume and what it holds. One that is exported is refused."""
    await engine.call("volume_delete", name=name)
