"""Errors as problem documents (RFC 9457)."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

from sds.errors import PROBLEM_PREFIX, InvalidValue, MethodNotAllowed, NotFound, SdsError

log = logging.getLogger("sds.gateway")

MEDIA_TYPE = "application/problem+json"
RETRY_AFTER_S = 1


class Problem(BaseModel):
    """What went wrong (RFC 9457, section 3.1), with the field at fault and what it accepts."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "type": PROBLEM_PREFIX + "invalid-value",
                    "title": "Invalid value",
                    "status": 422,
                    "detail": "a volume can't have 1000 bytes",
                    "instance": "/v1/volumes",
                    "field": "size_bytes",
                    "accepted": "a multiple of 4096 bytes from 1048576 (1M) to 70368744177664 (64T)",
                }
            ]
        }
    )

    type: str = Field(description="Stable name of this kind of problem.")
    title: str = Field(description="The kind of problem, in words.")
    status: int = Field(description="The HTTP status.")
    detail: str = Field(description="What was wrong in this very case.")
    instance: str = Field(description="The path that was asked for.")
    field: str | None = Field(description="The request's field at fault.")
    accepted: str | None = Field(description="What would be accepted.")


def problem_response(error: SdsError, path: str) -> Response:
    """The answer that tells a client of an error."""
    headers = {"cache-control": "no-store"}
    if error.status == 401:
        headers["www-authenticate"] = "Bearer"
    if error.status == 503:
        headers["retry-after"] = str(RETRY_AFTER_S)
    problem = Problem(
        type=PROBLEM_PREFIX + error.slug,
        title=error.title,
        status=error.status,
        detail=error.detail,
        instance=path,
        field=error.field,
        accepted=error.accepted,
    )
    return JSONResponse(problem.model_dump(), error.status, headers, media_type=MEDIA_TYPE)


def install(app: FastAPI) -> None:
    """Has every error of an application answered as a problem document."""

    async def refused(request: Request, error: Exception) -> Response:
        return problem_response(_translated(error), request.url.path)

    async def failed(request: Request, error: Exception) -> Response:
        log.error("%s %s failed", request.method, request.url.path, exc_info=error)
        return problem_response(SdsError("the gateway failed; its log says why"), request.url.path)

    for kind in (SdsError, RequestValidationError, HTTPException):
        app.add_exception_handler(kind, refused)
    app.add_exception_handler(Exception, failed)


def _translated(error: Exception) -> SdsError:
    if isinstance(error, SdsError):
        return error
    if isinstance(error, RequestValidationError):
        return _invalid(error.errors())
    if isinstance(error, HTTPException) and error.status_code == 404:
        return NotFound("there is no such resource", accepted="a path that /openapi.json names")
    if isinstance(error, HTTPException) and error.status_code == 405:
        return MethodNotAllowed("the resource does not take this method", accepted="what /openapi.json names")
    return InvalidValue("body", str(error), "JSON as /openapi.json has it")


def _invalid(errors: Sequence[dict[str, object]]) -> SdsError:
    first = errors[0]
    where = first.get("loc")
    # The first part is "body", "query" or "path"; the rest leads to the field.
    parts = [str(part) for part in where[1:]] if isinstance(where, tuple) else []
    name = ".".join(parts) or "body"
    if first.get("type") == "extra_forbidden":
        return InvalidValue(name, f"there is no field {name}", "the fields that /openapi.json names")
    if first.get("type") == "missing":
        return InvalidValue(name, f"{name} is missing", "a value, as /openapi.json has it")
    return InvalidValue(name, f"{name} is refused", str(first.get("msg")))
