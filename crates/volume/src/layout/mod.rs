//! Every byte on a disk, and the rows of the MetaStore. docs/on-disk.md shows them.
//!
//! | module | what it holds |
//! |---|---|
//! | [`codec`] | the envelope that everything wears, little-endian fields, what was wrong with bytes |
//! | [`check`] | CRCs of sealed blocks |
//! | [`parts`] | ids, homes, block states and catalog entries: what several formats share |
//! | [`delta`] | a group of deltas, as the carry-over ring and journal frames have it |
//! | [`disk`] | where the regions of a disk lie |
//! | [`label`] | whose a disk is |
//! | [`catalog`] | the catalog, and its slots on a disk |
//! | [`owner`] | what each chunk holds |
//! | [`frame`] | journal frames and the journal's header |
//! | [`claim`] | what owner tables say, while an import sorts it in the MetaStore |
//! | [`rows`] | rows of the MetaStore |
//! | [`verify`] | whether a row is what its key says |
//!
//! Nothing here does I/O, and no bytes whatever make a decoder panic.

pub mod codec;
pub mod check;
pub mod parts;
pub mod delta;
pub mod disk;
pub mod label;
pub mod catalog;
pub mod owner;
pub mod claim;
pub mod rows;
pub mod verify;
pub mod frame;
#[cfg(test)]
pub(crate) mod memory;
