//! Pages of twenty thousand devices, while devices come and go.

use std::collections::BTreeSet;
use std::time::Duration;

use lwm2m_core::coap::options::{format, number};
use lwm2m_core::coap::{Code, Kind, Message, MessageId, Options, Token};
use lwm2m_core::gateway::broker::{BrokerCommand, BrokerEvent};
use lwm2m_core::gateway::operators::view::{DeviceFilter, DevicePage, PAGE_EXAMINED, PAGE_ROWS, PageQuery};
use lwm2m_core::gateway::{Gateway, Output};
use lwm2m_testkit::scene::{LINKS, Scene, peer};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};

/// Two hundred pages of them. The cost of a page for more devices is measured by `cargo bench --bench core`.
const DEVICES: usize = 20_000;
/// Devices of the search: twenty-one turns look at them all.
const SEARCHED: usize = 10_000;
/// Devices that leave, and others that come, between two pages.
const CHANGES: usize = 5;
/// The time between two Registers: fewer in a second than the default limits allow.
const PAUSE: Duration = Duration::from_millis(1);

/// A gateway with many devices, each with an address of its own.
struct Crowd {
    scene: Scene,
    /// The names of the devices that are registered now.
    present: BTreeSet<String>,
    rng: StdRng,
    joined: u32,
}

impl Crowd {
    /// Registers the devices in no order of their names.
    fn new(devices: usize) -> Self {
        let scene = Scene::with(|config| config.limits.devices = 2 * DEVICES);
        let mut crowd = Self { scene, present: BTreeSet::new(), rng: StdRng::seed_from_u64(9), joined: 0 };
        while crowd.present.len() < devices {
            let name = crowd.new_name();
            crowd.joins(&name);
        }
        crowd
    }

    fn new_name(&mut self) -> String {
        loop {
            let name = format!("urn:imei:{:010}", self.rng.random_range(0..10_000_000_000_u64));
            if !self.present.contains(&name) {
                return name;
            }
        }
    }

    /// Registers a device by way of the broker.
    fn joins(&mut self, name: &str) {
        self.joined += 1;
        self.scene.now += PAUSE;
        self.scene.gateway.handle_timeout(self.scene.now);
        let register = register_message(name, self.joined);
        self.scene.gateway.handle_datagram(self.scene.now, peer(self.joined), &register.encode());
        let mut created = false;
        while let Some(output) = next_output(&mut self.scene.gateway) {
            match output {
                Output::Broker(BrokerCommand::Connect { registration, .. }) => {
                    self.scene.gateway.handle_broker(self.scene.now, BrokerEvent::Connected { registration });
                }
                Output::Transmit(transmit) => {
                    let answer = Message::decode(&transmit.datagram).expect("what leaves is a message");
                    created |= answer.code == Code::CREATED;
                }
                Output::Broker(_)
                | Output::FindKey(_)
                | Output::Claim(_)
                | Output::Unclaim { .. }
                | Output::DescribeImage { .. }
                | Output::ReadImage { .. }
                | Output::Answer(_)
                | Output::Report(_)
                | Output::Idle(_) => {}
            }
        }
        assert!(created, "{name} is not registered");
        self.present.insert(name.to_owned());
    }

    fn leaves(&mut self, name: &str) {
        assert!(self.scene.gateway.kick(self.scene.now, name), "{name} is not registered");
        while next_output(&mut self.scene.gateway).is_some() {}
        self.present.remove(name);
    }

    /// Returns a page, which never exceeds the bounds of one turn.
    fn page(&mut self, query: &PageQuery) -> DevicePage {
        let page = self.scene.gateway.page(self.scene.now, query);
        assert!(page.rows.len() <= PAGE_ROWS && page.examined <= PAGE_EXAMINED, "{}", page.examined);
        assert_eq!(page.total, self.present.len());
        page
    }
}

fn next_output(gateway: &mut Gateway) -> Option<Output> {
    Some(gateway.poll_output()).filter(|output| !matches!(output, Output::Idle(_)))
}

