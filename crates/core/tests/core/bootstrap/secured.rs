//! Devices with DTLS: which keys are good for what, and generated keys that hold at once.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use lwm2m_base::Peer;
use lwm2m_base::identity::PskIdentity;
use lwm2m_core::bootstrap::EndpointPattern;
use lwm2m_core::coap::{MessageId, Options, Token};
use lwm2m_core::gateway::broker::{BrokerCommand, BrokerEvent};
use lwm2m_core::gateway::config::SocketRole;
use lwm2m_core::gateway::identity::IdentityRule;
use lwm2m_core::gateway::operators::trace::{TraceId, TraceTarget, TracedEvent};
use lwm2m_core::gateway::persistence::record::{Change, GeneratedKeyRecord};
use lwm2m_core::gateway::{Gateway, Output};
use lwm2m_dtls::credentials::{FoundKey, KeyAnswer, KeyKind, KeyQuestion, KeyUse, PskKey};
use lwm2m_dtls::handshake::{Acceptor, AcceptorConfig, PemSecret, VerifyMode};
use lwm2m_dtls::test_client::credentials::{CertificateRequest, Certified, ClientCredentials};
use lwm2m_dtls::test_client::{DtlsClient, DtlsClientConfig};
use lwm2m_dtls::{AssociationChange, DtlsConfig, DtlsReport, DtlsServer, SavedAssociation, Term, WriteTerms};
use lwm2m_testkit::scene::beginning;

use super::*;

pub(super) const BOOTSTRAP_KEY: &[u8] = b"planted-bootstrap";
pub(super) const KEY: &[u8] = b"planted-registration";

/// A gateway with DTLS sockets of these roles and one device, whose datagrams arrive at once.
pub(super) struct Secured {
    pub(super) gateway: Gateway,
    pub(super) now: Instant,
    /// The keys of the PSK file of each kind.
    registration: HashMap<String, Vec<u8>>,
    bootstrap: HashMap<String, Vec<u8>>,
    pub(super) reports: Vec<Report>,
    /// The changes that the store has.
    pub(super) stored: Vec<Change>,
    /// The store writes what is urgent.
    pub(super) is_disk_working: bool,
    traced: String,
    ports: u16,
    next_id: u16,
}

/// What an earlier process has left in the store.
#[derive(Clone, Default)]
pub(super) struct Left {
    pub(super) associations: Vec<SavedAssociation>,
    pub(super) keys: Vec<GeneratedKeyRecord>,
}

impl Left {
    /// Takes what the store has.
    pub(super) fn by(secured: &mut Secured) -> Self {
        secured.store();
        let (mut associations, mut keys) = (BTreeMap::new(), BTreeMap::new());
        for change in secured.stored.clone() {
            match change {
                Change::Association(AssociationChange::Put(saved)) => drop(associations.insert(saved.id, saved)),
                Change::Association(AssociationChange::Remove(id)) => drop(associations.remove(&id)),
                Change::GeneratedKey(record) => drop(keys.insert(record.identity.clone(), record)),
                _ => {}
            }
        }
        Self { associations: associations.into_values().collect(), keys: keys.into_values().collect() }
    }
}

/// A client with its socket of the gateway.
pub(super) struct Client {
    pub(super) dtls: DtlsClient,
    socket: u16,
    address: SocketAddr,
}

impl Secured {
    pub(super) fn new(roles: &[SocketRole], account: Value) -> Self {
        Self::configured(roles, account, BootstrapConfig::default())
    }

    /// Creates a gateway with this configuration of its bootstrap server.
    fn configured(roles: &[SocketRole], account: Value, bootstrap: BootstrapConfig) -> Self {
        Self::create(beginning(), roles, account, bootstrap, Left::default())
    }

    /// Creates a gateway at this time, which gets what an earlier process has left.
    pub(super) fn begin(now: Instant, roles: &[SocketRole], account: Value, left: Left) -> Self {
        Self::create(now, roles, account, BootstrapConfig::default(), left)
    }

