//! The open commands of a queue: one slot each, dense, and a bit per command identifier in use.
//!
//! Identifiers are 16 bits of the host's choosing (Linux puts a generation into the high ones), so a bitmap of 8 KiB a
//! queue finds a duplicate without a hash map on the path of an I/O.

use alloc::boxed::Box;
use alloc::vec::Vec;

use sds_block::LbaRange;

use super::super::io::Op;

/// Where a command stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// No command.
    Free,
    /// Waits until there is room for its payload.
    Waiting,
    /// Its data comes, in the capsule or by H2CData PDUs.
    Receiving,
    /// To be given to the device, or to the controller.
    Ready,
    /// There now.
    Running,
    /// A read whose answer is being sent.
    Sending,
}

/// What a slot's command is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// For a device.
    Io(Op),
    /// For the controller; its entry is kept beside.
    Admin,
    /// Binds the queue.
    Connect,
}

/// An open command.
#[derive(Debug)]
pub(super) struct Slot {
    pub state: State,
    pub kind: Kind,
    pub cid: u16,
    /// A data digest did not hold: the command is answered, never run.
    pub damaged: bool,
    pub nsid: u32,
    pub range: LbaRange,
    /// Bytes of its data, either way.
    pub data_bytes: u32,
    /// Bytes of it that came.
    pub received: u32,
    /// Counted against the queue's bytes in flight.
    pub counted: bool,
    /// Data that the machine itself reads: Connect's, admin commands', ranges.
    pub control: Vec<u8>,
}

/// Why a command can't be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// More commands than the queue has entries.
    Full,
    /// The identifier is in use.
    Duplicate,
}

/// All slots of a queue. They are made when they are first needed: hosts ask for many deep queues and use few.
#[derive(Debug)]
pub(super) struct Slots {
    depth: u16,
    slots: Vec<Slot>,
    free: Vec<u16>,
    cids: Box<[u64]>,
}

impl Slots {
    /// `depth` slots, none in use.
    pub fn new(depth: u16) -> Self {
        Self { depth, slots: Vec::new(), free: Vec::new(), cids: alloc::vec![0; 1 << 10].into_boxed_slice() }
    }

    /// A slot that is not in use; `None` if all are.
    fn free(&mut self) -> Option<u16> {
        let index = self.slots.len() as u16;
        self.free.pop().or_else(|| {
            (index < self.depth).then(|| {
                self.slots.push(Slot {
                    state: State::Free,
                    kind: Kind::Admin,
                    cid: 0,
                    damaged: false,
                    nsid: 0,
                    range: LbaRange::new(0, 0),
                    data_bytes: 0,
                    received: 0,
                    counted: false,
                    control: Vec::new(),
                });
                index
            })
        })
    }

    /// Takes a slot for the command `cid`.
    pub fn take(&mut self, cid: u16) -> Result<u16, Refused> {
        let (word, bit) = (usize::from(cid >> 6), 1 << (cid & 63));
        if self.cids[word] & bit != 0 {
            return Err(Refused::Duplicate);
        }
        let Some(index) = self.free() else { return Err(Refused::Full) };
        self.cids[word] |= bit;
        let slot = &mut self.slots[usize::from(index)];
        slot.cid = cid;
        slot.damaged = false;
        slot.received = 0;
        slot.counted = false;
        Ok(index)
    }

    /// The command is answered.
    pub fn give_back(&mut self, index: u16) {
        let slot = &mut self.slots[usize::from(index)];
        assert!(slot.state != State::Free, "a slot is freed once");
        slot.state = State::Free;
        slot.control = Vec::new();
        let cid = slot.cid;
        self.cids[usize::from(cid >> 6)] &= !(1 << (cid & 63));
        self.free.push(index);
    }

    /// The slot at `index`, if there is one.
    pub fn find(&self, index: u16) -> Option<&Slot> {
        self.slots.get(usize::from(index))
    }

    /// The slots whose data comes.
    pub fn receiving(&self) -> impl Iterator<Item = u16> {
        (0..).zip(&self.slots).filter(|(_, slot)| slot.state == State::Receiving).map(|(index, _)| index)
    }

    /// Open commands.
    pub fn open(&self) -> usize {
        self.slots.len() - self.free.len()
    }
}

impl core::ops::Index<u16> for Slots {
    type Output = Slot;

    fn index(&self, index: u16) -> &Slot {
        &self.slots[usize::from(index)]
    }
}

impl core::ops::IndexMut<u16> for Slots {
    fn index_mut(&mut self, index: u16) -> &mut Slot {
        &mut self.slots[usize::from(index)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identifier_is_taken_once_until_it_is_given_back() {
        let mut slots = Slots::new(2);
        let first = slots.take(0xf001).unwrap();
        slots[first].state = State::Ready;
        assert_eq!(slots.take(0xf001), Err(Refused::Duplicate));
        let second = slots.take(0x0001).unwrap();
        slots[second].state = State::Ready;
        assert_eq!((first, second), (0, 1));
        assert_eq!(slots.take(0x0002), Err(Refused::Full));
        slots.give_back(first);
        assert_eq!(slots.take(0xf001), Ok(0));
        assert_eq!(slots.open(), 2);
    }
}
