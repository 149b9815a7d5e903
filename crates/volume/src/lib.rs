//! Volumes on disks.
//!
//! Modules stand in the order a write meets them:
//!
//! | module | what it holds |
//! |---|---|
//! | [`place`] | newtypes: layers, trees, extent indexes, chunks, LSNs |
//! | [`delta`] | every change of map, free space and catalog, as the journal has it |
//! | [`record`] | an extent's record: where it lies, what each block is |
//! | [`catalog`] | layers, volumes, disks, documents: the small part of the metadata |
//! | [`forest`] | layers as trees: what each sees, and what nobody needs any more |
//! | [`extents`] | the extents of a page in memory |
//! | [`page`] | a page of the map in memory, with the records of its extents |
//! | [`lock`] | range locks: overlapping writes are ordered |
//! | [`error`] | why a command to a pool failed |
//! | [`layout`] | every byte on a disk: label, catalog slots, owner tables, journal frames; rows of the MetaStore |
//! | [`ring`] | deltas that were acknowledged and are not yet in the journal, in memory that outlives the process |
//! | [`journal`] | what a host was told is durable: frames on one disk or two |
//! | [`label_io`] | labels and catalog slots on disks |
//! | [`space`] | free chunks of each disk |
//! | [`owner`] | owner tables on disks |
//! | [`planted`] | defects that the simulator puts in |
//! | [`env`] | what a pool is given by its process; limits and intervals |
//! | [`damage`] | damaged copies of metadata, told by whoever comes upon one |
//! | [`careful`] | a disk whose syncs are believed as long as none failed |
//! | [`ledger`], [`shared`], [`core`] | the order of changes; what cores share; one core's share |
//! | [`request`], [`volume`] | a request as parts, one a page; a volume as a device |
//! | [`read`], [`write`], [`zero`] | what a part does |
//! | [`check_space`], [`seal`] | CRCs on disks; blocks are sealed when they are cold, unsealed before a write |
//! | [`allocate`], [`quarantine`] | chunks for writes; freed chunks on their way back |
//! | [`cache`] | which pages of the map stay in memory |
//! | [`commit`], [`image`], [`checkpoint`] | what is pushed becomes durable, then leaves the journal |
//! | [`format`], [`recover`], [`import`] | a pool is made, opened, rebuilt from its disks |
//! | [`inbox`], [`snapshot`], [`delete`] | messages between cores; snapshots and clones; deletions |
//! | [`scrub`] | all seals verified |
//! | [`scrub_metadata`] | all copies of metadata verified |
//! | [`pool`] | the pool as a whole |
#![forbid(unsafe_code)]

pub mod planted;
pub mod place;
pub mod delta;
pub mod record;
pub mod catalog;
pub mod forest;
pub mod extents;
pub mod page;
pub mod lock;
pub mod error;
pub mod layout;
pub mod ring;
pub mod journal;
pub mod label_io;
pub mod space;
pub mod owner;
pub mod env;
pub mod damage;
mod careful;
mod ledger;
pub mod shared;
mod core;
mod request;
mod read;
mod write;
mod check_space;
mod seal;
mod zero;
mod allocate;
mod quarantine;
pub mod volume;
mod cache;
mod commit;
mod image;
mod checkpoint;
mod format;
mod recover;
mod import;
mod rebuild;
mod inbox;
mod snapshot;
mod delete;
mod scrub;
mod scrub_metadata;
pub mod check;
pub mod pool;

pub use damage::{Damage, MetadataCounts, Structure};
pub use env::{CoreEnv, NewDisk, PoolEnv, PoolSpec, Tuning, VolumeSpec};
pub use planted::{Defect, Planted};
pub use pool::{Corrupt, DiskStatus, Pool, PoolStatus, VolumeStatus};
pub use recover::Recovered;
pub use scrub::{ScrubDisk, ScrubState, ScrubStatus};
#[cfg(feature = "planted")]
pub use seal::SealedBlock;
pub use shared::PoolShared;
pub use snapshot::{SNAPSHOT_VOLUMES_MAX, SnapshotSpec};
pub use volume::Volume;
