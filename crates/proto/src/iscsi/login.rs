//! Login (RFC 7143 6.3, 11.12, 11.13, 13) as a machine of its own: requests in, answers out. Which values are agreed is
//! a table.

use alloc::string::{String, ToString};
use alloc::vec::Vec;

use super::event::{LoginAccept, LoginRefusal, LoginRequest, SessionKind};
use super::pdu::{self, CONTINUE, TRANSIT, U24};
use super::session::{Parameters, Settings};
use super::text;

/// Stages (11.12.3).
const SECURITY: u8 = 0;
const OPERATIONAL: u8 = 1;
const FULL_FEATURE: u8 = 3;

/// Requests that one login may take: two stages, and a few PDUs each.
const REQUESTS_MAX: u32 = 16;

/// Why a login fails: Status-Class and Status-Detail (11.13.5), and a word for the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Status-Class in the high byte, Status-Detail in the low one.
    pub status: u16,
    /// For the log.
    pub reason: &'static str,
}

const fn refusal(status: u16, reason: &'static str) -> Refusal {
    Refusal { status, reason }
}

impl From<LoginRefusal> for Refusal {
    fn from(refused: LoginRefusal) -> Self {
        match refused {
            LoginRefusal::NotAuthorized => refusal(0x0202, "login: initiator may not use the target"),
            LoginRefusal::TargetNotFound => refusal(0x0203, "login: no such target"),
            LoginRefusal::TargetRemoved => refusal(0x0204, "login: target was removed"),
            LoginRefusal::TooManyConnections => refusal(0x0206, "login: session has its one connection"),
            LoginRefusal::SessionTypeNotSupported => refusal(0x0209, "login: session type is not offered"),
            LoginRefusal::SessionDoesNotExist => refusal(0x020a, "login: no session of that TSIH"),
            LoginRefusal::TargetError => refusal(0x0300, "login: target error"),
            LoginRefusal::ServiceUnavailable => refusal(0x0301, "login: service unavailable"),
            LoginRefusal::OutOfResources => refusal(0x0302, "login: a limit is reached"),
        }
    }
}

/// How a key's value comes about (13).
enum Rule {
    /// The login machine itself reads it; no answer.
    Identity,
    /// AuthMethod: the first of the initiator's list that is offered here.
    Authentication,
    /// The first of the initiator's list that is offered here.
    Choice(&'static [&'static str], fn(&mut Parameters, usize)),
    /// The smaller of both.
    Minimum(fn(&Settings) -> u32, fn(&mut Parameters, u32)),
    /// The larger of both.
    Maximum(u32),
    /// Yes if both say so.
    And(fn(&Settings) -> bool, fn(&mut Parameters, bool)),
    /// Yes if one says so.
    Or(fn(&Settings) -> bool, fn(&mut Parameters, bool)),
    /// The initiator says, and it is so; no answer.
    Declared(fn(&mut Parameters, u32)),
    /// Valid keys that mean nothing here.
    Irrelevant,
}

struct Key {
    name: &'static str,
    /// Meaningless in a discovery session (13: "use: LO, irrelevant when SessionType=Discovery").
    normal_only: bool,
    /// The values that a number may have.
    range: (u32, u32),
    rule: Rule,
}

const fn key(name: &'static str, rule: Rule) -> Key {
    Key { name, normal_only: false, range: (0, u32::MAX), rule }
}

const fn normal(name: &'static str, range: (u32, u32), rule: Rule) -> Key {
    Key { name, normal_only: true, range, rule }
}

const LENGTHS: (u32, u32) = (512, (1 << 24) - 1);
const DIGESTS: &[&str] = &["None", "CRC32C"];

