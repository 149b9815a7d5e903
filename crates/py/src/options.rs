//! What a node's `options` may name.

use std::time::Duration;

use log::LevelFilter;
use pyo3::prelude::*;
use pyo3::types::PyDict;
use sds_target::Limits;
use sds_volume::Tuning;

use crate::logger;
use crate::refusal::Refusal;

/// The ring's default: 8 MiB hold what some seconds of small writes change between two commits.
const CARRY_OVER_BYTES: usize = 8 << 20;
/// How long a stop waits for requests that devices have.
const STOP_WAIT_MS: u64 = 5_000;

/// How a node runs.
pub struct Options {
    pub log_level: LevelFilter,
    /// The size of each pool's carry-over memory.
    pub carry_over_bytes: usize,
    /// How long a stop waits for requests that devices have.
    pub stop_wait: Duration,
    pub tuning: Tuning,
    pub limits: Limits,
}

impl Options {
    /// The options of a dict.
    pub fn from_dict(given: Option<&Bound<'_, PyDict>>) -> PyResult<Self> {
        let mut options = Self {
            log_level: LevelFilter::Info,
            carry_over_bytes: CARRY_OVER_BYTES,
            stop_wait: Duration::from_millis(STOP_WAIT_MS),
            tuning: Tuning::default(),
            limits: Limits::default(),
        };
        for (name, value) in given.into_iter().flatten() {
            options.set(&name.extract::<String>()?, &value)?;
        }
        Ok(options)
    }

    fn set(&mut self, name: &str, value: &Bound<'_, PyAny>) -> PyResult<()> {
        match name {
            "log_level" => {
                let text: String = value.extract()?;
                let filter = logger::level(&text);
                self.log_level =
                    filter.ok_or_else(|| Refusal::new("invalid_field", format!("log_level: there is no {text:?}")))?;
            }
            "carry_over_bytes" => self.carry_over_bytes = value.extract()?,
            "stop_wait_ms" => self.stop_wait = Duration::from_millis(value.extract()?),
            "commit_interval_ms" => self.tuning.commit_interval_ms = value.extract()?,
            "checkpoint_interval_ms" => self.tuning.checkpoint_interval_ms = value.extract()?,
            "map_cache_bytes_max" => self.tuning.map_cache_bytes_max = value.extract()?,
            "connections_max" => self.limits.connections_max = value.extract()?,
            "host_connections_max" => self.limits.host_connections_max = value.extract()?,
            "payload_bytes_max" => self.limits.payload_bytes_max = value.extract()?,
            unknown => {
                return Err(Refusal::new("invalid_field", format!("options: there is no {unknown:?}")).into());
            }
        }
        Ok(())
    }
}
