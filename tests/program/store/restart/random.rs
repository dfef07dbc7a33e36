//! Nothing that changes is forgotten: after whatever happens, what was told of the changes is all that there is to
//! tell.

use std::collections::BTreeMap;
use std::time::Duration;

use lwm2m_base::Peer;
use lwm2m_core::coap::options::{format, number};
use lwm2m_core::coap::{Code, Kind, Message};
use lwm2m_core::gateway::broker::CloseReason;
use lwm2m_core::gateway::persistence::record::{Change, DeviceRecord};
use lwm2m_testkit::store::through_json;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::json;

use super::core::{LINKS, RestartedCore, notification, peer};
use crate::common::device::{request, response_to};

const ENDPOINTS: [&str; 3] = ["a", "b", "c"];
const PATHS: [&str; 3] = ["/3/0/0", "/3303/0/5700", "/3303/0"];

#[test]
fn the_records_of_changes_are_all_that_there_is_to_record() {
    for seed in 0..150 {
        let mut life = Life {
            core: RestartedCore::new(),
            rng: StdRng::seed_from_u64(seed),
            asked: Vec::new(),
            observed: Vec::new(),
            locations: BTreeMap::new(),
            commands: 0,
        };
        for step in 0..80 {
            life.step();
            life.core.keep();
            let told: Vec<_> = life.core.store.devices.values().map(without_what_speaking_changes).collect();
            life.core.gateway.change_all();
            let whole = life.core.gateway.take_changes(life.core.now, usize::MAX);
            let mut whole: Vec<_> = whole.iter().map(record_of).map(without_what_speaking_changes).collect();
            whole.sort_by(|one, other| one.registration.endpoint.cmp(&other.registration.endpoint));
            assert_eq!(told, whole, "seed {seed}, step {step}");
        }
    }
}

struct Life {
    core: RestartedCore,
    rng: StdRng,
    /// Requests to devices that may still be answered, and to whom.
    asked: Vec<(Peer, Message)>,
    observed: Vec<(Peer, Message)>,
    locations: BTreeMap<&'static str, String>,
    commands: u64,
}

impl Life {
    fn step(&mut self) {
        let which = self.rng.random_range(0..ENDPOINTS.len());
        let (endpoint, at) = (ENDPOINTS[which], peer(which as u8));
        match self.rng.random_range(0..12) {
            0 => self.register(endpoint, at),
            1 => self.update(endpoint, at),
            2 => self.update(endpoint, peer(which as u8 + 10)),
            3 if self.rng.random_bool(0.3) => self.core.close(endpoint, CloseReason::Kicked),
            4 if self.rng.random_bool(0.3) => {
                let location = self.locations.get(endpoint).cloned().unwrap_or_default();
                self.core.datagram(at, &request(Code::DELETE, &["rd", &location], &[], None));
            }
            5 => {
                let seconds = self.rng.random_range(0..40);
                self.core.advance(Duration::from_secs(seconds));
            }
            6 => self.notify(),
            7 if self.rng.random_bool(0.2) => {
                self.core.restart(Duration::from_secs(1));
                self.core.connect_resumed();
            }
            3 | 4 | 7 | 8 => self.command(endpoint),
            _ => self.answer(),
        }
        for (to, message) in std::mem::take(&mut self.core.to_devices) {
            if message.kind == Kind::Confirmable && message.code.is_request() {
                self.asked.push((to, message));
            }
        }
        self.core.published.clear();
    }

    fn register(&mut self, endpoint: &'static str, at: Peer) {
        let query =
            [format!("ep={endpoint}"), "lt=100".to_owned(), ["b=U", "b=UQ"][self.rng.random_range(0..2)].to_owned()];
        let query: Vec<&str> = query.iter().map(String::as_str).collect();
        self.core.datagram(at, &request(Code::POST, &["rd"], &query, Some((format::LINK_FORMAT, LINKS.as_bytes()))));
        let created = self.core.to_devices.iter().find_map(|(_, message)| {
            let location = message.options.texts(number::LOCATION_PATH).ok()?;
            location.get(1).map(|location| (*location).to_owned())
        });
        self.locations.extend(created.map(|location| (endpoint, location)));
    }

    fn update(&mut self, endpoint: &str, at: Peer) {
        let location = self.locations.get(endpoint).cloned().unwrap_or_default();
        let query: &[&str] = if self.rng.random() { &["lt=200"] } else { &[] };
        self.core.datagram(at, &request(Code::POST, &["rd", &location], query, None));
    }

    fn command(&mut self, endpoint: &str) {
        self.commands += 1;
        let kind = ["read", "observe", "cancel-observe", "observe"][self.rng.random_range(0..4)];
        let path = PATHS[self.rng.random_range(0..PATHS.len())];
        let mut command = json!({ "reqID": self.commands, "msgType": kind, "data": { "path": path } });
        if self.rng.random_bool(0.3) {
            command["mheaders"] = json!({ "ttl": self.rng.random_range(0..30) });
        }
        self.core.command(endpoint, &command);
    }

    fn answer(&mut self) {
        if self.asked.is_empty() {
            return;
        }
        let index = self.rng.random_range(0..self.asked.len());
        let (at, asked) = self.asked.swap_remove(index);
        let observing = asked.options.uint(number::OBSERVE) == Ok(Some(0));
        let answer = match self.rng.random_range(0..5) {
            0 => Message::empty(Kind::Reset, asked.id),
            1 => Message::empty(Kind::Acknowledgement, asked.id),
            2 => response_to(&asked, Code::NOT_FOUND, None),
            _ => {
                let mut answer = response_to(&asked, Code::CONTENT, Some((format::TEXT, b"20.5")));
                if observing {
                    answer.options.add_uint(number::OBSERVE, 1);
                    self.observed.push((at, asked));
                }
                answer
            }
        };
        self.core.datagram(at, &answer);
    }

    fn notify(&mut self) {
        if self.observed.is_empty() {
            return;
        }
        let index = self.rng.random_range(0..self.observed.len());
        let (at, observed) = &self.observed[index];
        let mut message = notification(observed, self.rng.random_range(1..1000), "21");
        if self.rng.random_bool(0.2) {
            message.code = Code::NOT_FOUND;
        }
        self.core.datagram(*at, &message);
    }
}

fn record_of(change: &Change) -> &DeviceRecord {
    match change {
        Change::Put(record) => record,
        Change::Remove { endpoint, .. } => panic!("{endpoint} is there, and not to be removed"),
        Change::RetainedCommands(record) => panic!("no command was retained, {record:?}"),
        Change::Profile(record) => panic!("no device named a profile, {record:?}"),
        Change::GeneratedKey(record) => panic!("nobody is bootstrapped, {record:?}"),
        Change::AwaitedBootstrap(record) => panic!("nobody is bootstrapped, {record:?}"),
        Change::FirmwareJob(record) => panic!("no firmware was updated, {record:?}"),
        Change::Campaign(record) => panic!("no campaign was begun, {record:?}"),
        Change::Association(change) => panic!("nobody speaks DTLS here, {change:?}"),
    }
}

/// A device that only speaks is not recorded each time.
fn without_what_speaking_changes(record: &DeviceRecord) -> DeviceRecord {
    let mut record = through_json(record);
    record.last_heard = Duration::ZERO;
    for observation in &mut record.observations {
        (observation.number, observation.at) = (0, Duration::ZERO);
    }
    record.observations.sort_by_key(|observation| format!("{:?}", observation.token));
    record
}
