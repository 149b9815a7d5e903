//! Labels and catalog slots on disks.
//!
//! Considerations: both are there twice, and what is older is written first and synced before the other is touched, so
//! at any moment one of the two is whole. Which one is older is read from the disk each time: it costs a read, and no
//! counter in memory can be wrong about it.

use std::fmt;

use sds_io::{Buffer, DiskId, Io, IoError};

use crate::layout::catalog::{SLOT_HEADER_BYTES, decode_slot, encode_slot, slot_bytes};
use crate::layout::codec::DecodeError;
use crate::layout::disk::{DiskLayout, LABEL_A_OFFSET, LABEL_B_OFFSET, LABEL_BYTES};
use crate::layout::label::Label;
use crate::place::Lsn;

/// One of a disk's two labels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LabelSlot {
    /// The one at the start of the disk.
    A,
    /// The one at 512 KiB.
    B,
}

impl LabelSlot {
    const fn offset(self) -> u64 {
        match self {
            Self::A => LABEL_A_OFFSET,
            Self::B => LABEL_B_OFFSET,
        }
    }
}

/// Why a label or a catalog slot can't be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SlotError {
    /// It is not what it should be; [`DecodeError::is_foreign`]: there never was one.
    Decode(DecodeError),
    /// It can't be read.
    Io(IoError),
}

impl fmt::Display for SlotError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Decode(error) => error.fmt(f),
            Self::Io(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for SlotError {}

/// What a disk's labels say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LabelReport {
    /// The newer of the intact ones.
    pub label: Option<Label>,
    /// Which one that is.
    pub slot: Option<LabelSlot>,
    /// What is wrong with A and with B.
    pub slot_errors: [Option<SlotError>; 2],
}

impl LabelReport {
    /// True if neither label was ever written: the disk is not ours.
    #[must_use]
    pub fn is_foreign(&self) -> bool {
        let foreign = |e: &Option<SlotError>| matches!(e, Some(SlotError::Decode(error)) if error.is_foreign());
        self.slot_errors.iter().all(foreign)
    }
}

/// Reads both labels.
pub async fn read_label<E: Io>(io: &E, disk: DiskId) -> LabelReport {
    let mut report = LabelReport { label: None, slot: None, slot_errors: [None, None] };
    for (number, slot) in [LabelSlot::A, LabelSlot::B].into_iter().enumerate() {
        let label = match io.read(disk, slot.offset(), Buffer::uninit(LABEL_BYTES as usize)).await {
            Ok(bytes) => Label::decode(bytes.as_ref()).map_err(SlotError::Decode),
            Err(error) => Err(SlotError::Io(error)),
        };
        match label {
            Ok(label) if report.label.as_ref().is_none_or(|other| other.sequence < label.sequence) => {
                (report.label, report.slot) = (Some(label), Some(slot));
            }
            Ok(_) => {}
            Err(error) => report.slot_errors[number] = Some(error),
        }
    }
    report
}

/// Both labels, as they are.
pub(crate) async fn label_slots<E: Io>(io: &E, disk: DiskId) -> [Result<Label, SlotError>; 2] {
    let read = |slot: LabelSlot| io.read(disk, slot.offset(), Buffer::uninit(LABEL_BYTES as usize));
    let decoded = |bytes: Result<Buffer, IoError>| {
        Label::decode(bytes.map_err(SlotError::Io)?.as_ref()).map_err(SlotError::Decode)
    };
    // One by one, because one that can't be read must not hide the other.
    [decoded(read(LabelSlot::A).await), decoded(read(LabelSlot::B).await)]
}

/// Writes `label` to both places, the older one first. Durable when this returns; whatever `label.sequence` is, the
/// labels get one higher than what is on the disk.
///
/// # Errors
/// The disk's. One of the two labels is intact all the same.
pub async fn write_label<E: Io>(io: &E, disk: DiskId, label: &Label) -> Result<(), IoError> {
    let old = read_label(io, disk).await;
    let sequence = old.label.as_ref().map_or(0, |label| label.sequence).max(label.sequence.saturating_sub(1)) + 1;
    let bytes = Buffer::copy_of(&Label { sequence, ..label.clone() }.encode()).share();
    let order =
        if old.slot == Some(LabelSlot::A) { [LabelSlot::B, LabelSlot::A] } else { [LabelSlot::A, LabelSlot::B] };
    for slot in order {
        io.write(disk, slot.offset(), bytes.clone(), false).await?;
        io.sync(disk).await?;
    }
    Ok(())
}

/// Why a catalog was not written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CatalogError {
    /// It does not fit in a slot of this disk.
    TooLarge {
        /// The catalog's size.
        bytes: usize,
        /// The largest that fits.
        bytes_max: usize,
    },
    /// The disk failed.
    Io(IoError),
}

