//! The class `Node`. Its methods say here only what `sds/_core.pyi` does not.

use std::path::PathBuf;
use std::time::Duration;

use pyo3::IntoPyObjectExt;
use pyo3::exceptions::PyBaseException;
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;
use pyo3::types::{PyBytes, PyDict, PyList, PyTuple};
use sds_io::DiskId;
use sds_target::{Export, Protocol};
use sds_uring::OpenOptions;
use sds_volume::error::{PoolError, PoolErrorKind};
use sds_volume::{NewDisk, PoolSpec, VolumeSpec};

use crate::cores::UringPool;
use crate::engine::Engine;
use crate::events::Event;
use crate::logger;
use crate::meta::{Answer, Operation};
use crate::metrics::{Metrics, gather};
use crate::options::Options;
use crate::refusal::Refusal;
use crate::shapes::{
    CheckShape, DiskShape, ExportShape, LabelShape, NewDiskShape, PoolShape, RecoveredShape, ScrubShape, SessionShape,
    TermsShape, VolumeShape,
};
use crate::uuid::{Uuid, volume_key};

/// Cores that a node may have.
const CORES_MAX: usize = 256;

/// The reactors of this process, the disks that they hold, its pools and its targets.
#[pyclass(frozen, module = "sds._core")]
pub struct Node {
    engine: Engine,
}

#[pymethods]
impl Node {
    #[new]
    #[pyo3(signature = (cores, data_dir, options = None))]
    fn new(py: Python<'_>, cores: usize, data_dir: PathBuf, options: Option<&Bound<'_, PyDict>>) -> PyResult<Self> {
        if !(1..=CORES_MAX).contains(&cores) {
            return Err(Refusal::new("invalid_field", format!("cores: 1 to {CORES_MAX} are accepted")).into());
        }
        let options = Options::from_dict(options)?;
        logger::start(options.log_level);
        Ok(Self { engine: py.detach(|| Engine::start(cores, data_dir, options))? })
    }

    fn listen_nvme(&self, py: Python<'_>, address: &str) -> PyResult<String> {
        Ok(py.detach(|| self.engine.listen(Protocol::Nvme, address))?.to_string())
    }

    fn listen_iscsi(&self, py: Python<'_>, address: &str) -> PyResult<String> {
        Ok(py.detach(|| self.engine.listen(Protocol::Iscsi, address))?.to_string())
    }

    #[pyo3(signature = (path, create_bytes = None, wait_ms = 10_000))]
    fn disk_open(&self, py: Python<'_>, path: &str, create_bytes: Option<u64>, wait_ms: u64) -> PyResult<DiskShape> {
        let options = OpenOptions { create_bytes, lock_wait_ms: wait_ms, ..OpenOptions::default() };
        let id = py.detach(|| self.engine.open_disk(path, &options))?;
        let info = self.engine.disks.info(id);
        Ok(DiskShape::new(id, info.ok_or_else(|| Refusal::new("device_gone", "the disk was closed meanwhile"))?))
    }

    fn disk_label(&self, py: Python<'_>, disk: u16) -> PyResult<Option<LabelShape>> {
        let report = py.detach(|| self.engine.read_label(DiskId(disk)))?;
        if report.label.is_none() && !report.is_foreign() {
            for error in report.slot_errors.iter().flatten() {
                log::warn!("disk {disk}: a label that can't be used: {error}");
            }
        }
        Ok(LabelShape::new(report))
    }

    fn disk_close(&self, py: Python<'_>, disk: u16) -> PyResult<()> {
        Ok(py.detach(|| self.engine.close_disk(DiskId(disk)))?)
    }

    fn pool_create(
        &self,
        py: Python<'_>,
        uuid: Uuid,
        name: String,
        extent_bytes: u64,
        disks: Vec<NewDiskShape>,
    ) -> PyResult<()> {
        let spec = PoolSpec { uuid: uuid.0, name, extent_bytes, journal_bytes: None };
        let disks = disks.into_iter().map(NewDisk::from).collect();
        Ok(py.detach(|| self.engine.create_pool(spec, disks))?)
    }

