//! A snapshot of a volume is a copy of its model: of each sector what a read could have returned that began
//! when the snapshot was asked for, and all that came until it was answered. What is read of it once is all that may
//! ever be read there. If it has a change, it has all that were answered before that one was submitted, in each volume
//! of its group. A clone begins as its snapshot: change 0 of it is what that may have.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Change, ChangeNo, PIECE_SECTORS, Pieces, Version, Versions, VolumeNo, allowed, name, untouched};
use crate::payload::Content;

/// When the snapshots of a group were taken, as far as is known: all that was sure before is in them.
pub type Moment = Arc<AtomicU64>;

/// A snapshot's model.
pub struct Frozen {
    pub(super) moment: Moment,
    pub(super) pieces: Pieces,
    /// What change 0 is.
    pub(super) base: Option<Base>,
}

pub(super) type Base = Arc<Mutex<Frozen>>;

pub(super) fn lock(base: &Base) -> MutexGuard<'_, Frozen> {
    // Nobody goes on after a panic.
    base.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Frozen {
    pub(super) fn versions(&self, sector: u64) -> Option<&Versions> {
        Some(&self.pieces.get(&(sector / PIECE_SECTORS))?[(sector % PIECE_SECTORS) as usize])
    }

    fn matches(&self, changes: &[Change], version: &Version, sector: u64, content: Content) -> bool {
        matches(changes, version, self.base.as_ref(), sector, content)
    }

    /// True if the sector may have this content.
    fn allows(&self, changes: &[Change], sector: u64, content: Content) -> bool {
        let base = untouched();
        let versions = self.versions(sector).unwrap_or(&base);
        let fits = |version: &&Version| {
            self.matches(changes, version, sector, content)
                && allowed(changes, versions, version, self.moment.load(Ordering::Relaxed))
        };
        versions.iter().any(|version| fits(&version))
    }

    /// The sector was found to have this content: it has no other from now on.
    pub(super) fn settle(&mut self, changes: &[Change], sector: u64, content: Content) {
        let base = untouched();
        let versions = self.versions(sector).unwrap_or(&base);
        let mut left: Versions =
            versions.iter().filter(|version| self.matches(changes, version, sector, content)).copied().collect();
        let moment = self.moment.load(Ordering::Relaxed);
        left.retain(|version| allowed(changes, versions, version, moment));
        if let [only] = left[..] {
            // It was submitted before the snapshot was taken, and so all that was answered by then is in that.
            let submitted = changes[only.change.0 as usize].submitted;
            self.moment.fetch_max(submitted, Ordering::Relaxed);
        }
        if let (true, Some(base)) = (left.iter().any(|version| version.change == ChangeNo(0)), &self.base)
            && left.len() == 1
        {
            lock(base).settle(changes, sector, content);
        }
        if let Some(piece) = self.pieces.get_mut(&(sector / PIECE_SECTORS)) {
            piece[(sector % PIECE_SECTORS) as usize] = left;
        }
    }
}

/// True if the content is that of the version; change 0 over a snapshot is what that may have.
pub(super) fn matches(
    changes: &[Change],
    version: &Version,
    base: Option<&Base>,
    sector: u64,
    content: Content,
) -> bool {
    if let (ChangeNo(0), Some(base)) = (version.change, base) {
        return lock(base).allows(changes, sector, content);
    }
    match content {
        Content::Zeros => changes[version.change.0 as usize].zeros,
        Content::Written { write, .. } => {
            version.change.0 == write && changes.get(write as usize).is_some_and(|change| !change.zeros)
        }
        Content::Discarded | Content::Unknown => false,
    }
}

pub(super) fn check_frozen(
    changes: &[Change],
    frozen: &Base,
    (volume, sector): (VolumeNo, u64),
    content: Content,
) -> Result<(), String> {
    let allows = lock(frozen).allows(changes, sector, content);
    if !allows {
        let base = untouched();
        return Err(name(changes, lock(frozen).versions(sector).unwrap_or(&base), volume, sector, content));
    }
    lock(frozen).settle(changes, sector, content);
    Ok(())
}
