//! Get Log Page (Base 2.0c section 5.16).

use alloc::format;
use alloc::vec::Vec;

use zerocopy::{FromZeros, IntoBytes};

use super::controller::{Answer, CHANGED_MAX, Controller, ERRORS_MAX};
use super::event::{DiscoveryEntry, Subsystem};
use super::identify::fill;
use super::io::{Direction, Refusal, TRANSFER_BYTES_MAX, check_sgl};
use super::spec::command::{Sqe, admin, io};
use super::spec::log::{DiscoveryHeader, DiscoveryRecord, Firmware, Smart, fid, lid};
use super::status::Status;

/// RAE: the event stays masked.
const RETAIN_EVENT: u32 = 1 << 15;
/// OT: the offset is an index, which no page here has.
const OFFSET_IS_INDEX: u32 = 1 << 23;
/// Bytes of the page for 256 opcodes of admin and of I/O commands each.
const EFFECTS_BYTES: usize = 4096;

/// What a command does, in the command effects page (Base figure 211).
mod effect {
    pub const SUPPORTED: u32 = 1 << 0;
    pub const CHANGES_DATA: u32 = 1 << 1;
}

const IO_PAGES: [u8; 7] = [
    lid::SUPPORTED,
    lid::ERROR,
    lid::SMART,
    lid::FIRMWARE,
    lid::CHANGED_NAMESPACES,
    lid::COMMAND_EFFECTS,
    lid::FEATURE_EFFECTS,
];
const DISCOVERY_PAGES: [u8; 3] = [lid::SUPPORTED, lid::ERROR, lid::DISCOVERY];

const ADMIN_COMMANDS: [u8; 7] = [
    admin::GET_LOG_PAGE,
    admin::IDENTIFY,
    admin::ABORT,
    admin::SET_FEATURES,
    admin::GET_FEATURES,
    admin::ASYNC_EVENT,
    admin::KEEP_ALIVE,
];

const IO_COMMANDS: [(u8, u32); 6] = [
    (io::FLUSH, 0),
    (io::WRITE, effect::CHANGES_DATA),
    (io::READ, 0),
    (io::COMPARE, 0),
    (io::WRITE_ZEROES, effect::CHANGES_DATA),
    (io::DSM, effect::CHANGES_DATA),
];

const FEATURES: [u8; 10] = [
    fid::ARBITRATION,
    fid::POWER,
    fid::TEMPERATURE,
    fid::ERROR_RECOVERY,
    fid::WRITE_CACHE,
    fid::QUEUES,
    fid::WRITE_ATOMICITY,
    fid::ASYNC_EVENT,
    fid::KEEP_ALIVE,
    fid::HOST_ID,
];

impl Controller {
    pub(super) fn get_log_page(&mut self, sqe: &Sqe, subsystem: &Subsystem<'_>) -> Result<Answer, Refusal> {
        let dword = sqe.cdw10.get();
        let page = dword as u8;
        let dwords = u64::from(dword >> 16) | u64::from(sqe.cdw11.get() & 0xffff) << 16;
        let bytes = (dwords + 1) * 4;
        if bytes > TRANSFER_BYTES_MAX.into() {
            return Err(Refusal::field(42, 0));
        }
        if sqe.cdw14.get() & OFFSET_IS_INDEX != 0 {
            return Err(Refusal::field(58, 7));
        }
        let offset = u64::from(sqe.cdw12.get()) | u64::from(sqe.cdw13.get()) << 32;
        if offset % 4 != 0 {
            return Err(Refusal::field(48, 0));
        }
        let pages = if self.identity.discovery { &DISCOVERY_PAGES[..] } else { &IO_PAGES[..] };
        if !pages.contains(&page) {
            return Err(Refusal::new(Status::INVALID_LOG_PAGE, 40, 0));
        }
        check_sgl(sqe, Direction::ToHost, bytes as u32, 0)?;
        let mut data = self.page(page, pages, subsystem);
        let skipped = usize::try_from(offset).ok().filter(|offset| *offset <= data.len());
        data.drain(..skipped.ok_or(Refusal::field(48, 0))?);
        data.resize(bytes as usize, 0);
        if dword & RETAIN_EVENT == 0 {
            self.page_was_read(page);
        }
        Ok(Answer::Data { data })
    }