    #[pyo3(signature = (uuid, disks, rename = None))]
    fn pool_open(
        &self,
        py: Python<'_>,
        uuid: Uuid,
        disks: Vec<u16>,
        rename: Option<String>,
    ) -> PyResult<RecoveredShape> {
        let disks = disks.into_iter().map(DiskId).collect();
        Ok(py.detach(|| self.engine.open_pool(uuid, disks, rename))?.into())
    }

    fn pool_close(&self, py: Python<'_>, uuid: Uuid) -> PyResult<()> {
        Ok(py.detach(|| self.engine.close_pool(uuid))?)
    }

    fn pool_add_disk(&self, py: Python<'_>, uuid: Uuid, disk: NewDiskShape) -> PyResult<()> {
        Ok(py.detach(|| self.engine.add_disk(uuid, disk.into()))?)
    }

    fn pool_status(&self, py: Python<'_>, uuid: Uuid) -> PyResult<PoolShape> {
        let status = py.detach(|| self.engine.command(uuid, |pool| async move { Ok(pool.status()) }))?;
        Ok(status.into())
    }

    fn pool_scrub_start(&self, py: Python<'_>, uuid: Uuid, bytes_per_second_max: u64) -> PyResult<()> {
        let start = move |pool: UringPool| async move { pool.scrub_start(bytes_per_second_max) };
        Ok(py.detach(|| self.engine.command(uuid, start))?)
    }

    fn pool_scrub_status(&self, py: Python<'_>, uuid: Uuid) -> PyResult<ScrubShape> {
        let status = py.detach(|| self.engine.command(uuid, |pool| async move { Ok(pool.scrub_status()) }))?;
        Ok(status.into())
    }

    fn pool_scrub_stop(&self, py: Python<'_>, uuid: Uuid) -> PyResult<()> {
        let stop = |pool: UringPool| async move {
            pool.scrub_stop();
            Ok(())
        };
        Ok(py.detach(|| self.engine.command(uuid, stop))?)
    }

    fn pool_check(&self, py: Python<'_>, uuid: Uuid, pages_per_s_max: u32) -> PyResult<CheckShape> {
        let report =
            py.detach(|| self.engine.command(uuid, move |pool| async move { pool.check(pages_per_s_max).await }))?;
        Ok(report.into())
    }

    #[pyo3(signature = (pool, volume_uuid, size_bytes, logical_block_bytes = 512))]
    fn volume_create(
        &self,
        py: Python<'_>,
        pool: Uuid,
        volume_uuid: Uuid,
        size_bytes: u64,
        logical_block_bytes: u32,
    ) -> PyResult<()> {
        let spec = VolumeSpec { uuid: volume_uuid.0, size_bytes, logical_block_bytes };
        Ok(py.detach(|| self.engine.command(pool, move |pool| async move { pool.create_volume(spec).await }))?)
    }

    fn volume_resize(&self, py: Python<'_>, pool: Uuid, volume_uuid: Uuid, size_bytes: u64) -> PyResult<()> {
        py.detach(|| {
            let uuid = volume_uuid.0;
            self.engine.command(pool, move |pool| async move { pool.resize_volume(uuid, size_bytes).await })?;
            self.engine.targets.notify_change(&volume_key(pool, volume_uuid));
            Ok(())
        })
    }

    fn volume_terms_set(&self, py: Python<'_>, pool: Uuid, volume_uuid: Uuid, terms: TermsShape) -> PyResult<()> {
        Ok(py.detach(|| self.engine.set_terms(pool, volume_uuid, &terms.into()))?)
    }

    fn volume_delete(&self, py: Python<'_>, pool: Uuid, volume_uuid: Uuid) -> PyResult<()> {
        py.detach(|| {
            let uuid = volume_uuid.0;
            self.engine.command(pool, move |pool| async move { pool.delete_volume(uuid).await })?;
            let gone = volume_key(pool, volume_uuid);
            self.engine.targets.remove_terms(|volume| *volume == gone);
            Ok(())
        })
    }

    fn volume_status(&self, py: Python<'_>, pool: Uuid, volume_uuid: Uuid) -> PyResult<VolumeShape> {
        let missing = || PoolError::new(PoolErrorKind::NotFound, "there is no volume of this uuid");
        let uuid = volume_uuid.0;
        let status = py.detach(|| {
            self.engine.command(pool, move |pool| async move { pool.volume_status(uuid).ok_or_else(missing) })
        });
        Ok(VolumeShape::new(status?, self.engine.targets.delayed_requests(&volume_key(pool, volume_uuid))))
    }

