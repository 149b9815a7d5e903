//! What Python sees of the data path: the module `sds._core`, described in `sds/_core.pyi`.
//!
//! | module | what it holds |
//! |---|---|
//! | [`node`] | the class `Node`: Python's calls, each without the GIL |
//! | [`shapes`], [`uuid`], [`options`] | what it is given and gives |
//! | [`engine`] | pools on cores: opened, commanded, closed |
//! | [`cores`] | one core's share of the pools; the devices that hosts reach |
//! | [`meta`] | the MetaStore: work for RocksDB, which Python has |
//! | [`offline`] | rows of a pool that no engine has open |
//! | [`watch`], [`events`] | what an administrator should know of |
//! | [`metrics`], [`logger`] | figures and lines |
//! | [`refusal`] | `CoreError` |

use pyo3::prelude::*;

mod node;
mod shapes;
mod uuid;
mod options;
mod engine;
mod cores;
mod meta;
mod offline;
mod watch;
mod events;
mod metrics;
mod logger;
mod refusal;

/// The module.
#[pymodule(gil_used = false)]
fn _core(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("CoreError", module.py().get_type::<refusal::CoreError>())?;
    module.add_class::<node::Node>()?;
    module.add_function(wrap_pyfunction!(offline::rows_verify, module)?)?;
    module.add_function(wrap_pyfunction!(offline::catalog_documents, module)?)
}
