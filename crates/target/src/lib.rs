//! Sockets that drive the protocol machines.
//!
//! A connection lives on one core: a machine of `sds-proto`, the glue that answers its events, and a socket. Requests
//! go to a device of that core; all answers of a loop turn leave with one `sendmsg`.
//!
//! | module | what it holds |
//! |---|---|
//! | [`targets`] | [`Targets`]: cores, listeners, the export table, sessions: what the engine starts and stops |
//! | [`listener`] | accepting connections and handing them to cores |
//! | [`admission`] | who may have how many connections |
//! | [`connections`] | one core's connections of a protocol, and [`Remote`](connections::Remote): reaching one |
//! | [`glue`] | [`Glue`](glue::Glue): what a protocol adds to the shell |
//! | [`shell`] | one connection: bytes in, requests out, answers back |
//! | `payload` | how much payload the node holds, and when connections have to wait |
//! | `buffers` | the buffers that a connection's tags name |
//! | [`outgoing`] | what waits to be sent |
//! | [`nvme`] | NVMe/TCP: subsystems, controllers, discovery |
//! | [`iscsi`] | iSCSI: targets, sessions, SendTargets, resets |
//! | `settle` | a host's new association waits for its lost one's writes |
//! | [`exports`] | which volume is seen under which name, and by whom |
//! | [`devices`] | what answers requests: volumes, and the null and memory devices of tests and benches |
//! | [`terms`] | on which terms a volume is served: read-only, write-through, how fast |
//! | [`meter`] | a rate with credit |
//! | [`limits`] | every limit of the front end |
//! | `throttle` | a log that hosts can't flood |
#![forbid(unsafe_code)]

pub mod targets;
pub mod listener;
pub mod admission;
pub mod connections;
pub mod glue;
pub mod shell;
mod payload;
mod buffers;
mod outgoing;
pub mod nvme;
pub mod iscsi;
mod settle;
pub mod exports;
pub mod devices;
pub mod terms;
pub mod meter;
pub mod limits;
mod throttle;

pub use devices::{Devices, DynDevice, MemoryDevice, NullDevice};
pub use exports::{Access, Export, ExportTable, Protocol, VolumeKey};
pub use limits::Limits;
pub use targets::{Targets, TargetsOptions};
