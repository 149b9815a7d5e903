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
//! | [`page`] | a page of the map in memory, with the records of its extents |
//! | [`lock`] | range locks: overlapping writes are ordered |
//! | [`error`] | why a command to a pool failed |
//! | [`layout`] | every byte on a disk: label, catalog slots, owner tables, journal frames; rows of the MetaStore |
//! | [`ring`] | deltas that were acknowledged and are not yet in the journal, in memory that outlives the process |
//! | [`journal`] | what a host was told is durable: frames on one disk or two |
//! | [`label_io`] | labels and catalog slots on disks |
//! | [`space`] | free chunks of each disk |
//! | [`owner`] | owner tables on disks |
#![forbid(unsafe_code)]

pub mod place;
pub mod delta;
pub mod record;
pub mod catalog;
pub mod page;
pub mod lock;
pub mod error;
pub mod layout;
pub mod ring;
pub mod journal;
pub mod label_io;
pub mod space;
pub mod owner;
