//! Nodes behind balancers whose devices speak all the time, each on a thread of its own, while an application commands
//! them. Tests let nodes and the store fail meanwhile, and look at what devices and application have seen.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Instant;

use lwm2m_core::coap::{Kind, Message, MessageId, Token};
use serde_json::Value;

use super::balancer::Balancer;
use super::forwarding::{addresses, endpoint, until_settled};
use super::*;

/// Time in which a device that sends a confirmable message does not repeat it (RFC 7252 section 4.8, ACK_TIMEOUT).
pub(super) const ACK_TIMEOUT: Duration = Duration::from_secs(2);
/// The time between two Updates of a device, and between two commands of the application.
const PAUSE: Duration = Duration::from_millis(250);
const COMMANDS_PAUSE: Duration = Duration::from_millis(50);
/// The time in which each command is answered after the last failure.
const ANSWERED: Duration = Duration::from_secs(30);

/// The phases of a test.
const SPEAKING: u8 = 0;
const NO_NEW_COMMANDS: u8 = 1;
const SILENT: u8 = 2;

impl Registered {
    pub(super) fn sends(&mut self, message: &Message) {
        match self {
            Self::Plain(device) => device.send(message),
            Self::Secured { device, .. } => device.send(message),
        }
    }

    pub(super) fn receives(&mut self, patience: Duration) -> Option<Message> {
        match self {
            // A time of zero would have no end.
            Self::Plain(device) => device.receive_within(patience.max(Duration::from_millis(1))),
            Self::Secured { device, .. } => device.receive_within(patience),
        }
    }

    pub(super) fn location(&self) -> String {
        match self {
            Self::Plain(device) => device.location[1].clone(),
            Self::Secured { location, .. } => location.clone(),
        }
    }
}

/// An Update of a device.
#[derive(Clone, Copy, Debug)]
pub(super) struct Exchange {
    pub sent: Instant,
    pub answered: Option<Instant>,
}

impl Exchange {
    fn took(self) -> Duration {
        self.answered.map_or(Duration::MAX, |answered| answered - self.sent)
    }
}

/// A device with an observation, and what it has seen.
struct Speaker {
    device: Registered,
    observed: Option<Message>,
    retry: Duration,
    account: DeviceAccount,
}

/// What a device has seen.
#[derive(Default)]
pub(super) struct DeviceAccount {
    pub updates: Vec<Exchange>,
    /// Answers to Updates other than 2.04.
    pub refused: Vec<Code>,
    /// Updates that were sent once more.
    pub retransmissions: usize,
    /// Requests of the gateway, and how many of them came a second time.
    pub requests: HashSet<(MessageId, Token)>,
    pub repeated: usize,
    /// The times of its notifications, of which each has its number as its value.
    pub notified: Vec<Instant>,
}

impl Speaker {
    fn speaks(mut self, phase: &AtomicU8) -> (Registered, DeviceAccount) {
        while phase.load(Ordering::Relaxed) != SILENT {
            self.updates();
            self.notifies();
            let until = now() + PAUSE;
            while let Some(left) = until.checked_duration_since(now())
                && let Some(message) = self.device.receives(left)
            {
                self.hears(message);
            }
        }
        (self.device, self.account)
    }

    /// Sends an Update, again and again, and answers what the gateway asks until the Update is answered.
    fn updates(&mut self) {
        let update = request(Code::POST, &["rd", &self.device.location()], &[], None);
        let sent = now();
        while now() - sent < 3 * TAKEOVER {
            self.device.sends(&update);
            let until = now() + self.retry;
            while let Some(left) = until.checked_duration_since(now())
                && let Some(message) = self.device.receives(left)
            {
                if message.token == update.token {
                    if message.code != Code::CHANGED {
                        self.account.refused.push(message.code);
                    }
                    return self.account.updates.push(Exchange { sent, answered: Some(now()) });
                }
                self.hears(message);
            }
            self.account.retransmissions += 1;
        }
        self.account.updates.push(Exchange { sent, answered: None });
    }

    fn hears(&mut self, message: Message) {
        if message.code != Code::GET {
            return;
        }
        let mut response = response_to(&message, Code::CONTENT, Some((0, b"21")));
        if message.options.first(number::OBSERVE).is_some() {
            response.options.add_uint(number::OBSERVE, 0);
            self.observed = Some(message.clone());
        }
        self.account.repeated += usize::from(!self.account.requests.insert((message.id, message.token)));
        self.device.sends(&response);
    }

