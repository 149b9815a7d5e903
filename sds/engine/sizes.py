"""How large the embedded default's disks are."""

from __future__ import annotations

from sds.names import GIB, MIB

FREE_SHARE = 4  # The disks together take at most this part of the free space.
FLASH_SHARE = 4  # Flash gets this part of it: a quarter to three quarters is a usual mix.
FLASH_BYTES_MAX = 4 * GIB  # Enough to try with, and little enough for a laptop.
HDD_BYTES_MAX = 12 * GIB


def sizes(free_bytes: int) -> tuple[int, int]:
    """The flash and the HDD disk's sizes in bytes, whole mebibytes."""
    budget = free_bytes // FREE_SHARE
    flash = min(budget // FLASH_SHARE, FLASH_BYTES_MAX)
    hdd = min(budget - budget // FLASH_SHARE, HDD_BYTES_MAX)
    return flash // MIB * MIB, hdd // MIB * MIB
