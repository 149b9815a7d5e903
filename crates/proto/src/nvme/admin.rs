//! Admin commands (Base 2.0c section 5), and the property commands: each entry checked, then executed.

use super::controller::{Answer, Controller, EVENT_REQUESTS_MAX, IO_QUEUES_MAX};
use super::event::{RefusedCommand, Subsystem};
use super::fabrics::property_cmd;
use super::io::{Direction, Refusal, check_sgl};
use super::spec::command::{FABRICS, Sqe, admin, fctype};
use super::spec::log::{event, fid};
use super::status::Status;

/// Set Features: SV, save.
const SAVE: u32 = 1 << 31;
/// The number of queues may be asked with all but this value.
const QUEUES_INVALID: u32 = 0xffff;
/// Get Features, host identifier: EXHID, 128 bits.
const HOST_ID_EXTENDED: u32 = 1;

impl Controller {
    /// Executes the command in `slot`, whose data from the host is `data`.
    pub(super) fn execute(&mut self, slot: u16, sqe: &Sqe, data: &[u8], subsystem: &Subsystem<'_>) -> Answer {
        let result = match sqe.opcode {
            FABRICS => self.fabrics(sqe),
            admin::KEEP_ALIVE => done(0),
            // All else needs an enabled controller (Base section 3.5.2).
            _ if !self.is_ready() => Err(Refusal::new(Status::COMMAND_SEQUENCE_ERROR, 0, 0)),
            admin::IDENTIFY => self.identify(sqe, subsystem),
            admin::GET_LOG_PAGE => self.get_log_page(sqe, subsystem),
            admin::SET_FEATURES => self.set_features(sqe, data, subsystem),
            admin::GET_FEATURES => self.get_features(sqe, subsystem),
            admin::ASYNC_EVENT => self.event_request(slot, sqe),
            admin::ABORT => self.abort(sqe),
            _ => Err(Refusal::new(Status::INVALID_OPCODE, 0, 0)),
        };
        result.unwrap_or_else(|refusal| {
            self.note_refused(&RefusedCommand {
                queue_id: 0,
                command_id: sqe.cid.get(),
                status: refusal.status.to_wire(),
                location: refusal.location,
                lba: 0,
                nsid: if sqe.opcode == FABRICS { 0 } else { sqe.nsid.get() },
            });
            Answer::Done { status: refusal.status, result: 0 }
        })
    }

    fn fabrics(&mut self, sqe: &Sqe) -> Result<Answer, Refusal> {
        let cmd = property_cmd(sqe);
        match sqe.fctype() {
            fctype::PROPERTY_GET => match self.property(&cmd) {
                Some(value) => done(value),
                None => Err(Refusal::field(44, 0)),
            },
            fctype::PROPERTY_SET if self.set_property(&cmd) => done(0),
            fctype::PROPERTY_SET => Err(Refusal::field(44, 0)),
            // The queue is connected already.
            fctype::CONNECT => Err(Refusal::new(Status::COMMAND_SEQUENCE_ERROR, 4, 0)),
            _ => Err(Refusal::new(Status::INVALID_OPCODE, 4, 0)),
        }
    }

    fn event_request(&mut self, slot: u16, sqe: &Sqe) -> Result<Answer, Refusal> {
        if self.event_requests.len() >= EVENT_REQUESTS_MAX {
            return Err(Refusal::new(Status::EVENT_LIMIT_EXCEEDED, 0, 0));
        }
        self.event_requests.push_back((slot, sqe.cid.get()));
        Ok(Answer::Later)
    }

    /// Only event requests can be aborted: all else is done already, or with its device, which can't give it back.
    /// The result's bit 0 says "not aborted", which the host must expect at any time (Base section 5.1).
    fn abort(&mut self, sqe: &Sqe) -> Result<Answer, Refusal> {
        let (queue_id, cid) = (sqe.cdw10.get() as u16, (sqe.cdw10.get() >> 16) as u16);
        if queue_id != 0 && !self.queues.iter().any(|(id, _)| *id == queue_id) {
            return Err(Refusal::field(40, 0));
        }
        let found = self.event_requests.iter().position(|(_, open)| *open == cid);
        if let (0, Some(at)) = (queue_id, found) {
            if let Some((slot, _)) = self.event_requests.remove(at) {
                self.event_answers.push_back((slot, Status::ABORT_REQUESTED, 0));
                return done(0);
            }
        }
        done(1)
    }

