//! The bootstrap server (OMA LwM2M Core 1.1 section 6.1): gives devices the servers that they register with, and their
//! keys.
//!
//! 1. A device asks for a session: POST `/bs`. Nothing is kept of a peer without an account, or with an identity that
//!    is not for the endpoint name.
//! 2. The session ([`session`]) runs: one request at a time. A second request of the endpoint ends it and begins
//!    another.
//! 3. It has finished or failed, which is reported.
//!
//! A device of LwM2M 1.2 may ask for everything at once instead: GET `/bspack`.
//!
//! # Peers without DTLS
//!
//! Their addresses may be forged. They get accounts without secrets only; their session begins with a Discover, which
//! is smaller than the request, is repeated once and has to be answered within seconds; they can take half of the
//! sessions; and a pack comes in the smallest blocks. They cannot end a session that runs over DTLS.

mod account_arrival;
pub(super) mod awaited_bootstraps;
mod broker_client;
mod discovered;
pub(super) mod generated_keys;
mod key_review;
mod packs;
mod plain_sessions;
pub(super) mod redaction;
mod request;
mod session;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Instant;

use rand::rngs::StdRng;

use crate::bootstrap::account::{Account, Accounts, PatternAccount};
use crate::bootstrap::secret::SecretBytes;
use crate::coap::options::number;
use crate::coap::{Code, EndpointEvent, ExchangeId, Request, Response};
use crate::lwm2m::codec::{Assignment, Requested, decode};
use crate::lwm2m::register::Registration;
use lwm2m_base::Peer;
use lwm2m_base::deadlines::IdDeadlines;
use lwm2m_base::id_map::IdMap;
use lwm2m_base::identity::PskIdentity;

use super::broker::BrokerEvent;
use super::config::BootstrapConfig;
use super::context::Context;
use super::diagnostic::{add_max_age, fitting, room};
use super::intake::received_request::ReceivedRequest;
use super::report::{BootstrapRefusal, BootstrapReport, BootstrapStep, Report};

use broker_client::BrokerClient;
use packs::Packs;
use plain_sessions::PlainSessions;
use request::{BootstrapRequest, UNSTORED, forbids, is_pack};
use session::{Session, SessionProgress, path_of_servers};

pub(super) use awaited_bootstraps::AwaitedBootstrap;
pub(super) use broker_client::SESSION;
pub(super) use request::{begins_session, forbids_other, is_bootstrap, is_for_bootstrap};

/// The time in which a peer without DTLS has to answer the first request, in units of `ACK_TIMEOUT`. The first
/// retransmission comes after 1 to 1.5 units and the second after 3 at least, so there is one: an answer and two
/// Discovers are less than three times the shortest request (RFC 7252 section 11.3).
const PROOF_TIMEOUT: f64 = 2.5;

/// The same time if the peer has acknowledged the request, which is not repeated then.
const PROOF_TIMEOUT_ACKNOWLEDGED: f64 = 5.0;

/// Names a session. It is never given to another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct SessionId(u64);

/// Owns the accounts and the sessions.
pub(super) struct BootstrapServer {
    accounts: Accounts,
    /// Whether the accounts of patterns have been set.
    knows_patterns: bool,
    client: BrokerClient,
    sessions: IdMap<SessionId, RunningSession>,
    by_endpoint: HashMap<Arc<str>, SessionId>,
    exchanges: IdMap<ExchangeId, SessionId>,
    deadlines: IdDeadlines<SessionId>,
    plain_sessions: PlainSessions,
    /// The sessions whose next request waits until the store has the generated keys.
    held: BTreeSet<SessionId>,
    last_id: u64,
    packs: Packs,
}

struct RunningSession {
    session: Session,
    /// The request that was sent and is not answered.
    exchange: Option<ExchangeId>,
    /// The next request, which waits until the store has the generated keys.
    held: Option<Request>,
    began: Instant,
    /// Whether the device has answered, or its DTLS association proves its address.
    is_proven: bool,
}

