"""REST calls of the command line: where the gateway is, the token, and errors as a person reads them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

import typer

from sds.config import DATA_DEFAULT

URL_VARIABLE = "SDS_URL"
TOKEN_FILE_VARIABLE = "SDS_TOKEN_FILE"  # noqa: S105 - the name of a variable.
URL_DEFAULT = "http://127.0.0.1:8080"
CALL_LIMIT_S = 60.0
PAGE_ITEMS = 500

REFUSED = 1
UNREACHABLE = 3
NOT_CONFIRMED = 4


def fail(message: str, status: int = REFUSED, hints: Mapping[str, object] | None = None) -> NoReturn:
    """Says on standard error what went wrong and ends."""
    from rich.console import Console  # noqa: PLC0415 - `sds serve` starts faster without.
    from rich.markup import escape  # noqa: PLC0415

    errors = Console(stderr=True, highlight=False, soft_wrap=True)
    errors.print(f"[bold red]sds:[/] {escape(message)}")
    for name, value in (hints or {}).items():
        if value is not None:
            errors.print(f"  {name}: {escape(str(value))}")
    raise typer.Exit(status)


def request(method: str, path: str, limit_s: float = CALL_LIMIT_S, **options: Any) -> Any:
    """One call's JSON, None where there is no body; a refusal ends the command."""
    import httpx  # noqa: PLC0415 - a tenth of a second, which `sds serve` would lose after a crash.

    url = os.environ.get(URL_VARIABLE, URL_DEFAULT).rstrip("/")
    headers = {"authorization": f"Bearer {_token()}"}
    try:
        response = httpx.request(method, url + path, headers=headers, timeout=limit_s, **options)
    except httpx.InvalidURL as error:
        fail(f"{URL_VARIABLE} is {url!r}: {error}", hints={"accepted": f"a URL such as {URL_DEFAULT}"})
    except httpx.HTTPError as error:
        fail(f"{url} can't be reached: {error}", UNREACHABLE, {"set": f"{URL_VARIABLE}, if the gateway is elsewhere"})
    if response.is_success:
        return response.json() if response.content else None
    try:
        problem = response.json()
        message = str(problem["detail"])
    except (ValueError, KeyError, TypeError):
        fail(f"{url} answered {response.status_code} and no problem document: is it sds?")
    return fail(message, hints={name: problem.get(name) for name in ("field", "accepted")})


def items(path: str, **query: object) -> Iterator[dict[str, Any]]:
    """Every item of a list, page by page."""
    cursor: str | None = None
    while True:
        asked = {"limit": PAGE_ITEMS, "cursor": cursor, **query}
        page = request("GET", path, params={name: value for name, value in asked.items() if value is not None})
        yield from page["items"]
        cursor = page["next"]
        if cursor is None:
            return


def _token() -> str:
    path = Path(os.environ.get(TOKEN_FILE_VARIABLE, f"{DATA_DEFAULT}/admin.token"))
    try:
        return path.read_text().strip()
    except OSError as error:
        fail(f"the token can't be read: {path}: {error.strerror}", hints={"set": f"{TOKEN_FILE_VARIABLE}=FILE"})
