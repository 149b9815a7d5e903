//! The world as the engine sees it.
//!
//! Everything above reaches disks, time and metadata through the traits here. `sds-uring` implements them with system
//! calls, `sds-sim` with a seeded world; the engine can't tell which. Nothing here makes a system call.
//!
//! | module | what it holds |
//! |---|---|
//! | [`buffer`] | aligned owned buffers, shared slices of them, the segments that answer a read |
//! | [`disk`] | [`Io`]: read, write, sync and discard on a disk; [`DiskInfo`], [`IoError`] |
//! | [`clock`] | [`Clock`]: monotonic and wall time, sleeping |
//! | [`meta`] | [`MetaStore`]: the checkpoint store; [`CarryOver`]: memory that outlives the process |
//! | [`exec`] | [`Executor`]: one core's tasks |
//! | [`sync`] | one-shot answers, channels between cores, local events |
#![forbid(unsafe_code)]

pub mod buffer;
pub mod disk;
pub mod clock;
pub mod meta;
pub mod exec;
pub mod sync;

pub use buffer::{Buffer, ReadBytes, Segment, Slice};
pub use clock::Clock;
pub use disk::{DiskId, DiskInfo, Io, IoError, IoErrorKind};
pub use exec::{Executor, Spawner};
pub use meta::{CarryOver, MetaBatch, MetaError, MetaStore};
