//! Nodes that end by SIGTERM and are started again one after the other, as at an upgrade, while their devices speak.

use std::collections::HashMap;

use lwm2m_core::coap::{Kind, Message};
use serde_json::Value;

use super::balancer::Balancer;
use super::forwarding::{addresses, endpoint, until_settled};
use super::traffic::ACK_TIMEOUT;
use super::*;

/// The time between the signal and the moment at which the balancer lets go of a node, as by its health check.
const HEALTH_CHECK: Duration = Duration::from_secs(1);
/// Longer than that.
const LINGER: &str = "cluster.linger = \"3s\"\nshutdown_timeout = \"60s\"\n";

/// What devices and an application have said and heard.
#[derive(Default)]
struct Account {
    /// The time until the answer to each Update, sorted at the end.
    updates: Vec<Duration>,
    /// Requests of the gateway that came a second time.
    repeated: usize,
    /// Notifications that were sent, and those that were published.
    notified: usize,
    published: usize,
    /// The final answers to each command.
    answers: HashMap<u64, Vec<Value>>,
}

/// A device with an observation, and the requests that it has answered.
struct Speaker {
    device: Registered,
    observed: Option<Message>,
    last_request: Option<Message>,
    sequence: u32,
}

impl Speaker {
    /// Sends an Update and answers what the gateway asks until the Update is answered.
    fn updates(&mut self, account: &mut Account) {
        let update = request(Code::POST, &["rd", &self.device.location()], &[], None);
        self.device.sends(&update);
        let sent = now();
        while let Some(left) = ACK_TIMEOUT.checked_sub(now() - sent)
            && let Some(message) = self.device.receives(left)
        {
            if message.token == update.token && message.code == Code::CHANGED {
                return account.updates.push(now() - sent);
            }
            self.hears(message, account);
        }
        account.updates.push(Duration::MAX);
    }

    fn hears(&mut self, message: Message, account: &mut Account) {
        if message.code != Code::GET {
            return;
        }
        let is_observe = message.options.first(number::OBSERVE).is_some();
        let mut response = response_to(&message, Code::CONTENT, Some((0, b"21")));
        if is_observe {
            response.options.add_uint(number::OBSERVE, 0);
            self.observed = Some(message.clone());
        }
        account.repeated += usize::from(self.last_request.as_ref().is_some_and(|last| last.id == message.id));
        self.device.sends(&response);
        self.last_request = Some(message);
    }

    fn notifies(&mut self, account: &mut Account) {
        let Some(observed) = &self.observed else { return };
        self.sequence += 1;
        let mut message = response_to(observed, Code::CONTENT, Some((0, self.sequence.to_string().as_bytes())));
        (message.kind, message.id) = (Kind::NonConfirmable, crate::common::device::fresh_id());
        message.options.add_uint(number::OBSERVE, self.sequence);
        self.device.sends(&message);
        account.notified += 1;
    }
}

/// The devices, the application, and what they have seen.
struct Traffic {
    speakers: Vec<Speaker>,
    application: Application,
    account: Account,
    commands: u64,
}

impl Traffic {
    /// Each device sends an Update and a notification, and one of them gets a command.
    fn goes_on(&mut self) {
        let number = (self.commands as usize) % self.speakers.len();
        self.commands += 1;
        let command = json!({ "reqID": self.commands, "msgType": "read", "data": { "path": "/3/0/0" } });
        self.application.send_at_least_once(&endpoint(number), &command);
        for speaker in &mut self.speakers {
            speaker.updates(&mut self.account);
            speaker.notifies(&mut self.account);
        }
        self.is_published(Duration::ZERO);
    }

    /// Takes what the application has heard. Returns whether there was something.
    fn is_published(&mut self, patience: Duration) -> bool {
        let mut heard = false;
        while let Some((_, payload)) = self.application.receive_within(patience) {
            heard = true;
            let value: Value = serde_json::from_slice(&payload).expect("JSON");
            match value["msgType"].as_str() {
                Some("notify") => self.account.published += 1,
                Some("read") => {
                    let id = value["reqID"].as_u64().expect("a number");
                    self.account.answers.entry(id).or_default().push(value);
                }
                _ => {}
            }
        }
        heard
    }

    fn goes_on_until(&mut self, what: &str, mut happened: impl FnMut() -> bool) {
        let began = now();
        while !happened() {
            assert!(now() - began < Duration::from_secs(120), "{what}");
            self.goes_on();
        }
    }
}

