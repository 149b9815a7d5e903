//! The waist between protocols and storage.
//!
//! Above it, `sds-target` turns NVMe and SCSI commands into [`Request`]s; below it, `sds-volume` (or any decorator)
//! answers them. Neither side knows the other's types: this crate has the whole vocabulary, does no I/O and allocates
//! only for boxed futures.
//!
//! | module | what it holds |
//! |---|---|
//! | [`place`] | newtypes for places and counts: [`Lba`], [`LbaCount`], [`Bytes`], [`ExtentId`], [`Generation`] |
//! | [`device`] | [`Geometry`], [`Command`], [`Request`], [`Device`]: the contract of both sides |
//! | [`error`] | [`BlockError`]: kind, context, source |
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod place;
pub mod device;
pub mod error;

pub use device::{Command, Device, DeviceFuture, Geometry, LbaRange, Request};
pub use error::{BlockError, Context, ErrorKind};
pub use place::{Bytes, ExtentId, Generation, Lba, LbaCount};