    fn create(now: Instant, roles: &[SocketRole], account: Value, bootstrap: BootstrapConfig, left: Left) -> Self {
        let config = GatewayConfig { bootstrap: Some(bootstrap), roles: roles.to_vec(), ..GatewayConfig::default() };
        let dtls = DtlsConfig { realms: roles.iter().map(|role| role.realm()).collect(), ..DtlsConfig::default() };
        let acceptor = Acceptor::new(&AcceptorConfig { psk: true, ..AcceptorConfig::default() }).expect("an acceptor");
        let mut server = DtlsServer::new(dtls, Some(acceptor), [3; 32], now);
        // Restored sessions begin in the terms after those of their records.
        let terms = WriteTerms::new(Term::new(1), now, Duration::ZERO);
        let restored = server.restore(now, terms, left.associations);
        let mut gateway = Gateway::new(config, model(), [7; 32], now, Duration::from_secs(1_700_000_000));
        gateway.set_bootstrap_accounts(now, accounts(json!([account])));
        gateway.restore_generated_keys(left.keys);
        let mut gateway = gateway.with_dtls(server, 0);
        gateway.close_former_associations(now);
        gateway.restore(now, Vec::new());
        assert!(restored.iter().all(|change| matches!(change, AssociationChange::Put(_))));
        let trace = TraceTarget::Address([192, 0, 2, 1].into());
        assert!(gateway.trace(now, TraceId(1), trace));
        Self {
            gateway,
            now,
            registration: HashMap::new(),
            bootstrap: HashMap::new(),
            reports: Vec::new(),
            stored: Vec::new(),
            is_disk_working: true,
            traced: String::new(),
            ports: 5000,
            next_id: 0,
        }
    }

    pub(super) fn with_bootstrap_identity(mut self, identity: &str) -> Self {
        self.bootstrap.insert(identity.to_owned(), BOOTSTRAP_KEY.to_vec());
        let identities: HashSet<PskIdentity> =
            self.bootstrap.keys().filter_map(|identity| PskIdentity::new(identity.as_bytes())).collect();
        self.gateway.set_bootstrap_identities(self.now, identities);
        self
    }

    pub(super) fn with_identity(mut self, identity: &str) -> Self {
        self.registration.insert(identity.to_owned(), KEY.to_vec());
        self
    }

    /// Makes a handshake with a socket; `None` if it does not succeed within two minutes.
    pub(super) fn connect(&mut self, socket: u16, identity: &str, key: &[u8]) -> Option<Client> {
        self.connect_with(socket, DtlsClientConfig::psk(identity, key))
    }

    fn connect_with(&mut self, socket: u16, config: DtlsClientConfig) -> Option<Client> {
        let address = self.new_address();
        let mut client = Client { dtls: DtlsClient::new(self.now, config), socket, address };
        for _ in 0..120 {
            self.exchange(&mut client);
            if client.dtls.is_established() {
                return Some(client);
            }
            self.now += Duration::from_secs(1);
            client.dtls.handle_timeout(self.now);
            self.gateway.handle_timeout(self.now);
        }
        None
    }

    /// Resumes the session of a client by its ticket, from another port; `None` if the client needs a full handshake.
    pub(super) fn resume(&mut self, client: &Client) -> Option<Client> {
        let address = self.new_address();
        let mut client = Client { dtls: client.dtls.resume(self.now), socket: client.socket, address };
        self.reports.clear();
        self.exchange(&mut client);
        let has_resumed =
            |report: &Report| matches!(report, Report::Dtls(DtlsReport::HandshakeCompleted { resumed: true, .. }));
        (client.dtls.is_established() && self.reports.iter().any(has_resumed)).then_some(client)
    }

    /// Writes what has changed, and confirms it.
    pub(super) fn store(&mut self) {
        let batch = self.gateway.take_batch(self.now, usize::MAX);
        self.stored.extend(batch.changes);
        self.gateway.handle_stored(self.now, batch.version);
    }

    fn new_address(&mut self) -> SocketAddr {
        self.ports += 1;
        SocketAddr::from(([192, 0, 2, 1], self.ports))
    }

    /// Carries datagrams until none is under way.
    pub(super) fn exchange(&mut self, client: &mut Client) {
        loop {
            let mut has_sent = false;
            while let Some(datagram) = client.dtls.poll_transmit() {
                has_sent = true;
                self.gateway.handle_datagram(self.now, Peer::udp(client.socket, client.address), &datagram);
            }
            has_sent |= self.drain(client);
            if !has_sent {
                return;
            }
        }
    }

