//! A host's queue over a socket.

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use sds_proto::nvme::initiator::{Completion, Config, Data, Initiator, Progress};
use sds_proto::nvme::pdu::Digests;
use sds_proto::nvme::spec::command::{FABRICS, Sqe, fctype, property};
use sds_proto::nvme::status::Status;
use sds_proto::{Piece, Receive, Tag};
use sds_uring::net::{Moved, Socket};

/// Received at once.
const RECEIVE_BYTES: usize = 256 * 1024;
/// Gathered before it is sent.
const SEND_BYTES_MAX: usize = 256 * 1024;
/// CC: enabled, 64-byte commands, 16-byte completions (Base 2.0c section 3.1.3.5).
const CC_ENABLE: u32 = 0x0046_0001;
/// Nothing came from the target for so long: the call fails.
const SILENCE_MS: u64 = 30_000;

/// Whom to connect to, as whom.
#[derive(Clone, Debug)]
pub struct Target {
    /// Its address.
    pub address: SocketAddr,
    /// SUBNQN.
    pub subsystem: String,
    /// HOSTNQN.
    pub host: String,
    /// HOSTID.
    pub host_id: [u8; 16],
    /// Header and data digests.
    pub digests: Digests,
}

/// What a call received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Received {
    /// There was nothing.
    Nothing,
    /// All that was there.
    All,
    /// As much as there was room for.
    MoreWaits,
}

/// One queue on one connection.
pub struct HostQueue {
    socket: Socket,
    machine: Initiator,
    /// Each tag's bytes: what a write sends, what a read received.
    buffers: Vec<Vec<u8>>,
    /// Copy what reads bring into the buffers; a load generator that looks at nothing saves that.
    keep: bool,
    received: Vec<u8>,
    kept: usize,
    out: Vec<u8>,
    sent: usize,
}

impl HostQueue {
    /// Connects and waits until the target has accepted the queue.
    ///
    /// # Errors
    /// The system's; `ConnectionRefused` with the status if the target refused.
    pub fn connect(target: &Target, queue_id: u16, controller_id: u16, queue_depth: u16) -> io::Result<Self> {
        let config = Config {
            host_nqn: target.host.clone(),
            host_id: target.host_id,
            subsystem_nqn: target.subsystem.clone(),
            queue_id,
            controller_id,
            queue_depth,
            keep_alive_ms: 0,
            digests: target.digests,
            disable_flow_control: queue_id != 0,
            in_capsule_bytes: 8192,
        };
        let mut queue = Self {
            socket: Socket::connect(target.address)?,
            machine: Initiator::new(config),
            buffers: vec![Vec::new(); usize::from(queue_depth)],
            keep: true,
            received: vec![0; RECEIVE_BYTES + 16384],
            kept: 0,
            out: Vec::new(),
            sent: 0,
        };
        loop {
            match queue.machine.progress() {
                Progress::Connected(_) => return Ok(queue),
                Progress::Refused(status, value) => {
                    let words = format!("the target refused: {status:?} ({value:#x})");
                    return Err(io::Error::new(io::ErrorKind::ConnectionRefused, words));
                }
                Progress::Ended => return Err(io::Error::other("the target ended the connection")),
                Progress::Connecting => queue.wait()?,
            }
        }
    }

    /// CNTLID.
    #[must_use]
    pub fn controller_id(&self) -> u16 {
        match self.machine.progress() {
            Progress::Connected(id) => id,
            Progress::Connecting | Progress::Refused(..) | Progress::Ended => 0,
        }
    }

    /// The queue's machine: for commands without data and for what stands open.
    pub const fn machine(&mut self) -> &mut Initiator {
        &mut self.machine
    }

    /// The socket, for readiness.
    #[must_use]
    pub const fn socket(&self) -> &Socket {
        &self.socket
    }

    /// Forgets what reads bring from now on.
    pub const fn forget_reads(&mut self) {
        self.keep = false;
    }

    /// Starts a read of `bytes` from block `lba`; `None` if the queue is full.
    pub fn read(&mut self, lba: u64, blocks: u32, bytes: usize) -> Option<Tag> {
        let tag = self.machine.read(1, lba, blocks, bytes as u32)?;
        self.buffers[usize::from(tag.0)].resize(bytes, 0);
        Some(tag)
    }

    /// Starts a write of `data` at block `lba`; `None` if the queue is full.
    pub fn write(&mut self, lba: u64, blocks: u32, data: &[u8]) -> Option<Tag> {
        let tag = self.machine.write(1, lba, blocks, data.len() as u32, false)?;
        let buffer = &mut self.buffers[usize::from(tag.0)];
        buffer.clear();
        buffer.extend_from_slice(data);
        Some(tag)
    }

    /// Starts any command that sends `data`; `None` if the queue is full.
    pub fn submit_with(&mut self, sqe: Sqe, data: &[u8]) -> Option<Tag> {
        let tag = self.machine.submit(sqe, Data::Write(data.len() as u32))?;
        let buffer = &mut self.buffers[usize::from(tag.0)];
        buffer.clear();
        buffer.extend_from_slice(data);
        Some(tag)
    }

    /// What a read brought, until its tag is used again.
    #[must_use]
    pub fn bytes(&self, tag: Tag) -> &[u8] {
        &self.buffers[usize::from(tag.0)]
    }

