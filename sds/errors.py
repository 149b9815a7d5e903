# ruff: noqa: N818 - the names say what is wrong, as an except clause reads them.
"""Every error that a user can be shown, in one tree; the HTTP status of each stands beside it.

    SdsError                        500  internal
    ├── InvalidValue                422  invalid-value      a field's value is never right; `accepted` says what is
    ├── Unauthorized                401  unauthorized       no token, or a wrong one
    ├── NotFound                    404  not-found          nothing of that name
    ├── MethodNotAllowed            405  method-not-allowed the resource does not take this HTTP method
    ├── Conflict                    409  conflict           right by itself, not beside what there is
    │   ├── NameTaken               409  name-taken         the name exists with other parameters
    │   ├── InUse                   409  in-use             something that depends on it would break
    │   ├── DiskRefused             409  disk-refused       the disk carries something, or somebody uses it
    │   ├── EngineRunning           409  engine-running     another engine holds the data folder or the pool's disks
    │   └── DataFormat              409  data-format        the data folder is of another format, or damaged
    ├── TooLarge                    413  too-large          the request's body is over the limit
    ├── NoSpace                     507  no-space           the pool or the data folder has no room for it
    └── Unavailable                 503  unavailable        the engine can't be asked now; asking again is right

The slug is the stable part: it ends the `type` of the problem document (RFC 9457) that REST answers, and it is what
crosses the engine's socket in `error.data.type`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

# The prefix of every problem's `type`. A URI reference, resolved by nobody: it has to be stable, not to exist.
PROBLEM_PREFIX = "urn:sds:problem:"


class SdsError(Exception):
    """Something failed; `detail` says what, for a person.

    Attributes:
        detail: one sentence about this very case.
        field: the request's field at fault, if there is one.
        accepted: what would be accepted instead.
    """

    status: ClassVar[int] = 500
    slug: ClassVar[str] = "internal"
    title: ClassVar[str] = "Internal error"

    def __init__(self, detail: str, *, field: str | None = None, accepted: str | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.field = field
        self.accepted = accepted

    def data(self) -> dict[str, str | None]:
        """What crosses the engine's socket beside the message."""
        return {"type": self.slug, "field": self.field, "accepted": self.accepted}


class InvalidValue(SdsError):
    """A field's value is never right, whatever else there is."""

    status = 422
    slug = "invalid-value"
    title = "Invalid value"

    def __init__(self, field: str, detail: str, accepted: str) -> None:
        super().__init__(detail, field=field, accepted=accepted)


class Unauthorized(SdsError):
    """The request has no bearer token or a wrong one."""

    status = 401
    slug = "unauthorized"
    title = "Unauthorized"


class NotFound(SdsError):
    """There is nothing of that name."""

    status = 404
    slug = "not-found"
    title = "Not found"


class MethodNotAllowed(SdsError):
    """The resource does not take this HTTP method."""

    status = 405
    slug = "method-not-allowed"
    title = "Method not allowed"


class Conflict(SdsError):
    """The request is right by itself, and not beside what there is."""

    status = 409
    slug = "conflict"
    title = "Conflict"


class NameTaken(Conflict):
    """The name exists, with other parameters than those asked for."""

    slug = "name-taken"
    title = "Name taken"


class InUse(Conflict):
    """Something that depends on it would break."""

    slug = "in-use"
    title = "In use"


class DiskRefused(Conflict):
    """The disk carries something that would be lost, or somebody uses it."""

    slug = "disk-refused"
    title = "Disk refused"


class EngineRunning(Conflict):
    """Another engine holds the data folder or the disks."""

    slug = "engine-running"
    title = "Another engine is running"


class DataFormat(Conflict):
    """The data folder is of a format that this program does not take, or its format can't be told."""

    slug = "data-format"
    title = "Data folder of another format"


class TooLarge(SdsError):
    """The request's body is over the limit."""

    status = 413
    slug = "too-large"
    title = "Request too large"


class NoSpace(SdsError):
    """The pool or the data folder has no room for it."""

    status = 507
    slug = "no-space"
    title = "No space"


class Unavailable(SdsError):
    """The engine can't be asked now; asking again is right."""

    status = 503
    slug = "unavailable"
    title = "Engine unavailable"


def _tree(root: type[SdsError]) -> dict[str, type[SdsError]]:
    classes = {root.slug: root}
    for child in root.__subclasses__():
        classes |= _tree(child)
    return classes


BY_SLUG: Mapping[str, type[SdsError]] = _tree(SdsError)


def from_data(message: str, data: Mapping[str, object]) -> SdsError:
    """The error that crossed the socket; one with an unknown slug becomes a plain SdsError."""
    found = BY_SLUG.get(str(data.get("type")), SdsError)
    field = data.get("field")
    accepted = data.get("accepted")
    error = found.__new__(found)
    SdsError.__init__(
        error,
        message,
        field=None if field is None else str(field),
        accepted=None if accepted is None else str(accepted),
    )
    return error
