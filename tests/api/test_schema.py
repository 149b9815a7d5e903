"""REST against its own schema: random requests to a real node never get a 5xx, and every answer is what is documented.

The requests follow from the seed (`SDS_SEED`, 1 if it is not set) and schemathesis's version.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.core.failures import FailureGroup
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.clients.conftest import bare_server
from tests.server import Server

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
EXAMPLES_PER_OPERATION = 12
REQUEST_LIMIT_S = 30
SEED = int(os.environ.get("SDS_SEED", "1"))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A node with one of each resource, named as the schema's examples name them."""
    with bare_server(tmp_path_factory.mktemp("schema")) as server:
        server.start()
        rest = server.rest
        rest.post("/v1/pools", {"name": "archive"})
        rest.post("/v1/disks", {"pool": "archive", "path": "memfd:schema:134217728", "tier": "hdd"})
        rest.post("/v1/volumes", {"name": "pacs", "pool": "archive", "size_bytes": 1 << 30})
        rest.post("/v1/hosts", {"name": "pacs1", "nqn": "nqn.2026-11.io.sds:pacs1"})
        rest.post("/v1/exports", {"volume": "pacs", "protocol": "nvme", "hosts": ["pacs1"]})
        yield server


@pytest.mark.parametrize("mode", list(GenerationMode), ids=str)
def test_every_answer_is_documented_and_none_is_a_failure(server: Server, tmp_path: Path, mode: GenerationMode) -> None:
    headers = {"authorization": f"Bearer {server.rest.token}"}

    @seed(SEED)
    @settings(
        max_examples=EXAMPLES_PER_OPERATION,
        deadline=None,
        database=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    def try_out(case: Any) -> None:
        if case.operation.label == "POST /v1/disks" and isinstance(case.body, dict):
            # A random path is not to be a file or a disk of this machine.
            case.body["path"] = f"{tmp_path}/{str(case.body.get('path')).replace('/', '')}"
        case.call_and_validate(checks=CHECKS, headers=headers, timeout=REQUEST_LIMIT_S)

    schema = schemathesis.openapi.from_url(f"{server.url}/openapi.json")
    failures: list[BaseException] = []
    for found in schema.get_all_operations():
        # An operation that takes nothing can't be asked wrongly.
        with suppress(Unsatisfiable):
            try:
                assert isinstance(found, Ok)
                given(case=found.ok().as_strategy(generation_mode=mode))(try_out)()
            except FailureGroup as failure:
                failures.append(failure)
    assert not failures, "\n".join(str(failure) for failure in failures)
