//! A deterministic world for the engine.
//!
//! The engine does I/O through the traits of `sds-io` alone; here they are a world in which a seed decides all:
//! the order in which tasks run, how long a disk takes, what a power cut leaves, when the process is killed. The same
//! seed gives the same run, to the bit. An oracle knows what each sector of each volume may be.
//!
//! | module | what it holds |
//! |---|---|
//! | [`random`], [`knobs`] | numbers from a seed; what a seed turns on |
//! | [`lean`] | worlds in which a planted defect shows |
//! | [`workload`], [`host`] | what is asked; hosts that submit it and judge the answers |
//! | [`engine`], [`pool`], [`linear`] | what is asked of an engine; the real one; a small one for our own tests |
//! | [`rot`] | blocks of a pool's disks of which there is another copy |
//! | [`schedule`], [`world`] | cores and tasks; time, the queue of events, disk requests |
//! | [`disk`], [`meta`], [`carry_over`], [`process`] | what survives what |
//! | [`oracle`], [`payload`] | what a read may return; sectors that say what they are |
//! | [`run`], [`report`], [`panics`] | one seed's lives; counters, histories, failures |
#![forbid(unsafe_code)]

pub mod random;
pub mod knobs;
pub mod lean;
pub mod workload;
pub mod host;
pub mod engine;
pub mod schedule;
pub mod world;
pub mod disk;
pub mod meta;
pub mod carry_over;
pub mod process;
pub mod oracle;
pub mod payload;
pub mod run;
pub mod report;
pub mod panics;
pub mod linear;
pub mod pool;
pub mod rot;
