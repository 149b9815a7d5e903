"""/v1/events, /healthz and /metrics"""

from __future__ import annotations

from typing import Any, Literal

from fastapi import APIRouter, Response

from sds.errors import SdsError
from sds.gateway.metrics import CONTENT_TYPE, text
from sds.gateway.models import Event, Health, Page
from sds.gateway.routes import PROBLEMS, Cursor, Engine, Limit

router = APIRouter(tags=["node"])


@router.get("/v1/events", response_model=Page[Event], responses=PROBLEMS)
async def events(
    engine: Engine,
    level: Literal["info", "warning", "error"] | None = None,
    limit: Limit = None,
    cursor: Cursor = None,
) -> Any:
    """Lists events, the newest first."""
    return await engine.call("event_list", level=level, limit=limit, cursor=cursor)


@router.get("/healthz", responses={503: {"model": Health}})
async def healthz(engine: Engine, response: Response) -> Health:
    """Whether everything that should serve does: 200 if so, else 503. Needs no token."""
    try:
        found = await engine.call("health_get")
        health = Health(status=found["status"], detail=found.get("detail"))
    except SdsError as error:
        health = Health(status="down", detail=error.detail)
    if health.status != "ok":
        response.status_code = 503
    return health


@router.get("/metrics", response_class=Response, responses={401: PROBLEMS[401], 503: PROBLEMS[503]})
async def metrics(engine: Engine) -> Response:
    """Everything that is counted, for Prometheus."""
    return Response(text(await engine.call("metrics_get")), media_type=CONTENT_TYPE)
