//! Looks at each pool regularly, and tells Python when something about it has changed.

use std::collections::HashSet;
use std::rc::Weak;
use std::sync::Arc;
use std::time::Duration;

use sds_io::Clock;
use sds_uring::CoreClock;
use sds_volume::{DiskStatus, PoolStatus};

use crate::cores::UringPool;
use crate::events::{Event, Events, Level};
use crate::uuid::Uuid;

const WATCH_INTERVAL_MS: u64 = 1_000;
/// A state that comes and goes is told this often at the most.
const TELL_AGAIN_MS: u64 = 60_000;
/// A pool counts as full from here on: 1/128 of each disk is kept back, and runs are taken in advance.
const FULL_PERCENT: u64 = 99;
/// And as not full any more from here on.
const ROOMY_PERCENT: u64 = 97;
/// Damaged copies of metadata that have an event each, at a look.
const DAMAGES_TOLD_MAX: usize = 32;

/// Something that is so or is not, told when it changes.
#[derive(Default)]
struct Latch {
    told: bool,
    told_at: Option<Duration>,
}

impl Latch {
    /// Notes what is so now; true if it is to be told.
    fn changed(&mut self, is: bool, now: Duration) -> bool {
        let recent = self.told_at.is_some_and(|at| now < at + Duration::from_millis(TELL_AGAIN_MS));
        // Its end is told whenever its beginning was.
        if is == self.told || (is && recent) {
            return false;
        }
        self.told = is;
        if is {
            self.told_at = Some(now);
        }
        true
    }
}

#[derive(Default)]
struct Watched {
    checkpoint: Latch,
    full: Latch,
    failed_disks: HashSet<[u8; 16]>,
    corrupt_blocks: u64,
    corrupt_told_at: Option<Duration>,
    left_journal: HashSet<[u8; 16]>,
}

impl Watched {
    fn look(&mut self, status: &PoolStatus, now: Duration, events: &Events) {
        let name = &status.name;
        let tell = |level, kind, message| events.push(Event::of_pool(level, kind, name, message));
        for disk in status.disks.iter().filter(|disk| !disk.healthy) {
            if self.failed_disks.insert(disk.uuid) {
                let message = format!("disk {} of pool {name} failed; what it holds is not certain", disk.disk.0);
                tell(Level::Error, "disk-failed", message);
            }
        }
        // A disk says of itself that it left, for as long as the pool is open: a count of those left could rise again
        // before it is looked at. Where the engine dies before that, the next opening tells of the disk's older epoch.
        for disk in status.disks.iter().filter(|disk| disk.left_journal) {
            if self.left_journal.insert(disk.uuid) {
                let (no, left) = (disk.disk.0, status.journal_disks);
                let message = format!("disk {no} of pool {name} left its journal; disks that have it now: {left}");
                tell(Level::Error, "journal-disk-lost", message);
            }
        }
        let recent = self.corrupt_told_at.is_some_and(|at| now < at + Duration::from_millis(TELL_AGAIN_MS));
        if let Some(found) = status.corrupt.as_ref().filter(|_| status.corrupt_blocks > self.corrupt_blocks && !recent)
        {
            let more = status.corrupt_blocks - self.corrupt_blocks - 1;
            let volume = found.volume.map_or_else(|| "a deleted one".to_owned(), |uuid| Uuid(uuid).to_string());
            let message = format!(
                "disk {} of pool {name}: byte {} is not what was sealed, byte {} of volume {volume}; {more} more",
                found.disk, found.disk_offset, found.volume_offset
            );
            tell(Level::Error, "block-corrupt", message);
            self.corrupt_blocks = status.corrupt_blocks;
            self.corrupt_told_at = Some(now);
        }
        if self.checkpoint.changed(status.checkpoint_failed, now) {
            if status.checkpoint_failed {
                let message = format!("pool {name} can't store its metadata; writes stop when its journal is full");
                tell(Level::Error, "checkpoint-failed", message);
            } else {
                tell(Level::Info, "checkpoint-recovered", format!("pool {name} stores its metadata again"));
            }
        }
        let capacity = total(&status.disks, |disk| disk.capacity_bytes);
        let allocated = total(&status.disks, |disk| disk.allocated_bytes);
        let percent = if self.full.told { ROOMY_PERCENT } else { FULL_PERCENT };
        let full = allocated >= capacity / 100 * percent;
        if self.full.changed(full, now) {
            if full {
                let message = format!("pool {name} is full: {allocated} of {capacity} bytes are allocated");
                tell(Level::Warning, "pool-full", message);
            } else {
                tell(Level::Info, "pool-has-space", format!("pool {name} has space again"));
            }
        }
    }
}

fn total(disks: &[DiskStatus], of: impl Fn(&DiskStatus) -> u64) -> u64 {
    disks.iter().map(of).sum()
}

/// Copies of metadata that were damaged, one by one up to a limit: a disk may have lost a whole table.
fn tell_damages(pool: &UringPool, events: &Events) {
    let (name, damages) = (&pool.shared().name, pool.take_damages());
    let tell = |message| events.push(Event::of_pool(Level::Warning, "metadata-damaged", name, message));
    for damage in damages.iter().take(DAMAGES_TOLD_MAX) {
        tell(damage.to_string());
    }
    if let Some(more) = damages.len().checked_sub(DAMAGES_TOLD_MAX).filter(|more| *more > 0) {
        tell(format!("{more} more copies of the metadata of pool {name} are bad; the log names them"));
    }
}

/// Watches a pool on core 0 until it is closed.
pub async fn watch(pool: Weak<UringPool>, clock: CoreClock, events: Arc<Events>) {
    let mut watched = Watched::default();
    while let Some(pool) = pool.upgrade() {
        watched.look(&pool.status(), clock.now(), &events);
        tell_damages(&pool, &events);
        drop(pool);
        clock.sleep(Duration::from_millis(WATCH_INTERVAL_MS)).await;
    }
}