static KEYS: &[Key] = &[
    key("InitiatorName", Rule::Identity),
    key("InitiatorAlias", Rule::Identity),
    key("SessionType", Rule::Identity),
    key("TargetName", Rule::Identity),
    key("AuthMethod", Rule::Authentication),
    key("HeaderDigest", Rule::Choice(DIGESTS, |p, chosen| p.header_digest = chosen == 1)),
    key("DataDigest", Rule::Choice(DIGESTS, |p, chosen| p.data_digest = chosen == 1)),
    normal("MaxConnections", (1, 65_535), Rule::Minimum(|_| 1, |_, _| ())),
    normal("InitialR2T", (0, 0), Rule::Or(|s| s.initial_r2t, |p, yes| p.initial_r2t = yes)),
    normal("ImmediateData", (0, 0), Rule::And(|s| s.immediate_data, |p, yes| p.immediate_data = yes)),
    Key { range: LENGTHS, ..key("MaxRecvDataSegmentLength", Rule::Declared(|p, bytes| p.send_segment_bytes = bytes)) },
    normal("MaxBurstLength", LENGTHS, Rule::Minimum(|s| s.max_burst_bytes, |p, bytes| p.max_burst_bytes = bytes)),
    normal("FirstBurstLength", LENGTHS, Rule::Minimum(|s| s.first_burst_bytes, |p, bytes| p.first_burst_bytes = bytes)),
    Key { range: (0, 3600), ..key("DefaultTime2Wait", Rule::Maximum(0)) },
    // Nothing is kept after a connection is lost (ErrorRecoveryLevel 0).
    Key { range: (0, 3600), ..key("DefaultTime2Retain", Rule::Minimum(|_| 0, |_, _| ())) },
    normal("MaxOutstandingR2T", (1, 65_535), Rule::Minimum(|_| 1, |_, _| ())),
    normal("DataPDUInOrder", (0, 0), Rule::Or(|_| true, |_, _| ())),
    normal("DataSequenceInOrder", (0, 0), Rule::Or(|_| true, |_, _| ())),
    Key { range: (0, 2), ..key("ErrorRecoveryLevel", Rule::Minimum(|_| 0, |_, _| ())) },
    // RFC 7143 13.23: the task set is cleared as RFC 3720 says.
    normal("TaskReporting", (0, 0), Rule::Choice(&["RFC3720"], |_, _| ())),
    // RFC 7144: level 1 is RFC 7143.
    Key { range: (0, 31), ..normal("iSCSIProtocolLevel", (0, 31), Rule::Minimum(|_| 1, |_, _| ())) },
    // Markers of RFC 3720; RFC 7143 13.25 says: answer No.
    key("OFMarker", Rule::And(|_| false, |_, _| ())),
    key("IFMarker", Rule::And(|_| false, |_, _| ())),
    key("OFMarkInt", Rule::Irrelevant),
    key("IFMarkInt", Rule::Irrelevant),
];

/// What the machine wants done.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// Send this answer.
    Answer(Answer),
    /// Ask the glue; then [`Login::accept`] or [`Login::refuse`].
    Ask(LoginRequest),
}

/// A login response, all but its sequence numbers.
#[derive(Debug, PartialEq, Eq)]
pub struct Answer {
    /// The header.
    pub bhs: [u8; pdu::BHS_BYTES],
    /// The text.
    pub data: Vec<u8>,
    /// Login is complete: after this PDU digests count.
    pub complete: bool,
    /// Login failed: after this PDU the connection ends.
    pub refused: Option<Refusal>,
}

/// Who asks, from the first request.
#[derive(Clone, Debug, PartialEq, Eq)]
struct First {
    isid: [u8; 6],
    tsih: u16,
    cid: u16,
    itt: u32,
}

/// A connection's login.
#[derive(Debug, Default)]
pub struct Login {
    first: Option<First>,
    requests: u32,
    /// The stage that the next request must name.
    stage: Option<u8>,
    /// Text whose end is still to come, or that waits for the glue.
    text: Vec<u8>,
    /// The flags of the request that is being answered.
    flags: u8,
    asked: bool,
    accepted: Option<(u16, u16)>,
    discovery: bool,
    /// Which of [`KEYS`] came.
    seen: u32,
    declared: bool,
    /// What is agreed so far.
    pub parameters: Parameters,
}

impl Login {
    /// A login request with its text.
    pub fn handle(&mut self, request: &pdu::LoginRequest, data: &[u8], settings: &Settings) -> Step {
        match self.check(request, data) {
            Err(refused) => Step::Answer(self.refuse_as(request, refused)),
            Ok(()) if request.flags & CONTINUE != 0 => {
                // Text goes on: an empty answer asks for the rest (6.2).
                Step::Answer(self.answer(request.flags & 0x0c, Vec::new(), false))
            }
            Ok(()) if !self.asked => match self.identify(request) {
                Ok(event) => {
                    self.asked = true;
                    Step::Ask(event)
                }
                Err(refused) => Step::Answer(self.refuse_as(request, refused)),
            },
            Ok(()) => Step::Answer(self.negotiate(settings)),
        }
    }

