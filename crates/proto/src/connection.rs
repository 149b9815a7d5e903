//! What the socket shell sees of a protocol: one machine per TCP connection, which does no I/O and copies no payload.
//!
//! The machine says where the next bytes of the stream go ([`Receive`]), so the shell can read a payload straight into
//! the aligned buffer that the disk will take; and it says what to send ([`Piece`]), so a read's answer leaves from the
//! buffers that the disk filled.
//!
//! Methods are of four kinds: getters; `handle_*` for what happened; commands; `poll_*` for what to do. The shell's
//! loop:
//!
//! 1. `poll_receive`, feed it (`handle_control` / `handle_payload`), until the received bytes are used up;
//! 2. `poll_event`, until `None`: protocol matters that need a decision from outside (who connects, what exists);
//! 3. `poll_submit`, until `None`: hand each to its device; later `handle_outcome`;
//! 4. `poll_transmit`, until `None`, coalesced into one `sendmsg`;
//! 5. `poll_timeout`: when to call `handle_timeout` at the latest.
//!
//! Time comes in as `now`, since any fixed moment.
//!
//! # The buffers of a tag
//! The shell holds two for each tag, and the machine says when it needs them:
//!
//! - The **payload** is made when [`Receive::Payload`] first names the tag, or names it with another `total`. It goes
//!   to the device with the [`Submit`] of a command that takes one (unless that has a `fill`). A request may end
//!   without ever being submitted: refused after some of its data came, damaged, aborted, or its session ended. Then
//!   [`Connection::awaited_payloads`] does not name its tag any more, and the payload may be let go. It may as well
//!   stay until the tag is used again: every byte of a payload is received anew before it is submitted, so a buffer
//!   that has the right size need not be cleared.
//! - The **answer** is what a device has read. It is kept from [`Connection::handle_outcome`] with `Ok(bytes)` until a
//!   [`Piece::Payload`] with `last`. If nobody is to have it any more (the request was aborted, or the reading was all
//!   that was asked for), that piece has 0 bytes, no pad and no digest: nothing is sent for it. An answer that failed
//!   in the machine's eyes (it has another size than was asked for) has no such piece and is let go with the tag's
//!   next outcome, by which time it is not needed.
//!
//! A tag is used again only after its last piece was polled, so what is polled later never needs what it has replaced.
//!
//! # What the shell owes the machine
//! - `handle_control` with exactly the bytes that the last `poll_receive` asked for; `handle_payload` with one byte or
//!   more and no more than were asked for, in order. Neither after [`Receive::Nothing`].
//! - One `handle_outcome` for every [`Submit`], at any time and in any order, also when the machine is ending. A
//!   machine that is dropped needs none.
//! - Pieces are sent in the order of `poll_transmit`, whole, with nothing in between.
//! - Once `termination` or `is_closed` says so: the pieces that are left, then the end of the stream. Requests that a
//!   device has go on without the machine.
//!
//! # What the machine owes the shell
//! - It never panics for what the peer sends; it terminates, and then asks for nothing more.
//! - What it holds is bounded by its settings, however long the peer talks without listening: the shell stops feeding
//!   it while too much waits to be sent.
//! - Between two `handle_*` or commands, `poll_receive` says the same, however often it is called.

use alloc::vec::Vec;
use core::time::Duration;

use sds_block::{BlockError, Command};

/// Names a request within its connection, from [`Connection::poll_submit`] until its last [`Piece`] was sent. Small and
/// dense (below the queue's depth), so the shell indexes arrays with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Tag(pub u16);

/// Which of the machine's devices a request is for: an NSID or a LUN that the shell made known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Unit(pub u32);

/// Where the next bytes of the stream go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Receive {
    /// Exactly `bytes` (at most [`CONTROL_BYTES_MAX`]) of headers, digests, text: give them to
    /// [`Connection::handle_control`] when all are there.
    Control {
        /// How many.
        bytes: usize,
    },
    /// The next `bytes` belong at `offset` of the payload of `tag`, which has `total` bytes. The shell allocates that
    /// buffer when it first hears of the tag. Give them, in any portions, to [`Connection::handle_payload`].
    Payload {
        /// Whose payload.
        tag: Tag,
        /// Where in it.
        offset: usize,
        /// How many are still to come in this run.
        bytes: usize,
        /// The whole payload's size.
        total: usize,
    },
    /// Nothing more is read from this peer.
    Nothing,
}

