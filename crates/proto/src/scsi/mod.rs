//! SCSI: SPC-4 and SBC-3, from CDBs to [`sds_block::Command`]s and from block errors to sense data.
//!
//! | module | what it holds |
//! |---|---|
//! | [`spec`] | the layouts |
//! | [`opcodes`] | the table of commands, and REPORT SUPPORTED OPERATION CODES from it |
//! | [`commands`] | a CDB to an [`commands::Action`]: blocks to move, or an answer at once |
//! | [`blocks`] | commands that move blocks |
//! | [`answers`] | capacity, LUNs, status: commands that are answered from facts |
//! | [`inquiry`] | INQUIRY and its VPD pages |
//! | [`modes`] | MODE SENSE and SELECT, LOG SENSE |
//! | [`sense`] | failures: status and sense data |
//! | [`unit`] | the logical unit as its hosts see it, unit attentions, limits |

pub mod spec;
pub mod opcodes;
pub mod commands;
pub mod blocks;
pub mod answers;
pub mod inquiry;
pub mod modes;
pub mod sense;
pub mod unit;
