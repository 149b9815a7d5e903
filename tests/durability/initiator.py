"""A host of one volume over iSCSI: libiscsi's synchronous calls, from any thread.

Each call blocks and lets other threads run, so one `Initiator` a thread gives as many requests at once.
"""

from __future__ import annotations

import ctypes
from types import TracebackType
from typing import Any, Self

SECTOR_BYTES = 512
TIME_LIMIT_S = 20
NAME = b"iqn.2026-11.test:durability"
_GOOD = 0


class InitiatorError(Exception):
    """The target refused, or the connection is gone; what was asked may have been done or not."""


class _Sense(ctypes.Structure):
    _fields_ = [
        ("error_type", ctypes.c_ubyte),
        ("key", ctypes.c_int),
        ("ascq", ctypes.c_int),
        ("flags", ctypes.c_ubyte),
        ("bit_pointer", ctypes.c_ubyte),
        ("field_pointer", ctypes.c_uint16),
    ]


class _Data(ctypes.Structure):
    _fields_ = [("size", ctypes.c_int), ("data", ctypes.c_void_p)]


class _Task(ctypes.Structure):
    # The head of `struct scsi_task` of iscsi/scsi-lowlevel.h, as far as it is read here.
    _fields_ = [
        ("status", ctypes.c_int),
        ("cdb_size", ctypes.c_int),
        ("xfer_dir", ctypes.c_int),
        ("expxferlen", ctypes.c_int),
        ("cdb", ctypes.c_ubyte * 16),
        ("residual_status", ctypes.c_int),
        ("residual", ctypes.c_size_t),
        ("sense", _Sense),
        ("datain", _Data),
    ]


class _Extent(ctypes.Structure):
    _fields_ = [("lba", ctypes.c_uint64), ("num", ctypes.c_uint32)]


def _library() -> Any:
    library = ctypes.CDLL("libiscsi.so.7")
    task, pointer, u64, u32 = ctypes.POINTER(_Task), ctypes.c_void_p, ctypes.c_uint64, ctypes.c_uint32
    c_int, text = ctypes.c_int, ctypes.c_char_p
    signatures: list[tuple[Any, ...]] = [
        ("iscsi_create_context", pointer, text),
        ("iscsi_destroy_context", c_int, pointer),
        ("iscsi_set_targetname", c_int, pointer, text),
        ("iscsi_set_session_type", c_int, pointer, c_int),
        ("iscsi_set_timeout", c_int, pointer, c_int),
        ("iscsi_set_noautoreconnect", None, pointer, c_int),
        ("iscsi_full_connect_sync", c_int, pointer, text, c_int),
        ("iscsi_get_error", text, pointer),
        ("iscsi_read16_sync", task, pointer, c_int, u64, u32, *[c_int] * 6),
        ("iscsi_write16_sync", task, pointer, c_int, u64, text, u32, *[c_int] * 6),
        ("iscsi_synchronizecache16_sync", task, pointer, c_int, u64, u32, c_int, c_int),
        ("iscsi_unmap_sync", task, pointer, c_int, c_int, c_int, ctypes.POINTER(_Extent), c_int),
        ("scsi_free_scsi_task", None, task),
    ]
    for name, result, *arguments in signatures:
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library


class Initiator:
    """A session of its own with one LUN.

    Args:
        portal: `HOST:PORT`.
        target: the IQN.

    Raises:
        InitiatorError: no session came about within TIME_LIMIT_S.
    """

    def __init__(self, portal: str, target: str, lun: int) -> None:
        self._library = _library()
        self._lun = lun
        self._context = self._library.iscsi_create_context(NAME)
        self._library.iscsi_set_targetname(self._context, target.encode())
        self._library.iscsi_set_session_type(self._context, 2)  # ISCSI_SESSION_NORMAL
        self._library.iscsi_set_timeout(self._context, TIME_LIMIT_S)
        self._library.iscsi_set_noautoreconnect(self._context, 1)
        if self._library.iscsi_full_connect_sync(self._context, portal.encode(), lun) != 0:
            error = self._error()
            self.close()
            raise InitiatorError(f"{portal} {target}: {error}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Drops the session, without a logout."""
        if self._context is not None:
            self._library.iscsi_destroy_context(self._context)
            self._context = None

    def read(self, sector: int, sectors: int) -> bytes:
        """READ (16)."""
        length = sectors * SECTOR_BYTES
        task = self._library.iscsi_read16_sync(self._context, self._lun, sector, length, SECTOR_BYTES, 0, 0, 0, 0, 0)
        data = self._end(task)
        if len(data) != length:
            raise InitiatorError(f"{len(data)} of {length} bytes were read")
        return data

    def write(self, sector: int, data: bytes, *, fua: bool = False) -> None:
        """WRITE (16)."""
        call = self._library.iscsi_write16_sync
        self._end(call(self._context, self._lun, sector, data, len(data), SECTOR_BYTES, 0, 0, int(fua), 0, 0))

    def flush(self) -> None:
        """SYNCHRONIZE CACHE (16) of the whole unit."""
        self._end(self._library.iscsi_synchronizecache16_sync(self._context, self._lun, 0, 0, 0, 0))

    def unmap(self, sector: int, sectors: int) -> None:
        """UNMAP of one range."""
        self._end(self._library.iscsi_unmap_sync(self._context, self._lun, 0, 0, _Extent(sector, sectors), 1))

    def _end(self, task: Any) -> bytes:
        if not task:
            raise InitiatorError(self._error())
        try:
            if task.contents.status != _GOOD:
                raise InitiatorError(f"status {task.contents.status}: {self._error()}")
            datain = task.contents.datain
            return ctypes.string_at(datain.data, datain.size) if datain.size > 0 else b""
        finally:
            self._library.scsi_free_scsi_task(task)

    def _error(self) -> str:
        return str(self._library.iscsi_get_error(self._context).decode(errors="replace"))
