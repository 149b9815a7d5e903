//! Load generators: an NVMe/TCP host of our own, cheap enough not to be what is measured.
//!
//! | module | what it holds |
//! |---|---|
//! | [`host`] | [`HostQueue`](host::HostQueue): one queue of a host; [`bring_up`](host::bring_up): a controller |
//! | [`places`] | where commands go: random places, or each place once |
//! | [`load`] | connections that keep a queue depth, on a core's loop |
//! | [`rows`] | a MetaStore at the end of two pipes |
//! | [`storm`] | a host over both protocols that knows what each sector may hold after a kill |
//! | [`report`] | latencies, processor time and memory of processes |
//! | [`words`] | logging |
#![forbid(unsafe_code)]

pub mod host;
pub mod places;
pub mod load;
pub mod rows;
pub mod storm;
pub mod report;
pub mod words;
