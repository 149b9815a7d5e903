//! iSCSI (RFC 7143): the target's end of a connection, as a machine.
//!
//! | module | what it holds |
//! |---|---|
//! | [`event`] | what the machine asks from outside, and the answers |
//! | [`pdu`] | the layouts |
//! | [`text`] | key=value text |
//! | [`login`] | negotiation |
//! | [`session`] | what was agreed, sequence numbers, settings |
//! | [`task`] | the table of open tasks |
//! | [`connection`] | the machine: its state, its contract with the shell, the glue's commands |
//! | `receive` | framing: headers, data, digests |
//! | `transfer` | SCSI commands and their data, from the initiator's side |
//! | `management` | aborts, resets, logout |
//! | `service` | login, text, ping, reject |
//! | `transmit` | what is sent, and in which order |

pub mod event;
pub mod pdu;
pub mod text;
pub mod login;
pub mod session;
pub mod task;
pub mod connection;
mod receive;
mod transfer;
mod management;
mod service;
mod transmit;

pub use connection::TargetConnection;
pub use event::{
    Event, LoginAccept, LoginAnswer, LoginRefusal, LoginRequest, Reset, SessionKind, SessionStarted, TargetListing,
    Targets,
};
pub use session::Settings;

#[cfg(test)]
mod tests;
