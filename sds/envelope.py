"""Documents of the data folder that are their own: JSON that a person can read, with a version and a checksum.

    {"version":2,"crc32":"0b5e7a11","pool":{...}}

The checksum is CRC-32 (IEEE 802.3) of the body as JSON without blanks, in the order in which it stands, in ASCII. So
white space may change and nothing else.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from typing import Any

from sds.errors import SdsError


def seal(name: str, version: int, body: Mapping[str, Any]) -> bytes:
    """A document with a body of that name."""
    return _text({"version": version, "crc32": _crc(body), name: body})


def unseal(name: str, version: int, data: bytes) -> dict[str, Any]:
    """The body of a document.

    Raises:
        SdsError: it is none, is of another version, or was changed.
    """
    try:
        document = json.loads(data)
    except ValueError as error:
        raise SdsError(f"it is no JSON: {error}") from error
    if not isinstance(document, dict):
        raise SdsError(f"it is no document but {type(document).__name__}")
    if document.get("version") != version:
        raise SdsError(f"it has version {document.get('version')}; this program reads version {version}")
    body = document.get(name)
    if not isinstance(body, dict):
        raise SdsError(f"it has no {name}")
    if document.get("crc32") != _crc(body):
        raise SdsError(f"its crc32 is {document.get('crc32')}, its contents have {_crc(body)}")
    return body


def _crc(body: Mapping[str, Any]) -> str:
    return f"{zlib.crc32(_text(body)):08x}"


def _text(values: Mapping[str, Any]) -> bytes:
    return json.dumps(values, separators=(",", ":")).encode()
