//! Damaged copies of a pool's metadata: whoever comes upon one tells it here.
//!
//! A checkpoint may write over what is bad before a scrub gets there, so the writers of labels, catalog slots and owner
//! tables tell as well. What is told waits for whoever makes events of it; beyond so many it is counted alone.

use std::collections::VecDeque;
use std::fmt;

use crate::place::{DiskNo, Lsn};
use crate::scrub::ScrubState;
use crate::shared::{PoolDisk, PoolShared, lock};

/// Damages that wait to be taken; later ones are counted alone.
const WAITING_MAX: usize = 256;

/// A copy of something that a pool keeps of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Structure {
    /// Label A (0) or B (1).
    Label(u8),
    /// A slot of the catalog.
    CatalogSlot(u8),
    /// The first or the second header of the journal.
    JournalHeader(u8),
    /// The journal's frame that begins with this group.
    JournalFrame(Lsn),
    /// The owner block of this chunk and those after it, in one of its places.
    OwnerBlock(u32, u8),
    /// What both places of the owner block of this chunk and those after it say of so many chunks: whole, and not what
    /// the map says.
    OwnerEntries(u32, u32),
}

impl fmt::Display for Structure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Label(0) => f.write_str("label A"),
            Self::Label(_) => f.write_str("label B"),
            Self::CatalogSlot(slot) => write!(f, "catalog slot {slot}"),
            Self::JournalHeader(number) => write!(f, "journal header {number}"),
            Self::JournalFrame(first) => write!(f, "the journal frame of change {}", first.0),
            Self::OwnerBlock(chunk, place) => write!(f, "place {place} of the owner block of chunk {chunk}"),
            Self::OwnerEntries(chunk, count) => {
                write!(f, "what the owner block of chunk {chunk} says of {count} chunks")
            }
        }
    }
}

/// A damaged copy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// Its disk's number in the pool.
    pub disk: DiskNo,
    /// Its disk's path.
    pub path: String,
    /// What it is.
    pub structure: Structure,
    /// What is wrong with it.
    pub why: String,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {} is bad ({})", self.structure, self.path, self.why)
    }
}

/// What was told since the pool was opened.
#[derive(Default)]
pub(crate) struct Damages {
    waiting: VecDeque<Damage>,
    pub(crate) found: u64,
    pub(crate) mended: u64,
}

impl Damages {
    pub(crate) fn take(&mut self) -> Vec<Damage> {
        self.waiting.drain(..).collect()
    }
}

impl PoolShared {
    /// A copy on `disk` is damaged.
    pub(crate) fn tell_damage(&self, disk: &PoolDisk, structure: Structure, why: impl fmt::Display) {
        let damage = Damage { disk: disk.no, path: disk.info.path.clone(), structure, why: why.to_string() };
        log::warn!("pool {}: {damage}", self.name);
        {
            let mut damages = lock(&self.damages);
            damages.found += 1;
            if damages.waiting.len() < WAITING_MAX {
                damages.waiting.push_back(damage);
            }
        }
        self.count_in_scrub(disk.no, |counts| counts.damaged += 1);
    }

    /// So many damaged copies on `disk` are whole again, or nothing needs them any more.
    pub(crate) fn tell_mended(&self, disk: DiskNo, copies: u64) {
        lock(&self.damages).mended += copies;
        self.count_in_scrub(disk, |counts| counts.mended += copies);
    }

    /// So many copies on `disk` are as they should be.
    pub(crate) fn count_verified(&self, disk: DiskNo, copies: u64) {
        self.count_in_scrub(disk, |counts| counts.verified += copies);
    }

    fn count_in_scrub(&self, disk: DiskNo, change: impl FnOnce(&mut MetadataCounts)) {
        let mut scrub = lock(&self.scrub);
        if scrub.status.state == ScrubState::Running {
            // A disk that joined since the job began has no place in it.
            if let Some(disk) = scrub.status.disks.get_mut(usize::from(disk.0)) {
                change(&mut disk.metadata);
            }
        }
    }
}

/// What a scrub found of the metadata on one disk, in copies: a label, a catalog slot, a journal header or frame, a
/// place of an owner block.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MetadataCounts {
    /// As they should be.
    pub verified: u64,
    /// Damaged, whoever came upon them while the scrub went on.
    pub damaged: u64,
    /// Those of them that are whole again, or that nothing needs any more.
    pub mended: u64,
}