    fn set_features(&mut self, sqe: &Sqe, data: &[u8], subsystem: &Subsystem<'_>) -> Result<Answer, Refusal> {
        let (feature, value) = (sqe.cdw10.get() as u8, sqe.cdw11.get());
        if sqe.cdw10.get() & SAVE != 0 {
            return Err(Refusal::new(Status::FEATURE_NOT_SAVEABLE, 43, 7));
        }
        if !data.is_empty() && feature != fid::HOST_ID {
            return Err(Refusal::field(32, 0));
        }
        match feature {
            fid::QUEUES => return self.set_queues(value),
            fid::ASYNC_EVENT => self.event_config = value & self.events_offered(),
            // KATO is 32 bits of milliseconds; any will do.
            fid::KEEP_ALIVE => self.keep_alive_ms = value,
            fid::TEMPERATURE => self.temperature_threshold = value,
            fid::WRITE_ATOMICITY => self.atomicity = value & 1,
            // Over fabrics it comes with Connect and stays (Base section 5.27.1.25).
            fid::HOST_ID => return Err(Refusal::new(Status::COMMAND_SEQUENCE_ERROR, 40, 0)),
            _ => {
                let current = self.feature(feature, subsystem).ok_or(Refusal::field(40, 0))?;
                if value != current {
                    return Err(Refusal::new(Status::FEATURE_NOT_CHANGEABLE, 44, 0));
                }
            }
        }
        done(0)
    }

    /// As many queues of each kind as are asked for and can be had; both counts are 0-based.
    fn set_queues(&mut self, value: u32) -> Result<Answer, Refusal> {
        let (submission, completion) = (value & 0xffff, value >> 16);
        if submission == QUEUES_INVALID || completion == QUEUES_INVALID || self.identity.discovery {
            return Err(Refusal::field(44, 0));
        }
        if !self.queues.is_empty() {
            return Err(Refusal::new(Status::COMMAND_SEQUENCE_ERROR, 40, 0));
        }
        // Over fabrics a queue is always a pair (Base section 3.3.2).
        let asked = submission.min(completion) + 1;
        self.queues_granted = (asked as u16).min(IO_QUEUES_MAX);
        done(self.queues_feature().into())
    }

    fn queues_feature(&self) -> u32 {
        let count = u32::from(self.queues_granted) - 1;
        count | count << 16
    }

    fn get_features(&mut self, sqe: &Sqe, subsystem: &Subsystem<'_>) -> Result<Answer, Refusal> {
        let feature = sqe.cdw10.get() as u8;
        if feature == fid::HOST_ID {
            if sqe.cdw11.get() & HOST_ID_EXTENDED == 0 {
                return Err(Refusal::field(44, 0));
            }
            check_sgl(sqe, Direction::ToHost, 16, 0)?;
            return Ok(Answer::Data { data: self.host_id.to_vec() });
        }
        match self.feature(feature, subsystem) {
            Some(value) => done(value.into()),
            None => Err(Refusal::field(40, 0)),
        }
    }

    fn feature(&self, feature: u8, subsystem: &Subsystem<'_>) -> Option<u32> {
        if self.identity.discovery && !matches!(feature, fid::ASYNC_EVENT | fid::KEEP_ALIVE) {
            return None;
        }
        match feature {
            // One queue is as good as another; there is one power state; no error recovery time can be set.
            fid::ARBITRATION | fid::POWER | fid::ERROR_RECOVERY => Some(0),
            fid::TEMPERATURE => Some(self.temperature_threshold),
            fid::WRITE_CACHE => Some(u32::from(has_cache(subsystem))),
            fid::QUEUES => Some(self.queues_feature()),
            fid::WRITE_ATOMICITY => Some(self.atomicity),
            fid::ASYNC_EVENT => Some(self.event_config),
            fid::KEEP_ALIVE => Some(self.keep_alive_ms),
            _ => None,
        }
    }

    /// OAES, and what feature 0x0b may enable.
    pub(super) fn events_offered(&self) -> u32 {
        if self.identity.discovery { event::DISCOVERY_NOTICES } else { event::NAMESPACE_NOTICES }
    }
}

/// A namespace may lose writes at a power cut until a flush.
pub(super) fn has_cache(subsystem: &Subsystem<'_>) -> bool {
    subsystem.namespaces.iter().any(|space| space.geometry.write_cache)
}

#[expect(clippy::unnecessary_wraps, reason = "the arms of a match whose others refuse")]
fn done(result: u64) -> Result<Answer, Refusal> {
    Ok(Answer::Done { status: Status::SUCCESS, result })
}
