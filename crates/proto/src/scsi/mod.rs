//! SCSI: SPC-4 and SBC-3, from CDBs to [`sds_block::Command`]s and from block errors to sense data.
//!
//! | module | what it holds |
//! |---|---|
//! | [`unit`] | the logical unit as its hosts see it |

pub mod unit;
