//! What the simulator asks of an engine. [`crate::pool`] is the real one; the simulator's own tests have a small one
//! whose defects are known.

use std::future::Future;
use std::rc::Rc;
use std::sync::Arc;

use sds_block::Device;
use sds_io::{CarryOver, DiskId, MetaStore, ReadBytes, Slice, Spawner};

use crate::knobs::Knobs;
use crate::world::SimIo;

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
    /// The disks.
    pub disks: Vec<DiskId>,
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
    /// Try again; not a defect.
    Busy,
    /// A disk failed; a defect unless a fault was injected.
    Disk,
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
    /// Times that its journal began again at the start, in this life.
    pub journal_laps: u64,
    /// Bytes of all data areas.
    pub capacity_bytes: u64,
    /// Bytes that hold somebody's data or wait to be free.
    pub allocated_bytes: u64,
}

/// An engine: one open pool.
pub trait Engine: Sized + 'static {
    /// Makes a pool of all disks.
    fn create(surroundings: Surroundings) -> impl Future<Output = Result<Self, Refusal>>;
    /// Opens it again, after whatever happened.
    fn open(surroundings: Surroundings) -> impl Future<Output = Result<Self, Refusal>>;
    /// The volumes that are there.
    fn volumes(&self) -> Vec<Listed>;
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
    /// Puts or removes a document; durable when it returns.
    fn put_document(&self, key: String, value: Option<Vec<u8>>) -> impl Future<Output = Result<(), Refusal>>;
    /// Says how it is.
    fn health(&self) -> Health;
    /// Ends it: everything answered is durable when this returns.
    fn stop(&self) -> impl Future<Output = Result<(), Refusal>>;
}
