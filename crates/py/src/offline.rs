//! Rows of a pool's MetaStore that no engine has open, for `sds upgrade`.

use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;
use pyo3::types::{PyBytes, PyDict};
use sds_volume::layout::catalog::decode_catalog;
use sds_volume::layout::verify::verify_row;

use crate::refusal::Refusal;

#[pyfunction]
pub fn rows_verify(py: Python<'_>, rows: Vec<(PyBackedBytes, PyBackedBytes)>) -> Vec<(usize, String)> {
    py.detach(|| {
        let faults = rows.iter().enumerate().filter_map(|(at, (key, value))| Some((at, verify_row(key, value).err()?)));
        faults.map(|(at, error)| (at, error.to_string())).collect()
    })
}

#[pyfunction]
pub fn catalog_documents<'py>(py: Python<'py>, row: &[u8]) -> PyResult<Bound<'py, PyDict>> {
    let catalog = decode_catalog(row).map_err(|error| Refusal::new("corrupt", error.to_string()))?;
    let by_key = PyDict::new(py);
    for (key, value) in catalog.documents {
        by_key.set_item(key, PyBytes::new(py, &value))?;
    }
    Ok(by_key)
}
