//! Identify (Base 2.0c section 5.17, NVM 1.0c section 4.1.5).
//!
//! What is said is what is kept: no atomic writes beyond one block (AWUPF 0), since a disk below may tear larger ones
//! at a power cut; granularities are the device's own.

use alloc::vec::Vec;

use sds_block::Geometry;
use zerocopy::{FromZeros, IntoBytes};

use super::admin::has_cache;
use super::controller::{Answer, Controller, ERRORS_MAX, EVENT_REQUESTS_MAX, VERSION};
use super::event::{Namespace, Subsystem};
use super::io::{Direction, Refusal, check_sgl};
use super::pdu::IN_CAPSULE_BYTES_MAX;
use super::spec::command::Sqe;
use super::spec::identify::{
    IDENTIFY_BYTES, IdentifyController, IdentifyNamespace, IndependentNamespace, NvmController, cns, nidt,
};
use super::status::Status;

/// MDTS: 2^8 pages of 4 KiB are 1 MiB, `io::TRANSFER_BYTES_MAX`.
const MDTS: u8 = 8;
/// WZSL: 2^13 pages of 4 KiB are 32 MiB: what 65,536 blocks of 512 bytes are.
const WZSL: u8 = 13;
/// The NVM command set.
const CSI_NVM: u8 = 0;
/// NSIDs from here on name no namespace.
const NSID_RESERVED: u32 = 0xffff_fffe;
/// ONCS: Compare, Dataset Management, Write Zeroes.
const ONCS: u16 = 1 << 0 | 1 << 2 | 1 << 3;
/// SGLS: SGLs without alignment; in-capsule data by offset.
const SGLS: u32 = 1 | 1 << 20;
/// LPA: command effects; offsets and lengths of 32 bits; supported log pages.
const LPA: u8 = 1 << 1 | 1 << 2 | 1 << 5;

impl Controller {
    pub(super) fn identify(&self, sqe: &Sqe, subsystem: &Subsystem<'_>) -> Result<Answer, Refusal> {
        check_sgl(sqe, Direction::ToHost, IDENTIFY_BYTES as u32, 0)?;
        let (structure, set, nsid) = (sqe.cdw10.get() as u8, (sqe.cdw11.get() >> 24) as u8, sqe.nsid.get());
        if structure == cns::CONTROLLER {
            return data(self.identify_controller(subsystem).as_bytes());
        }
        if self.identity.discovery {
            return Err(Refusal::field(40, 0));
        }
        let set_counts = matches!(structure, cns::CSI_NAMESPACE | cns::CSI_CONTROLLER | cns::CSI_ACTIVE_LIST);
        if set_counts && set != CSI_NVM {
            return Err(Refusal::field(47, 0));
        }
        let find = || find(subsystem, nsid);
        match structure {
            cns::NAMESPACE => match find() {
                Ok(space) => data(identify_namespace(&space.geometry).as_bytes()),
                // An NSID that could be, and is not, reads as zeros.
                Err(_) if nsid != 0 && nsid <= highest(subsystem) => data(&[]),
                Err(refusal) => Err(refusal),
            },
            cns::ACTIVE_LIST | cns::CSI_ACTIVE_LIST if nsid < NSID_RESERVED => data(&active(subsystem, nsid)),
            cns::ACTIVE_LIST | cns::CSI_ACTIVE_LIST => Err(Refusal::new(Status::INVALID_NAMESPACE, 4, 0)),
            cns::DESCRIPTORS => data(&descriptors(&find()?.geometry.uuid)),
            // No protection information, no larger metadata: all zeros.
            cns::CSI_NAMESPACE => find().and_then(|_| data(&[])),
            cns::CSI_CONTROLLER => data(nvm_controller().as_bytes()),
            cns::INDEPENDENT_NAMESPACE => data(independent(&find()?.geometry).as_bytes()),
            _ => Err(Refusal::field(40, 0)),
        }
    }

