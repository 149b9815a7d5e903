"""What a power cut may leave of recorded disks: all that was synced, and of the rest what chance keeps."""

from __future__ import annotations

import os
import random
import subprocess
from collections.abc import Sequence
from pathlib import Path

from tests.durability.recorder import Event, Kind

SECTOR_BYTES = 512


class Images:
    """Disks as they are for certain, and the writes since, as the log goes on.

    Args:
        folder: the images lie in it, as `base-N`.
    """

    def __init__(self, folder: Path, sizes_bytes: Sequence[int]) -> None:
        self._bases = [folder / f"base-{disk}" for disk in range(len(sizes_bytes))]
        for base, size in zip(self._bases, sizes_bytes, strict=True):
            with base.open("wb") as file:
                file.truncate(size)
        self._cached: list[list[Event]] = [[] for _ in sizes_bytes]

    def take(self, event: Event) -> None:
        """The next event of the log."""
        cached = self._cached[event.disk]
        if event.kind is not Kind.SYNC:
            cached.append(event)
            return
        with self._bases[event.disk].open("r+b") as file:
            for write in cached:
                os.pwrite(file.fileno(), write.data, write.offset)
        cached.clear()

    def cut(self, chance: random.Random, targets: Sequence[Path]) -> None:
        """Makes the disks `targets` as a power cut now might leave them.

        Each disk by itself: everything got there, nothing did, or each write did, did not, or did in some sectors.
        """
        for base, target, cached in zip(self._bases, targets, self._cached, strict=True):
            subprocess.run(["cp", "--sparse=auto", "--reflink=auto", base, target], check=True)
            kept = chance.choice([0.0, 0.3, 0.7, 1.0])
            torn = chance.choice([0.0, 0.2])
            with target.open("r+b") as file:
                for write in cached:
                    if chance.random() < torn:
                        for at in range(0, len(write.data), SECTOR_BYTES):
                            if chance.random() < 0.5:
                                os.pwrite(file.fileno(), write.data[at : at + SECTOR_BYTES], write.offset + at)
                    elif chance.random() < kept:
                        os.pwrite(file.fileno(), write.data, write.offset)
