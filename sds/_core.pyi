"""The data path, in Rust (crates/py). Only the engine process and `sds upgrade` import it.

Every call may block and releases the GIL; every call but `stop` may be made from any thread. What changes a pool is
durable when the call returns.

A method raises CoreError unless its docstring says otherwise.
"""

from typing import Self, final

__all__ = ["CoreError", "Node", "catalog_documents", "rows_verify"]

def rows_verify(rows: list[tuple[bytes, bytes]]) -> list[tuple[int, str]]:
    """Decodes (key, value) rows of a pool's RocksDB; the places of those that are bad, and what is wrong with each."""

def catalog_documents(row: bytes) -> dict[str, bytes]:
    """Every entry of the catalog in the row `C` of a pool's RocksDB; CoreError `corrupt` if it is none."""

class CoreError(Exception):
    """The core refused or failed.

    Its `args` are (kind, message, value):
        kind: what came of it, in snake case. Of pools: invalid_field, too_small, not_found, exists, physical_block,
            foreign_label, disk_missing, corrupt, io, meta, no_space, busy, closed. Of disks and addresses, too:
            no_such_file, not_a_disk, permission, in_use, read_only, too_many, device_gone.
        message: what was wrong and what caused it, for a person.
        value: the number at fault, None if there is none.
    """

    args: tuple[str, str, int | None]