impl BootstrapServer {
    /// Creates a server, whose client connects to the broker at once if there is one.
    pub(super) fn new(config: Option<&BootstrapConfig>, now: Instant, rng: &mut StdRng) -> Self {
        let login = config.and_then(|config| config.login.as_ref());
        let client = BrokerClient::new(login.map(|_| now));
        Self {
            accounts: Accounts::default(),
            knows_patterns: false,
            client,
            sessions: IdMap::default(),
            by_endpoint: HashMap::new(),
            exchanges: IdMap::default(),
            deadlines: IdDeadlines::default(),
            plain_sessions: PlainSessions::default(),
            held: BTreeSet::new(),
            last_id: 0,
            packs: Packs::new(rng),
        }
    }

    /// Takes an event of the client at the broker.
    pub(super) fn handle_broker(&mut self, context: &mut Context, event: BrokerEvent) {
        let change = self.client.handle_broker(context, &mut self.accounts, event);
        self.review_keys(context, change);
    }

    /// Replaces the accounts of patterns.
    pub(crate) fn set_accounts(&mut self, context: &mut Context, accounts: Vec<PatternAccount>) {
        self.accounts.set_patterns(accounts);
        self.knows_patterns = true;
        self.review_keys(context, AccountsChange::Any);
    }

    /// Takes the event that the store has written generated keys.
    pub(crate) fn handle_stored_keys(&mut self, context: &mut Context) {
        for id in self.held.clone() {
            let Some(request) = self.sessions.get_mut(&id).and_then(|running| running.held.take()) else { continue };
            self.send(context, id, request);
        }
        self.resume_packs(context);
    }

    /// Answers a request for bootstrap.
    pub(super) fn handle_request(&mut self, context: &mut Context, received: ReceivedRequest) {
        if is_pack(received.request) {
            return self.handle_pack_request(context, received);
        }
        if let Err((endpoint, refusal)) = self.begin(context, received) {
            let retry_after = context.config.limits.retry_after;
            let mut response = refused(refusal.code(), refusal, received.request);
            if response.code == Code::SERVICE_UNAVAILABLE {
                add_max_age(&mut response, retry_after);
            }
            reject(context, received, endpoint, response, refusal);
        }
    }

    /// Returns whether an exchange is one of a session.
    pub(crate) fn owns(&self, exchange: ExchangeId) -> bool {
        self.exchanges.contains_key(&exchange)
    }

    /// Takes the event of a request of a session.
    pub(crate) fn handle_event(&mut self, context: &mut Context, exchange: ExchangeId, event: EndpointEvent) {
        let Some(id) = self.exchanges.get(&exchange).copied() else { return };
        match event {
            EndpointEvent::Response { response, .. } => {
                self.exchanges.remove(&exchange);
                self.answered(context, id, &response);
            }
            EndpointEvent::Reset { .. } => self.fail(context, id, None, "the device reset the request"),
            EndpointEvent::TimedOut { .. } => self.fail(context, id, None, "the device did not answer"),
            EndpointEvent::Failed { error, .. } => self.fail(context, id, None, &error.to_string()),
            EndpointEvent::Acknowledged { .. } => self.acknowledged(context, id),
            // These events do not belong to requests.
            EndpointEvent::BodyWanted { .. }
            | EndpointEvent::Request { .. }
            | EndpointEvent::Notification { .. }
            | EndpointEvent::NotificationFailed { .. }
            | EndpointEvent::NotificationSuperseded { .. }
            | EndpointEvent::BodyRefused { .. } => {}
        }
    }

    pub(super) fn handle_timeout(&mut self, context: &mut Context) {
        self.client.handle_timeout(context, &self.accounts);
        while let Some(id) = self.deadlines.pop_expired(context.now) {
            let Some(running) = self.sessions.get(&id) else { continue };
            let reason = match running {
                RunningSession { held: Some(_), .. } => UNSTORED,
                RunningSession { is_proven: false, .. } => "the device did not answer",
                RunningSession { is_proven: true, .. } => "the session took longer than bootstrap.session_timeout",
            };
            self.fail(context, id, None, reason);
        }
        self.refuse_overdue_packs(context);
        context.generated_keys.handle_timeout(context.now);
    }

    pub(super) fn next_deadline(&self, context: &Context) -> Option<Instant> {
        let keys = context.generated_keys.next_deadline();
        let deadlines = [self.deadlines.next(), self.client.next_deadline(), self.packs.next_deadline(), keys];
        deadlines.into_iter().flatten().min()
    }

