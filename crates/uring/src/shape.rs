//! What an opened disk is: sizes and the queue limits that the kernel shows in sysfs.

use std::fs;
use std::os::fd::BorrowedFd;
use std::path::PathBuf;

use rustix::fs::{FileType, Stat, fstatfs};
use sds_io::DiskInfo;

/// Files on any file system transfer multiples of this (O_DIRECT on a 4Kn device needs more; see [`logical_block`]).
const FILE_BLOCK_BYTES: u32 = 512;
/// What pools are laid out in: sizes are multiples of it.
const LAYOUT_BLOCK_BYTES: u32 = 4096;
/// statfs(2): a file system whose files are lost with the machine's power, so that it tears nothing.
const TMPFS_MAGIC: i64 = 0x0102_1994;

/// The value of a queue attribute of block device `device`; partitions have their parent's queue.
fn queue_attribute(device: u64, name: &str) -> Option<String> {
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    let base = PathBuf::from(format!("/sys/dev/block/{major}:{minor}"));
    [base.join("queue"), base.join("../queue")]
        .iter()
        .find_map(|queue| fs::read_to_string(queue.join(name)).ok())
        .map(|text| text.trim().to_owned())
}

fn attribute_number(device: u64, name: &str) -> Option<u64> {
    queue_attribute(device, name)?.parse().ok()
}

/// A direct transfer on a file needs the logical block of the device below it.
fn logical_block(device: u64) -> u32 {
    attribute_number(device, "logical_block_size")
        .and_then(|bytes| u32::try_from(bytes).ok())
        .filter(|bytes| bytes.is_power_of_two())
        .unwrap_or(FILE_BLOCK_BYTES)
}

/// What is written to a file as a whole: the physical block of the device below its file system, as far as the file
/// system's own block keeps it together. Where none is known below (FUSE, NFS, btrfs, overlays), the least is assumed.
fn physical_block_of_file(file: BorrowedFd<'_>, stat: &Stat) -> u32 {
    if fstatfs(file).is_ok_and(|system| system.f_type == TMPFS_MAGIC) {
        return LAYOUT_BLOCK_BYTES;
    }
    let device = attribute_number(stat.st_dev, "physical_block_size").unwrap_or(u64::from(FILE_BLOCK_BYTES));
    let system = u64::try_from(stat.st_blksize).unwrap_or(device);
    u32::try_from(device.min(system)).unwrap_or(FILE_BLOCK_BYTES)
}

/// The shape of an open block device of `size_bytes`.
pub(crate) fn of_block_device(path: &str, file: BorrowedFd<'_>, stat: &Stat, size_bytes: u64) -> DiskInfo {
    let device = stat.st_rdev;
    let logical = rustix::fs::ioctl_blksszget(file).unwrap_or_else(|_| logical_block(device));
    let physical = rustix::fs::ioctl_blkpbszget(file).unwrap_or(logical);
    DiskInfo {
        path: path.to_owned(),
        size_bytes: size_bytes - size_bytes % u64::from(logical.max(LAYOUT_BLOCK_BYTES)),
        logical_block_bytes: logical,
        physical_block_bytes: physical.max(logical),
        rotational: queue_attribute(device, "rotational").is_some_and(|text| text == "1"),
        // Unknown counts as volatile: that costs a sync, the opposite costs data.
        volatile_cache: queue_attribute(device, "write_cache").is_none_or(|text| text != "write through"),
        discard: attribute_number(device, "discard_max_bytes").is_some_and(|bytes| bytes > 0),
    }
}

/// The shape of an open file. Its file system's metadata (block mapping, size) is volatile until a sync, whatever the
/// device below does, so it has a volatile cache.
pub(crate) fn of_file(path: &str, file: BorrowedFd<'_>, stat: &Stat, size_bytes: u64) -> DiskInfo {
    let logical = logical_block(stat.st_dev);
    DiskInfo {
        path: path.to_owned(),
        size_bytes: size_bytes - size_bytes % u64::from(logical.max(LAYOUT_BLOCK_BYTES)),
        logical_block_bytes: logical,
        physical_block_bytes: physical_block_of_file(file, stat).max(logical),
        rotational: queue_attribute(stat.st_dev, "rotational").is_some_and(|text| text == "1"),
        volatile_cache: true,
        discard: true,
    }
}

/// The shape of memory: all of it is lost with the process, so it counts as a volatile cache.
pub(crate) fn of_memory(path: &str, size_bytes: u64) -> DiskInfo {
    DiskInfo {
        path: path.to_owned(),
        size_bytes,
        logical_block_bytes: FILE_BLOCK_BYTES,
        physical_block_bytes: LAYOUT_BLOCK_BYTES,
        rotational: false,
        volatile_cache: true,
        discard: true,
    }
}

pub(crate) fn is_block_device(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::BlockDevice
}

pub(crate) fn is_file(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile
}
