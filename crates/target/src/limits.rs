//! Every limit of the front end, in one place.

/// What hosts may take of this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Connections of all protocols on all cores; one NVMe host takes one per queue. Beyond it the oldest on which no
    /// host's name was accepted gives way; where all have one, more are told to come later.
    pub connections_max: usize,
    /// Connections above that which are let in only to be told so, in their protocol's words; more are just closed.
    pub refusals_max: usize,
    /// Connections of one address on which no host's name was accepted yet; more are closed. A host connects to all its
    /// volumes at once when it comes back.
    pub nameless_connections_max: usize,
    /// Connections of one host's name (NQN or IQN); more are told to come later.
    pub host_connections_max: usize,
    /// Requests that one connection may have open.
    pub queue_depth_max: u16,
    /// Payload, both ways, that one connection may have in buffers before it is read no further.
    pub connection_bytes_max: usize,
    /// Payload, both ways, of all connections; above it each may have that of one command.
    pub payload_bytes_max: usize,
    /// Answers that wait in one connection's queue before its machine is asked for more.
    pub outgoing_bytes_max: usize,
    /// From a connection's start to the end of its Connect or login.
    pub login_ms: u32,
    /// From a PDU's first byte to its last. A command's payload has twice this: until its first bytes, and from there.
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
            nameless_connections_max: 128,
            host_connections_max: 512,
            queue_depth_max: 1024,
            connection_bytes_max: 32 << 20,
            payload_bytes_max: 512 << 20,
            outgoing_bytes_max: 2 << 20,
            login_ms: 10_000,
            stall_ms: 30_000,
            linger_ms: 1_000,
            lost_writes_ms: 30_000,
        }
    }
}