    /// Returns the number of sessions that run.
    pub(super) fn sessions(&self) -> usize {
        self.sessions.len()
    }
}

/// Sessions.
impl BootstrapServer {
    fn begin(&mut self, context: &mut Context, received: ReceivedRequest) -> Result<(), Refused> {
        let ReceivedRequest { id, peer, request } = received;
        let anonymous = |refusal| (None, refusal);
        let config = serving(context, peer).map_err(anonymous)?;
        if request.method != Code::POST {
            return Err(anonymous(BootstrapRefusal::Method));
        }
        let (asked, account) = self.authorize(context, &config, received)?;
        let named = |refusal| (Some(asked.endpoint.clone()), refusal);
        let former = self.check_room(&config, &asked.endpoint, peer).map_err(named)?;
        let endpoint: Arc<str> = asked.endpoint.as_str().into();
        let is_proven = peer.association.is_some();
        let begun = {
            let mut issue = issuing(context, &config);
            Session::begin((Arc::clone(&endpoint), peer), account, asked.format, !is_proven, &mut issue)
        };
        let (session, first) = begun.map_err(|error| match error {
            session::PlanError::TooManyKeys => named(BootstrapRefusal::TooManyKeys),
            session::PlanError::Identity | session::PlanError::BootstrapAccount => named(BootstrapRefusal::Unwritable),
        })?;
        if let Some(former) = former {
            // A command that awaits this session awaits the next one.
            self.end_failed(context, former, None, "the device asked for another session");
        }
        context.respond(id, Response::new(Code::CHANGED));
        context.report(Report::Bootstrap(BootstrapReport::Started { endpoint: asked.endpoint, peer }));
        let id = self.new_id();
        let proof_timeout = context.config.coap.ack_timeout.mul_f64(PROOF_TIMEOUT);
        let patience = if is_proven { config.session_timeout } else { proof_timeout.min(config.session_timeout) };
        self.deadlines.set(id, context.now + patience);
        self.by_endpoint.insert(endpoint, id);
        self.plain_sessions.insert(peer);
        let running = RunningSession { session, exchange: None, held: None, began: context.now, is_proven };
        self.sessions.insert(id, running);
        self.send(context, id, first);
        Ok(())
    }

    /// Returns the request of a device and the account that it gets, if it may have it.
    fn authorize(
        &self,
        context: &Context,
        config: &BootstrapConfig,
        ReceivedRequest { peer, request, .. }: ReceivedRequest,
    ) -> Result<(BootstrapRequest, Arc<Account>), Refused> {
        let identity = context.identity(peer);
        let known_as = config.identity.endpoint_named_by(identity.as_deref());
        let asked = BootstrapRequest::read(request, known_as).map_err(|refusal| (None, refusal))?;
        let refused = |refusal| (Some(asked.endpoint.clone()), refusal);
        if context.draining {
            return Err(refused(BootstrapRefusal::Stopping));
        }
        if let Some(refusal) = forbids(config, &asked.endpoint, (context, peer, identity.as_deref())) {
            return Err(refused(refusal));
        }
        if !self.client.knows_all_accounts() && !self.accounts.has_endpoint(&asked.endpoint) {
            return Err(refused(BootstrapRefusal::AccountsAwaited));
        }
        let account = self.accounts.of(&asked.endpoint).ok_or_else(|| refused(BootstrapRefusal::NoAccount))?;
        if peer.association.is_none() && !account.is_public() && !account.allow_plaintext {
            return Err(refused(BootstrapRefusal::Plaintext));
        }
        if gives_second_kind(context, account, &asked.endpoint) {
            return Err(refused(BootstrapRefusal::SecondKind));
        }
        let account = Arc::clone(account);
        Ok((asked, account))
    }

    /// Checks that there is room for a session. Returns the session of the endpoint that ends for the new one.
    fn check_room(
        &self,
        config: &BootstrapConfig,
        endpoint: &str,
        peer: Peer,
    ) -> Result<Option<SessionId>, BootstrapRefusal> {
        let former = self.by_endpoint.get(endpoint).and_then(|id| Some((*id, self.sessions.get(id)?)));
        let former_peer = former.map(|(_, running)| running.session.peer);
        if peer.association.is_none() && former_peer.is_some_and(|former| former.association.is_some()) {
            return Err(BootstrapRefusal::Secured);
        }
        let sessions = self.sessions.len() - usize::from(former.is_some());
        let most_plain = config.sessions.div_ceil(2);
        let has_room = sessions < config.sessions && self.plain_sessions.has_room(peer, former_peer, most_plain);
        if has_room { Ok(former.map(|(id, _)| id)) } else { Err(BootstrapRefusal::Busy) }
    }