    /// Sends what can be sent now. False if the socket is full and more waits.
    ///
    /// # Errors
    /// The system's.
    pub fn send(&mut self) -> io::Result<bool> {
        loop {
            while self.out.len() < SEND_BYTES_MAX {
                match self.machine.poll_transmit() {
                    None => break,
                    Some(Piece::Control(bytes)) => self.out.extend_from_slice(bytes),
                    Some(Piece::Payload { tag, offset, bytes, pad, digest, .. }) => {
                        let data = &self.buffers[usize::from(tag.0)][offset..offset + bytes];
                        let start = self.out.len();
                        self.out.extend_from_slice(data);
                        self.out.resize(self.out.len() + pad, 0);
                        if digest {
                            let crc = sds_proto::crc32c::crc32c(&self.out[start..]);
                            self.out.extend_from_slice(&crc.to_le_bytes());
                        }
                    }
                }
            }
            if self.sent == self.out.len() {
                self.out.clear();
                self.sent = 0;
                return Ok(true);
            }
            match self.socket.send(&[IoSlice::new(&self.out[self.sent..])])? {
                Moved::Bytes(sent) => self.sent += sent,
                Moved::WouldBlock | Moved::End => return Ok(false),
            }
            if self.sent == self.out.len() {
                self.out.clear();
                self.sent = 0;
            }
        }
    }

    /// Receives once, and feeds the machine.
    ///
    /// # Errors
    /// The system's; `UnexpectedEof` if the target has closed.
    pub fn receive(&mut self) -> io::Result<Received> {
        let room = self.received.len() - self.kept;
        match self.socket.receive(&mut [], &mut self.received[self.kept..])? {
            Moved::WouldBlock => Ok(Received::Nothing),
            Moved::End => Err(io::ErrorKind::UnexpectedEof.into()),
            Moved::Bytes(count) => {
                self.feed(self.kept + count);
                Ok(if count == room { Received::MoreWaits } else { Received::All })
            }
        }
    }

    fn feed(&mut self, end: usize) {
        let mut at = 0;
        loop {
            let rest = end - at;
            match self.machine.poll_receive() {
                Receive::Control { bytes } if rest >= bytes => {
                    self.machine.handle_control(&self.received[at..at + bytes]);
                    at += bytes;
                }
                Receive::Payload { tag, offset, bytes, .. } if rest > 0 => {
                    let part = &self.received[at..at + rest.min(bytes)];
                    if self.keep {
                        self.buffers[usize::from(tag.0)][offset..offset + part.len()].copy_from_slice(part);
                    }
                    self.machine.handle_payload(part);
                    at += part.len();
                }
                Receive::Nothing => {
                    at = end;
                    break;
                }
                Receive::Control { .. } | Receive::Payload { .. } => break,
            }
        }
        self.received.copy_within(at..end, 0);
        self.kept = end - at;
    }

    /// Sends, then waits until the target has said something.
    ///
    /// # Errors
    /// The system's; `TimedOut` if it says nothing for long.
    pub fn wait(&mut self) -> io::Result<()> {
        let all_sent = self.send()?;
        if self.receive()? != Received::Nothing {
            return Ok(());
        }
        let wanted = if all_sent { PollFlags::IN } else { PollFlags::IN | PollFlags::OUT };
        let limit = Timespec::try_from(Duration::from_millis(SILENCE_MS)).map_err(io::Error::other)?;
        let mut fds = [PollFd::from_borrowed_fd(self.socket.as_fd(), wanted)];
        if poll(&mut fds, Some(&limit))? == 0 {
            return Err(io::ErrorKind::TimedOut.into());
        }
        self.receive().map(drop)
    }

    /// Waits for the next command to end.
    ///
    /// # Errors
    /// As [`HostQueue::wait`].
    pub fn completion(&mut self) -> io::Result<Completion> {
        loop {
            if let Some(completion) = self.machine.poll_completion() {
                return Ok(completion);
            }
            self.wait()?;
        }
    }

    /// Runs one command and waits for its end.
    ///
    /// # Errors
    /// As [`HostQueue::wait`]; `WouldBlock` if the queue is full.
    pub fn run(&mut self, sqe: Sqe, data: Data) -> io::Result<Completion> {
        self.machine.submit(sqe, data).ok_or(io::ErrorKind::WouldBlock)?;
        self.completion()
    }
}

/// Makes a controller: the admin queue, enabled.
///
/// # Errors
/// As [`HostQueue::connect`]; `Other` with the status if the controller can't be enabled.
pub fn bring_up(target: &Target) -> io::Result<HostQueue> {
    let mut admin = HostQueue::connect(target, 0, 0xffff, 32)?;
    // Property Set (transport figure 21) laid over a submission queue entry: FCTYPE, ATTRIB (4 bytes), OFST, VALUE.
    let enable = Sqe {
        opcode: FABRICS,
        nsid: u32::from(fctype::PROPERTY_SET).into(),
        cdw11: property::CC.into(),
        cdw12: CC_ENABLE.into(),
        ..Sqe::default()
    };
    let completion = admin.run(enable, Data::None)?;
    if completion.status != Status::SUCCESS {
        return Err(io::Error::other(format!("the controller can't be enabled: {:?}", completion.status)));
    }
    Ok(admin)
}