fn register_message(name: &str, number_of_message: u32) -> Message {
    let mut options = Options::new();
    options.add_text(number::URI_PATH, "rd");
    for item in [format!("ep={name}").as_str(), "lt=86400", "lwm2m=1.0", "b=U"] {
        options.add_text(number::URI_QUERY, item);
    }
    options.add_uint(number::CONTENT_FORMAT, format::LINK_FORMAT.into());
    let token = Token::new(&number_of_message.to_be_bytes());
    let payload = LINKS.as_bytes().to_vec();
    Message { kind: Kind::Confirmable, code: Code::POST, id: MessageId(1), token, options, payload }
}

fn all(filter: DeviceFilter) -> PageQuery {
    PageQuery { filter, limit: PAGE_ROWS, ..PageQuery::default() }
}

#[test]
fn pages_of_twenty_thousand_devices_tell_each_lasting_device_once_and_in_order_while_others_come_and_go() {
    let mut crowd = Crowd::new(DEVICES);
    let mut lasting = crowd.present.clone();
    let mut query = all(DeviceFilter::default());
    let mut told: Vec<String> = Vec::with_capacity(DEVICES);
    loop {
        let page = crowd.page(&query);
        let names = page.rows.into_iter().map(|row| row.endpoint);
        told.extend(names.inspect(|name| assert!(crowd.present.contains(name), "{name} has left")));
        let Some(next) = page.next else { break };
        for _ in 0..CHANGES {
            let leaving = any(&crowd.present, &mut crowd.rng);
            crowd.leaves(&leaving);
            lasting.remove(&leaving);
            let coming = crowd.new_name();
            crowd.joins(&coming);
        }
        // The device where the page ended comes back as another registration, and one that was told before it leaves.
        for name in [told.last(), told.choose(&mut crowd.rng)].into_iter().flatten() {
            if crowd.present.contains(name) {
                crowd.leaves(name);
                lasting.remove(name);
            }
        }
        if let Some(name) = told.last() {
            crowd.joins(name);
        }
        query.after = Some(next);
    }
    assert!(told.is_sorted_by(|one, next| one < next), "a device was told twice, or out of order");
    let told: BTreeSet<String> = told.into_iter().collect();
    let missing: Vec<_> = lasting.difference(&told).collect();
    assert_eq!(missing, [""; 0]);
    assert!(lasting.len() < DEVICES - DEVICES / PAGE_ROWS * CHANGES / 2, "{} devices lasted", lasting.len());
}

#[test]
fn a_search_looks_at_five_hundred_devices_in_a_turn_and_finds_what_there_is() {
    let mut crowd = Crowd::new(SEARCHED);
    let wanted = ["urn:imei:0000-meter-1", "urn:imei:5555-meter-2", "urn:imei:9999-meter-3"];
    wanted.iter().for_each(|name| crowd.joins(name));
    let mut query = all(DeviceFilter { name_parts: vec!["meter".to_owned()], ..DeviceFilter::default() });
    let (mut found, mut examined) = (Vec::new(), Vec::new());
    loop {
        let page = crowd.page(&query);
        found.extend(page.rows.into_iter().map(|row| row.endpoint));
        examined.push(page.examined);
        let Some(next) = page.next else { break };
        query.after = Some(next);
    }
    assert_eq!(found, wanted);
    let (last, full) = examined.split_last().expect("a page");
    assert_eq!((full, *last), ([PAGE_EXAMINED; 20].as_slice(), 3));
    // A prefix leads past all others.
    let prefixed = crowd.page(&all(DeviceFilter { prefix: "urn:imei:9999-".to_owned(), ..query.filter }));
    assert_eq!((prefixed.rows.len(), prefixed.examined, prefixed.next), (1, 1, None));
}

/// Returns one of the names. A range that begins at random digits costs nothing; a device after a gap is more likely.
fn any(names: &BTreeSet<String>, rng: &mut StdRng) -> String {
    let from = format!("urn:imei:{:010}", rng.random_range(0..10_000_000_000_u64));
    let name = names.range(from..).next().or_else(|| names.first());
    name.expect("a crowd is not empty").clone()
}