@final
class Node:
    """The reactors of this process, the disks that they hold, its pools and its targets."""

    def __new__(cls, cores: int, data_dir: str, options: dict[str, object] | None = None) -> Self:
        """Starts `cores` reactor threads.

        Args:
            data_dir: carry-over rings lie in its pools/UUID/carry-over.
            options: `log_level` (str: debug, info, warning or error) and by name, in the unit that it ends with:
                `carry_over_bytes`, `stop_wait_ms`, `commit_interval_ms`, `checkpoint_interval_ms`,
                `map_cache_bytes_max`, `connections_max`, `host_connections_max`, `payload_bytes_max`.
        """

    def listen_nvme(self, address: str) -> str:
        """Listens for NVMe/TCP on `HOST:PORT`; returns the address that it got."""

    def listen_iscsi(self, address: str) -> str:
        """Listens for iSCSI on `HOST:PORT`; returns the address that it got."""

    def disk_open(self, path: str, create_bytes: int | None = None, wait_ms: int = 10000) -> dict[str, object]:
        """Opens and locks a file or block device, or `memfd:NAME:BYTES`; waits up to `wait_ms` for who has it.

        Returns:
            id, path, size_bytes, logical_block_bytes, physical_block_bytes, rotational, volatile_cache, discard.
        """

    def disk_label(self, disk: int) -> dict[str, object] | None:
        """The pool label on an open disk, None where there is none.

        Returns:
            pool_uuid, pool_name, extent_bytes, disk_uuid, tier, rank, clean (bool: closed in order), opener (str: who
            opened the pool last), openings (how often that was done), slot_errors (a dict: why slot "A" or "B" can't
            be used).
        """

    def disk_close(self, disk: int) -> None:
        """Lets go of a disk that is in no open pool."""

    def pool_create(self, uuid: str, name: str, extent_bytes: int, disks: list[dict[str, object]]) -> None:
        """Makes a pool on open disks, each `{id, uuid, tier, rank}`; what they hold is lost."""

    def pool_open(self, uuid: str, disks: list[int], rename: str | None = None) -> dict[str, object]:
        """Opens a pool from its open disks; the ids of disks go over to it.

        Args:
            rename: what it is called from now on; as its labels say if None.

        Returns:
            what was recovered: import (bool: RocksDB was not usable and was rebuilt), unclean (bool: the predecessor
            did not stop cleanly), journal_groups and ring_groups (counts of what was replayed), and unused: the ids of
            disks that carry the pool's label and are not part of it, because their joining was cut off. Those are
            closed again.
        """

    def pool_close(self, uuid: str) -> None:
        """Stops a pool cleanly and closes its disks."""

    def pool_add_disk(self, uuid: str, disk: dict[str, object]) -> None:
        """Adds an open disk, `{id, uuid, tier, rank}`, to an open pool; what it holds is lost.

        Refused as physical_block if the pool has volumes whose blocks the disk does not write as a whole.
        """

    def pool_status(self, uuid: str) -> dict[str, object]:
        """Capacity and use.

        Returns:
            capacity_bytes, allocated_bytes, free_bytes, checkpoint_failed (bool: the journal fills up until a
            checkpoint succeeds), journal_failed (bool: nothing is durable until the pool is opened anew), journal_disks
            (how many disks have the journal), and disks: a list of {uuid, tier, capacity_bytes, allocated_bytes,
            physical_block_bytes, state: "online" or "failed"}.
        """

    def pool_check(self, uuid: str, pages_per_s_max: int) -> dict[str, object]:
        """Compares all that speaks of the same: pages of the map, extents, owner tables, free space, the catalog.

        It changes nothing, and hosts go on; it ends when all pages were seen, up to three times while they change.

        Returns:
            pages, extents, chunks, owners (counts of what was seen), pages_changing (how many were not compared with
            owner tables), walks, findings (a list of str: what does not agree, up to 10,000), cut_off (bool: there may
            be more).
        """

    def pool_scrub_start(self, uuid: str, bytes_per_second_max: int) -> None:
        """Begins to read and verify all metadata and every sealed block of the pool.

        Damaged copies of metadata are mended from others, and what nobody has written for long is sealed.
        """

    def pool_scrub_status(self, uuid: str) -> dict[str, object]:
        """The last scrub since the pool was opened.

        Returns:
            state ("none", "running", "done", "stopped", "failed"), began_s, ended_s (None while it runs; Unix times),
            bytes_per_second_max, pages_done, pages (of the map; 0 until they are counted), unsealed_blocks (of 4 KiB:
            data that has no CRC yet), and disks: a list of {uuid, verified_blocks, corrupt_blocks, unreadable_blocks,
            metadata_verified, metadata_damaged, metadata_mended} (the last three in copies of structures).
        """

    def pool_scrub_stop(self, uuid: str) -> None:
        """A scrub that is running ends soon."""

    def volume_create(self, pool: str, volume_uuid: str, size_bytes: int, logical_block_bytes: int = 512) -> None:
        """Makes a thin volume; refused as physical_block if a disk of the pool does not write its blocks as a whole."""

    def volume_resize(self, pool: str, volume_uuid: str, size_bytes: int) -> None:
        """Grows a volume; its hosts are told."""

    def volume_terms_set(self, pool: str, volume_uuid: str, terms: dict[str, object]) -> None:
        """Serves a volume on these terms from now on; hosts that see it are told if it looks different.

        With write_through set anew, what was acknowledged before is durable when this returns.

        Args:
            terms: read_only, write_through, detect_zeroes (bool: writes of zeros alone are holes), iops_max,
                bytes_per_second_max (int, None: no limit), iops_burst (int, requests) and burst_bytes: how much may
                be saved up while nobody asks.
        """

    def volume_delete(self, pool: str, volume_uuid: str) -> None:
        """Deletes a volume; its space comes back in the background."""

    def volume_status(self, pool: str, volume_uuid: str) -> dict[str, object]:
        """size_bytes, logical_block_bytes, allocated_bytes, and since the node's start reads, writes, and
        delayed_requests (how many waited for the volume's rates).
        """

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
        """The connections of hosts now.

        Returns:
            each {protocol, host, name, peer, queue, header_digest, data_digest, core, executing}.
        """

    def meta_next(self, timeout_ms: int) -> tuple[int, str, tuple[object, ...]] | None:
        """The next work for RocksDB, None when the time is over or the node was stopped.

        Returns:
            (work, pool uuid, ("get", [keys]) | ("scan", prefix, after, rows_max) | ("put", [(key, value or None)])).
            Each is answered once by `meta_done`, in any order, from any thread.
        """

    def meta_done(self, work: int, result: object) -> None:
        """Answers it: get -> [value or None], scan -> [(key, value)], put -> None; an Exception when it failed."""

    def events_next(self, timeout_ms: int) -> list[dict[str, object]] | None:
        """What happened: each {level, kind, message, subject}; None when the time is over or the node was stopped.

        Kinds: pool-imported, pool-unclean, metadata-damaged, disk-failed, disk-lost-writes, journal-disk-lost,
        block-corrupt, checkpoint-failed, checkpoint-recovered, pool-full, pool-has-space.
        """

    def metrics(self) -> dict[str, object]:
        """Counters and gauges by name; `cores` has them by the core's number, `pools` by the pool's name."""

    def stop(self) -> None:
        """Stops everything in order: hosts, pools, reactors. The last checkpoints still ask `meta_next`.

        Raises:
            CoreError: a pool could not store everything; it is stopped all the same, and its next opening replays it.
        """
