//! The logical unit as its hosts see it: facts that INQUIRY, READ CAPACITY and the VPD pages are made of.

use alloc::string::String;

use sds_block::Geometry;

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
