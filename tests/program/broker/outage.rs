//! The built program and a hundred devices while their broker is away for some seconds, and while one of two brokers
//! is.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use crate::common::application::{Application, answer, content};
use crate::common::broker::{TestBroker, start_again};
use crate::common::device::{Device, PATIENCE, fresh_id, response_to};
use crate::common::gateway::Gateway;
use crate::common::scene::LINKS;
use lwm2m_core::coap::options::{format, number};
use lwm2m_core::coap::{Code, Kind, Message};
use serde_json::{Value, json};

crate::over_both_upstreams! {
    a_hundred_devices_lose_nothing_while_the_broker_is_away_and_all_arrives_in_order,
    the_devices_of_a_broker_that_stops_go_to_the_other_one_and_stay_there,
    an_idle_gateway_notices_that_the_broker_stops_and_that_it_starts,
    all_devices_are_connected_again_when_the_log_says_so_and_none_is_lost,
    a_broker_that_refuses_everybody_for_a_while_after_its_start_costs_no_registration,
}

const DEVICES: usize = 100;
/// Of each device, one every half second.
const NOTIFICATIONS: u32 = 6;

/// One device: it is registered, and its temperature is observed.
struct Member {
    endpoint: String,
    device: Device,
    observed: Message,
    /// The command that it has not answered yet.
    asked: Option<Message>,
    /// The last that was heard of it before the broker went: nobody knows whether that was confirmed, so that it may
    /// come again.
    before: (String, Value),
    /// What the application has to hear of it from then on, in order: its topic, and its payload.
    said: Vec<(String, Value)>,
}

impl Member {
    fn register(number: usize, gateway: &Gateway, application: &mut Application) -> Self {
        let endpoint = format!("outage-{number}");
        let mut device = Device::new(gateway.address());
        device.register(&format!("ep={endpoint}&lt=300&lwm2m=1.0"), LINKS);
        assert_eq!(application.receive().1["msgType"], "register");
        application.send(&endpoint, &observe());
        let observed = device.expect_request(Code::GET, "/3303/0/5700");
        device.answer_observe(&observed, "20.5");
        let before = (format!("lwm2m/{endpoint}/up/resp"), answer(&observe(), content("/3303/0/5700", 20.5)));
        application.expect(&before.0, &before.1);
        Self { endpoint, device, observed, asked: None, before, said: Vec::new() }
    }

    /// The device takes the command, of which the application hears, and will answer later.
    fn ask(&mut self, application: &mut Application) {
        application.send(&self.endpoint, &read());
        let request = self.device.expect_request(Code::GET, "/3/0/0");
        self.device.send(&Message::empty(Kind::Acknowledgement, request.id));
        self.before = (format!("lwm2m/{}/up/resp", self.endpoint), json!({ "reqID": "r", "msgType": "ack" }));
        application.expect(&self.before.0, &self.before.1);
        self.asked = Some(request);
    }

    fn answer(&mut self) {
        let request = self.asked.take().expect("a command");
        let mut response = response_to(&request, Code::CONTENT, Some((format::TEXT, b"Acme")));
        (response.kind, response.id) = (Kind::Confirmable, fresh_id());
        self.device.send(&response);
        self.device.expect_acknowledgement(&response);
        self.says("up/resp", answer(&read(), content("/3/0/0", "Acme")));
    }

    fn notify(&mut self, sequence: u32) {
        let value = f64::from(sequence) + 0.5;
        let notification = self.device.notify(&self.observed, Kind::Confirmable, sequence, &value.to_string());
        self.device.expect_acknowledgement(&notification);
        let mut payload = answer(&observe(), content("/3303/0/5700", value));
        payload["msgType"] = json!("notify");
        payload["seqNum"] = json!(sequence);
        self.says("up/notify", payload);
    }

    fn says(&mut self, below: &str, payload: Value) {
        self.said.push((format!("lwm2m/{}/{below}", self.endpoint), payload));
    }
}

fn observe() -> Value {
    json!({ "reqID": "o", "msgType": "observe", "data": { "path": "/3303/0/5700" } })
}

fn read() -> Value {
    json!({ "reqID": "r", "msgType": "read", "data": { "path": "/3/0/0" } })
}

