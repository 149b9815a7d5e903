//! iSCSI: targets, sessions, SendTargets, resets.
//!
//! One target per name in the export table, with LUN 0. A session is one connection. What sessions on several cores
//! share lies here under one lock that is taken at logins, resets and sessions' ends, never for a command.

use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sds_io::sync::{join_all, oneshot};
use sds_proto::Unit;
use sds_proto::iscsi::{
    Event, LoginAccept, LoginAnswer, LoginRefusal, LoginRequest, Reset, SessionKind, SessionStarted, Settings,
    TargetConnection, TargetListing, Targets,
};
use sds_proto::scsi::unit::UnitFacts;

use crate::connections::Remote;
use crate::devices::DynDevice;
use crate::exports::{Export, Exports, Protocol, VolumeKey};
use crate::glue::{Begin, Executing, Glue, SessionInfo};
use crate::settle::{LostRequests, read_up_to_now, settled};

/// All addresses of the node are one portal group.
const PORTAL_GROUP: u16 = 1;
/// INQUIRY's words.
const VENDOR: &str = "SDS";
const PRODUCT: &str = "VOLUME";
const REVISION: &str = "0001";

/// A session on a target, wherever it lives.
struct SessionEntry {
    tsih: u16,
    initiator: String,
    isid: [u8; 6],
    target: String,
    volume: VolumeKey,
    remote: Remote<IscsiGlue>,
    executing: Executing,
}

#[derive(Default)]
struct State {
    sessions: Vec<SessionEntry>,
    last_tsih: u16,
    lost: LostRequests,
    portals: Vec<SocketAddr>,
}

/// What all iSCSI connections of the node share.
pub struct IscsiNode {
    exports: Arc<Exports>,
    state: Mutex<State>,
}

impl IscsiNode {
    pub(crate) fn new(exports: Arc<Exports>) -> Arc<Self> {
        Arc::new(Self { exports, state: Mutex::default() })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A panic on a core ends the process, so nobody sees a half-made change.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// SendTargets tells initiators of this address.
    pub(crate) fn add_portal(&self, address: SocketAddr) {
        self.state().portals.push(address);
    }

    /// What `initiator` may use under the name `target`.
    fn export(&self, initiator: &str, target: &str) -> Result<Export, LoginRefusal> {
        let table = self.exports.table();
        let mut exports = table.of_name(Protocol::Iscsi, target).filter(|export| export.unit == 0);
        let export = exports.next().ok_or(LoginRefusal::TargetNotFound)?;
        if export.access.allows(initiator) { Ok(export.clone()) } else { Err(LoginRefusal::NotAuthorized) }
    }

    /// The exports were replaced: sessions that may not be any more, or whose target is another volume now, end.
    pub(crate) fn exports_changed(&self) {
        for session in &self.state().sessions {
            let stays = self.export(&session.initiator, &session.target).is_ok_and(|e| e.volume == session.volume);
            if !stays {
                session.remote.tell(|_, target, now| target.end(now, "its export was taken away"));
            }
        }
    }

    /// What a volume looks like has changed: its hosts are told.
    pub(crate) fn volume_changed(&self, volume: &VolumeKey) {
        for session in self.state().sessions.iter().filter(|session| session.volume == *volume) {
            session.remote.tell(|glue, target, _| target.set_unit(glue.facts()));
        }
    }

    /// What a new session of `initiator` must wait for: requests of lost sessions, and a session that it replaces.
    fn unsettled(&self, request: &LoginRequest, target: &str) -> usize {
        let state = self.state();
        let replaced = state.sessions.iter().filter(|session| session.is_replaced_by(request, target)).count();
        state.lost.count(&request.initiator, target) + replaced
    }
}

impl SessionEntry {
    fn is_replaced_by(&self, request: &LoginRequest, target: &str) -> bool {
        self.initiator == request.initiator && self.isid == request.isid && self.target == target
    }
}

impl State {
    /// A session number that is free among open sessions, never 0. Sessions are far fewer than numbers.
    fn new_tsih(&mut self) -> u16 {
        loop {
            self.last_tsih = self.last_tsih.checked_add(1).unwrap_or(1);
            if self.sessions.iter().all(|session| session.tsih != self.last_tsih) {
                return self.last_tsih;
            }
        }
    }
}

/// One connection's glue.
pub struct IscsiGlue {
    begin: Begin<Self>,
    initiator: String,
    target: String,
    serial: String,
    device: Option<Rc<DynDevice>>,
    started: Option<SessionStarted>,
}

impl IscsiGlue {
    /// The logical unit as hosts see it now.
    fn facts(&self) -> Option<UnitFacts> {
        self.device.as_ref().map(|device| UnitFacts {
            unit: Unit(0),
            geometry: device.geometry(),
            vendor: VENDOR.to_owned(),
            product: PRODUCT.to_owned(),
            revision: REVISION.to_owned(),
            serial: self.serial.clone(),
        })
    }

