//! What the simulator asks of an engine. [`crate::pool`] is the real one; the simulator's own tests have a small one
//! whose defects are known.

use std::future::Future;
use std::rc::Rc;
use std::sync::Arc;

use sds_block::Device;
use sds_io::{CarryOver, DiskId, MetaStore, ReadBytes, Slice, Spawner};

use crate::knobs::Knobs;
use crate::random::Random;
use crate::world::{SimIo, World};

/// A device as a host's connection sees it.
pub type DynDevice = Rc<dyn Device<Write = Slice, Read = ReadBytes>>;

/// All that one life of an engine has of the world.
#[derive(Clone)]
pub struct Surroundings {
    /// Disks and time, the same for each core.
    pub io: SimIo,
    /// Each core's tasks.
    pub spawners: Vec<Spawner>,
    /// The checkpoint store.
    pub meta: Arc<dyn MetaStore>,
    /// Memory that outlives the process.
    pub carry_over: Arc<dyn CarryOver>,
    /// The pool's disks.
    pub disks: Vec<DiskId>,
    /// A disk whose joining was not answered: it may be the pool's, or may not.
    pub joining: Option<DiskId>,
    /// What the seed decided.
    pub knobs: Rc<Knobs>,
    /// Randomness of the engine's own.
    pub seed: u64,
}

/// Why the engine did not do as asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// No space; not a defect.
    Full,
    /// Try again; a defect unless the metadata store is out.
    Busy,
    /// There is none such any more; not a defect.
    Gone,
    /// A disk or the metadata store failed; a defect unless a fault was injected.
    Failed,
    /// Anything else.
    Defect,
}

/// A refusal with the engine's words.
pub type Refusal = (Refused, String);

/// A volume as the engine lists it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Its name.
    pub uuid: [u8; 16],
    /// Its size.
    pub size_bytes: u64,
}

/// What an engine says of itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Health {
    /// Bytes of its journal in use, and all.
    pub journal_bytes: (u64, u64),
    /// Times that its journal began again at the start, in this life.
    pub journal_laps: u64,
    /// Bytes of all data areas.
    pub capacity_bytes: u64,
    /// Bytes that hold somebody's data or wait to be free.
    pub allocated_bytes: u64,
    /// Deleted volumes whose space is not all free yet.
    pub deletions: usize,
    /// Disks that it says lost what they said was durable.
    pub lost_writes: usize,
    /// Its metadata store was rebuilt from the disks when it was opened.
    pub imported: bool,
    /// Blocks that it sealed since then.
    pub sealed_blocks: u64,
    /// Blocks that it unsealed.
    pub unsealed_blocks: u64,
}

/// A block of which the pool would know that it is not as it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sealed {
    /// Its volume.
    pub uuid: [u8; 16],
    /// Its byte there.
    pub volume_offset: u64,
    /// Its disk.
    pub disk: DiskId,
    /// Its byte there, a multiple of 4 KiB.
    pub offset: u64,
    /// The byte there of its CRC.
    pub crc_offset: u64,
}

/// A block that the pool can do without.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expendable {
    /// What it is.
    pub what: Spoiled,
    /// Its disk.
    pub disk: DiskId,
    /// Where it begins, a multiple of 4 KiB.
    pub offset: u64,
}

/// Structures with a second copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spoiled {
    /// One of a disk's two labels.
    Label,
    /// One of the pool's catalog slots.
    Catalog,
    /// One of a journal's two headers.
    JournalHeader,
    /// One of the two places of a block of an owner table.
    OwnerBlock,
    /// A frame of one of two journals.
    JournalFrame,
}

/// Where one disk may do what it likes once: each region is of one structure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Covered {
    /// The disk.
    pub disk: DiskId,
    /// Bytes on it, at multiples of 4 KiB.
    pub regions: Vec<std::ops::Range<u64>>,
}

/// An engine: one open pool.
pub trait Engine: Sized + 'static {
    /// Makes a pool of all disks.
    fn create(surroundings: Surroundings) -> impl Future<Output = Result<Self, Refusal>>;
    /// Opens it again, after whatever happened.
    fn open(surroundings: Surroundings) -> impl Future<Output = Result<Self, Refusal>>;
    /// The volumes that are there.
    fn volumes(&self) -> Vec<Listed>;
    /// The disks that it has.
    fn disks(&self) -> Vec<DiskId>;
    /// The documents that are there.
    fn documents(&self) -> Vec<(String, Vec<u8>)>;
    /// A volume as `core`'s connections see it.
    fn device(&self, core: usize, uuid: [u8; 16]) -> Option<DynDevice>;
    /// Makes a volume; durable when it returns.
    fn create_volume(
        &self,
        uuid: [u8; 16],
        size_bytes: u64,
        logical_block_bytes: u32,
    ) -> impl Future<Output = Result<(), Refusal>>;
    /// Grows a volume; durable when it returns.
    fn resize_volume(&self, uuid: [u8; 16], size_bytes: u64) -> impl Future<Output = Result<(), Refusal>>;
    /// Removes a volume; durable when it returns.
    fn delete_volume(&self, uuid: [u8; 16]) -> impl Future<Output = Result<(), Refusal>>;
    /// Takes snapshots, each of a volume (first) under a name of its own, all as of one moment; durable when it
    /// returns.
    fn snapshot(&self, _: Vec<([u8; 16], [u8; 16])>) -> impl Future<Output = Result<(), Refusal>> {
        async { Err((Refused::Gone, "this engine takes no snapshots".into())) }
    }
    /// Makes a volume (second) of a snapshot; durable when it returns.
    fn clone_snapshot(&self, _: [u8; 16], _: [u8; 16]) -> impl Future<Output = Result<(), Refusal>> {
        async { Err((Refused::Gone, "this engine has no snapshots".into())) }
    }
    /// Adds an empty disk; durable when it returns.
    fn add_disk(&self, disk: DiskId) -> impl Future<Output = Result<(), Refusal>>;
    /// Puts or removes a document; durable when it returns.
    fn put_document(&self, key: String, value: Option<Vec<u8>>) -> impl Future<Output = Result<(), Refusal>>;
    /// A block on one of `disks`, between two lives, of which there is another copy that is as good.
    fn expendable(world: &World, disks: &[DiskId], random: &mut Random) -> Option<Expendable>;
    /// Places on one of `disks` where the pool has another copy of all that lies there, even while it is open.
    fn covered(world: &World, disks: &[DiskId], rebuilds: bool, random: &mut Random) -> Option<Covered>;
    /// A sealed block, if there is one at hand.
    fn sealed(&self, _: &mut Random) -> Option<Sealed> {
        None
    }
    /// Begins to verify all that is sealed, beside everything else.
    fn scrub(&self) {}
    /// Verifies everything, to the end. Which copies were found to be damaged since this was asked last; `None`: the
    /// engine has no such copies.
    fn scrub_all(&self) -> impl Future<Output = Result<Option<Vec<(DiskId, Spoiled)>>, Refusal>> {
        async { Ok(None) }
    }
    /// What does not agree among all that the engine keeps in several places.
    fn check(&self) -> impl Future<Output = Result<Vec<String>, Refusal>>;
    /// Says how it is.
    fn health(&self) -> Health;
    /// Ends it: everything answered is durable when this returns.
    fn stop(&self) -> impl Future<Output = Result<(), Refusal>>;
}
