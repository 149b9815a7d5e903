//! Fabrics commands (Base 2.0c section 6): Connect and the property commands.

use alloc::string::String;

use zerocopy::{FromBytes, IntoBytes};

use super::event::ConnectRequest;
use super::spec::command::{CATTR_DISABLE_SQ_FLOW_CONTROL, ConnectCmd, ConnectData, PropertyCmd, Sqe};
use super::status::Status;

/// Bytes of Connect's data.
pub const CONNECT_BYTES: usize = size_of::<ConnectData>();
/// An NQN has up to 223 bytes (Base section 4.5).
const NQN_BYTES_MAX: usize = 223;

/// The status and the result that refuse a Connect. In the result: the offset of the field, bit 16 for "in the data".
pub type Refused = (Status, u32);

const IN_DATA: u32 = 1 << 16;

/// The same entry, seen as a Connect command.
#[must_use]
pub fn connect_cmd(sqe: &Sqe) -> ConnectCmd {
    let Ok(cmd) = ConnectCmd::read_from_bytes(sqe.as_bytes()) else { unreachable!("both have 64 bytes") };
    cmd
}

/// The same entry, seen as a property command.
#[must_use]
pub fn property_cmd(sqe: &Sqe) -> PropertyCmd {
    let Ok(cmd) = PropertyCmd::read_from_bytes(sqe.as_bytes()) else { unreachable!("both have 64 bytes") };
    cmd
}

/// Checks a Connect command's form; who may connect is not decided here. `depth_max`: CAP.MQES + 1.
///
/// # Errors
/// Which field is wrong.
pub fn parse_connect(sqe: &Sqe, data: &[u8], depth_max: u16) -> Result<ConnectRequest, Refused> {
    let cmd = connect_cmd(sqe);
    if cmd.recfmt.get() != 0 {
        return Err((Status::CONNECT_FORMAT, 0));
    }
    let Ok(data) = ConnectData::ref_from_bytes(data) else {
        return Err((Status::DATA_SGL_LENGTH_INVALID, 0));
    };
    let sqsize = cmd.sqsize.get();
    if sqsize == 0 || sqsize >= depth_max {
        return Err((Status::CONNECT_INVALID_PARAMETERS, 44));
    }
    let subsystem_nqn = nqn(&data.subnqn).ok_or((Status::CONNECT_INVALID_PARAMETERS, IN_DATA | 256))?;
    let host_nqn = nqn(&data.hostnqn).ok_or((Status::CONNECT_INVALID_PARAMETERS, IN_DATA | 512))?;
    if data.hostid == [0; 16] {
        return Err((Status::CONNECT_INVALID_PARAMETERS, IN_DATA));
    }
    Ok(ConnectRequest {
        queue_id: cmd.qid.get(),
        queue_depth: sqsize + 1,
        controller_id: data.cntlid.get(),
        host_id: data.hostid,
        host_nqn,
        subsystem_nqn,
        keep_alive_ms: cmd.kato.get(),
        flow_control_disabled: cmd.cattr & CATTR_DISABLE_SQ_FLOW_CONTROL != 0,
    })
}

/// An NQN out of a field that a zero ends: UTF-8, "nqn." first, no control characters.
fn nqn(field: &[u8; 256]) -> Option<String> {
    let bytes = &field[..field.iter().position(|byte| *byte == 0)?];
    let text = core::str::from_utf8(bytes).ok()?;
    let valid = text.len() <= NQN_BYTES_MAX && text.starts_with("nqn.") && !text.chars().any(char::is_control);
    valid.then(|| text.into())
}