    fn drain(&mut self, client: &mut Client) -> bool {
        let mut has_sent = false;
        loop {
            match self.gateway.poll_output() {
                Output::Transmit(transmit) => {
                    has_sent = true;
                    if transmit.peer.address == client.address {
                        client.dtls.handle_datagram(self.now, &transmit.datagram);
                    }
                }
                Output::Claim(_) | Output::Unclaim { .. } => panic!("this gateway has all devices"),
                Output::FindKey(question) => {
                    let role = SocketRole::of_realm(question.realm);
                    let of = |keys: &HashMap<String, Vec<u8>>| keys.get(question.identity.as_str()).cloned();
                    let bootstrap = role.serves_bootstrap().then(|| of(&self.bootstrap)).flatten();
                    let registration = role.serves_registrations().then(|| of(&self.registration)).flatten();
                    let bootstrap = bootstrap.map(|key| (key, KeyKind::Bootstrap));
                    let key = bootstrap.or(registration.map(|key| (key, KeyKind::Registration)));
                    let keep_for = Duration::from_secs(3600);
                    let answer = key.map_or(KeyAnswer::Unknown { keep_for }, |(key, kind)| {
                        let key = FoundKey::new(PskKey::new(key).expect("a key"), kind);
                        KeyAnswer::Found { key, keep_for }
                    });
                    self.gateway.handle_key(self.now, &question, answer);
                }
                Output::Broker(BrokerCommand::Connect { registration, .. }) => {
                    self.gateway.handle_broker(self.now, BrokerEvent::Connected { registration });
                }
                Output::Report(report) => self.reports.push(report),
                Output::Broker(_) | Output::Answer(_) => {}
                Output::DescribeImage { .. } | Output::ReadImage { .. } => panic!("nobody asks for an image here"),
                Output::Idle(_) if self.is_disk_working && self.gateway.has_urgent_changes() => self.store(),
                Output::Idle(_) => break,
            }
        }
        while let Some(traced) = self.gateway.poll_trace() {
            if let TracedEvent::Message(message) = &traced.event {
                self.traced += &String::from_utf8_lossy(&message.datagram);
                let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
                self.traced += &hex(&message.datagram);
            }
        }
        has_sent
    }

    pub(super) fn send(&mut self, client: &mut Client, message: &Message) -> Option<Message> {
        client.dtls.send(&message.encode());
        self.exchange(client);
        self.receive(client)
    }

    pub(super) fn receive(&mut self, client: &mut Client) -> Option<Message> {
        client.dtls.poll_plaintext().map(|datagram| Message::decode(&datagram).expect("a message"))
    }

    pub(super) fn post(&mut self, client: &mut Client, path: &str, query: &str) -> Code {
        let request = self.request(Code::POST, path, query);
        self.send(client, &request).expect("an answer").code
    }

    pub(super) fn request(&mut self, method: Code, path: &str, query: &str) -> Message {
        self.next_id += 1;
        let id = MessageId(self.next_id);
        let token = Token::new(&self.next_id.to_be_bytes());
        let mut message =
            Message { kind: Kind::Confirmable, code: method, id, token, options: Options::new(), payload: Vec::new() };
        message.options.add_text(number::URI_PATH, path);
        query.split('&').filter(|item| !item.is_empty()).for_each(|item| {
            message.options.add_text(number::URI_QUERY, item);
        });
        message
    }

    /// Asks for a session, obeys to its end, and returns the key that was written to `/0/1/5`.
    pub(super) fn bootstrap(&mut self, client: &mut Client, query: &str) -> Vec<u8> {
        let request = self.request(Code::POST, "bs", query);
        assert_eq!(self.send(client, &request).expect("an answer").code, Code::CHANGED);
        let mut key = Vec::new();
        while let Some(request) = self.receive(client) {
            if let Some(at) = request.payload.windows(3).position(|part| part == b"\xc8\x05\x10") {
                key = request.payload[at + 3..at + 19].to_vec();
            }
            let mut answer = Message { kind: Kind::Acknowledgement, code: success(&request), ..reply(&request) };
            if request.code == Code::GET {
                answer.payload = DISCOVERED.as_bytes().to_vec();
            }
            client.dtls.send(&answer.encode());
            self.exchange(client);
        }
        let finished = |report: &Report| matches!(report, Report::Bootstrap(BootstrapReport::Finished { .. }));
        assert!(self.reports.drain(..).any(|report| finished(&report)), "the session has not finished");
        key
    }
}

/// The sockets of a gateway with a listener for each purpose.
pub(super) const APART: [SocketRole; 2] = [SocketRole::Bootstrap, SocketRole::Registration];