    /// The glue said yes.
    pub fn accept(&mut self, accept: &LoginAccept, settings: &Settings) -> Answer {
        self.accepted = Some((accept.tsih, accept.portal_group));
        self.negotiate(settings)
    }

    /// The glue said no.
    pub fn refuse(&mut self, refused: LoginRefusal) -> Answer {
        self.refused(refused.into())
    }

    /// Whether the glue is being asked: the initiator must wait.
    #[must_use]
    pub fn is_waiting(&self) -> bool {
        self.asked && self.accepted.is_none()
    }

    fn check(&mut self, request: &pdu::LoginRequest, data: &[u8]) -> Result<(), Refusal> {
        let (current, next) = (request.flags >> 2 & 3, request.flags & 3);
        let (transit, go_on) = (request.flags & TRANSIT != 0, request.flags & CONTINUE != 0);
        self.flags = request.flags;
        self.requests += 1;
        if self.requests > REQUESTS_MAX {
            return Err(refusal(0x0200, "login: too many requests"));
        }
        if request.version_min != 0 {
            return Err(refusal(0x0205, "login: Version-min is above 0"));
        }
        let bad_stage = current > OPERATIONAL
            || self.stage.is_some_and(|stage| stage != current)
            || (transit && (next <= current || next == 2))
            || (transit && go_on);
        if bad_stage {
            return Err(refusal(0x020b, "login: stages out of order"));
        }
        let first =
            First { isid: request.isid, tsih: request.tsih.get(), cid: request.cid.get(), itt: request.itt.get() };
        if self.first.get_or_insert_with(|| first.clone()) != &first {
            return Err(refusal(0x020b, "login: ISID, TSIH, CID or ITT changed"));
        }
        self.stage = Some(current);
        if self.text.len() + data.len() > text::TEXT_BYTES_MAX {
            return Err(refusal(0x0200, "login: text is too long"));
        }
        self.text.extend_from_slice(data);
        Ok(())
    }

