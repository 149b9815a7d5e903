//! Storage protocols as machines that do no I/O.
//!
//! | module | what it holds |
//! |---|---|
//! | [`connection`] | the contract between a machine and the socket shell |
//! | [`crc32c`] | the digest of both protocols |
//! | `nvme` | NVMe/TCP: PDUs, fabrics, admin, I/O; target and initiator |
//! | `iscsi` | iSCSI: PDUs, login, full feature phase; target and initiator |
//! | `scsi` | SPC and SBC: CDBs to commands, errors to sense data |
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod connection;
pub mod crc32c;
pub mod nvme;
pub mod iscsi;
pub mod scsi;

pub use connection::{Connection, Piece, Receive, Submit, Tag, Termination, Unit};