impl fmt::Display for CatalogError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLarge { bytes, bytes_max } => write!(f, "the catalog has {bytes} bytes, {bytes_max} fit"),
            Self::Io(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for CatalogError {}

/// The largest catalog that fits on a disk, in bytes.
#[must_use]
pub const fn catalog_bytes_max(layout: &DiskLayout) -> usize {
    layout.catalog_slot_bytes as usize - SLOT_HEADER_BYTES
}

/// What is wrong with catalog slots 0 and 1; one that was never written is not wrong.
pub type BadSlots = [Option<SlotError>; 2];

/// Writes the catalog to the slot that does not hold the newest one, to both if neither holds any; durable when this
/// returns. Returns what was wrong with the slots before.
///
/// # Errors
/// If it is too large or the disk fails; the newest one is intact all the same.
pub async fn write_catalog<E: Io>(
    io: &E,
    disk: DiskId,
    layout: &DiskLayout,
    catalog: &[u8],
    sequence: u64,
) -> Result<BadSlots, CatalogError> {
    if catalog.len() > catalog_bytes_max(layout) {
        return Err(CatalogError::TooLarge { bytes: catalog.len(), bytes_max: catalog_bytes_max(layout) });
    }
    let slots = read_slots(io, disk, layout).await;
    let order: &[u64] = match newest(&slots) {
        Some((0, ..)) => &[1],
        Some(_) => &[0],
        None => &[0, 1],
    };
    let bytes = Buffer::copy_of(&encode_slot(sequence, catalog)).share();
    for slot in order {
        io.write(disk, layout.catalog_slot_offset(*slot), bytes.clone(), false).await.map_err(CatalogError::Io)?;
        io.sync(disk).await.map_err(CatalogError::Io)?;
    }
    Ok(slots.map(bad_slot))
}

/// Makes both catalog slots void: before a label is written to a disk that may have been in a pool.
///
/// # Errors
/// The disk's.
pub async fn clear_catalog<E: Io>(io: &E, disk: DiskId, layout: &DiskLayout) -> Result<(), IoError> {
    for slot in 0..2 {
        let zeros = Buffer::zeroed(LABEL_BYTES as usize).share();
        io.write(disk, layout.catalog_slot_offset(slot), zeros, false).await?;
    }
    io.sync(disk).await
}

/// A disk's newest intact catalog: its sequence and its bytes.
///
/// # Errors
/// What is wrong with both slots.
pub async fn read_catalog<E: Io>(io: &E, disk: DiskId, layout: &DiskLayout) -> Result<(u64, Vec<u8>), [SlotError; 2]> {
    let slots = read_slots(io, disk, layout).await;
    match newest(&slots) {
        Some((_, sequence, catalog)) => Ok((sequence, catalog.to_vec())),
        None => Err(slots.map(|slot| slot.expect_err("no slot is intact"))),
    }
}

/// The last checkpoint that a disk was told of. `None`: there was none, or a slot is damaged and may have been newer.
pub(crate) async fn catalog_mark<E: Io>(io: &E, disk: DiskId, layout: &DiskLayout) -> Option<Lsn> {
    let slots = read_slots(io, disk, layout).await;
    let blank = |slot: &Slot| matches!(slot, Err(SlotError::Decode(error)) if error.is_blank());
    if !slots.iter().all(|slot| slot.is_ok() || blank(slot)) {
        return None;
    }
    newest(&slots).map(|(_, sequence, _)| Lsn(sequence))
}

/// What is wrong with a disk's catalog slots.
pub async fn bad_catalog_slots<E: Io>(io: &E, disk: DiskId, layout: &DiskLayout) -> BadSlots {
    read_slots(io, disk, layout).await.map(bad_slot)
}

/// What each of a disk's slots holds: the catalog's sequence.
pub(crate) async fn catalog_sequences<E: Io>(io: &E, disk: DiskId, layout: &DiskLayout) -> [Result<u64, SlotError>; 2] {
    read_slots(io, disk, layout).await.map(|slot| slot.map(|(sequence, _)| sequence))
}

/// Slots are cleared before they are written first.
fn bad_slot(slot: Slot) -> Option<SlotError> {
    slot.err().filter(|error| !matches!(error, SlotError::Decode(error) if error.is_blank()))
}

type Slot = Result<(u64, Vec<u8>), SlotError>;

fn newest(slots: &[Slot; 2]) -> Option<(u64, u64, &[u8])> {
    let intact = (0..).zip(slots).filter_map(|(slot, read)| Some((slot, read.as_ref().ok()?)));
    intact.map(|(slot, (sequence, catalog))| (slot, *sequence, &catalog[..])).max_by_key(|(_, sequence, _)| *sequence)
}

async fn read_slots<E: Io>(io: &E, disk: DiskId, layout: &DiskLayout) -> [Slot; 2] {
    [read_slot(io, disk, layout, 0).await, read_slot(io, disk, layout, 1).await]
}

async fn read_slot<E: Io>(io: &E, disk: DiskId, layout: &DiskLayout, slot: u64) -> Slot {
    let offset = layout.catalog_slot_offset(slot);
    let head = io.read(disk, offset, Buffer::uninit(4096)).await.map_err(SlotError::Io)?;
    let length = slot_bytes(head.as_ref()).map_err(SlotError::Decode)? as u64;
    if length > layout.catalog_slot_bytes {
        let error = DecodeError::Value { format: "catalog slot", field: "length", value: length };
        return Err(SlotError::Decode(error));
    }
    let padded = length.next_multiple_of(4096) as usize;
    let bytes = io.read(disk, offset, Buffer::uninit(padded)).await.map_err(SlotError::Io)?;
    let (sequence, catalog) = decode_slot(bytes.as_ref()).map_err(SlotError::Decode)?;
    Ok((sequence, catalog.to_vec()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::label::tests::label;
    use crate::layout::memory::{MemoryIo, run};

    const DISK: DiskId = DiskId(0);

    #[test]
    fn a_bad_label_is_told_and_the_other_one_used() {
        run(async {
            let io = MemoryIo::new(&[8 << 20]);
            let blank = read_label(&io, DISK).await;
            assert!(blank.label.is_none() && blank.is_foreign());
            write_label(&io, DISK, &label()).await.expect("a disk");
            let report = read_label(&io, DISK).await;
            assert_eq!(
                (report.label, report.slot, report.slot_errors),
                (Some(label()), Some(LabelSlot::A), [None, None])
            );
            io.flip(DISK, 100);
            let report = read_label(&io, DISK).await;
            assert_eq!((report.label, report.slot), (Some(label()), Some(LabelSlot::B)));
            let a = report.slot_errors[0].expect("A is bad").to_string();
            assert!(a.starts_with("label: CRC is") && report.slot_errors[1].is_none(), "{a}");
            io.set_unreadable(DISK, LABEL_B_OFFSET);
            let report = read_label(&io, DISK).await;
            assert!(report.label.is_none() && !report.is_foreign());
        });
    }

    #[test]
    fn a_label_write_torn_anywhere_leaves_one() {
        for (second, bytes) in [(false, 0), (false, 512), (false, 4096), (true, 0), (true, 2048)] {
            run(async move {
                let io = MemoryIo::new(&[8 << 20]);
                write_label(&io, DISK, &label()).await.expect("a disk");
                // A is newer or as new, so B is written first: make that one fail, or the one after it.
                if second {
                    let mut next = label();
                    next.sequence += 1;
                    io.poke(DISK, LABEL_B_OFFSET, &next.encode());
                }
                io.tear_next_write(DISK, bytes);
                let renamed = Label { pool_name: "other".into(), ..label() };
                assert!(write_label(&io, DISK, &renamed).await.is_err());
                io.set_dead(DISK, false);
                let found = read_label(&io, DISK).await.label.expect("one label");
                assert!(found.pool_name == "archive" || bytes >= 512, "{bytes}");
                write_label(&io, DISK, &renamed).await.expect("a disk");
                let found = read_label(&io, DISK).await;
                assert_eq!(
                    (found.label.expect("a label").pool_name.as_str(), found.slot_errors),
                    ("other", [None, None])
                );
            });
        }
    }

    #[test]
    fn catalogs_alternate_whatever_their_sequences() {
        run(async {
            let io = MemoryIo::new(&[16 << 20]);
            let layout = DiskLayout::plan(16 << 20, 1 << 20, 1 << 20).expect("room");
            assert!(read_catalog(&io, DISK, &layout).await.is_err());
            for sequence in [2_u64, 4, 6, 7] {
                let bytes = vec![sequence as u8; 10_000];
                io.tear_next_write(DISK, 512);
                assert!(write_catalog(&io, DISK, &layout, &bytes, sequence).await.is_err());
                io.set_dead(DISK, false);
                match read_catalog(&io, DISK, &layout).await {
                    Ok((before, _)) => assert!(before < sequence),
                    Err(_) => assert_eq!(sequence, 2),
                }
                write_catalog(&io, DISK, &layout, &bytes, sequence).await.expect("room");
                io.power_cut();
                assert_eq!(read_catalog(&io, DISK, &layout).await, Ok((sequence, bytes)));
            }
            let large = vec![0; catalog_bytes_max(&layout) + 1];
            let refused = write_catalog(&io, DISK, &layout, &large, 9).await;
            assert!(matches!(refused, Err(CatalogError::TooLarge { bytes_max: 262_120, .. })), "{refused:?}");
            write_catalog(&io, DISK, &layout, &large[1..], 9).await.expect("just fits");
            clear_catalog(&io, DISK, &layout).await.expect("a disk");
            assert!(read_catalog(&io, DISK, &layout).await.is_err());
        });
    }
}
