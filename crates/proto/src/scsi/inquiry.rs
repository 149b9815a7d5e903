//! INQUIRY (SPC-4 6.6) and its vital product data pages (SPC-4 7.8, SBC-3 6.6).

use alloc::format;
use alloc::vec::Vec;

use zerocopy::IntoBytes;

use super::blocks::compare_and_write_blocks_max;
use super::commands::cut;
use super::sense::Sense;
use super::spec::{
    BlockCharacteristics, BlockLimits, DesignatorHeader, InquiryStandard, LogicalBlockProvisioning, VpdHeader,
};
use super::unit::{LogicalUnit, UNMAP_BLOCKS_MAX, UNMAP_DESCRIPTORS_MAX, WRITE_SAME_BLOCKS_MAX};

/// SAM-5, iSCSI, SPC-4, SBC-3: no version claimed (SPC-4 table 142).
const VERSIONS: [u16; 4] = [0x00a0, 0x0960, 0x0460, 0x04c0];

/// The VPD pages, in order (SPC-4 7.8.17).
const PAGES: [u8; 7] = [0x00, 0x80, 0x83, 0x86, 0xb0, 0xb1, 0xb2];

const SERIAL_BYTES_MAX: usize = 32;

/// INQUIRY of a unit that exists.
///
/// # Errors
/// INVALID FIELD IN CDB at a page that is not there, or at a page code without EVPD.
pub fn inquiry(cdb: &[u8; 16], unit: &LogicalUnit, out: &mut Vec<u8>) -> Result<(), Sense> {
    let (vital, page) = (cdb[1] & 0x01 != 0, cdb[2]);
    if !vital {
        if page != 0 {
            return Err(Sense::cdb_field(2, None));
        }
        standard(unit, out);
    } else {
        let header = VpdHeader { peripheral: 0, page, length: 0.into() };
        out.extend_from_slice(header.as_bytes());
        match page {
            0x00 => out.extend_from_slice(&PAGES),
            0x80 => out.extend_from_slice(serial(unit)),
            0x83 => identification(unit, out),
            0x86 => extended(unit, out),
            0xb0 => block_limits(unit, out),
            0xb1 => {
                // Volumes lie on flash and on disks; hosts should not order requests for a disk arm.
                let page = BlockCharacteristics { rotation_rate: 1.into(), ..Default::default() };
                out.extend_from_slice(page.as_bytes());
            }
            0xb2 => {
                // LBPU, LBPWS, LBPWS10; LBPRZ 001b: unmapped blocks read zeros.
                let page = LogicalBlockProvisioning { flags: 0xe4, provisioning_type: 2, ..Default::default() };
                out.extend_from_slice(page.as_bytes());
            }
            _ => {
                out.clear();
                return Err(Sense::cdb_field(2, None));
            }
        }
        let length = out.len() as u16 - 4;
        out[2..4].copy_from_slice(&length.to_be_bytes());
    }
    cut(out, u16::from_be_bytes([cdb[3], cdb[4]]).into());
    Ok(())
}

/// INQUIRY of a LUN that does not exist: peripheral qualifier 011b, type 1Fh.
///
/// # Errors
/// INVALID FIELD IN CDB at EVPD: what does not exist has no pages.
pub fn absent(cdb: &[u8; 16], out: &mut Vec<u8>) -> Result<(), Sense> {
    if cdb[1] & 0x01 != 0 {
        return Err(Sense::cdb_field(1, Some(0)));
    }
    if cdb[2] != 0 {
        return Err(Sense::cdb_field(2, None));
    }
    let data = InquiryStandard {
        peripheral: 0x7f,
        version: 0x06,
        format: 0x12,
        additional_length: size_of::<InquiryStandard>() as u8 - 5,
        flags_7: 0x02,
        vendor: padded(""),
        product: padded(""),
        revision: padded(""),
        ..InquiryStandard::default()
    };
    out.extend_from_slice(data.as_bytes());
    cut(out, u16::from_be_bytes([cdb[3], cdb[4]]).into());
    Ok(())
}

/// `text` as an ASCII field: printable characters only, spaces at the end.
fn padded<const N: usize>(text: &str) -> [u8; N] {
    let mut field = [b' '; N];
    for (place, byte) in field.iter_mut().zip(text.bytes()) {
        *place = if (0x20..0x7f).contains(&byte) { byte } else { b'?' };
    }
    field
}

/// PRODUCT SERIAL NUMBER, of a length that a designator has room for.
fn serial(unit: &LogicalUnit) -> &[u8] {
    let serial = unit.facts.serial.as_bytes();
    &serial[..serial.len().min(SERIAL_BYTES_MAX)]
}