/// The most that [`Receive::Control`] asks for at once.
pub const CONTROL_BYTES_MAX: usize = 16 * 1024;

/// A request that is complete: its payload (if it has one) lies in the tag's buffer, digests checked, or is a `fill`.
#[derive(Debug)]
pub struct Submit {
    /// Its name.
    pub tag: Tag,
    /// Whose blocks.
    pub unit: Unit,
    /// What to do.
    pub command: Command,
    /// One logical block which, again and again over the range, is the payload of this [`Command::Write`]. The machine
    /// keeps such writes as short as any other.
    pub fill: Option<Vec<u8>>,
}

/// Something to send, in order.
#[derive(Debug)]
pub enum Piece<'a> {
    /// These bytes of headers, digests, control data: copied by the shell at once.
    Control(&'a [u8]),
    /// `bytes` of what the device answered for `tag`, from `offset`; if `digest`, followed by their CRC32C (4 bytes,
    /// little-endian), which the shell computes as it goes over the bytes.
    Payload {
        /// Whose answer.
        tag: Tag,
        /// From where in it.
        offset: usize,
        /// How many.
        bytes: usize,
        /// Zero bytes to send after them before the digest (iSCSI pads to 4).
        pad: usize,
        /// Whether their CRC32C follows.
        digest: bool,
        /// After this the answer is not needed any more. A piece of 0 bytes does nothing but say that.
        last: bool,
    },
}

/// Why a connection ends, for the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Termination {
    /// What the peer did wrong, as a clause that names the field: "CapsuleCmd PLEN 24 is below 72".
    pub reason: &'static str,
    /// The value at fault.
    pub value: u64,
}

/// One connection's protocol machine.
pub trait Connection {
    /// What needs a decision from outside.
    type Event;

    /// Where the next received bytes go. Call it again after every `handle_*`.
    fn poll_receive(&mut self) -> Receive;

    /// The bytes that [`Receive::Control`] asked for, all of them.
    fn handle_control(&mut self, now: Duration, bytes: &[u8]);

    /// Bytes that the shell has put where [`Receive::Payload`] said; given so that digests can be checked.
    fn handle_payload(&mut self, now: Duration, bytes: &[u8]);

    /// The next matter to decide.
    fn poll_event(&mut self) -> Option<Self::Event>;

    /// The next request to run.
    fn poll_submit(&mut self) -> Option<Submit>;

    /// What came of the request `tag`, once for each [`Submit`]: for a read, `Ok(bytes)` that the shell holds for
    /// [`Piece::Payload`]; `Ok(0)` for everything else.
    fn handle_outcome(&mut self, now: Duration, tag: Tag, outcome: Result<usize, &BlockError>);

    /// The next piece to send. The shell stops asking when enough is queued.
    fn poll_transmit(&mut self) -> Option<Piece<'_>>;

    /// Bytes of payload, both ways, that were asked for, are coming, are with the device, or are to be sent.
    fn bytes_in_flight(&self) -> usize;

    /// From now on so many bytes may be in flight before commands wait; one command is always let in. What waited may
    /// go on now: look what there is to do.
    fn set_bytes_in_flight_max(&mut self, bytes: usize);

    /// The requests whose payload is not with the device yet: more of it is to come, or `poll_submit` will bring it. A
    /// payload's buffer whose tag is not among them is not needed any more.
    fn awaited_payloads(&self) -> Vec<Tag>;

    /// When [`Connection::handle_timeout`] must be called, if nothing happens before.
    fn poll_timeout(&self) -> Option<Duration>;

    /// Time has passed: the machine checks its limits (a PDU that stalls, a keep-alive that is missing).
    fn handle_timeout(&mut self, now: Duration);

    /// The peer broke the protocol or a limit: once the pieces that say so are sent, close. For the log.
    fn termination(&self) -> Option<&Termination>;

    /// Nothing more is to be received or sent.
    fn is_closed(&self) -> bool;
}