    fn identify_controller(&self, subsystem: &Subsystem<'_>) -> IdentifyController {
        let mut id = IdentifyController::new_zeroed();
        fill(&mut id.serial, &self.identity.serial, b' ');
        fill(&mut id.model, "sds volume", b' ');
        fill(&mut id.firmware, env!("CARGO_PKG_VERSION"), b' ');
        fill(&mut id.subnqn, &self.identity.subsystem_nqn, 0);
        // Several hosts, through several ports, each by a controller of its own.
        id.cmic = 0b11;
        id.mdts = MDTS;
        id.cntlid = self.identity.controller_id.into();
        id.ver = VERSION.into();
        id.oaes = self.events_offered().into();
        id.ctratt = 1.into();
        id.acl = 3;
        id.aerl = (EVENT_REQUESTS_MAX - 1) as u8;
        id.frmw = 0b11;
        id.lpa = LPA;
        id.elpe = (ERRORS_MAX - 1) as u8;
        id.kas = 1.into();
        id.maxcmd = self.identity.queue_depth_max.into();
        id.sgls = SGLS.into();
        id.cntrltype = if self.identity.discovery { 2 } else { 1 };
        if self.identity.discovery {
            return id;
        }
        id.rab = 6;
        id.sqes = 0x66;
        id.cqes = 0x44;
        id.nn = highest(subsystem).into();
        id.mnan = highest(subsystem).into();
        id.oncs = ONCS.into();
        id.vwc = 0b110 | u8::from(has_cache(subsystem));
        id.ioccsz = ((64 + IN_CAPSULE_BYTES_MAX as u32) / 16).into();
        id.iorcsz = 1.into();
        id.msdbd = 1;
        id
    }
}

/// An answer of 4096 bytes that starts with `start` and goes on with zeros.
#[expect(clippy::unnecessary_wraps, reason = "the arms of a match whose others refuse")]
fn data(start: &[u8]) -> Result<Answer, Refusal> {
    let mut data = start.to_vec();
    data.resize(IDENTIFY_BYTES, 0);
    Ok(Answer::Data { data })
}

/// Puts `text` into a field, cut to its size, and fills up with `padding`.
pub(super) fn fill(field: &mut [u8], text: &str, padding: u8) {
    let len = text.len().min(field.len());
    field[..len].copy_from_slice(&text.as_bytes()[..len]);
    field[len..].fill(padding);
}

fn find<'a>(subsystem: &Subsystem<'a>, nsid: u32) -> Result<&'a Namespace, Refusal> {
    let found = subsystem.namespaces.iter().find(|space| space.nsid == nsid);
    found.ok_or(Refusal::new(Status::INVALID_NAMESPACE, 4, 0))
}

/// NN: also an empty subsystem has room for one.
fn highest(subsystem: &Subsystem<'_>) -> u32 {
    subsystem.namespaces.iter().map(|space| space.nsid).max().unwrap_or(0).max(1)
}

fn active(subsystem: &Subsystem<'_>, after: u32) -> Vec<u8> {
    let later = subsystem.namespaces.iter().map(|space| space.nsid).filter(|nsid| *nsid > after);
    later.take(IDENTIFY_BYTES / 4).flat_map(u32::to_le_bytes).collect()
}

fn identify_namespace(geometry: &Geometry) -> IdentifyNamespace {
    let mut id = IdentifyNamespace::new_zeroed();
    let block = geometry.logical_block_bytes;
    let blocks = geometry.blocks.0;
    // All counts here are of blocks and 0-based.
    let per = |bytes: u32| (bytes / block).clamp(1, 1 << 16) - 1;
    id.nsze = blocks.into();
    id.ncap = blocks.into();
    id.nuse = blocks.into();
    id.nsfeat = 1 << 3 | 1 << 4;
    id.nmic = 1;
    id.dlfeat = 0b1001;
    id.nvmcap = (u128::from(blocks) * u128::from(block)).to_le_bytes();
    id.npwg = (per(geometry.physical_block_bytes) as u16).into();
    id.npwa = id.npwg;
    id.npdg = (per(geometry.discard_granularity_bytes) as u16).into();
    id.npda = id.npdg;
    id.nows = (per(geometry.optimal_transfer_bytes) as u16).into();
    id.nsattr = u8::from(geometry.read_only);
    id.nguid = geometry.uuid;
    id.lbaf0_lbads = block.trailing_zeros() as u8;
    id
}

/// NGUID, UUID, command set: type, length, two reserved bytes, value. There is no EUI-64: 8 bytes of the UUID would not
/// be unique, and none were assigned.
fn descriptors(uuid: &[u8; 16]) -> Vec<u8> {
    let mut list = Vec::with_capacity(IDENTIFY_BYTES);
    for (kind, value) in [(nidt::NGUID, &uuid[..]), (nidt::UUID, &uuid[..]), (nidt::CSI, &[CSI_NVM][..])] {
        list.extend_from_slice(&[kind, value.len() as u8, 0, 0]);
        list.extend_from_slice(value);
    }
    list
}

/// Ranges of Dataset Management have no limit but their number, 256, which DMRL (8 bits) can't say: 0 does.
fn nvm_controller() -> NvmController {
    let mut id = NvmController::new_zeroed();
    id.wzsl = WZSL;
    id
}

fn independent(geometry: &Geometry) -> IndependentNamespace {
    let mut id = IndependentNamespace::new_zeroed();
    id.nsfeat = 1 << 3;
    id.nmic = 1;
    id.nsattr = u8::from(geometry.read_only);
    id.nstat = 1;
    id
}