/// Restarts one node. `CLUSTER_ROUNDS` restarts all of them so many times.
#[tokio::test(flavor = "multi_thread")]
async fn a_rolling_restart_costs_no_retransmission_and_no_notification() {
    Upstream::Mqtt.choose();
    let Some(server) = RedisServer::start() else { return };
    let rounds: Option<usize> = std::env::var("CLUSTER_ROUNDS").ok().map(|rounds| rounds.parse().expect("a number"));
    let victims: Vec<usize> = rounds.map_or(vec![1], |rounds| (0..rounds).flat_map(|_| 0..3).collect());
    let broker = TestBroker::start().await;
    let more = format!("{TIMING}{LINGER}");
    let mut nodes: Vec<Node> = (0..3).map(|number| Node::start_with(number, &broker, &server, &more)).collect();
    until_settled(&nodes);
    let udp = Balancer::before(addresses(&nodes, |node| node.gateway.address())).await;
    let dtls = Balancer::before(addresses(&nodes, |node| node.place.secured)).await;
    let endpoints: Vec<String> = (0..DEVICES).map(endpoint).collect();
    let names: Vec<&str> = endpoints.iter().map(String::as_str).collect();
    let application = Application::connect(&broker.addresses.mqtt, &names);
    let devices = super::forwarding::devices(udp.address, dtls.address);
    let speaker = |device| Speaker { device, observed: None, last_request: None, sequence: 0 };
    let speakers = devices.into_iter().map(speaker).collect();
    let mut traffic = Traffic { speakers, application, account: Account::default(), commands: 0 };
    for endpoint in &endpoints {
        let observe = json!({ "reqID": 0, "msgType": "observe", "data": { "path": "/3303/0/5700" } });
        traffic.application.send_at_least_once(endpoint, &observe);
    }
    while traffic.speakers.iter().any(|speaker| speaker.observed.is_none()) {
        traffic.goes_on();
    }

    let logged = |nodes: &[Node], victim: usize, text: &str| -> usize {
        let others = nodes.iter().enumerate().filter(|(number, _)| *number != victim);
        others.map(|(_, node)| node.gateway.output().matches(text).count()).sum()
    };
    for &victim in &victims {
        let before = ["left the cluster", "no connection"].map(|text| logged(&nodes, victim, text));
        nodes[victim].gateway.signal("TERM");
        let signalled = now();
        let mut has_let_go = false;
        traffic.goes_on_until("the node ends", || {
            if !has_let_go && now() - signalled > HEALTH_CHECK {
                [&udp, &dtls].into_iter().for_each(|balancer| balancer.let_go(victim, true));
                has_let_go = true;
            }
            nodes[victim].gateway.has_ended()
        });
        println!("node {victim} has ended after {:?}", now() - signalled);
        let output = nodes[victim].gateway.output();
        assert!(output.contains("all shards were given up"), "{output}");
        until("the others know that it has left", || logged(&nodes, victim, "left the cluster") == before[0] + 2);
        assert_eq!(logged(&nodes, victim, "no connection"), before[1], "it has left properly");
        if rounds.is_some() {
            nodes[victim].gateway.start_without_waiting_again();
            let started = now();
            traffic.goes_on_until("the node is ready", || {
                now() - started > Duration::from_secs(14) && nodes[victim].gateway.ask_admin("/readyz").0 == 200
            });
            [&udp, &dtls].into_iter().for_each(|balancer| balancer.let_go(victim, false));
            traffic.goes_on_until("the nodes divide the shards", || nodes[victim].shards() > 60.0);
        }
    }
    while traffic.is_published(Duration::from_secs(2)) {}

    let Traffic { account, commands, .. } = traffic;
    let Account { mut updates, repeated, notified, published, answers } = account;
    updates.sort();
    let part = |percent: usize| updates[(updates.len() * percent / 100).min(updates.len() - 1)];
    println!(
        "{} restarts, {} Updates: p50 {:?}, p99 {:?}, longest {:?}; {repeated} requests came again; {published} of \
         {notified} notifications, {} of {commands} commands answered",
        victims.len(),
        updates.len(),
        part(50),
        part(99),
        updates.last(),
        answers.len()
    );
    let unanswered = updates.iter().filter(|time| **time == Duration::MAX).count();
    assert_eq!((unanswered, repeated), (0, 0), "Updates without an answer, requests that came again");
    assert_eq!(published, notified, "notifications");
    // An answer whose publication the broker has not confirmed is published again, as it was.
    let is_final = |answers: &&Vec<Value>| answers.iter().all(|answer| *answer == answers[0]);
    assert_eq!(answers.values().filter(is_final).count() as u64, commands, "each command has one final form");
    let outputs: String = nodes.iter().map(|node| node.gateway.output()).collect();
    assert_eq!(outputs.matches("device registered").count(), DEVICES, "nobody has registered again");
    assert_eq!(outputs.matches("association established").count(), DEVICES / 2, "or shaken hands");
}