#[test]
fn a_generated_key_holds_at_once_at_the_listeners_for_registrations() {
    // The same names at bootstrap and registration need a listener of their own.
    let cases = [
        (&APART[..], "dev-7", 1, BootstrapConfig::default()),
        (&[SocketRole::All][..], "bs-dev-7", 0, identities_like("bs-${endpoint_name}")),
    ];
    for (roles, identity, at, bootstrap) in cases {
        let account = generating(json!({ "allow_plaintext": false }));
        let mut secured = Secured::configured(roles, account, bootstrap).with_bootstrap_identity(identity);
        // The device was here before: its identity is known to have no key.
        assert!(secured.connect(at, "dev-7", b"guessed").is_none());
        let mut client = secured.connect(0, identity, BOOTSTRAP_KEY).expect("its bootstrap account");
        let key = secured.bootstrap(&mut client, "ep=dev-7");
        let mut registered = secured.connect(at, "dev-7", &key).expect("the key holds");
        assert_eq!(secured.post(&mut registered, "rd", "ep=dev-7&lt=300&lwm2m=1.1"), Code::CREATED);
    }
}

#[test]
fn the_identity_gives_the_endpoint_name_if_the_request_has_none() {
    let mut secured = Secured::new(&APART, generating(json!({}))).with_bootstrap_identity("dev-7");
    let mut client = secured.connect(0, "dev-7", BOOTSTRAP_KEY).expect("its bootstrap account");
    assert_eq!(secured.bootstrap(&mut client, "").len(), 16);
}

#[test]
fn an_identity_asks_for_no_other_endpoint_name() {
    let mut secured = Secured::new(&APART, generating(json!({}))).with_bootstrap_identity("dev-7");
    let mut client = secured.connect(0, "dev-7", BOOTSTRAP_KEY).expect("its bootstrap account");
    assert_eq!(secured.post(&mut client, "bs", "ep=dev-8"), Code::BAD_REQUEST);
    assert_eq!(secured.gateway.table_sizes().bootstrap_sessions, 0);
}

#[test]
fn a_key_of_one_kind_is_not_accepted_for_the_other() {
    // At one listener: an identity is of one kind.
    let mut secured = Secured::new(&[SocketRole::All], account(json!({})));
    secured = secured.with_bootstrap_identity("dev-7").with_identity("dev-8");
    let mut bootstrap = secured.connect(0, "dev-7", BOOTSTRAP_KEY).expect("a key for bootstrap");
    assert_eq!(secured.post(&mut bootstrap, "rd", "ep=dev-7&lt=300&lwm2m=1.1"), Code::FORBIDDEN);
    assert_eq!(secured.post(&mut bootstrap, "dp", ""), Code::FORBIDDEN);
    let mut registration = secured.connect(0, "dev-8", KEY).expect("a key for registrations");
    assert_eq!(secured.post(&mut registration, "bs", "ep=dev-8"), Code::BAD_REQUEST);
    assert_eq!(secured.post(&mut registration, "rd", "ep=dev-8&lt=300&lwm2m=1.1"), Code::CREATED);

    // At listeners of their own the same name has two keys.
    let mut secured = Secured::new(&APART, account(json!({})));
    secured = secured.with_bootstrap_identity("dev-7").with_identity("dev-7");
    assert!(secured.connect(0, "dev-7", KEY).is_none());
    assert!(secured.connect(1, "dev-7", BOOTSTRAP_KEY).is_none());
    let mut bootstrap = secured.connect(0, "dev-7", BOOTSTRAP_KEY).expect("the key for bootstrap");
    assert_eq!(secured.post(&mut bootstrap, "rd", "ep=dev-7&lt=300&lwm2m=1.1"), Code::FORBIDDEN);
    let mut registration = secured.connect(1, "dev-7", KEY).expect("the key for registrations");
    assert_eq!(secured.post(&mut registration, "bs", "ep=dev-7"), Code::NOT_FOUND);
    assert_eq!(secured.post(&mut registration, "rd", "ep=dev-7&lt=300&lwm2m=1.1"), Code::CREATED);
}

#[test]
fn a_removed_key_closes_the_associations_of_its_own_kind_only() {
    let mut secured = Secured::new(&APART, generating(json!({}))).with_bootstrap_identity("dev-7");
    let mut bootstrap = secured.connect(0, "dev-7", BOOTSTRAP_KEY).expect("its bootstrap account");
    let key = secured.bootstrap(&mut bootstrap, "ep=dev-7");
    let mut registered = secured.connect(1, "dev-7", &key).expect("the generated key");
    assert_eq!(secured.post(&mut registered, "rd", "ep=dev-7&lt=300&lwm2m=1.1"), Code::CREATED);
    for (removed, closed) in [(KeyKind::Registration, false), (KeyKind::Bootstrap, true)] {
        secured.gateway.revoke(secured.now, |KeyUse { kind, .. }| kind == removed);
        secured.exchange(&mut bootstrap);
        secured.exchange(&mut registered);
        assert_eq!(secured.gateway.associations().associations, if closed { 1 } else { 2 }, "{removed:?}");
    }
    assert_eq!(secured.post(&mut registered, "rd", "ep=dev-7&lt=300&lwm2m=1.1"), Code::CREATED);
}

