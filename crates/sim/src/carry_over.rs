//! Memory that survives the process and not the machine.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sds_io::CarryOver;

use crate::process::{Effect, Process};

/// The mapped file of one machine.
#[derive(Default)]
pub struct Memory {
    bytes: Mutex<Vec<u8>>,
    torn: Mutex<u64>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Memory {
    /// `capacity_bytes` zeros.
    #[must_use]
    pub fn new(capacity_bytes: usize) -> Self {
        Self { bytes: Mutex::new(vec![0; capacity_bytes]), torn: Mutex::new(0) }
    }

    /// The machine loses power.
    pub fn clear(&self) {
        lock(&self.bytes).fill(0);
    }

    /// Another machine's memory comes in place of this one.
    pub fn swap(&self, other: &mut Vec<u8>) {
        std::mem::swap(&mut *lock(&self.bytes), other);
    }

    /// How often a kill cut a store short, since the last call.
    pub fn take_torn(&self) -> u64 {
        std::mem::take(&mut lock(&self.torn))
    }
}

/// One process's mapping of it.
pub struct Mapping {
    /// The memory.
    pub memory: Arc<Memory>,
    /// Who mapped it.
    pub process: Arc<Process>,
    /// What the process found.
    found: Vec<u8>,
}

impl Mapping {
    /// `process` maps `memory`.
    #[must_use]
    pub fn new(memory: &Arc<Memory>, process: &Arc<Process>) -> Self {
        let found = lock(&memory.bytes).clone();
        Self { memory: Arc::clone(memory), process: Arc::clone(process), found }
    }
}

impl CarryOver for Mapping {
    fn capacity_bytes(&self) -> usize {
        self.found.len()
    }

    fn load(&self) -> Vec<u8> {
        self.found.clone()
    }

    fn store(&self, offset: usize, bytes: &[u8]) {
        let mut memory = lock(&self.memory.bytes);
        assert!(offset + bytes.len() <= memory.len(), "a carry-over store fits");
        match self.process.effect() {
            Effect::Whole => memory[offset..offset + bytes.len()].copy_from_slice(bytes),
            // The kill comes within the copy: half of it is there.
            Effect::Cut => {
                let done = bytes.len() / 2;
                memory[offset..offset + done].copy_from_slice(&bytes[..done]);
                *lock(&self.memory.torn) += 1;
            }
            Effect::Never => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kill_within_a_store_leaves_half_of_it_and_nothing_after() {
        let memory = Arc::new(Memory::new(16));
        let process = Arc::new(Process::default());
        let mapping = Mapping::new(&memory, &process);
        process.kill_after(1);
        mapping.store(0, &[1; 4]);
        mapping.store(4, &[2; 4]);
        mapping.store(8, &[3; 4]);
        let next = Mapping::new(&memory, &Arc::new(Process::default()));
        assert_eq!(next.load(), [1, 1, 1, 1, 2, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        memory.clear();
        assert_eq!((next.load()[0], memory.take_torn()), (1, 1));
    }
}