    fn notifies(&mut self) {
        let Some(observed) = &self.observed else { return };
        self.account.notified.push(now());
        let number = u32::try_from(self.account.notified.len()).expect("few");
        let mut message = response_to(observed, Code::CONTENT, Some((0, number.to_string().as_bytes())));
        (message.kind, message.id) = (Kind::NonConfirmable, crate::common::device::fresh_id());
        message.options.add_uint(number::OBSERVE, number);
        self.device.sends(&message);
    }
}

/// The commands of the application, and what it has heard.
#[derive(Default)]
pub(super) struct ApplicationAccount {
    /// Number of commands.
    pub commands: u64,
    /// The final answers to each command.
    pub answers: HashMap<u64, Vec<Value>>,
    /// The values that each device has notified.
    pub notifications: HashMap<String, HashSet<u64>>,
}

impl ApplicationAccount {
    fn hears(&mut self, topic: &str, payload: &[u8], unanswered: &AtomicUsize) {
        let value: Value = serde_json::from_slice(payload).expect("JSON");
        match value["msgType"].as_str() {
            Some("notify") => {
                let notified = value["data"]["content"][0]["value"].as_f64().expect("a number") as u64;
                let endpoint = topic.split('/').nth(1).expect("lwm2m/ENDPOINT/up/notify").to_owned();
                self.notifications.entry(endpoint).or_default().insert(notified);
            }
            Some("read") => {
                let answers = self.answers.entry(value["reqID"].as_u64().expect("a number")).or_default();
                if answers.is_empty() {
                    unanswered.fetch_sub(1, Ordering::Relaxed);
                }
                answers.push(value);
            }
            _ => {}
        }
    }
}

/// Commands one device after the other until the devices are silent.
fn commands(mut application: Application, phase: &AtomicU8, unanswered: &AtomicUsize) -> ApplicationAccount {
    let mut account = ApplicationAccount::default();
    loop {
        let phase = phase.load(Ordering::Relaxed);
        if phase == SPEAKING {
            let endpoint = endpoint(account.commands as usize % DEVICES);
            account.commands += 1;
            unanswered.fetch_add(1, Ordering::Relaxed);
            let command = json!({ "reqID": account.commands, "msgType": "read", "data": { "path": "/3/0/0" } });
            application.send_at_least_once(&endpoint, &command);
        }
        let patience = if phase == SILENT { Duration::from_secs(2) } else { COMMANDS_PAUSE };
        let until = now() + patience;
        let mut has_heard = false;
        while let Some(left) = until.checked_duration_since(now())
            && let Some((topic, payload)) = application.receive_within(left)
        {
            account.hears(&topic, &payload, unanswered);
            has_heard = true;
        }
        if phase == SILENT && !has_heard {
            return account;
        }
    }
}

/// The nodes of a cluster behind balancers, and their devices.
pub(super) struct Scene {
    pub broker: TestBroker,
    pub nodes: Vec<Node>,
    pub udp: Balancer,
    pub dtls: Balancer,
    retry: Duration,
    phase: Arc<AtomicU8>,
    unanswered: Arc<AtomicUsize>,
    speakers: Vec<JoinHandle<(Registered, DeviceAccount)>>,
    application: Option<JoinHandle<ApplicationAccount>>,
}

/// What all have seen, and the devices.
pub(super) struct Seen {
    pub devices: Vec<Registered>,
    pub accounts: Vec<DeviceAccount>,
    pub application: ApplicationAccount,
    /// Answers that the balancers have dropped: their devices had sent something through another node meanwhile.
    strays: u64,
    /// Notifications that came after a newer one of their observation, since a node had held them for a moving shard.
    overtaken: usize,
    /// What the nodes that still run have dropped between them, by reason.
    drops: String,
}

