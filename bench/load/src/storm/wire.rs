//! What a volume is asked, and the way over NVMe/TCP.

use std::io;
use std::net::SocketAddr;

use crate::host::{HostQueue, Target, bring_up};
use sds_proto::nvme::initiator::Data;
use sds_proto::nvme::pdu::Digests;
use sds_proto::nvme::spec::command::{Sqe, cdw12, io as opcode};
use sds_proto::nvme::status::Status;

/// Commands that a host keeps open on one connection.
pub const QUEUE_DEPTH: u16 = 8;
/// DSM: deallocate (NVM command set 1.0 figure 46).
const DSM_DEALLOCATE: u32 = 4;

/// A volume as one protocol names it.
#[derive(Clone, Debug)]
pub struct Place {
    /// The portal.
    pub address: SocketAddr,
    /// NQN or IQN.
    pub target: String,
    /// LUN; NVMe's namespace is always 1.
    pub unit: u8,
    /// Bytes of a logical block.
    pub block_bytes: u32,
}

/// One command; places and counts are in logical blocks.
#[derive(Debug)]
pub enum Ask {
    /// Reads.
    Read(u64, u32),
    /// Writes these bytes; `true`: durably.
    Write(u64, Vec<u8>, bool),
    /// Writes zeros.
    Zero(u64, u32),
    /// Gives space back; it reads zeros after that.
    Discard(u64, u32),
    /// Makes durable what was answered.
    Flush,
}

/// The end of a command.
pub struct Ended {
    /// Which.
    pub tag: u32,
    /// Why the target refused it.
    pub refused: Option<String>,
    /// What a read brought.
    pub data: Vec<u8>,
}

/// One connection of a host.
pub trait Wire: Send {
    /// Another command may be submitted.
    fn has_room(&mut self) -> bool;

    /// Sends a command; its tag.
    ///
    /// # Errors
    /// The system's: the connection is gone.
    fn submit(&mut self, ask: &Ask) -> io::Result<u32>;

    /// Waits for the next command to end.
    ///
    /// # Errors
    /// The system's; the target's, if it broke the protocol.
    fn ended(&mut self) -> io::Result<Ended>;
}

/// A queue over NVMe/TCP.
pub struct Nvme {
    // The controller lives as long as its admin queue.
    _admin: HostQueue,
    queue: HostQueue,
    block_bytes: u32,
}

impl Nvme {
    /// Connects as the host `host`.
    ///
    /// # Errors
    /// As [`HostQueue::connect`].
    pub fn connect(place: &Place, host: u8) -> io::Result<Self> {
        let target = Target {
            address: place.address,
            subsystem: place.target.clone(),
            host: format!("nqn.2026-11.io.sds:storm-{host}"),
            host_id: [host + 1; 16],
            digests: Digests::default(),
        };
        let admin = bring_up(&target)?;
        let queue = HostQueue::connect(&target, 1, admin.controller_id(), QUEUE_DEPTH)?;
        Ok(Self { _admin: admin, queue, block_bytes: place.block_bytes })
    }
}

fn of_blocks(opcode: u8, first: u64, blocks: u32) -> Sqe {
    Sqe {
        opcode,
        nsid: 1.into(),
        cdw10: (first as u32).into(),
        cdw11: ((first >> 32) as u32).into(),
        cdw12: (blocks - 1).into(),
        ..Sqe::default()
    }
}

impl Wire for Nvme {
    fn has_room(&mut self) -> bool {
        self.queue.machine().room() > 0
    }

    fn submit(&mut self, ask: &Ask) -> io::Result<u32> {
        let tag = match ask {
            Ask::Read(first, blocks) => self.queue.read(*first, *blocks, (blocks * self.block_bytes) as usize),
            Ask::Write(first, data, durable) => {
                let mut sqe = of_blocks(opcode::WRITE, *first, data.len() as u32 / self.block_bytes);
                if *durable {
                    sqe.cdw12 = (sqe.cdw12.get() | cdw12::FUA).into();
                }
                self.queue.submit_with(sqe, data)
            }
            Ask::Zero(first, blocks) => {
                self.queue.machine().submit(of_blocks(opcode::WRITE_ZEROES, *first, *blocks), Data::None)
            }
            Ask::Discard(first, blocks) => {
                let sqe = Sqe { opcode: opcode::DSM, nsid: 1.into(), cdw11: DSM_DEALLOCATE.into(), ..Sqe::default() };
                // A range (figure 47): context attributes, length, first block.
                let mut range = vec![0; 4];
                range.extend_from_slice(&blocks.to_le_bytes());
                range.extend_from_slice(&first.to_le_bytes());
                self.queue.submit_with(sqe, &range)
            }
            Ask::Flush => self.queue.machine().flush(1),
        };
        let tag = tag.ok_or(io::ErrorKind::WouldBlock)?;
        self.queue.send()?;
        Ok(tag.0.into())
    }

    fn ended(&mut self) -> io::Result<Ended> {
        let completion = self.queue.completion()?;
        let refused = (completion.status != Status::SUCCESS).then(|| format!("{:?}", completion.status));
        let data = self.queue.bytes(completion.tag).to_vec();
        Ok(Ended { tag: completion.tag.0.into(), refused, data })
    }
}