#[test]
fn a_generated_key_ends_at_a_shared_socket_when_its_identity_gets_a_key_for_bootstrap() {
    let bootstrap = identities_like("bs-${endpoint_name}");
    let mut secured = Secured::configured(&[SocketRole::All], generating(json!({})), bootstrap);
    secured = secured.with_bootstrap_identity("bs-dev-7");
    let mut client = secured.connect(0, "bs-dev-7", BOOTSTRAP_KEY).expect("its bootstrap account");
    let key = secured.bootstrap(&mut client, "ep=dev-7");
    assert!(secured.connect(0, "dev-7", &key).is_some());
    secured = secured.with_bootstrap_identity("dev-7");
    assert_eq!(secured.gateway.associations().associations, 1, "that of bs-dev-7 is left");
    assert!(secured.connect(0, "dev-7", &key).is_none(), "an identity is of one kind");
    let mut bootstrap = secured.connect(0, "dev-7", BOOTSTRAP_KEY).expect("the key for bootstrap");
    assert_eq!(secured.post(&mut bootstrap, "rd", "ep=dev-7&lt=300&lwm2m=1.1"), Code::FORBIDDEN);
}

#[test]
fn a_key_of_a_look_up_under_way_does_not_replace_a_key_that_was_generated_meanwhile() {
    let mut secured = Secured::new(&APART, generating(json!({}))).with_bootstrap_identity("dev-7");
    let mut client = secured.connect(0, "dev-7", BOOTSTRAP_KEY).expect("its bootstrap account");
    let key = secured.bootstrap(&mut client, "ep=dev-7");
    let question = KeyQuestion {
        identity: PskIdentity::new(b"dev-7").expect("an identity"),
        realm: SocketRole::Registration.realm(),
    };
    let late = KeyAnswer::Found { key: PskKey::new(KEY).expect("a key").into(), keep_for: Duration::from_secs(3600) };
    secured.gateway.handle_key(secured.now, &question, late);
    assert!(secured.connect(1, "dev-7", KEY).is_none());
    assert!(secured.connect(1, "dev-7", &key).is_some());
}

#[test]
fn a_certificate_is_good_for_bootstrap_or_for_registrations_at_every_socket() {
    let authority = Certified::authority("CA");
    let server = CertificateRequest::new("gateway").issue(Some(&authority));
    let acceptor = AcceptorConfig {
        certificate_chain: Some(server.certificate_pem()),
        private_key: Some(PemSecret::new(server.key_pem())),
        authorities: Some(authority.certificate_pem()),
        verify: VerifyMode::Peer { required: true },
        ..AcceptorConfig::default()
    };
    let client = |name: &str| {
        let device = CertificateRequest::new(name).issue(Some(&authority));
        DtlsClientConfig::new(ClientCredentials::Certificate(device), "ECDHE-ECDSA-AES128-CCM8")
    };
    for roles in [&APART[..], &[SocketRole::All, SocketRole::All]] {
        let certificates = vec![EndpointPattern::new("factory-*")];
        let bootstrap = BootstrapConfig { certificates, ..BootstrapConfig::default() };
        let mut secured = Secured::configured(roles, account(json!({})), bootstrap);
        secured.gateway.set_acceptor(Some(Acceptor::new(&acceptor).expect("an acceptor")));
        for (name, at_bootstrap, at_registration) in
            [("factory-1", Code::CHANGED, Code::FORBIDDEN), ("dev-7", Code::BAD_REQUEST, Code::CREATED)]
        {
            let mut bootstrap = secured.connect_with(0, client(name)).expect("a certificate");
            assert_eq!(secured.post(&mut bootstrap, "bs", &format!("ep={name}")), at_bootstrap, "{name}");
            let mut registration = secured.connect_with(1, client(name)).expect("a certificate");
            let register = format!("ep={name}&lt=300&lwm2m=1.1");
            assert_eq!(secured.post(&mut registration, "rd", &register), at_registration, "{name}");
        }
    }
}