    /// The keys that must come in the first request (6.3.1).
    fn identify(&mut self, request: &pdu::LoginRequest) -> Result<LoginRequest, Refusal> {
        let pairs = text::parse(&self.text).map_err(|_| refusal(0x0200, "login: malformed text"))?;
        let value = |name| pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| *value);
        let named = |name| match value(name) {
            Some(value) if text::is_name(value) => Ok(value.to_ascii_lowercase()),
            Some(_) => Err(refusal(0x0200, "login: malformed name")),
            None => Err(refusal(0x0207, "login: InitiatorName or TargetName is missing")),
        };
        let initiator: String = named("InitiatorName")?;
        let kind = match value("SessionType") {
            Some("Discovery") => SessionKind::Discovery,
            Some("Normal") | None => SessionKind::Normal { target: named("TargetName")? },
            Some(_) => return Err(refusal(0x0209, "login: unknown SessionType")),
        };
        self.discovery = kind == SessionKind::Discovery;
        let alias = value("InitiatorAlias").map(|alias| alias.chars().filter(|c| !c.is_control()).collect());
        Ok(LoginRequest {
            initiator,
            alias,
            isid: request.isid,
            tsih: request.tsih.get(),
            cid: request.cid.get(),
            kind,
        })
    }

    fn negotiate(&mut self, settings: &Settings) -> Answer {
        let taken = core::mem::take(&mut self.text);
        let mut out = Vec::new();
        match text::parse(&taken) {
            Ok(pairs) => {
                for (name, value) in pairs {
                    if let Err(refused) = self.negotiate_key(name, value, settings, &mut out) {
                        return self.refused(refused);
                    }
                }
            }
            Err(_) => return self.refused(refusal(0x0200, "login: malformed text")),
        }
        let (current, next) = (self.flags >> 2 & 3, self.flags & 3);
        let transit = self.flags & TRANSIT != 0;
        let complete = transit && next == FULL_FEATURE;
        self.declare(current, complete, settings, &mut out);
        if transit {
            self.stage = Some(next);
        }
        let parameters = &mut self.parameters;
        parameters.first_burst_bytes = parameters.first_burst_bytes.min(parameters.max_burst_bytes);
        self.answer(self.flags & (TRANSIT | 0x0c) | if transit { next } else { 0 }, out, complete)
    }

    /// What the target says unasked: its portal group in its first answer (13.9), its segment length before the end.
    fn declare(&mut self, stage: u8, complete: bool, settings: &Settings, out: &mut Vec<u8>) {
        const PORTAL_GROUP_SAID: u32 = 1 << 31;
        if let Some((_, portal_group)) = self.accepted {
            if !self.discovery && self.seen & PORTAL_GROUP_SAID == 0 {
                self.seen |= PORTAL_GROUP_SAID;
                text::put(out, "TargetPortalGroupTag", &portal_group.to_string());
            }
        }
        if (stage == OPERATIONAL || complete) && !self.declared {
            self.declared = true;
            text::put(out, "MaxRecvDataSegmentLength", &settings.receive_segment_bytes.to_string());
        }
    }

    fn negotiate_key(
        &mut self,
        name: &str,
        value: &str,
        settings: &Settings,
        out: &mut Vec<u8>,
    ) -> Result<(), Refusal> {
        let Some(index) = KEYS.iter().position(|key| key.name == name) else {
            text::put(out, name, "NotUnderstood");
            return Ok(());
        };
        let key = &KEYS[index];
        if self.seen & 1 << index != 0 {
            return Err(refusal(0x0200, "login: a key came twice"));
        }
        self.seen |= 1 << index;
        if key.normal_only && self.discovery {
            text::put(out, name, "Irrelevant");
            return Ok(());
        }
        let parameters = &mut self.parameters;
        let in_range = |number: &u32| (key.range.0..=key.range.1).contains(number);
        let as_number = text::number(value).filter(in_range);
        let answer = match &key.rule {
            Rule::Identity => return Ok(()),
            Rule::Authentication => {
                // CHAP goes here: the glue's acceptance would carry the secret, and the stage last until it is shown.
                if !value.split(',').any(|method| method == "None") {
                    return Err(refusal(0x0201, "login: AuthMethod without None"));
                }
                Some("None".to_string())
            }
            Rule::Choice(known, apply) => {
                let chosen = value.split(',').find_map(|offer| known.iter().position(|known| *known == offer));
                chosen.inspect(|&chosen| apply(parameters, chosen)).map(|chosen| known[chosen].to_string())
            }
            Rule::Minimum(ours, apply) => as_number.map(|theirs| {
                let agreed = theirs.min(ours(settings));
                apply(parameters, agreed);
                agreed.to_string()
            }),
            Rule::Maximum(ours) => as_number.map(|theirs| theirs.max(*ours).to_string()),
            Rule::And(ours, apply) | Rule::Or(ours, apply) => text::boolean(value).map(|theirs| {
                let ours = ours(settings);
                let agreed = if matches!(key.rule, Rule::And(..)) { theirs && ours } else { theirs || ours };
                apply(parameters, agreed);
                if agreed { "Yes" } else { "No" }.to_string()
            }),
            Rule::Declared(apply) => match as_number {
                Some(theirs) => {
                    apply(parameters, theirs);
                    return Ok(());
                }
                None => None,
            },
            Rule::Irrelevant => Some("Irrelevant".to_string()),
        };
        text::put(out, name, answer.as_deref().unwrap_or("Reject"));
        Ok(())
    }

    fn answer(&self, flags: u8, data: Vec<u8>, complete: bool) -> Answer {
        let first = self.first.as_ref();
        let tsih = match (complete, self.accepted) {
            (true, Some((tsih, _))) => tsih,
            _ => first.map_or(0, |first| first.tsih),
        };
        let response = pdu::LoginResponse {
            opcode: pdu::response::LOGIN,
            flags,
            data_bytes: U24::new(data.len() as u32),
            isid: first.map_or([0; 6], |first| first.isid),
            tsih: tsih.into(),
            itt: first.map_or(0, |first| first.itt).into(),
            ..pdu::LoginResponse::default()
        };
        Answer { bhs: pdu::bytes(&response), data, complete, refused: None }
    }

    fn refused(&self, refused: Refusal) -> Answer {
        let mut answer = self.answer(self.flags & 0x0c, Vec::new(), false);
        answer.bhs[36..38].copy_from_slice(&refused.status.to_be_bytes());
        answer.refused = Some(refused);
        answer
    }

    /// As `refused`, for a request that may not be like the first.
    fn refuse_as(&self, request: &pdu::LoginRequest, refused: Refusal) -> Answer {
        let mut answer = self.refused(refused);
        answer.bhs[8..14].copy_from_slice(&request.isid);
        answer.bhs[16..20].copy_from_slice(&request.itt.get().to_be_bytes());
        answer
    }
}

const _: () = assert!(SECURITY < OPERATIONAL && KEYS.len() < 31);
