"""REST: tokens, limits, problems, pages and the schema."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from sds.errors import BY_SLUG, InUse, InvalidValue, NameTaken, NotFound, SdsError
from sds.gateway.guard import BODY_BYTES_MAX
from sds.gateway.lobby import READS_AT_ONCE_MAX
from tests.api.node import TOKEN, ScriptedEngine, gateway

VOLUME = {
    "name": "pacs",
    "uuid": "0c1f3f4e-6f3e-4a43-8e57-1f1b8a0a4d10",
    "pool": "archive",
    "size_bytes": 1 << 40,
    "allocated_bytes": 0,
    "logical_block_bytes": 512,
    "read_only": False,
    "write_through": False,
    "detect_zeroes": False,
    "iops_max": None,
    "iops_burst": None,
    "bytes_per_second_max": None,
    "burst_bytes": None,
    "delayed_requests": 0,
    "labels": {},
    "exports": [],
    "created": "2026-01-01T00:00:00+00:00",
}
NEW = {"name": "pacs", "pool": "archive", "size_bytes": 1 << 40}


@pytest.fixture
def engine() -> ScriptedEngine:
    """What answers behind the gateway."""
    return ScriptedEngine()


@pytest.fixture
def rest(tmp_path: Path, engine: ScriptedEngine) -> Iterator[httpx.Client]:
    """A client with the token."""
    with (
        gateway(tmp_path, engine) as url,
        httpx.Client(base_url=url, headers={"authorization": f"Bearer {TOKEN}"}) as client,
    ):
        yield client


def _problem(response: httpx.Response, status: int, slug: str) -> dict[str, Any]:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    problem: dict[str, Any] = response.json()
    assert (problem["type"], problem["status"]) == (f"urn:sds:problem:{slug}", status)
    assert problem["title"] == BY_SLUG[slug].title
    return problem


def test_a_new_volume_is_201_and_the_same_again_200(rest: httpx.Client, engine: ScriptedEngine) -> None:
    for new, status in ((True, 201), (False, 200)):
        engine.answers["volume_create"] = {"item": VOLUME, "new": new}
        response = rest.post("/v1/volumes", json=NEW)
        assert (response.status_code, response.json()) == (status, VOLUME)
    assert engine.asked == [("volume_create", NEW)] * 2


@pytest.mark.parametrize("token", ["", "Bearer", "Bearer wrong", f"Basic {TOKEN}", f"Bearer {TOKEN}x"])
def test_without_the_token_nothing_is_asked(rest: httpx.Client, engine: ScriptedEngine, token: str) -> None:
    for path in ("/v1/volumes", "/metrics", "/nothing"):
        response = rest.get(path, headers={"authorization": token})
        _problem(response, 401, "unauthorized")
        assert response.headers["www-authenticate"] == "Bearer"
    assert not engine.asked


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (InvalidValue("size_bytes", "no", "4096"), 422),
        (NotFound("no", field="pool"), 404),
        (NameTaken("no"), 409),
        (InUse("no", accepted="a volume without exports"), 409),
        (SdsError("no"), 500),
    ],
)
def test_the_engines_refusals_are_problems(
    rest: httpx.Client, engine: ScriptedEngine, error: SdsError, status: int
) -> None:
    engine.answers["volume_create"] = error
    problem = _problem(rest.post("/v1/volumes", json=NEW), status, error.slug)
    assert (problem["detail"], problem["field"], problem["accepted"]) == ("no", error.field, error.accepted)
    assert problem["instance"] == "/v1/volumes"


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"name": "pacs", "pool": "archive"}, "size_bytes"),
        (NEW | {"size_bytes": "1T"}, "size_bytes"),
        (NEW | {"size_bytes": 1.5}, "size_bytes"),
        (NEW | {"size_bytes": True}, "size_bytes"),
        (NEW | {"colour": "red"}, "colour"),
        (NEW | {"name": 7}, "name"),
        ([], "body"),
    ],
)
def test_a_body_of_the_wrong_shape_names_the_field(
    rest: httpx.Client, engine: ScriptedEngine, body: object, field: str
) -> None:
    problem = _problem(rest.post("/v1/volumes", json=body), 422, "invalid-value")
    assert problem["field"] == field
    assert problem["accepted"]
    assert not engine.asked


def test_what_is_no_json_is_refused(rest: httpx.Client) -> None:
    _problem(rest.post("/v1/volumes", content=b"{", headers={"content-type": "application/json"}), 422, "invalid-value")


def test_unknown_paths_and_methods_are_problems(rest: httpx.Client) -> None:
    _problem(rest.get("/v1/nothing"), 404, "not-found")
    _problem(rest.put("/v1/volumes", json={}), 405, "method-not-allowed")


def test_a_large_body_is_refused_whether_or_not_it_says_so(rest: httpx.Client, engine: ScriptedEngine) -> None:
    large = b"x" * (BODY_BYTES_MAX + 1)
    _problem(rest.post("/v1/volumes", content=large), 413, "too-large")
    _problem(rest.post("/v1/volumes", content=iter([large])), 413, "too-large")
    assert not engine.asked


def test_pages_and_filters_are_passed_on(rest: httpx.Client, engine: ScriptedEngine) -> None:
    engine.answers["volume_list"] = {"items": [VOLUME], "next": "eA=="}
    response = rest.get("/v1/volumes", params={"pool": "archive", "limit": 1, "cursor": "YQ=="})
    assert response.json() == {"items": [VOLUME], "next": "eA=="}
    assert engine.asked == [("volume_list", {"pool": "archive", "limit": 1, "cursor": "YQ=="})]
    assert _problem(rest.get("/v1/volumes", params={"limit": "many"}), 422, "invalid-value")["field"] == "limit"


def test_a_change_says_what_was_named_and_nothing_else(rest: httpx.Client, engine: ScriptedEngine) -> None:
    engine.answers["volume_update"] = VOLUME | {"iops_max": None, "labels": {"ward": "1"}}
    body = {"iops_max": None, "labels": {"ward": "1"}}
    assert rest.patch("/v1/volumes/pacs", json=body).json()["labels"] == {"ward": "1"}
    assert engine.asked == [("volume_update", {"name": "pacs", "changes": body})]
    _problem(rest.patch("/v1/volumes/pacs", json={"read_only": None}), 422, "invalid-value")


def test_a_deleted_volume_leaves_nothing_to_say(rest: httpx.Client, engine: ScriptedEngine) -> None:
    engine.answers["volume_delete"] = None
    response = rest.delete("/v1/volumes/pacs")
    assert (response.status_code, response.content) == (204, b"")


def test_one_host_is_a_list_of_one(rest: httpx.Client, engine: ScriptedEngine) -> None:
    engine.answers["export_create"] = InUse("no")
    rest.post("/v1/exports", json={"volume": "pacs", "protocol": "nvme", "host": "pacs1"})
    assert engine.asked == [("export_create", {"volume": "pacs", "protocol": "nvme", "hosts": ["pacs1"]})]


@pytest.mark.parametrize(("status", "code"), [("ok", 200), ("degraded", 503)])
def test_health_needs_no_token(rest: httpx.Client, engine: ScriptedEngine, status: str, code: int) -> None:
    engine.answers["health_get"] = {"status": status, "pools": {}}
    response = rest.get("/healthz", headers={"authorization": ""})
    assert (response.status_code, response.json()["status"]) == (code, status)


def test_without_an_engine_everything_is_503_and_may_be_tried_again(tmp_path: Path) -> None:
    with (
        gateway(tmp_path, None) as url,
        httpx.Client(base_url=url, headers={"authorization": f"Bearer {TOKEN}"}) as rest,
    ):
        response = rest.get("/v1/volumes")
        _problem(response, 503, "unavailable")
        assert response.headers["retry-after"] == "1"
        assert rest.get("/healthz").json()["status"] == "down"


def test_metrics_are_prometheus_text(rest: httpx.Client, engine: ScriptedEngine) -> None:
    engine.answers["metrics_get"] = {
        "core": {"connections": 2, "cores": {"0": {"requests": 7}, "1": {"requests": 5}}, "pools": {}},
        "sessions": 2,
        "pools": [],
        "disks": [],
        "volumes": [VOLUME],
        "uptime_s": 1.5,
    }
    lines = rest.get("/metrics").text.splitlines()
    assert "sds_connections 2.0" in lines
    assert 'sds_core_requests{core="1"} 5.0' in lines
    assert "sds_sessions 2.0" in lines
    assert 'sds_volume_size_bytes{pool="archive",volume="pacs"} 1.099511627776e+12' in lines
    assert not any("name" in line and "core" in line for line in lines)


def test_the_schema_names_every_resource_with_examples(rest: httpx.Client) -> None:
    schema = rest.get("/openapi.json", headers={"authorization": ""}).json()
    nouns = ("pools", "disks", "volumes", "hosts", "exports", "events")
    assert {f"/v1/{noun}" for noun in nouns} | {"/healthz", "/metrics"} <= schema["paths"].keys()
    for name in ("PoolCreate", "DiskAdd", "VolumeCreate", "VolumeUpdate", "HostCreate", "ExportCreate", "Problem"):
        assert schema["components"]["schemas"][name]["examples"]


def test_what_is_no_http_ends_the_connection_alone(rest: httpx.Client, engine: ScriptedEngine) -> None:
    engine.answers["volume_get"] = VOLUME
    with socket.create_connection((rest.base_url.host, rest.base_url.port or 0), timeout=5) as raw:
        raw.sendall(b"\x00\xff\r\n\r\n")
        assert raw.recv(100).startswith(b"HTTP/1.1 400")
    assert rest.get("/v1/volumes/pacs").status_code == 200


def _half_asked(rest: httpx.Client) -> socket.socket:
    """A connection with a part of a request."""
    raw = socket.create_connection((rest.base_url.host, rest.base_url.port or 0), timeout=5)
    raw.sendall(b"GET /v1/volumes/pacs HTTP/1.1\r\nX-a")
    return raw


def _is_closed(raw: socket.socket) -> bool:
    try:
        return raw.recv(1) == b""
    except ConnectionResetError:
        return True


def test_who_only_connects_makes_room_for_who_asks(
    rest: httpx.Client, engine: ScriptedEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sds.gateway.lobby.CONNECTIONS_MAX", 20)
    engine.answers["volume_get"] = VOLUME
    with contextlib.ExitStack() as stack:
        silent = [stack.enter_context(_half_asked(rest)) for _ in range(50)]
        assert rest.get("/v1/volumes/pacs").status_code == 200
        assert all(_is_closed(raw) for raw in silent[:31])
        silent[-1].sendall(b": x\r\nHost: sds\r\n\r\n")
        assert silent[-1].recv(100).startswith(b"HTTP/1.1 401")


def test_a_request_that_drips_is_cut_off(
    rest: httpx.Client, engine: ScriptedEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sds.gateway.connections.REQUEST_LIMIT_S", 0.2)
    engine.answers["volume_get"] = VOLUME
    rest.get("/v1/volumes/pacs")
    with _half_asked(rest) as raw:
        raw.sendall(b"b")
        assert _is_closed(raw)
    assert rest.get("/v1/volumes/pacs").status_code == 200


def test_without_the_token_a_connection_has_one_request(rest: httpx.Client, engine: ScriptedEngine) -> None:
    request = b"GET /v1/volumes/pacs HTTP/1.1\r\nHost: sds\r\n\r\n"
    with socket.create_connection((rest.base_url.host, rest.base_url.port or 0), timeout=10) as raw:
        raw.sendall(request * 3)
        answer = b"".join(iter(lambda: raw.recv(65536), b""))
    assert answer.count(b"HTTP/1.1 401") == 1
    assert b"connection: close" in answer
    assert engine.asked == []


def test_with_the_token_a_connection_has_many(rest: httpx.Client, engine: ScriptedEngine) -> None:
    engine.answers["volume_get"] = VOLUME
    request = b"GET /v1/volumes/pacs HTTP/1.1\r\nHost: sds\r\nAuthorization: Bearer %b\r\n" % TOKEN.encode()
    with socket.create_connection((rest.base_url.host, rest.base_url.port or 0), timeout=10) as raw:
        raw.sendall((request + b"\r\n") * 2 + request + b"Connection: close\r\n\r\n")
        answer = b"".join(iter(lambda: raw.recv(65536), b""))
    assert answer.count(b"HTTP/1.1 200") == 3


def test_a_flood_without_the_token_waits_behind_an_administrator(
    rest: httpx.Client, engine: ScriptedEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sds.gateway.lobby.READS_PER_S", 20)
    engine.answers["volume_get"] = VOLUME
    request = b"GET /v1/volumes/pacs HTTP/1.1\r\nHost: sds\r\n\r\n"
    with contextlib.ExitStack() as stack:
        flood = [stack.enter_context(_asking(rest, "127.0.0.2", request)) for _ in range(READS_AT_ONCE_MAX + 50)]
        assert flood[0].recv(100).startswith(b"HTTP/1.1 401")
        assert rest.get("/v1/volumes/pacs").status_code == 200
        for raw in flood:
            raw.setblocking(False)
        assert sum(_has_answer(raw) for raw in flood[READS_AT_ONCE_MAX:]) < 40, "the flood's end goes on waiting"


def _asking(rest: httpx.Client, source: str, request: bytes) -> socket.socket:
    """A connection from another address with a request."""
    there = (rest.base_url.host, rest.base_url.port or 0)
    raw = socket.create_connection(there, timeout=5, source_address=(source, 0))
    raw.sendall(request)
    return raw


def _has_answer(raw: socket.socket) -> bool:
    try:
        return raw.recv(1) != b""
    except BlockingIOError:
        return False
