//! iSCSI (RFC 7143): the target's end of a connection, as a machine.
//!
//! | module | what it holds |
//! |---|---|
//! | [`event`] | what the machine asks from outside, and the answers |

pub mod event;

pub use event::{
    Event, LoginAccept, LoginAnswer, LoginRefusal, LoginRequest, Reset, SessionKind, SessionStarted, TargetListing,
    Targets,
};
