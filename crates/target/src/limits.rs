//! Every limit of the front end, in one place.

/// What hosts may take of this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Connections of all protocols on all cores; one NVMe host takes one per queue. More are told to come later.
    pub connections_max: usize,
    /// Connections above that which are let in only to be told so, in their protocol's words; more are just closed.
    pub refusals_max: usize,
    /// Requests that one connection may have open.
    pub queue_depth_max: u16,
    /// Payload, both ways, that one connection may have in buffers before it is read no further.
    pub connection_bytes_max: usize,
    /// Answers that wait in one connection's queue before its machine is asked for more.
    pub outgoing_bytes_max: usize,
    /// From a connection's start to the end of its Connect or login.
    pub login_ms: u32,
    /// From a PDU's first byte to its last.
    pub stall_ms: u32,
    /// How long a connection that said why it ends may take to read that.
    pub linger_ms: u32,
    /// How long a host's new association waits for the writes of its lost one before it is told to come later.
    pub lost_writes_ms: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections_max: 1024,
            refusals_max: 128,
            queue_depth_max: 1024,
            connection_bytes_max: 32 << 20,
            outgoing_bytes_max: 2 << 20,
            login_ms: 10_000,
            stall_ms: 30_000,
            linger_ms: 1_000,
            lost_writes_ms: 30_000,
        }
    }
}
