//! The world as Linux has it: everything of the data path that makes system calls.
//!
//! One thread per core runs a [`Local`]'s loop: sleep in epoll, take what sockets, the ring and other threads brought,
//! run tasks, submit all disk I/O with one call, let connections flush. Tasks and sources stay on their core; other
//! threads reach it through a [`CoreHandle`].
//!
//! | module | what it holds |
//! |---|---|
//! | [`net`] | non-blocking TCP sockets |
//! | [`core`] | [`Local`], [`Source`]: one core's loop |
//! | [`handle`] | [`CoreHandle`]: starting a core, running closures and futures on it |
//! | [`clock`] | [`CoreClock`]: time and timers |
//! | [`disks`] | [`Disks`]: opening and locking files, block devices and memory |
//! | [`io`] | [`UringIo`]: reads, writes, syncs, discards |
//! | [`carry_over`] | [`MappedCarryOver`]: memory that outlives the process |
//!
//! A panic on a core ends the process (see [`handle`]): an engine that lost a task holds locks that nobody will free.

pub mod net;
pub mod core;
pub mod handle;
pub mod clock;
mod ring;
pub mod io;
mod errno;
pub mod disks;
mod lock;
mod shape;
mod mapping;
pub mod carry_over;

pub use crate::core::{Counters, Local, Readiness, Source, SourceId};
pub use carry_over::MappedCarryOver;
pub use clock::CoreClock;
pub use disks::{Disks, OpenError, OpenErrorKind, OpenOptions};
pub use handle::{CoreGone, CoreHandle, CoreOptions};
pub use io::UringIo;
