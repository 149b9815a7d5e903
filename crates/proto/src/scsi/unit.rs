//! The logical unit as its hosts see it: facts that INQUIRY, READ CAPACITY and the VPD pages are made of, and the unit
//! attentions that one session still has to hear of.

use alloc::string::String;

use sds_block::Geometry;

use super::sense::{Sense, SenseKey};
use crate::connection::Unit;

/// What a host is told about one logical unit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnitFacts {
    /// Its number on this target: submitted requests carry it. Only LUN 0 exists so far.
    pub unit: Unit,
    /// Size, blocks, cache and identity.
    pub geometry: Geometry,
    /// INQUIRY's vendor identification (SPC-4 6.6.2), up to 8 ASCII characters.
    pub vendor: String,
    /// INQUIRY's product identification, up to 16 ASCII characters.
    pub product: String,
    /// INQUIRY's product revision level, up to 4 ASCII characters.
    pub revision: String,
    /// The unit serial number (VPD page 80h), up to 32 ASCII characters.
    pub serial: String,
}

/// The largest requests that a unit takes; VPD page B0h says them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TransferLimits {
    /// One READ, WRITE or VERIFY with data.
    pub transfer_bytes_max: u32,
    /// The compared half of one COMPARE AND WRITE.
    pub compare_and_write_bytes_max: u32,
}

/// One WRITE SAME: 16 MiB of 512-byte blocks, so that it ends within a host's patience on a slow disk.
pub const WRITE_SAME_BLOCKS_MAX: u64 = 1 << 15;
/// One UNMAP, all descriptors together: 512 MiB of 512-byte blocks.
pub const UNMAP_BLOCKS_MAX: u32 = 1 << 20;
/// One UNMAP's descriptors: its list stays below [`PARAMETER_BYTES_MAX`].
pub const UNMAP_DESCRIPTORS_MAX: u32 = 256;
/// The longest parameter list: UNMAP's, 8 + 256 * 16 bytes, or one block of WRITE SAME.
pub const PARAMETER_BYTES_MAX: usize = 8 + UNMAP_DESCRIPTORS_MAX as usize * 16;

/// A logical unit as one session sees it.
#[derive(Clone, Debug)]
pub struct LogicalUnit {
    /// What it is.
    pub facts: UnitFacts,
    /// The iSCSI name of its target, for designators.
    pub target: String,
    /// The portal group through which the session came.
    pub portal_group: u16,
    /// How much it takes at once.
    pub limits: TransferLimits,
}

impl LogicalUnit {
    /// Bytes of a logical block.
    #[must_use]
    pub fn block_bytes(&self) -> u32 {
        self.facts.geometry.logical_block_bytes
    }

    /// Bytes in blocks, rounded down.
    #[must_use]
    pub fn blocks_of(&self, bytes: u32) -> u32 {
        bytes / self.block_bytes()
    }
}

/// Conditions that a session hears of once, by CHECK CONDITION on its next command (SAM-5 5.14). The order is the order
/// of report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Attention {
    /// POWER ON, RESET, OR BUS DEVICE RESET OCCURRED: a new session. The general code, because libiscsi's `iscsi-ls`
    /// goes on after this one alone.
    PowerOn = 0,
    /// BUS DEVICE RESET FUNCTION OCCURRED: another session's, or its own, reset of unit or target.
    Reset = 1,
    /// COMMANDS CLEARED BY ANOTHER INITIATOR.
    CommandsCleared = 2,
    /// REPORTED LUNS DATA HAS CHANGED: the unit came back.
    LunsChanged = 3,
    /// CAPACITY DATA HAS CHANGED.
    CapacityChanged = 4,
    /// INQUIRY DATA HAS CHANGED.
    InquiryChanged = 5,
    /// MODE PARAMETERS CHANGED: its write protection or its cache.
    ModeChanged = 6,
}

impl Attention {
    const ALL: [Self; 7] = [
        Self::PowerOn,
        Self::Reset,
        Self::CommandsCleared,
        Self::LunsChanged,
        Self::CapacityChanged,
        Self::InquiryChanged,
        Self::ModeChanged,
    ];

    const fn sense(self) -> Sense {
        let (asc, ascq) = match self {
            Self::PowerOn => (0x29, 0x00),
            Self::Reset => (0x29, 0x03),
            Self::CommandsCleared => (0x2f, 0x00),
            Self::LunsChanged => (0x3f, 0x0e),
            Self::CapacityChanged => (0x2a, 0x09),
            Self::InquiryChanged => (0x3f, 0x03),
            Self::ModeChanged => (0x2a, 0x01),
        };
        Sense::new(SenseKey::UnitAttention, asc, ascq)
    }
}

/// The attentions that wait.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Attentions(u8);

impl Attentions {
    /// One more to report; once is enough.
    pub fn add(&mut self, attention: Attention) {
        self.0 |= 1 << attention as u8;
    }

    /// This one need not be reported any more.
    pub fn remove(&mut self, attention: Attention) {
        self.0 &= !(1 << attention as u8);
    }

    /// The next to report, which is reported by this.
    pub fn take(&mut self) -> Option<Sense> {
        let first = Attention::ALL.into_iter().find(|&attention| self.0 & 1 << attention as u8 != 0)?;
        self.remove(first);
        Some(first.sense())
    }

    /// Whether none waits: asked on every command.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attentions_are_reported_once_and_in_order() {
        let mut waiting = Attentions::default();
        assert!(waiting.is_empty() && waiting.take().is_none());
        waiting.add(Attention::CapacityChanged);
        waiting.add(Attention::PowerOn);
        waiting.add(Attention::PowerOn);
        assert_eq!(waiting.take(), Some(Sense::new(SenseKey::UnitAttention, 0x29, 0x00)));
        assert_eq!(waiting.take(), Some(Sense::new(SenseKey::UnitAttention, 0x2a, 0x09)));
        assert_eq!(waiting.take(), None);
    }
}
