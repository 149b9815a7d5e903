//! What Python sees of the data path: the module `sds._core`, described in `sds/_core.pyi`.
//!
//! Only what works is here: a node's disks. Pools, volumes and targets join it with the engine (docs/ARCHITECTURE.md).

use std::sync::Arc;

use pyo3::create_exception;
use pyo3::exceptions::PyException;
use pyo3::prelude::*;
use pyo3::types::PyDict;
use sds_io::DiskId;
use sds_uring::{Disks, OpenError, OpenOptions};

create_exception!(_core, CoreError, PyException, "The core refused or failed: (kind, message, value).");

/// The disks that this process holds.
#[pyclass]
struct Node {
    disks: Arc<Disks>,
}

fn refused(error: &OpenError) -> PyErr {
    CoreError::new_err((format!("{:?}", error.kind()), error.to_string(), None::<u64>))
}

#[pymethods]
impl Node {
    #[new]
    fn new() -> Self {
        Self { disks: Disks::new() }
    }

    /// Opens and locks a file or block device, or `memfd:NAME:BYTES`; makes a file of `create_bytes` where none is.
    #[pyo3(signature = (path, create_bytes = None))]
    fn disk_open<'py>(&self, py: Python<'py>, path: &str, create_bytes: Option<u64>) -> PyResult<Bound<'py, PyDict>> {
        let options = OpenOptions { create_bytes, ..OpenOptions::default() };
        let id = py.detach(|| self.disks.open(path, &options)).map_err(|error| refused(&error))?;
        let info = self.disks.info(id).expect("opened just now");
        let shape = PyDict::new(py);
        shape.set_item("id", id.0)?;
        shape.set_item("path", info.path)?;
        shape.set_item("size_bytes", info.size_bytes)?;
        shape.set_item("logical_block_bytes", info.logical_block_bytes)?;
        shape.set_item("physical_block_bytes", info.physical_block_bytes)?;
        shape.set_item("rotational", info.rotational)?;
        shape.set_item("volatile_cache", info.volatile_cache)?;
        shape.set_item("discard", info.discard)?;
        Ok(shape)
    }

    /// Lets go of a disk.
    fn disk_close(&self, py: Python<'_>, disk: u16) {
        py.detach(|| self.disks.close(DiskId(disk)));
    }
}

/// The module.
#[pymodule(gil_used = false)]
fn _core(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("CoreError", module.py().get_type::<CoreError>())?;
    module.add_class::<Node>()
}
