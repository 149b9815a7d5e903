"""The routes, one module for each kind of resource. They hold no logic: each is one call of the engine."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Depends, Query, Request, Response
from pydantic import BaseModel

from sds.gateway.problems import MEDIA_TYPE, Problem
from sds.rpc import Client

PROBLEMS: dict[int | str, dict[str, Any]] = {
    status: {"model": Problem, "content": {MEDIA_TYPE: {}}, "description": words}
    for status, words in {
        401: "No token, or a wrong one.",
        404: "Nothing of that name.",
        409: "Right by itself, not beside what there is.",
        422: "A field's value is refused.",
        503: "The engine can't be asked now.",
    }.items()
}


def was_there(model: type[BaseModel]) -> dict[int | str, dict[str, Any]]:
    """The answer to a POST of what is there already."""
    return {200: {"model": model, "description": "It was there already, and is the same."}}


def _engine(request: Request) -> Client:
    engine: Client = request.app.state.engine
    return engine


Engine = Annotated[Client, Depends(_engine)]
Limit = Annotated[int | None, Query(description="Items of a page, 1 to 1000; 100 if not given.")]
Cursor = Annotated[str | None, Query(description="`next` of the page before.")]


def created(response: Response, answer: dict[str, Any]) -> Any:
    """What was made; the status says whether now (201) or before (200), since names are idempotent."""
    response.status_code = 201 if answer["new"] else 200
    return answer["item"]