    fn document_put(&self, py: Python<'_>, pool: Uuid, key: String, value: Option<&[u8]>) -> PyResult<()> {
        let value = value.map(<[u8]>::to_vec);
        Ok(py.detach(|| self.engine.command(pool, |pool| async move { pool.put_document(key, value).await }))?)
    }

    fn documents<'py>(&self, py: Python<'py>, pool: Uuid) -> PyResult<Bound<'py, PyDict>> {
        let documents = py.detach(|| self.engine.command(pool, |pool| async move { Ok(pool.documents()) }))?;
        let by_key = PyDict::new(py);
        for (key, value) in documents {
            by_key.set_item(key, PyBytes::new(py, &value))?;
        }
        Ok(by_key)
    }

    fn exports_set(&self, py: Python<'_>, exports: Vec<ExportShape>) -> PyResult<()> {
        let exports = exports.into_iter().map(Export::try_from).collect::<Result<Vec<_>, _>>()?;
        py.detach(|| self.engine.targets.set_exports(exports));
        Ok(())
    }

    fn sessions(&self, py: Python<'_>) -> Vec<SessionShape> {
        py.detach(|| self.engine.targets.sessions()).into_iter().map(SessionShape::from).collect()
    }

    fn meta_next<'py>(&self, py: Python<'py>, timeout_ms: u64) -> PyResult<Option<Bound<'py, PyTuple>>> {
        let Some((number, pool, operation)) = py.detach(|| self.engine.meta.next(Duration::from_millis(timeout_ms)))
        else {
            return Ok(None);
        };
        (number, pool, shown(py, operation)?).into_pyobject(py).map(Some)
    }

    fn meta_done(&self, work: u64, result: &Bound<'_, PyAny>) {
        let Some(answer) = self.engine.meta.take(work) else { return };
        if result.is_instance_of::<PyBaseException>() {
            return answer.fail(result.to_string());
        }
        let unusable = |error: PyErr| format!("the store answered with something else: {error}");
        match answer {
            Answer::Get(sender) => match result.extract::<Vec<Option<PyBackedBytes>>>() {
                Ok(rows) => sender.send(Ok(rows.into_iter().map(|row| row.map(|row| row.to_vec())).collect())),
                Err(error) => Answer::Get(sender).fail(unusable(error)),
            },
            Answer::Scan(sender) => match result.extract::<Vec<(PyBackedBytes, PyBackedBytes)>>() {
                Ok(rows) => sender.send(Ok(rows.into_iter().map(|(k, v)| (k.to_vec(), v.to_vec())).collect())),
                Err(error) => Answer::Scan(sender).fail(unusable(error)),
            },
            Answer::Put(sender) => sender.send(Ok(())),
        }
    }

    fn events_next(&self, py: Python<'_>, timeout_ms: u64) -> Option<Vec<Event>> {
        py.detach(|| self.engine.events.next(Duration::from_millis(timeout_ms)))
    }

    fn metrics(&self, py: Python<'_>) -> PyResult<Metrics> {
        Ok(py.detach(|| gather(&self.engine))?)
    }

    fn stop(&self, py: Python<'_>) -> PyResult<()> {
        Ok(py.detach(|| self.engine.stop())?)
    }
}

/// Work as Python takes it.
fn shown(py: Python<'_>, operation: Operation) -> PyResult<Bound<'_, PyAny>> {
    match operation {
        Operation::Get(keys) => {
            let keys = PyList::new(py, keys.iter().map(|key| PyBytes::new(py, key)))?;
            ("get", keys).into_bound_py_any(py)
        }
        Operation::Scan(prefix, after, rows_max) => {
            ("scan", PyBytes::new(py, &prefix), PyBytes::new(py, &after), rows_max).into_bound_py_any(py)
        }
        Operation::Put(batch) => {
            let rows = batch
                .iter()
                .map(|(key, value)| (PyBytes::new(py, key), value.as_ref().map(|value| PyBytes::new(py, value))));
            ("put", PyList::new(py, rows)?).into_bound_py_any(py)
        }
    }
}