#[test]
fn a_request_that_cannot_begin_a_session_does_not_end_the_one_that_runs() {
    let mut secured = Secured::new(&APART, account(json!({}))).with_bootstrap_identity("dev-7");
    let mut client = secured.connect(0, "dev-7", BOOTSTRAP_KEY).expect("its bootstrap account");
    assert_eq!(secured.post(&mut client, "bs", "ep=dev-7"), Code::CHANGED);
    secured.receive(&mut client).expect("the Discover");
    let server = json!({ "short_server_id": 101, "uri": "coap://gw.example.com", "security_instance": 0 });
    let unwritable = account(json!({ "discover": false, "server": [server] }));
    secured.gateway.set_bootstrap_accounts(secured.now, accounts(json!([unwritable])));
    assert_eq!(secured.post(&mut client, "bs", "ep=dev-7"), Code::BAD_REQUEST);
    assert_eq!(secured.gateway.table_sizes().bootstrap_sessions, 1);
}

#[test]
fn an_association_for_bootstrap_takes_over_no_registration() {
    let mut secured = Secured::new(&APART, account(json!({})));
    secured = secured.with_bootstrap_identity("dev-7").with_identity("dev-7");
    let mut registration = secured.connect(1, "dev-7", KEY).expect("the key for registrations");
    assert_eq!(secured.post(&mut registration, "rd", "ep=dev-7&lt=300&lwm2m=1.1"), Code::CREATED);
    secured.reports.clear();
    secured.connect(0, "dev-7", BOOTSTRAP_KEY).expect("the key for bootstrap");
    assert!(!secured.reports.iter().any(|report| matches!(report, Report::Moved { .. })), "{:?}", secured.reports);
}

#[test]
fn an_account_with_an_identity_of_bootstrap_is_not_written_where_a_listener_serves_both() {
    let mut secured = Secured::new(&[SocketRole::All], generating(json!({}))).with_bootstrap_identity("dev-7");
    let mut client = secured.connect(0, "dev-7", BOOTSTRAP_KEY).expect("its bootstrap account");
    assert_eq!(secured.post(&mut client, "bs", "ep=dev-7"), Code::BAD_REQUEST);
    assert_eq!(secured.gateway.table_sizes().generated_keys, 0);
}

#[test]
fn a_session_over_dtls_is_not_ended_without_dtls() {
    let mut secured = Secured::new(&APART, account(json!({}))).with_bootstrap_identity("dev-7");
    let mut client = secured.connect(0, "dev-7", BOOTSTRAP_KEY).expect("its bootstrap account");
    assert_eq!(secured.post(&mut client, "bs", "ep=dev-7"), Code::CHANGED);
    assert_eq!(secured.gateway.table_sizes().bootstrap_sessions, 1);
    // Over DTLS the second request ends it.
    secured.receive(&mut client).expect("the Discover");
    assert_eq!(secured.post(&mut client, "bs", "ep=dev-7"), Code::CHANGED);
    assert_eq!(secured.gateway.table_sizes().bootstrap_sessions, 1);
}

#[test]
fn no_report_record_output_or_trace_shows_a_key() {
    let mut secured = Secured::new(&APART, generating(json!({}))).with_bootstrap_identity("dev-7");
    let mut client = secured.connect(0, "dev-7", BOOTSTRAP_KEY).expect("its bootstrap account");
    let key = secured.bootstrap(&mut client, "ep=dev-7");
    let mut pack = secured.request(Code::GET, "bspack", "ep=dev-7");
    pack.options.add_uint(number::ACCEPT, 112);
    let answer = secured.send(&mut client, &pack).expect("a pack");
    assert!(answer.payload.windows(16).any(|part| part == key), "the pack has the key");
    let hex: String = key.iter().map(|byte| format!("{byte:02x}")).collect();
    secured.store();
    let changes = std::mem::take(&mut secured.stored);
    let shown = format!("{:?} {changes:?}", secured.reports);
    assert!(!changes.is_empty() && !shown.contains(&format!("{key:?}")) && !shown.contains(&hex), "{shown}");
    assert!(secured.traced.contains("ep=dev-7"), "the trace has the session");
    assert!(!secured.traced.contains(&hex) && !secured.traced.contains("planted"), "{}", secured.traced);
}

/// Configures the pattern of the identities of bootstrap.
fn identities_like(pattern: &str) -> BootstrapConfig {
    let identity = IdentityRule::Pattern(pattern.parse().expect("a pattern"));
    BootstrapConfig { identity, ..BootstrapConfig::default() }
}
