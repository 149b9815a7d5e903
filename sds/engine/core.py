"""Calls into the core: off the event loop, and with its errors in the tree that users are shown."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import ParamSpec, TypeVar

from sds._core import CoreError
from sds.errors import Conflict, DiskRefused, EngineRunning, InvalidValue, NoSpace, NotFound, SdsError, Unavailable

P = ParamSpec("P")
T = TypeVar("T")


def _invalid(message: str) -> SdsError:
    return InvalidValue("value", message, "see the message")


def _torn(message: str) -> SdsError:
    return DiskRefused(message, accepted="logical_block_bytes 512, or disks whose physical blocks have 4096 bytes")


# From the core's kind to the class that a user sees. What is not here is a fault of the product or of a disk, and
# stays an internal error with the core's words.
TABLE: Mapping[str, Callable[[str], SdsError]] = {
    "invalid_field": _invalid,
    "no_space": NoSpace,
    "physical_block": _torn,
    "disk_missing": DiskRefused,
    "too_small": DiskRefused,
    "foreign_label": DiskRefused,
    "not_a_disk": DiskRefused,
    "no_such_file": DiskRefused,
    "permission": DiskRefused,
    "read_only": DiskRefused,
    "device_gone": DiskRefused,
    "in_use": EngineRunning,
    "exists": Conflict,
    "not_found": NotFound,
    "busy": Unavailable,
    "closed": Unavailable,
}


def translated(error: CoreError) -> SdsError:
    """The user's error for one of the core's."""
    kind, message, _ = error.args
    return TABLE.get(kind, SdsError)(message)


async def call(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Runs a call of the core on a thread; it may block.

    Raises:
        SdsError: the core refused, as TABLE has it.
    """
    try:
        return await asyncio.to_thread(function, *args, **kwargs)
    except CoreError as error:
        raise translated(error) from error
