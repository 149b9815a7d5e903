"""What an administrator should know of, in order, the newest of it kept over restarts."""

from __future__ import annotations

import json
import logging
from collections import deque
from datetime import UTC, datetime

from sds.engine.store import Change, Store, StoreError

log = logging.getLogger("sds.event")

EVENTS_MAX = 10_000
LEVELS = {"info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
_PREFIX = b"event/"

Event = dict[str, object]


class Events:
    """A ring of EVENTS_MAX events in the node's database. Each is logged as well, an error as ERROR.

    An event is {id, time, level, kind, subject, message}; ids grow by one and are never used again.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        rows = store.scan(_PREFIX, b"", EVENTS_MAX)
        self._kept: deque[Event] = deque(json.loads(value) for _, value in rows)
        # What could not be stored yet; of an event each, so that it is no longer than the ring.
        self._unstored: deque[list[Change]] = deque(maxlen=EVENTS_MAX)
        last = self._kept[-1]["id"] if self._kept else 0
        self._next = int(str(last)) + 1

    def add(self, level: str, kind: str, message: str, subject: str = "") -> None:
        """Notes an event.

        Args:
            level: info, warning or error.
            kind: a stable slug, such as `pool-opened`.
            subject: what it is about, such as `pool/archive`.
        """
        log.log(LEVELS[level], "%s: %s", kind, message)
        number, self._next = self._next, self._next + 1
        time = datetime.now(UTC).isoformat(timespec="milliseconds")
        event: Event = {"id": number, "time": time, "level": level, "kind": kind, "subject": subject}
        event["message"] = message
        changes: list[Change] = [(_key(number), json.dumps(event).encode())]
        self._kept.append(event)
        if len(self._kept) > EVENTS_MAX:
            self._kept.popleft()
            changes.append((_key(number - EVENTS_MAX), None))
        self._unstored.append(changes)
        try:
            self._store.put([change for of_event in self._unstored for change in of_event])
        except StoreError as error:
            # A full data folder must not stop what the event is about. A later event takes it along.
            log.error("an event can't be stored yet: %s", error)
        else:
            self._unstored.clear()

    def newest_first(self) -> list[Event]:
        """Every event that is kept."""
        return list(reversed(self._kept))


def _key(number: int) -> bytes:
    return _PREFIX + b"%016d" % number