    fn log_in(&mut self, target: &mut TargetConnection, now: Duration, request: LoginRequest) {
        self.initiator.clone_from(&request.initiator);
        if self.begin.refuse || !self.begin.place.give_to(&request.initiator) {
            return self.refuse(target, now, LoginRefusal::OutOfResources);
        }
        if request.tsih != 0 {
            let known = self.begin.node.state().sessions.iter().any(|session| session.tsih == request.tsih);
            let refusal = if known { LoginRefusal::TooManyConnections } else { LoginRefusal::SessionDoesNotExist };
            return self.refuse(target, now, refusal);
        }
        match &request.kind {
            SessionKind::Discovery => {
                let tsih = self.begin.node.state().new_tsih();
                let accept = LoginAccept { tsih, portal_group: PORTAL_GROUP, unit: None };
                target.answer_login(now, LoginAnswer::Accept(accept));
            }
            SessionKind::Normal { target: name } => {
                self.target.clone_from(name);
                match self.begin.node.export(&request.initiator, name) {
                    Ok(_) => self.log_in_when_settled(target, now, request),
                    Err(refusal) => self.refuse(target, now, refusal),
                }
            }
        }
    }

    fn refuse(&self, target: &mut TargetConnection, now: Duration, refusal: LoginRefusal) {
        log::info!("{}: {} may not log in to {}: {refusal:?}", self.begin.peer, self.initiator, self.target);
        self.begin.place.take_back();
        target.answer_login(now, LoginAnswer::Refuse(refusal));
    }

    /// Ends a session that this one replaces (RFC 7143 section 6.3.5), waits for its requests, then accepts.
    fn log_in_when_settled(&mut self, target: &mut TargetConnection, now: Duration, request: LoginRequest) {
        let others: Vec<Remote<Self>> = {
            let state = self.begin.node.state();
            let of_host =
                |session: &&SessionEntry| session.initiator == request.initiator && session.target == self.target;
            for session in state.sessions.iter().filter(|session| session.is_replaced_by(&request, &self.target)) {
                session.remote.tell(|_, target, now| target.end(now, "a new session of its name replaces it"));
            }
            state.sessions.iter().filter(of_host).map(|session| session.remote.clone()).collect()
        };
        if others.is_empty() && self.begin.node.unsettled(&request, &self.target) == 0 {
            return self.accept(target, now, &request);
        }
        let (node, name) = (Arc::clone(&self.begin.node), self.target.clone());
        let (me, clock, wait_ms) = (self.begin.me.clone(), self.begin.local.clock(), self.begin.limits.lost_writes_ms);
        let read = read_up_to_now(&others);
        self.begin.local.spawner().spawn(async move {
            let settled = settled(clock, read, || node.unsettled(&request, &name), wait_ms).await;
            me.tell(move |glue, target, now| {
                if settled {
                    glue.accept(target, now, &request);
                } else {
                    log::warn!("{}: its lost session's writes do not end", request.initiator);
                    glue.refuse(target, now, LoginRefusal::ServiceUnavailable);
                }
            });
        });
    }

    /// All is settled; the export may have changed meanwhile.
    fn accept(&mut self, target: &mut TargetConnection, now: Duration, request: &LoginRequest) {
        let export = match self.begin.node.export(&request.initiator, &self.target) {
            Ok(export) => export,
            Err(refusal) => return self.refuse(target, now, refusal),
        };
        self.device = self.begin.devices.open(&export.volume);
        if self.device.is_none() {
            log::warn!("{}: is exported and its volume is not there", self.target);
            return self.refuse(target, now, LoginRefusal::ServiceUnavailable);
        }
        self.serial = export.serial;
        let mut state = self.begin.node.state();
        let tsih = state.new_tsih();
        state.sessions.push(SessionEntry {
            tsih,
            initiator: request.initiator.clone(),
            isid: request.isid,
            target: self.target.clone(),
            volume: export.volume,
            remote: self.begin.me.clone(),
            executing: self.begin.executing.clone(),
        });
        drop(state);
        let accept = LoginAccept { tsih, portal_group: PORTAL_GROUP, unit: self.facts() };
        target.answer_login(now, LoginAnswer::Accept(accept));
    }