async fn a_hundred_devices_lose_nothing_while_the_broker_is_away_and_all_arrives_in_order() {
    let broker = TestBroker::start().await;
    let Some(control) = broker.control() else { return };
    let gateway = Gateway::start(&broker.addresses);
    let endpoints: Vec<String> = (0..DEVICES).map(|number| format!("outage-{number}")).collect();
    let mut application =
        Application::connect(&broker.addresses.mqtt, &endpoints.iter().map(String::as_str).collect::<Vec<_>>());
    let mut members: Vec<Member> =
        (0..DEVICES).map(|number| Member::register(number, &gateway, &mut application)).collect();
    members.iter_mut().for_each(|member| member.ask(&mut application));

    control.stop().await;
    for sequence in 2..2 + NOTIFICATIONS {
        if sequence == 4 {
            members.iter_mut().for_each(Member::answer);
        }
        members.iter_mut().for_each(|member| member.notify(sequence));
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    for member in &members {
        assert_eq!(member.device.update(&[], None).code, Code::CHANGED, "{}", member.endpoint);
    }
    let newcomer = Device::new(gateway.address()).try_register("ep=outage-new&lt=300", LINKS);
    assert_eq!(newcomer.code, Code::SERVICE_UNAVAILABLE);
    assert!(newcomer.options.uint(number::MAX_AGE).is_ok_and(|age| age.is_some()));

    start_again(&control).await;
    expect_all(&mut application, &members);

    // Every device is a client again, and its registration is the one of before.
    let all = async {
        while control.clients().len() < DEVICES {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, all).await.expect("all devices in time");
    for member in &mut members {
        assert_eq!(member.device.update(&[], None).code, Code::CHANGED, "{}", member.endpoint);
        member.said.clear();
        member.ask(&mut application);
    }
    members.iter_mut().for_each(Member::answer);
    expect_all(&mut application, &members);
}

/// All that the devices said comes, what each of them said in its order.
#[track_caller]
fn expect_all(application: &mut Application, members: &[Member]) {
    let mut waiting: HashMap<&str, VecDeque<&(String, Value)>> = HashMap::new();
    for member in members {
        waiting.insert(&member.endpoint, member.said.iter().collect());
    }
    while waiting.values().any(|rest| !rest.is_empty()) {
        let heard = application.receive();
        let member = members.iter().find(|member| heard.0.split('/').nth(1) == Some(&member.endpoint));
        let member = member.expect("a topic of a device");
        if heard != member.before {
            let next = waiting.get_mut(member.endpoint.as_str()).and_then(VecDeque::pop_front);
            assert_eq!(Some(&heard), next);
        }
    }
}

async fn the_devices_of_a_broker_that_stops_go_to_the_other_one_and_stay_there() {
    let first = TestBroker::start().await;
    let Some(control) = first.control() else { return };
    let handler = format!("http://{}", first.addresses.handler_bind);
    let second = TestBroker::start_with(|config| config.handler = handler).await;
    let Some(other) = second.control() else { return };
    let gateway = Gateway::start_at(&[&first.addresses, &second.addresses], 1, "");
    // The brokers are no cluster: the application listens where the device is.
    let mut application = Application::connect(&first.addresses.mqtt, &["outage-0"]);
    let mut member = Member::register(0, &gateway, &mut application);
    assert_eq!((control.clients().len(), other.clients().len()), (1, 0));

    let mut application = Application::connect(&second.addresses.mqtt, &["outage-0"]);
    control.stop().await;
    (2..5).for_each(|sequence| member.notify(sequence));
    expect_all(&mut application, std::slice::from_ref(&member));
    assert_eq!(other.clients(), ["outage-0"]);

    start_again(&control).await;
    member.said.clear();
    member.ask(&mut application);
    member.answer();
    expect_all(&mut application, std::slice::from_ref(&member));
    assert_eq!((control.clients().len(), other.clients().len()), (0, 1));
}

/// Nobody is registered: the gateway looks by itself whether the broker is there.
async fn an_idle_gateway_notices_that_the_broker_stops_and_that_it_starts() {
    let broker = TestBroker::start().await;
    let Some(control) = broker.control() else { return };
    let gateway = Gateway::start(&broker.addresses);
    until("the broker is available", &gateway, |gateway| gateway.ask_admin("/readyz").0 == 200).await;
    for _ in 0..2 {
        control.stop().await;
        until("the broker is unavailable", &gateway, |gateway| gateway.ask_admin("/readyz").0 == 503).await;
        // The page repeats what it had within a second.
        until("the node is down", &gateway, |gateway| nodes(gateway, "down") == 1.0).await;
        let readiness: Value = serde_json::from_str(&gateway.ask_admin("/readyz").1).expect("JSON");
        let detail = readiness["conditions"]["broker"]["detail"].as_str().expect("a detail").to_owned();
        assert!(detail.contains("is unavailable") && detail.contains("connection refused"), "{detail}");

        start_again(&control).await;
        until("the broker is available again", &gateway, |gateway| gateway.ask_admin("/readyz").0 == 200).await;
        until("the node is up", &gateway, |gateway| nodes(gateway, "up") == 1.0).await;
    }
    let log = gateway.output();
    assert_eq!(log.matches("available again").count(), 2, "{log}");
    assert!(log.contains("unavailable: "), "{log}");
    assert!(!log.contains("connected again"), "there was none to connect: {log}");
}

async fn all_devices_are_connected_again_when_the_log_says_so_and_none_is_lost() {
    const DEVICES: usize = 30;
    let broker = TestBroker::start().await;
    let Some(control) = broker.control() else { return };
    let gateway = Gateway::start(&broker.addresses);
    let devices: Vec<Device> = (0..DEVICES)
        .map(|number| {
            let mut device = Device::new(gateway.address());
            device.register(&format!("ep=back-{number}&lt=300"), LINKS);
            device
        })
        .collect();
    control.stop().await;
    until("the broker is unavailable", &gateway, |gateway| gateway.output().contains("unavailable: ")).await;
    start_again(&control).await;
    let line = "all devices are connected again";
    until(line, &gateway, |gateway| gateway.output().contains(line)).await;
    assert_eq!(control.clients().len(), DEVICES);
    let log = gateway.output();
    let told = log.lines().find(|told| told.contains(line)).expect("the line");
    assert!(told.contains("devices=30") && told.contains("took="), "{told}");
    let order = ["unavailable: ", "available again", line].map(|text| log.find(text).expect("a line"));
    assert!(order.is_sorted(), "{log}");
    for device in &devices {
        assert_eq!(device.update(&[], None).code, Code::CHANGED);
    }
}

/// A broker that listens before its authentication is up refuses everybody meanwhile: no registration ends by that.
async fn a_broker_that_refuses_everybody_for_a_while_after_its_start_costs_no_registration() {
    const DEVICES: usize = 10;
    let broker = TestBroker::start().await;
    let Some(control) = broker.control() else { return };
    let gateway = Gateway::start(&broker.addresses);
    let devices: Vec<Device> = (0..DEVICES)
        .map(|number| {
            let mut device = Device::new(gateway.address());
            device.register(&format!("ep=late-{number}&lt=300"), LINKS);
            device
        })
        .collect();
    control.stop().await;
    until("the broker is unavailable", &gateway, |gateway| gateway.output().contains("unavailable: ")).await;
    control.refuse(|_| true);
    start_again(&control).await;
    let refusal = "the broker refuses every device";
    until(refusal, &gateway, |gateway| gateway.ask_admin("/readyz").1.contains(refusal)).await;
    assert_eq!(gateway.output().matches(refusal).count(), 1, "{}", gateway.output());
    assert_eq!(gateway.ask_admin("/readyz").0, 200);
    // Each was refused by now, some more than once.
    let refused = "lwm2m_authentications_total{result=\"refused\"}";
    let count = |gateway: &Gateway| crate::common::admin::sum(&gateway.ask_admin("/metrics").1, refused);
    until("refusals", &gateway, |gateway| count(gateway) > 2.0 * DEVICES as f64).await;

    control.allow_all();
    until("all devices", &gateway, |gateway| gateway.output().contains("all devices are connected again")).await;
    assert_eq!(control.clients().len(), DEVICES);
    assert!(!gateway.ask_admin("/readyz").1.contains(refusal));
    for device in &devices {
        assert_eq!(device.update(&[], None).code, Code::CHANGED);
    }
}

fn nodes(gateway: &Gateway, state: &str) -> f64 {
    crate::common::admin::sum(&gateway.ask_admin("/metrics").1, &format!("lwm2m_broker_nodes{{state=\"{state}\"}}"))
}

async fn until(what: &str, gateway: &Gateway, holds: impl Fn(&Gateway) -> bool) {
    let waiting = async {
        while !holds(gateway) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let held = tokio::time::timeout(PATIENCE, waiting).await;
    assert!(held.is_ok(), "in vain waited for: {what}");
}