    /// Gives a peer that has not proved its address more time for its separate response.
    fn acknowledged(&mut self, context: &Context, id: SessionId) {
        let Some(config) = &context.config.bootstrap else { return };
        let Some(running) = self.sessions.get(&id).filter(|running| !running.is_proven) else { return };
        let timeout = context.config.coap.ack_timeout.mul_f64(PROOF_TIMEOUT_ACKNOWLEDGED);
        self.deadlines.set(id, running.began + timeout.min(config.session_timeout));
    }

    fn answered(&mut self, context: &mut Context, id: SessionId, response: &Response) {
        let Some(config) = context.config.bootstrap.clone() else {
            return self.fail(context, id, None, "bootstrap was switched off");
        };
        let Some(running) = self.sessions.get_mut(&id) else { return };
        if !std::mem::replace(&mut running.is_proven, true) {
            self.deadlines.set(id, running.began + config.session_timeout);
        }
        let account = self.accounts.of(&running.session.endpoint);
        if running.session.step() == BootstrapStep::Discover && account != Some(running.session.account()) {
            // Its keys were compared with the new accounts before they were generated.
            return self.fail(context, id, None, "the account has changed");
        }
        let progress = {
            let mut issue = issuing(context, &config);
            running.session.answered(response, &mut issue)
        };
        match progress {
            SessionProgress::Send(request) => self.send(context, id, request),
            SessionProgress::Compare(request) => {
                if let Some(reason) = difference(context, &running.session, response) {
                    let endpoint = running.session.endpoint.to_string();
                    context.report(Report::Bootstrap(BootstrapReport::Differs { endpoint, reason }));
                }
                self.send(context, id, request);
            }
            SessionProgress::Finished => {
                let Some(RunningSession { session, began, .. }) = self.end(context, id) else { return };
                let (endpoint, took) = (session.endpoint.to_string(), context.now - began);
                context.awaited_bootstraps.ended(context.now, (&endpoint, session.peer), awaited_bootstraps::finished);
                self.client.publish_finished(context, (&endpoint, session.peer));
                context.report(Report::Bootstrap(BootstrapReport::Finished { endpoint, peer: session.peer, took }));
            }
            SessionProgress::Failed { code, reason } => self.fail(context, id, code, &reason),
        }
    }

    /// Sends a request of a session, as soon as the store has the keys that the session writes.
    fn send(&mut self, context: &mut Context, id: SessionId, request: Request) {
        let Some(running) = self.sessions.get_mut(&id) else { return };
        if !running.session.generated().iter().all(|identity| context.generated_keys.is_stored(identity)) {
            running.held = Some(request);
            self.held.insert(id);
            return;
        }
        self.held.remove(&id);
        let exchange = context.coap.send_request(context.now, running.session.peer, request);
        running.exchange = Some(exchange);
        self.exchanges.insert(exchange, id);
    }

    fn fail(&mut self, context: &mut Context, id: SessionId, code: Option<Code>, reason: &str) {
        let Some(running) = self.sessions.get(&id) else { return };
        let (peer, is_proven) = (running.session.peer, running.is_proven);
        let Some((endpoint, step)) = self.end_failed(context, id, code, reason) else { return };
        // The address of a peer that has answered nothing may be forged.
        if is_proven {
            let outcome = || awaited_bootstraps::failed_at(step, code, reason);
            context.awaited_bootstraps.ended(context.now, (&endpoint, peer), outcome);
        }
    }

    /// Ends a session that has failed, and reports it. Returns its endpoint name and the step at which it was.
    fn end_failed(
        &mut self,
        context: &mut Context,
        id: SessionId,
        code: Option<Code>,
        reason: &str,
    ) -> Option<(String, BootstrapStep)> {
        let RunningSession { session, .. } = self.end(context, id)?;
        let (endpoint, peer, step) = (session.endpoint.to_string(), session.peer, session.step());
        self.client.publish_failed(context, (&endpoint, peer), (step, code, reason));
        context.report(Report::Bootstrap(BootstrapReport::Failed {
            endpoint: endpoint.clone(),
            peer,
            step,
            code,
            reason: reason.to_owned(),
        }));
        Some((endpoint, step))
    }

