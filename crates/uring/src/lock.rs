//! Who has a disk: exclusive locks, waiting for a predecessor, and naming the holder.

use std::fs;
use std::io;
use std::os::fd::BorrowedFd;
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::fs::FlockOperation;
use rustix::io::Errno;

/// How often a lock that another process has is tried again.
const RETRY_MS: u64 = 20;

/// Runs `attempt` until it succeeds, fails with something else than "another has it", or `wait` is over.
pub(crate) fn retry_while_held<T>(wait: Duration, mut attempt: impl FnMut() -> Result<T, Errno>) -> Result<T, Errno> {
    let deadline = Instant::now() + wait;
    loop {
        match attempt() {
            // WOULDBLOCK: another lock; BUSY: a block device that is mounted or open exclusively.
            Err(Errno::WOULDBLOCK | Errno::BUSY) if Instant::now() < deadline => {
                sleep(Duration::from_millis(RETRY_MS));
            }
            other => return other,
        }
    }
}

/// Locks the open file without waiting. The lock ends with the last descriptor, so a killed engine holds it until its
/// last request has ended: that is what makes waiting for it wait for that I/O.
pub(crate) fn try_lock(file: BorrowedFd<'_>, exclusive: bool) -> Result<(), Errno> {
    rustix::fs::flock(
        file,
        if exclusive { FlockOperation::NonBlockingLockExclusive } else { FlockOperation::NonBlockingLockShared },
    )
}

/// The process that has a lock on the file with this device and inode, by `/proc/locks`.
pub(crate) fn holder(device: u64, inode: u64) -> Option<u32> {
    holder_in(&fs::read_to_string("/proc/locks").unwrap_or_default(), device, inode)
}

/// A line reads `1: FLOCK  ADVISORY  WRITE 1234 fe:00:5678 0 EOF`; the device's numbers are hexadecimal.
fn holder_in(locks: &str, device: u64, inode: u64) -> Option<u32> {
    let place = format!("{:02x}:{:02x}:{inode}", rustix::fs::major(device), rustix::fs::minor(device));
    locks.lines().find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().filter(|field| *field != "->").collect();
        let [_, _, _, _, pid, at, ..] = fields.as_slice() else { return None };
        (*at == place).then(|| pid.parse().ok()).flatten()
    })
}

/// Where `device` (a block device's own number) is mounted, by `/proc/self/mountinfo`.
pub(crate) fn mounted_at(device: u64) -> io::Result<Option<String>> {
    let wanted = format!("{}:{}", rustix::fs::major(device), rustix::fs::minor(device));
    let table = fs::read_to_string("/proc/self/mountinfo")?;
    Ok(table.lines().find_map(|line| {
        let fields: Vec<&str> = line.split(' ').collect();
        (fields.get(2) == Some(&wanted.as_str())).then(|| fields.get(4).map(ToString::to_string)).flatten()
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_holder_is_found_by_device_and_inode_also_behind_a_waiter() {
        let locks = "1: POSIX  ADVISORY  WRITE 11 fe:00:77 0 EOF\n\
                     2: FLOCK  ADVISORY  WRITE 4711 fe:01:1234 0 EOF\n\
                     2: -> FLOCK  ADVISORY  WRITE 12 fe:01:1234 0 EOF\n";
        assert_eq!(holder_in(locks, rustix::fs::makedev(0xfe, 1), 1234), Some(4711));
        assert_eq!(holder_in(locks, rustix::fs::makedev(0xfe, 0), 1234), None);
    }
}