    /// The event that told of this page may be told again.
    fn page_was_read(&mut self, page: u8) {
        match page {
            lid::CHANGED_NAMESPACES => {
                self.changed.clear();
                self.namespaces_notice = Default::default();
            }
            lid::DISCOVERY => self.discovery_notice.masked = false,
            _ => {}
        }
    }

    fn page(&self, page: u8, pages: &[u8], subsystem: &Subsystem<'_>) -> Vec<u8> {
        match page {
            lid::SUPPORTED => table(1024, pages.iter().map(|page| (usize::from(*page), 1))),
            lid::ERROR => {
                let mut log: Vec<u8> = self.errors.iter().flat_map(|entry| entry.as_bytes().to_vec()).collect();
                log.resize(ERRORS_MAX * 64, 0);
                log
            }
            lid::SMART => self.smart(subsystem).as_bytes().to_vec(),
            lid::FIRMWARE => {
                let mut log = Firmware::new_zeroed();
                log.afi = 1;
                fill(&mut log.slot1, env!("CARGO_PKG_VERSION"), b' ');
                log.as_bytes().to_vec()
            }
            lid::CHANGED_NAMESPACES => self.changed_namespaces(),
            lid::COMMAND_EFFECTS => {
                let of_admin = ADMIN_COMMANDS.iter().map(|opcode| (usize::from(*opcode), effect::SUPPORTED));
                let of_io = IO_COMMANDS.iter().map(|(op, effect)| (256 + usize::from(*op), effect | effect::SUPPORTED));
                table(EFFECTS_BYTES, of_admin.chain(of_io))
            }
            lid::FEATURE_EFFECTS => table(1024, FEATURES.iter().map(|feature| (usize::from(*feature), 1))),
            lid::DISCOVERY => discovery(subsystem),
            _ => Vec::new(),
        }
    }

    fn smart(&self, subsystem: &Subsystem<'_>) -> Smart {
        let totals = self.totals();
        let units = |bytes: u64| u128::from(bytes.div_ceil(512_000)).to_le_bytes();
        let mut log = Smart::new_zeroed();
        let read_only = subsystem.namespaces.iter().any(|space| space.geometry.read_only);
        log.critical = u8::from(read_only) << 3;
        log.spare = 100;
        log.units_read = units(totals.read_bytes);
        log.units_written = units(totals.written_bytes);
        log.reads = u128::from(totals.reads).to_le_bytes();
        log.writes = u128::from(totals.writes).to_le_bytes();
        log.errors = u128::from(self.errors_count).to_le_bytes();
        log
    }

    fn changed_namespaces(&self) -> Vec<u8> {
        let mut log: Vec<u8> = if self.changed.len() > CHANGED_MAX {
            u32::MAX.to_le_bytes().to_vec()
        } else {
            self.changed.iter().flat_map(|nsid| nsid.to_le_bytes()).collect()
        };
        log.resize(CHANGED_MAX * 4, 0);
        log
    }
}

/// A page of `bytes` with 4-byte entries, of which those at the given indices are not 0.
fn table(bytes: usize, entries: impl Iterator<Item = (usize, u32)>) -> Vec<u8> {
    let mut page = alloc::vec![0; bytes];
    for (index, value) in entries {
        page[index * 4..index * 4 + 4].copy_from_slice(&value.to_le_bytes());
    }
    page
}

fn discovery(subsystem: &Subsystem<'_>) -> Vec<u8> {
    let mut header = DiscoveryHeader::new_zeroed();
    header.genctr = subsystem.generation.into();
    header.numrec = (subsystem.entries.len() as u64).into();
    let mut page = Vec::with_capacity(1024 * (1 + subsystem.entries.len()));
    page.extend_from_slice(header.as_bytes());
    for entry in subsystem.entries {
        page.extend_from_slice(discovery_record(entry).as_bytes());
    }
    page
}

fn discovery_record(entry: &DiscoveryEntry) -> DiscoveryRecord {
    let mut record = DiscoveryRecord::new_zeroed();
    record.trtype = 3;
    record.adrfam = if entry.ipv6 { 2 } else { 1 };
    record.subtype = if entry.discovery { 3 } else { 2 };
    record.treq = 0b100;
    record.portid = entry.port_id.into();
    record.cntlid = 0xffff.into();
    record.asqsz = 128.into();
    fill(&mut record.trsvcid, &format!("{}", entry.port), b' ');
    fill(&mut record.subnqn, &entry.subsystem_nqn, 0);
    fill(&mut record.traddr, &entry.address, b' ');
    record
}
