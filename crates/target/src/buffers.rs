//! The buffers that a connection's tags name: payload that comes, answers that go.

use sds_io::{Buffer, ReadBytes};
use sds_proto::Tag;

/// Payloads are looked at so often within [`Limits::stall_ms`](crate::Limits::stall_ms).
pub(crate) const SWEEPS_PER_STALL: u32 = 4;

#[derive(Default)]
struct Slot {
    payload: Option<Buffer>,
    answer: Option<ReadBytes>,
    /// Sweeps that found the payload awaited, and no step forward since the one before: asked for, begun, submitted.
    sweeps: u32,
}

/// All of a connection, by tag.
#[derive(Default)]
pub(crate) struct Buffers {
    slots: Vec<Slot>,
    payload_bytes: usize,
}

impl Buffers {
    fn slot(&mut self, tag: Tag) -> &mut Slot {
        let index = usize::from(tag.0);
        if self.slots.len() <= index {
            self.grow(index + 1);
        }
        &mut self.slots[index]
    }

    #[cold]
    fn grow(&mut self, len: usize) {
        self.slots.resize_with(len, Slot::default);
    }

    /// The buffer of the tag's payload; made when the machine first speaks of it.
    pub(crate) fn payload(&mut self, tag: Tag, total: usize) -> &mut Buffer {
        let slot = self.slot(tag);
        let len = slot.payload.as_ref().map(Buffer::len);
        // A buffer of another size was left by a request that the host gave up.
        if len != Some(total) {
            slot.payload = Some(Buffer::uninit(total));
            slot.sweeps = 0;
            self.payload_bytes += total;
            self.payload_bytes -= len.unwrap_or(0);
        }
        self.slots[usize::from(tag.0)].payload.as_mut().expect("made above")
    }

    /// The tag's payload, which is whole.
    pub(crate) fn take_payload(&mut self, tag: Tag) -> Option<Buffer> {
        let slot = self.slots.get_mut(usize::from(tag.0))?;
        slot.sweeps = 0;
        let payload = slot.payload.take()?;
        self.payload_bytes -= payload.len();
        Some(payload)
    }

    /// Bytes of payload buffers that were made and not taken.
    pub(crate) const fn payload_bytes(&self) -> usize {
        self.payload_bytes
    }

    /// What a device read for the tag.
    pub(crate) fn answer(&mut self, tag: Tag) -> &mut Option<ReadBytes> {
        &mut self.slot(tag).answer
    }

    /// Lets go of payloads that are not `awaited`: their requests were given up, or refused for a digest.
    pub(crate) fn release_unless(&mut self, awaited: &[Tag]) {
        let mut kept = vec![false; self.slots.len()];
        for tag in awaited.iter().filter(|tag| usize::from(tag.0) < self.slots.len()) {
            kept[usize::from(tag.0)] = true;
        }
        for (slot, _) in self.slots.iter_mut().zip(kept).filter(|(_, kept)| !kept) {
            slot.sweeps = 0;
            self.payload_bytes -= slot.payload.take().map_or(0, |payload| payload.len());
        }
    }

    /// Notes that these are still awaited; false if one was in the last [`SWEEPS_PER_STALL`] sweeps too.
    pub(crate) fn sweep(&mut self, awaited: &[Tag]) -> bool {
        self.release_unless(awaited);
        let sweeps = awaited.iter().map(|tag| {
            let slot = self.slot(*tag);
            slot.sweeps += 1;
            slot.sweeps
        });
        sweeps.max().is_none_or(|most| most <= SWEEPS_PER_STALL)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_that_nobody_awaits_is_let_go_and_one_that_does_not_come_is_noticed() {
        let mut buffers = Buffers::default();
        buffers.payload(Tag(0), 4096);
        buffers.payload(Tag(3), 512);
        buffers.payload(Tag(0), 8192);
        assert_eq!(buffers.payload_bytes(), 8704);
        assert!(buffers.sweep(&[Tag(3), Tag(5)]));
        assert_eq!(buffers.payload_bytes(), 512);
        for _ in 1..SWEEPS_PER_STALL {
            assert!(buffers.sweep(&[Tag(3), Tag(5)]));
        }
        // The first bytes of one came, the other was submitted and its tag used again: both are steps forward.
        buffers.payload(Tag(5), 512);
        assert_eq!(buffers.take_payload(Tag(3)).map(|payload| payload.len()), Some(512));
        for _ in 0..SWEEPS_PER_STALL {
            assert!(buffers.sweep(&[Tag(3), Tag(5)]));
        }
        assert!(!buffers.sweep(&[Tag(3), Tag(5)]));
    }
}
