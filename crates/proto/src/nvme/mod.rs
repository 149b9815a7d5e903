//! NVMe over TCP: NVMe Base 2.0c, NVM command set 1.0c, NVMe/TCP transport 1.0c. Target and initiator.
//!
//! | module | what it holds |
//! |---|---|
//! | [`event`] | what a queue asks of the glue around it, and how the glue answers |
//! | [`spec`] | layouts and numbers of the specifications |
//! | [`pdu`] | PDUs as bytes: checks, digests, an encoder |
//! | [`queue`] | one queue pair on one TCP connection: the target's machine |
//! | [`fabrics`] | Connect and the property commands |
//! | `admin` | admin commands: dispatch, features, events, Abort |
//! | `identify` | Identify |
//! | `log_page` | Get Log Page |
//! | [`io`] | I/O commands to what a device is asked |
//! | [`status`] | status codes; a device's errors to status |
//! | [`controller`] | what the queues of one association share |
//! | [`initiator`] | the host's side of a queue |

pub mod event;
pub mod spec;
pub mod pdu;
pub mod queue;
pub mod fabrics;
mod admin;
mod identify;
mod log_page;
pub mod io;
pub mod status;
pub mod controller;
pub mod initiator;

#[cfg(test)]
mod pair;
#[cfg(test)]
mod scenarios;
#[cfg(test)]
mod bytes;
#[cfg(test)]
mod damage;

pub use controller::Controller;
pub use event::{DISCOVERY_NQN, Event};
pub use queue::Queue;
