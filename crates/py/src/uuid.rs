//! UUIDs as Python writes them, and the front end's name of a volume made of two.

use std::convert::Infallible;
use std::fmt;

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyString;
use sds_target::VolumeKey;

/// Where the text of a UUID has its hyphens.
const HYPHENS: [usize; 4] = [8, 13, 18, 23];

/// A UUID; in Python the text with hyphens.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Uuid(pub [u8; 16]);

impl Uuid {
    /// The UUID of a text, `None` if it is none.
    pub fn parse(text: &str) -> Option<Self> {
        if text.len() != 36 || HYPHENS.iter().any(|at| text.as_bytes()[*at] != b'-') {
            return None;
        }
        let digits: String = text.chars().filter(|c| *c != '-').collect();
        // from_str_radix takes a sign.
        let hex = digits.len() == 32 && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
        hex.then(|| u128::from_str_radix(&digits, 16).ok()).flatten().map(|number| Self(number.to_be_bytes()))
    }
}

impl fmt::Display for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, byte) in self.0.iter().enumerate() {
            if [4, 6, 8, 10].contains(&at) {
                f.write_str("-")?;
            }
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

impl<'py> FromPyObject<'_, 'py> for Uuid {
    type Error = PyErr;

    fn extract(object: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        let text = object.extract::<String>()?;
        Self::parse(&text).ok_or_else(|| PyValueError::new_err(format!("{text:?} is no UUID")))
    }
}

impl<'py> IntoPyObject<'py> for Uuid {
    type Target = PyString;
    type Output = Bound<'py, PyString>;
    type Error = Infallible;

    fn into_pyobject(self, py: Python<'py>) -> Result<Self::Output, Infallible> {
        Ok(PyString::new(py, &self.to_string()))
    }
}

/// The front end's name of a volume.
pub fn volume_key(pool: Uuid, volume: Uuid) -> VolumeKey {
    VolumeKey(format!("{pool}/{volume}"))
}

/// Pool and volume of such a name.
pub fn parse_volume_key(key: &VolumeKey) -> Option<(Uuid, Uuid)> {
    let (pool, volume) = key.0.split_once('/')?;
    Some((Uuid::parse(pool)?, Uuid::parse(volume)?))
}