    /// The targets that this initiator may use, each at every address of the node.
    fn listings(&self, wanted: &Targets) -> Vec<TargetListing> {
        let table = self.begin.node.exports.table();
        let mut names: Vec<&str> = table
            .seen_by(Protocol::Iscsi, &self.initiator)
            .map(|export| export.name.as_str())
            .filter(|name| match wanted {
                Targets::All => true,
                Targets::Named(wanted) => name == wanted,
                Targets::Own => *name == self.target,
            })
            .collect();
        names.dedup();
        let addresses: Vec<String> = self.begin.node.state().portals.iter().map(|at| self.address(*at)).collect();
        names.iter().map(|name| TargetListing { name: (*name).to_owned(), addresses: addresses.clone() }).collect()
    }

    /// `address:port,group`; a node that listens on all addresses is known by the one that this host found it at.
    fn address(&self, portal: SocketAddr) -> String {
        let ip: IpAddr = if portal.ip().is_unspecified() { self.begin.portal.ip() } else { portal.ip() };
        format!("{},{PORTAL_GROUP}", SocketAddr::new(ip.to_canonical(), portal.port()))
    }

    /// Every other session on the target hears of the reset before it is answered.
    fn reset(&self, reset: Reset) {
        let mine = self.begin.me.id();
        let told: Vec<_> = {
            let state = self.begin.node.state();
            let others =
                state.sessions.iter().filter(|session| session.target == self.target && session.remote.id() != mine);
            others
                .map(|session| {
                    let (sender, receiver) = oneshot();
                    session.remote.tell(move |_, target, now| {
                        target.reset_by_other(now, reset);
                        sender.send(());
                    });
                    receiver
                })
                .collect()
        };
        let me = self.begin.me.clone();
        self.begin.local.spawner().spawn(async move {
            join_all(told).await;
            me.tell(|_, target, now| target.answer_reset(now));
        });
    }
}

impl Glue for IscsiGlue {
    type Machine = TargetConnection;
    type Node = IscsiNode;

    fn begin(begin: Begin<Self>) -> (Self, TargetConnection) {
        let settings = Settings {
            commands_max: begin.limits.queue_depth_max.min(Settings::default().commands_max),
            bytes_in_flight_max: begin.limits.connection_bytes_max,
            login_ms: begin.limits.login_ms,
            stall_ms: begin.limits.stall_ms,
            ..Settings::default()
        };
        let target = TargetConnection::new(settings, begin.local.turn_now());
        let glue = Self {
            begin,
            initiator: String::new(),
            target: String::new(),
            serial: String::new(),
            device: None,
            started: None,
        };
        (glue, target)
    }

    fn handle_event(&mut self, target: &mut TargetConnection, now: Duration, event: Event) {
        match event {
            Event::Login(request) => self.log_in(target, now, request),
            Event::SessionStarted(started) => self.started = Some(started),
            Event::SendTargets(wanted) => target.answer_send_targets(now, &self.listings(&wanted)),
            Event::Reset(reset) => self.reset(reset),
        }
    }

    fn device(&self, unit: Unit) -> Option<&Rc<DynDevice>> {
        self.device.as_ref().filter(|_| unit == Unit(0))
    }

    fn handle_end(&mut self, _: &TargetConnection) {
        let mine = self.begin.me.id();
        let state = &mut *self.begin.node.state();
        let Some(at) = state.sessions.iter().position(|session| session.remote.id() == mine) else { return };
        let session = state.sessions.swap_remove(at);
        state.lost.add(&session.initiator, &session.target, &session.executing);
    }

    fn session(&self, _: &TargetConnection) -> Option<SessionInfo> {
        self.started.as_ref().map(|started| SessionInfo {
            protocol: Protocol::Iscsi,
            host: self.initiator.clone(),
            name: self.target.clone(),
            peer: self.begin.peer,
            queue: 0,
            header_digest: started.header_digest,
            data_digest: started.data_digest,
            core: self.begin.local.index(),
            executing: self.begin.executing.count(),
        })
    }
}
