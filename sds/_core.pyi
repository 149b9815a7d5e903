"""The data path, in Rust (crates/py). Only the engine process imports it.

Every call may block and releases the GIL; every call but `stop` may be made from any thread. What changes a pool is
durable when the call returns.

A method raises CoreError unless its docstring says otherwise.
"""

class CoreError(Exception):
    """The core refused or failed.

    Its `args` are (kind, message, value):
        kind: what came of it, in snake case: the waist's error kinds (out_of_range, invalid_field, unsupported,
            no_space, media_error, checksum_mismatch, reservation_conflict, fenced, device_gone, timed_out, read_only,
            miscompare, busy), and those of opening and of pools: not_found, exists, too_small, in_use, no_such_file,
            permission, not_a_disk, io.
        message: what was wrong, for a person.
        value: the number at fault, None if there is none.
    """

    args: tuple[str, str, int | None]

class Node:
    """The reactors of this process, the disks that they hold, its pools and its targets."""

    def __init__(self, cores: int, data_dir: str, options: dict[str, object] = ...) -> None:
        """Starts `cores` reactor threads.

        Args:
            data_dir: carry-over rings lie in its pools/UUID/carry-over.
            options: `log_level` (str) and limits by name.
        """

    def listen_nvme(self, address: str) -> str:
        """Listens for NVMe/TCP on `HOST:PORT`; returns the address that it got."""

    def listen_iscsi(self, address: str) -> str:
        """Listens for iSCSI on `HOST:PORT`; returns the address that it got."""

    def disk_open(self, path: str, create_bytes: int | None = None) -> dict[str, object]:
        """Opens and locks a file or block device, or `memfd:NAME:BYTES`.

        Returns:
            id, path, size_bytes, logical_block_bytes, physical_block_bytes, rotational, volatile_cache, discard.
        """

    def disk_label(self, disk: int) -> dict[str, object] | None:
        """The pool label on an open disk, None where there is none.

        Returns:
            pool_uuid, pool_name, disk_uuid, tier, slot ("A" or "B": the one that was used), slot_a_error (why slot A
            was not, None if it was).
        """

    def disk_close(self, disk: int) -> None:
        """Lets go of a disk that is in no open pool."""

    def pool_create(self, uuid: str, name: str, extent_bytes: int, disks: list[dict[str, object]]) -> None:
        """Makes a pool on open disks, each `{id, uuid, tier, rank}`; what they hold is lost."""

    def pool_open(self, uuid: str, disks: list[int]) -> dict[str, object]:
        """Opens a pool from its open disks; the ids of disks go over to it.

        Returns:
            what was recovered: import (bool: RocksDB was not usable and was rebuilt), unclean (bool: the predecessor
            did not stop cleanly), and counts of what was replayed.
        """

    def pool_close(self, uuid: str) -> None:
        """Stops a pool cleanly and closes its disks."""

    def pool_add_disk(self, uuid: str, disk: dict[str, object]) -> None:
        """Adds an open disk, `{id, uuid, tier, rank}`, to an open pool; what it holds is lost."""

    def pool_status(self, uuid: str) -> dict[str, object]:
        """Capacity and use.

        Returns:
            capacity_bytes, allocated_bytes, free_bytes, and disks: a list of {uuid, tier, capacity_bytes,
            allocated_bytes, state}.
        """

    def volume_create(self, pool: str, volume_uuid: str, size_bytes: int, logical_block_bytes: int = 512) -> None:
        """Makes a thin volume."""

    def volume_resize(self, pool: str, volume_uuid: str, size_bytes: int) -> None:
        """Grows a volume; its hosts are told."""

    def volume_delete(self, pool: str, volume_uuid: str) -> None:
        """Deletes a volume; its space comes back in the background."""

    def volume_status(self, pool: str, volume_uuid: str) -> dict[str, object]:
        """size_bytes, logical_block_bytes, allocated_bytes, and reads, writes: requests since the node's start."""

    def document_put(self, pool: str, key: str, value: bytes | None) -> None:
        """Stores (None: removes) an entry of the pool's catalog, which the core does not look into."""

    def documents(self, pool: str) -> dict[str, bytes]:
        """Every entry of the pool's catalog."""

    def exports_set(self, exports: list[dict[str, object]]) -> None:
        """Replaces the whole export table.

        Args:
            exports: each `{protocol: "nvme" | "iscsi", name: NQN or IQN, unit: nsid or LUN, pool, volume,
                access: "any" | [NQN or IQN], serial}`.
        """

    def sessions(self) -> list[dict[str, object]]:
        """The hosts that are connected now."""

    def meta_next(self, timeout_ms: int) -> tuple[int, str, tuple[object, ...]] | None:
        """The next work for RocksDB, None when the time is over or the node was stopped.

        Returns:
            (work, pool uuid, ("get", [keys]) | ("scan", prefix, after, rows_max) | ("put", [(key, value or None)])).
            Each is answered once by `meta_done`, in any order, from any thread.
        """

    def meta_done(self, work: int, result: object) -> None:
        """Answers it: get -> [value or None], scan -> [(key, value)], put -> None; an Exception when it failed."""

    def events_next(self, timeout_ms: int) -> list[dict[str, object]] | None:
        """What happened: each {kind, level, message, ...}; None when the time is over or the node was stopped."""

    def metrics(self) -> dict[str, object]:
        """Counters and gauges by name; a nested dict groups."""

    def stop(self) -> None:
        """Stops every pool and every reactor."""