impl Scene {
    /// Starts so many nodes with these lines of configuration. Devices repeat an Update after `retry`.
    pub(super) async fn start(nodes: usize, store: &str, more: &str, retry: Duration) -> Self {
        let broker = TestBroker::start().await;
        let nodes: Vec<Node> = (0..nodes).map(|number| Node::start_at(number, &broker, store, more)).collect();
        until_settled(&nodes);
        let udp = Balancer::before(addresses(&nodes, |node| node.gateway.address())).await;
        let dtls = Balancer::before(addresses(&nodes, |node| node.place.secured)).await;
        let (phase, unanswered) = (Arc::default(), Arc::default());
        Self { broker, nodes, udp, dtls, retry, phase, unanswered, speakers: Vec::new(), application: None }
    }

    /// Registers the devices, and lets them speak from now on. Each is observed.
    pub(super) fn speak(&mut self) {
        let endpoints: Vec<String> = (0..DEVICES).map(endpoint).collect();
        let names: Vec<&str> = endpoints.iter().map(String::as_str).collect();
        let mut application = Application::connect(&self.broker.addresses.mqtt, &names);
        let devices = super::forwarding::devices(self.udp.address, self.dtls.address);
        for endpoint in &endpoints {
            let observe = json!({ "reqID": 0, "msgType": "observe", "data": { "path": "/3303/0/5700" } });
            application.send_at_least_once(endpoint, &observe);
        }
        for device in devices {
            let phase = Arc::clone(&self.phase);
            let mut speaker = Speaker { device, observed: None, retry: self.retry, account: DeviceAccount::default() };
            while speaker.observed.is_none() {
                let message = speaker.device.receives(PATIENCE).expect("it is observed");
                speaker.hears(message);
            }
            self.speakers.push(thread::spawn(move || speaker.speaks(&phase)));
        }
        let (phase, unanswered) = (Arc::clone(&self.phase), Arc::clone(&self.unanswered));
        self.application = Some(thread::spawn(move || commands(application, &phase, &unanswered)));
    }

    /// Waits until each command is answered, and lets the devices be silent.
    pub(super) fn be_silent(&mut self) -> Seen {
        self.phase.store(NO_NEW_COMMANDS, Ordering::Relaxed);
        let (begun, unanswered) = (now(), Arc::clone(&self.unanswered));
        while unanswered.load(Ordering::Relaxed) > 0 && now() - begun < ANSWERED {
            thread::park_timeout(Duration::from_millis(100));
        }
        self.phase.store(SILENT, Ordering::Relaxed);
        let joined = std::mem::take(&mut self.speakers).into_iter().map(|speaker| speaker.join().expect("no panic"));
        let (devices, accounts) = joined.unzip();
        let application = self.application.take().expect("it speaks").join().expect("no panic");
        let strays = self.udp.strays() + self.dtls.strays();
        let outputs: String = self.nodes.iter().map(|node| node.gateway.output()).collect();
        let overtaken = outputs.matches("a newer notification was received before").count();
        let drops = self.nodes.iter_mut().filter_map(Node::drops).collect();
        Seen { devices, accounts, application, strays, overtaken, drops }
    }

    /// Takes a further node, to which the balancer gives datagrams from now on.
    pub(super) fn join(&mut self, node: Node) {
        self.udp.join(node.gateway.address());
        self.dtls.join(node.place.secured);
        self.nodes.push(node);
    }

    /// Gives a node no datagrams any more, or gives it some again.
    pub(super) fn let_go(&self, node: usize, is_let_go: bool) {
        [&self.udp, &self.dtls].into_iter().for_each(|balancer| balancer.let_go(node, is_let_go));
    }

    pub(super) fn sum(&self, series: &str) -> f64 {
        self.nodes.iter().map(|node| node.metric(series)).sum()
    }

    /// Since their start the nodes have had so many registrations and handshakes.
    #[track_caller]
    pub(super) fn expect_registrations_and_handshakes(&self, registrations: usize, handshakes: usize) {
        let outputs: String = self.nodes.iter().map(|node| node.gateway.output()).collect();
        let count = |what| outputs.matches(what).count();
        let counted = (count("device registered"), count("association established"));
        assert_eq!(counted, (registrations, handshakes), "registrations and handshakes");
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        self.phase.store(SILENT, Ordering::Relaxed);
    }
}