fn standard(unit: &LogicalUnit, out: &mut Vec<u8>) {
    let mut data = InquiryStandard {
        version: 0x06,
        // HISUP: LUNs are hierarchical (eight bytes).
        format: 0x12,
        additional_length: size_of::<InquiryStandard>() as u8 - 5,
        flags_7: 0x02,
        vendor: padded(&unit.facts.vendor),
        product: padded(&unit.facts.product),
        revision: padded(&unit.facts.revision),
        ..InquiryStandard::default()
    };
    for (place, version) in data.versions.iter_mut().zip(VERSIONS) {
        *place = version.into();
    }
    out.extend_from_slice(data.as_bytes());
}

/// The volume's name in 60 bits: NAA 3h, "locally assigned" (SPC-4 7.8.6.6.4). NAA 6h would need a registered company's
/// number. The UUID's halves are mixed (the finisher of SplitMix64), so that every version of UUID spreads. Hosts
/// remember this name: it never changes.
fn naa(uuid: &[u8; 16]) -> [u8; 8] {
    let mix = |mut value: u64| {
        value = (value ^ value >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        value = (value ^ value >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        value ^ value >> 31
    };
    let half = |start: usize| uuid[start..start + 8].iter().fold(0, |value, byte| value << 8 | u64::from(*byte));
    (mix(mix(half(0)) ^ half(8)) >> 4 | 3 << 60).to_be_bytes()
}

/// Device Identification (SPC-4 7.8.6): the volume three times, the port, the target.
fn identification(unit: &LogicalUnit, out: &mut Vec<u8>) {
    let mut designator = |code_set: u8, kind: u8, parts: &[&[u8]], pad: usize| {
        let length = parts.iter().map(|part| part.len()).sum::<usize>() + pad;
        let header = DesignatorHeader { code_set, kind, reserved: 0, length: length as u8 };
        out.extend_from_slice(header.as_bytes());
        parts.iter().for_each(|part| out.extend_from_slice(part));
        out.resize(out.len() + pad, 0);
    };
    let naa = naa(&unit.facts.geometry.uuid);
    // Logical unit: NAA, binary.
    designator(0x01, 0x03, &[&naa], 0);
    // Logical unit: T10 vendor identification, ASCII.
    let vendor: [u8; 8] = padded(&unit.facts.vendor);
    designator(0x02, 0x01, &[&vendor, serial(unit)], 0);
    // Logical unit: SCSI name string, UTF-8, ended by NULs up to a multiple of four.
    let name = format!("naa.{:016X}", u64::from_be_bytes(naa));
    designator(0x03, 0x08, &[name.as_bytes()], 4 - name.len() % 4);
    // Target port: relative identifier 1; iSCSI, PIV.
    designator(0x51, 0x94, &[&[0, 0, 0, 1]], 0);
    // Target port: its name is the target's with the portal group (RFC 7143 4.2.7.1).
    let port = format!("{},t,0x{:04x}", unit.target, unit.portal_group);
    designator(0x53, 0x98, &[port.as_bytes()], 4 - port.len() % 4);
    // Target device: its iSCSI name.
    designator(0x53, 0xa8, &[unit.target.as_bytes()], 4 - unit.target.len() % 4);
}

/// Extended INQUIRY Data (SPC-4 7.8.7), after its header.
fn extended(unit: &LogicalUnit, out: &mut Vec<u8>) {
    let mut page = [0; 60];
    // HEADSUP and SIMPSUP: tasks may say "head of queue" and "simple" (byte 5 of the page).
    page[1] = 0x03;
    // V_SUP: a volatile cache (byte 6 of the page).
    page[2] = u8::from(unit.facts.geometry.write_cache);
    out.extend_from_slice(&page);
}

fn block_limits(unit: &LogicalUnit, out: &mut Vec<u8>) {
    let geometry = &unit.facts.geometry;
    let transfer = unit.blocks_of(unit.limits.transfer_bytes_max);
    let page = BlockLimits {
        flags: 0x01,
        compare_and_write_blocks_max: compare_and_write_blocks_max(unit) as u8,
        transfer_granularity_blocks: (unit.blocks_of(geometry.physical_block_bytes).max(1) as u16).into(),
        transfer_blocks_max: transfer.into(),
        transfer_blocks_optimal: unit.blocks_of(geometry.optimal_transfer_bytes).min(transfer).into(),
        prefetch_blocks_max: 0.into(),
        unmap_blocks_max: UNMAP_BLOCKS_MAX.into(),
        unmap_descriptors_max: UNMAP_DESCRIPTORS_MAX.into(),
        unmap_granularity_blocks: unit.blocks_of(geometry.discard_granularity_bytes).max(1).into(),
        unmap_alignment: (1 << 31).into(),
        write_same_blocks_max: WRITE_SAME_BLOCKS_MAX.into(),
        atomic: Default::default(),
    };
    out.extend_from_slice(page.as_bytes());
}