    fn end(&mut self, context: &mut Context, id: SessionId) -> Option<RunningSession> {
        let running = self.sessions.remove(&id)?;
        self.deadlines.cancel(id);
        self.by_endpoint.remove(&running.session.endpoint);
        self.plain_sessions.remove(running.session.peer);
        self.held.remove(&id);
        if let Some(exchange) = running.exchange
            && self.exchanges.remove(&exchange).is_some()
        {
            context.coap.forget(exchange);
        }
        Some(running)
    }

    fn new_id(&mut self) -> SessionId {
        self.last_id += 1;
        SessionId(self.last_id)
    }
}

/// The change of the accounts.
#[derive(Clone, Debug, PartialEq, Eq)]
enum AccountsChange {
    None,
    /// Accounts have changed that generate the keys of these identities, or generated them before.
    Of(Vec<PskIdentity>),
    Any,
}

/// A request that is refused, with the endpoint name if it is known.
type Refused = (Option<String>, BootstrapRefusal);

/// Returns the settings, if the socket of this peer serves bootstrap.
fn serving(context: &Context, peer: Peer) -> Result<BootstrapConfig, BootstrapRefusal> {
    let config = context.config.bootstrap.clone();
    let serves = context.config.role_of(peer.socket).serves_bootstrap();
    config.filter(|_| serves).ok_or(BootstrapRefusal::Off)
}

/// Returns the function that issues the keys of devices.
fn issuing<'c>(
    context: &'c mut Context,
    config: &BootstrapConfig,
) -> impl FnMut(&PskIdentity, bool) -> Option<SecretBytes> + 'c {
    let most = config.generated_keys;
    move |identity, rotate| {
        let issued = context.generated_keys.issue(identity, rotate, most, &mut context.rng);
        context.forget_key(identity);
        issued
    }
}

/// Returns whether an account gives a device an identity that is for bootstrap at a socket that serves both.
fn gives_second_kind(context: &Context, account: &Account, endpoint: &str) -> bool {
    let is_shared = context.has_shared_dtls_socket();
    let mut identities = account.servers.iter().filter_map(|server| server.identity()?.of(endpoint));
    is_shared && identities.any(|identity| context.bootstrap_identities.contains(&identity))
}

fn refused(code: Code, refusal: BootstrapRefusal, request: &Request) -> Response {
    Response::with_diagnostic(code, fitting(refusal.reason(), "", room(request)))
}

fn reject(
    context: &mut Context,
    received: ReceivedRequest,
    endpoint: Option<String>,
    response: Response,
    refusal: BootstrapRefusal,
) {
    let code = response.code;
    context.respond(received.id, response);
    context.report(Report::Bootstrap(BootstrapReport::Rejected { peer: received.peer, endpoint, code, refusal }));
}

/// Compares the answer to Verify with the written values. Returns the differences, without the values.
fn difference(context: &Context, session: &Session, response: &Response) -> Option<String> {
    let mut register = Request::new(Code::POST);
    register.options.add_text(number::URI_QUERY, &format!("ep={}", session.endpoint));
    register.options.add_text(number::URI_QUERY, "lwm2m=1.1");
    let registration = Registration::from_register(&register, &context.config.lifetimes, None).ok()?;
    let format = response.options.content_format().or(Some(session.format().number()));
    let requested = Requested::Path(path_of_servers());
    let entries = match decode(requested, format, &response.payload, context.decode_context(&registration)) {
        Ok(entries) => entries,
        Err(error) => return Some(error.to_string()),
    };
    let is_there = |written: &Assignment| {
        entries.iter().any(|entry| {
            let is_equal = entry.value == written.value
                || entry.value.as_f64().is_some_and(|value| written.value.as_f64() == Some(value));
            entry.path == written.path && is_equal
        })
    };
    let missing: Vec<String> =
        session.written().iter().filter(|written| !is_there(written)).map(|written| written.path.to_string()).collect();
    (!missing.is_empty()).then(|| format!("{} has another value or none", missing.join(", ")))
}
