//! Memory that survives the death of the process and not that of the machine.
//!
//! Layout of the file: one page of header (magic, version, capacity, boot id), then `capacity_bytes` bytes of content.
//! The content is page cache of a shared mapping: a killed process leaves it as it was. After a reboot the boot id
//! differs and the content counts as nothing, because the disks may have lost what it speaks of.
//!
//! The downside of a file in the data folder: the kernel writes dirty pages back now and then, which costs a little
//! disk bandwidth for bytes that a reboot ignores. A memfd would not, but it dies with its last process.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::atomic::{Ordering, fence};

use rustix::fs::FlockOperation;
use sds_io::CarryOver;

use crate::mapping::Mapping;

const HEADER_BYTES: usize = 4096;
const MAGIC: [u8; 8] = *b"sdscarry";
const VERSION: u32 = 1;
/// 36 characters of a UUID and its newline, rounded up.
const BOOT_ID_BYTES: usize = 40;
/// Magic, version, reserved, capacity, boot id.
const HEADER_USED_BYTES: usize = 8 + 4 + 4 + 8 + BOOT_ID_BYTES;

/// A mapped file tagged with the kernel's boot id.
#[derive(Debug)]
pub struct MappedCarryOver {
    mapping: Mapping,
    inherited: bool,
    // The lock on it lasts as long as it is open.
    _file: File,
}

fn header(capacity_bytes: usize, boot_id: &str) -> [u8; HEADER_USED_BYTES] {
    let mut out = [0; HEADER_USED_BYTES];
    out[..8].copy_from_slice(&MAGIC);
    out[8..12].copy_from_slice(&VERSION.to_le_bytes());
    out[16..24].copy_from_slice(&(capacity_bytes as u64).to_le_bytes());
    let id = boot_id.trim().as_bytes();
    let len = id.len().min(BOOT_ID_BYTES);
    out[24..24 + len].copy_from_slice(&id[..len]);
    out
}

impl MappedCarryOver {
    /// Opens or creates the file at `path` with `capacity_bytes` of content. What another boot, another version or
    /// another capacity left is cleared.
    ///
    /// # Errors
    /// `WouldBlock` if another engine has it; otherwise the system's error.
    pub fn open(path: &Path, capacity_bytes: usize) -> io::Result<Self> {
        let boot_id = fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
        Self::open_of_boot(path, capacity_bytes, &boot_id)
    }

    fn open_of_boot(path: &Path, capacity_bytes: usize, boot_id: &str) -> io::Result<Self> {
        let file = File::options().read(true).write(true).create(true).truncate(false).open(path)?;
        rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive)?;
        let file_bytes = HEADER_BYTES + capacity_bytes;
        let same_size = file.metadata()?.len() == file_bytes as u64;
        file.set_len(file_bytes as u64)?;
        // Allocated now: a store into a hole of a full file system would kill the process with SIGBUS.
        rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, file_bytes as u64)?;
        let mapping = Mapping::new(file.as_fd(), file_bytes)?;
        let expected = header(capacity_bytes, boot_id);
        let mut found = [0; HEADER_USED_BYTES];
        mapping.read(0, &mut found);
        let inherited = same_size && found == expected;
        if !inherited {
            // The header goes first: a kill between these steps leaves a file that counts as nothing.
            mapping.fill_zero(0, HEADER_BYTES);
            fence(Ordering::SeqCst);
            mapping.fill_zero(HEADER_BYTES, capacity_bytes);
            fence(Ordering::SeqCst);
            mapping.write(0, &expected);
        }
        Ok(Self { mapping, inherited, _file: file })
    }

    /// True if a predecessor of this boot left it.
    #[must_use]
    pub const fn inherited(&self) -> bool {
        self.inherited
    }
}

impl CarryOver for MappedCarryOver {
    fn capacity_bytes(&self) -> usize {
        self.mapping.len() - HEADER_BYTES
    }

    fn load(&self) -> Vec<u8> {
        let mut out = vec![0; self.capacity_bytes()];
        self.mapping.read(HEADER_BYTES, &mut out);
        out
    }

    fn store(&self, offset: usize, bytes: &[u8]) {
        assert!(offset.checked_add(bytes.len()).is_some_and(|end| end <= self.capacity_bytes()), "the bytes fit");
        self.mapping.write(HEADER_BYTES + offset, bytes);
        // Stores of one thread reach memory in order; the fence keeps the compiler from moving them past it.
        fence(Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disks::tests::Folder;

    #[test]
    fn what_was_stored_is_there_for_the_next_process_and_gone_after_a_reboot() {
        let folder = Folder::new("carry");
        let path = folder.path("carry-over");
        let first = MappedCarryOver::open_of_boot(&path, 10_000, "boot-1\n").expect("opens");
        assert!(!first.inherited() && first.load() == vec![0; 10_000]);
        first.store(9_997, b"end");
        let taken = MappedCarryOver::open_of_boot(&path, 10_000, "boot-1\n").expect_err("a second engine is refused");
        assert_eq!(taken.kind(), io::ErrorKind::WouldBlock);
        drop(first);
        let second = MappedCarryOver::open_of_boot(&path, 10_000, "boot-1\n").expect("opens");
        assert!(second.inherited() && second.load()[9_997..] == *b"end");
        drop(second);
        let rebooted = MappedCarryOver::open_of_boot(&path, 10_000, "boot-2\n").expect("opens");
        assert!(!rebooted.inherited() && rebooted.load() == vec![0; 10_000]);
        rebooted.store(0, b"new");
        drop(rebooted);
        let grown = MappedCarryOver::open_of_boot(&path, 20_000, "boot-2\n").expect("opens");
        assert!(!grown.inherited() && grown.load() == vec![0; 20_000], "another capacity starts anew");
    }

    #[test]
    #[should_panic(expected = "the bytes fit")]
    fn a_store_past_the_end_is_a_defect() {
        let folder = Folder::new("carry-past");
        let carry = MappedCarryOver::open(&folder.path("carry-over"), 4096).expect("opens");
        carry.store(4090, &[0; 7]);
    }
}
