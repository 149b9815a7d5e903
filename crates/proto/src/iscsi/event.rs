//! What the machine needs decided from outside, and the words in which the glue answers.
//!
//! The glue owns what is shared between connections: which targets exist, who may use them, which sessions are open.
//!
//! | event | answered by (methods of the connection) |
//! |---|---|
//! | [`Event::Login`] | `answer_login(now, LoginAnswer)` |
//! | [`Event::SessionStarted`] | nothing: for the list of sessions |
//! | [`Event::SendTargets`] | `answer_send_targets(now, &[TargetListing])` |
//! | [`Event::Reset`] | `answer_reset(now)`, once every other session on the target got `reset_by_other(now, Reset)` |
//!
//! At most one event of each kind is open at a time, so answers carry no name. An answer may come later: until then the
//! machine holds back what depends on it.
//!
//! Commands that the glue gives unasked: `set_unit(Option<UnitFacts>)` (resized, exported, gone: the host gets a unit
//! attention), `reset_by_other(now, Reset)`, and `end(now, reason)` (session reinstatement, export removed, shutdown).
//!
//! # Session reinstatement (RFC 7143 6.3.5)
//! A login with TSIH 0 whose initiator name, ISID and target are those of an open session replaces it: the glue calls
//! `end` on the old connection, waits until its writes in flight have ended, and only then accepts.

use alloc::string::String;
use alloc::vec::Vec;

use crate::scsi::unit::UnitFacts;

/// A matter for the glue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// An initiator has said who it is and what it wants: may it, and which session number does it get?
    Login(LoginRequest),
    /// Login is complete: the connection is in its full feature phase.
    SessionStarted(SessionStarted),
    /// Which targets does this initiator see?
    SendTargets(Targets),
    /// A reset that concerns all sessions on the target. This connection has already aborted its own tasks.
    Reset(Reset),
}

/// The first login request's own words (RFC 7143 6.3.1 and 11.12).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoginRequest {
    /// InitiatorName: an iqn., eui. or naa. name, in lower case.
    pub initiator: String,
    /// InitiatorAlias, if it sent one.
    pub alias: Option<String>,
    /// The initiator's part of the session's name.
    pub isid: [u8; 6],
    /// 0 for a new session; otherwise the session it wants to add a connection to (sessions have one: refuse).
    pub tsih: u16,
    /// The connection's number within its session.
    pub cid: u16,
    /// What for.
    pub kind: SessionKind,
}

/// SessionType and TargetName.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SessionKind {
    /// Only SendTargets will be asked.
    Discovery,
    /// SCSI commands for this target.
    Normal {
        /// TargetName, in lower case.
        target: String,
    },
}

/// What the glue decided on [`Event::Login`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LoginAnswer {
    /// Welcome; negotiation goes on.
    Accept(LoginAccept),
    /// No: the reason goes to the initiator and the connection ends.
    Refuse(LoginRefusal),
}

/// What an accepted session gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoginAccept {
    /// The target's part of the session's name: not 0, unique on this node among open sessions.
    pub tsih: u16,
    /// The portal group that this listener belongs to (TargetPortalGroupTag).
    pub portal_group: u16,
    /// The logical unit; `None` for a discovery session.
    pub unit: Option<UnitFacts>,
}

/// Why not: a status class and detail of RFC 7143 11.13.5.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoginRefusal {
    /// 0202h: this initiator may not use this target.
    NotAuthorized,
    /// 0203h: there is no such target.
    TargetNotFound,
    /// 0204h: it was here and will not come back.
    TargetRemoved,
    /// 0206h: the session has its one connection.
    TooManyConnections,
    /// 0209h: this session type is not offered.
    SessionTypeNotSupported,
    /// 020Ah: there is no session of that TSIH.
    SessionDoesNotExist,
    /// 0300h: something is wrong here.
    TargetError,
    /// 0301h: not now (starting, stopping).
    ServiceUnavailable,
    /// 0302h: a limit is reached.
    OutOfResources,
}

/// A session as it came out of login.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionStarted {
    /// CRC32C over headers.
    pub header_digest: bool,
    /// CRC32C over data.
    pub data_digest: bool,
    /// The bytes that the initiator takes in one PDU.
    pub initiator_data_segment_bytes: u32,
}

/// The value of the SendTargets key (RFC 7143 appendix C).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Targets {
    /// `All`: every target that this initiator may use.
    All,
    /// One name: that target, if it may use it.
    Named(String),
    /// Empty, in a normal session: the session's own target.
    Own,
}

/// One target in the answer to SendTargets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TargetListing {
    /// TargetName.
    pub name: String,
    /// TargetAddress values, each "address:port,portal group" ("192.0.2.1:3260,1", "[2001:db8::1]:3260,1"). Empty: the
    /// address that the initiator is connected to.
    pub addresses: Vec<String>,
}

/// Task management that reaches beyond a session (RFC 7143 11.5.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reset {
    /// CLEAR TASK SET: the tasks of all initiators on the unit end.
    ClearTaskSet,
    /// LOGICAL UNIT RESET.
    LogicalUnit,
    /// TARGET WARM RESET.
    TargetWarm,
    /// TARGET COLD RESET: as warm, and every connection of the target ends: `reset_by_other` ends the others, this one
    /// closes when it has answered.
    TargetCold,
}