impl Seen {
    /// Prints the figures of a run.
    pub(super) fn print(&self, what: &str) {
        let mut times: Vec<Duration> = self.updates().map(|(_, exchange)| exchange.took()).collect();
        times.sort();
        let sum = |of: fn(&DeviceAccount) -> usize| -> usize { self.accounts.iter().map(of).sum() };
        println!(
            "{what}: {} Updates: p50 {:?}, p99 {:?}, longest {:?}, {} sent again; {} of {} notifications, {} overtaken; {} of {} \
             commands answered, {} requests came again",
            times.len(),
            percentile(&times, 50),
            percentile(&times, 99),
            percentile(&times, 100),
            sum(|account| account.retransmissions),
            self.published(),
            sum(|account| account.notified.len()),
            self.overtaken,
            self.application.answers.len(),
            self.application.commands,
            sum(|account| account.repeated),
        );
    }

    /// The Updates of all devices, with the number of the device.
    pub(super) fn updates(&self) -> impl Iterator<Item = (usize, Exchange)> {
        let of = |(number, account): (usize, &DeviceAccount)| {
            account.updates.clone().into_iter().map(move |exchange| (number, exchange))
        };
        self.accounts.iter().enumerate().flat_map(of)
    }

    /// Each command has one final form, each Update was answered 2.04, no number of a record came twice.
    #[track_caller]
    pub(super) fn expect_one_form_of_each_answer(&self) {
        let refused: Vec<Code> = self.accounts.iter().flat_map(|account| account.refused.clone()).collect();
        assert_eq!(refused, [], "Updates that were refused");
        let unanswered = self.updates().filter(|(_, exchange)| exchange.answered.is_none()).count();
        assert_eq!(unanswered, 0, "Updates without an answer");
        // An answer whose publication the broker has not confirmed is published again, as it was.
        let several: Vec<&Vec<Value>> =
            self.application.answers.values().filter(|answers| answers.iter().any(|one| *one != answers[0])).collect();
        assert!(several.is_empty(), "commands with several final forms: {several:?}");
        let missing: Vec<u64> =
            (1..=self.application.commands).filter(|id| !self.application.answers.contains_key(id)).collect();
        assert!(missing.is_empty(), "commands without an answer: {missing:?}");
        for device in &self.devices {
            if let Registered::Secured { device, .. } = device {
                let numbers = device.numbers();
                assert!(numbers.is_sorted_by(|one, next| one < next), "{numbers:?}");
            }
        }
    }

    /// Devices and application have noticed nothing.
    #[track_caller]
    pub(super) fn expect_nothing_noticed(&self) {
        self.expect_one_form_of_each_answer();
        self.print_lost();
        let sum = |of: fn(&DeviceAccount) -> usize| -> usize { self.accounts.iter().map(of).sum() };
        let (again, strays, drops) = (sum(|account| account.retransmissions), self.strays, &self.drops);
        assert!(
            again as u64 <= strays,
            "{again} Updates were sent again, the balancers have dropped {strays} answers, the nodes:\n{drops}"
        );
        assert_eq!(sum(|account| account.repeated), 0, "requests that came again");
        let notified = sum(|account| account.notified.len());
        assert_eq!(self.published() + self.overtaken, notified, "notifications, with {} overtaken", self.overtaken);
    }

    /// Returns the number of notifications that were published, each counted once.
    fn published(&self) -> usize {
        self.application.notifications.values().map(HashSet::len).sum()
    }

    /// Prints when what was lost was sent, in seconds after the full hour as in the logs of the nodes.
    fn print_lost(&self) {
        let (now, unix) = (now(), lwm2m_gateway::clock::unix_time().expect("a clock"));
        let at = |at: Instant| (unix - (now - at)).as_secs_f64() % 3_600.0;
        for (number, exchange) in self.updates().filter(|(_, exchange)| exchange.took() >= ACK_TIMEOUT) {
            let (sent, took) = (at(exchange.sent), exchange.took());
            println!("{} sent an Update at {sent:.3} s, answered after {took:?}", endpoint(number));
        }
        for (number, account) in self.accounts.iter().enumerate() {
            let published = self.application.notifications.get(&endpoint(number));
            for (index, sent) in account.notified.iter().enumerate() {
                let value = index as u64 + 1;
                if !published.is_some_and(|published| published.contains(&value)) {
                    println!("{} notified {value} at {:.3} s, which was lost", endpoint(number), at(*sent));
                }
            }
        }
    }
}

pub(super) fn percentile(sorted: &[Duration], percent: usize) -> Duration {
    sorted[(sorted.len() * percent / 100).min(sorted.len() - 1)]
}
