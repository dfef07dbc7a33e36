//! Measures what the core needs for one notification, command, Register and Update: datagrams and commands in,
//! datagrams and publications out, no socket between; and for one page of devices, which is a turn of the console. What
//! the devices of the benchmark do, such as reading and writing their messages, is not counted.
#![expect(clippy::disallowed_methods, reason = "a benchmark reads the clock")]

use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::{Criterion, criterion_group, criterion_main};
use lwm2m_base::Peer;
use lwm2m_core::coap::options::{format, number};
use lwm2m_core::coap::{Code, Kind, Message, MessageId, Options, Token};
use lwm2m_core::gateway::broker::{BrokerCommand, BrokerEvent, Publication, RegistrationId};
use lwm2m_core::gateway::operators::view::{DeviceFilter, PAGE_ROWS, PageQuery};
use lwm2m_core::gateway::{Gateway, Output};
use lwm2m_gateway::config::Config;
use lwm2m_gateway::definitions;

/// The allocator of the program.
#[cfg(feature = "mimalloc")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Between two messages: so that what the gateway remembers for EXCHANGE_LIFETIME has the size of a busy minute.
const PAUSE: Duration = Duration::from_millis(10);

/// The records of one SenML payload.
const RECORDS: u8 = 10;

/// Devices that are registered while onlookers page through them.
const ONLOOKED_DEVICES: u32 = 100_000;

criterion_group!(benches, one_notification, history, read, composite_read, register, update, page);
criterion_main!(benches);

fn one_notification(criterion: &mut Criterion) {
    let mut bench = Bench::new();
    let (device, _) = bench.register(0);
    let token = bench.observe(device, "/3303/0/5700");
    let mut sent = 0;
    criterion.bench_function("one notification", |bencher| {
        bencher.iter_custom(|iterations| {
            bench.timed(iterations, |bench| {
                sent += 1;
                let datagram = notification(token, sent, format::TEXT, b"21.5").encode();
                bench.publication_of(0, &datagram).expect("a notification is published");
            })
        });
    });
}

/// A notification of ten SenML CBOR records with times, of a device of LwM2M 1.1 that has measured for a while.
fn history(criterion: &mut Criterion) {
    let mut bench = Bench::new();
    let (device, _) = bench.register_with(0, "1.1", b"</>;ct=112,</1/0>,</3/0>,</3303/0>".to_vec());
    let token = bench.observe(device, "/3303/0/5700");
    let payload = senml_cbor_history();
    let mut sent = 0;
    criterion.bench_function("one notification of ten SenML CBOR records", |bencher| {
        bencher.iter_custom(|iterations| {
            bench.timed(iterations, |bench| {
                sent += 1;
                let datagram = notification(token, sent, format::SENML_CBOR, &payload).encode();
                bench.publication_of(0, &datagram).expect("a notification is published");
            })
        });
    });
}

/// A read of one resource: the command in, the request out, the response in, the answer out.
fn read(criterion: &mut Criterion) {
    let mut bench = Bench::new();
    let (device, _) = bench.register(0);
    let command = r#"{"reqID":1,"msgType":"read","data":{"path":"/3303/0/5700"}}"#;
    criterion.bench_function("one read", |bencher| {
        bencher.iter_custom(|iterations| {
            bench.timed(iterations, |bench| drop(bench.answer_to(device, command, format::TEXT, b"21.5")))
        });
    });
}

/// A composite read of ten resources (LwM2M 1.1 section 6.3.8), answered in SenML CBOR.
fn composite_read(criterion: &mut Criterion) {
    let mut bench = Bench::new();
    let (device, _) = bench.register_with(0, "1.1", b"</>;ct=112,</1/0>,</3/0>,</3303/0>".to_vec());
    let paths: Vec<String> = (0..RECORDS).map(|instance| format!("\"/3303/{instance}/5700\"")).collect();
    let paths = paths.join(",");
    let command = format!(r#"{{"reqID":1,"msgType":"read-composite","data":{{"paths":[{paths}]}}}}"#);
    let payload = senml_cbor_values();
    criterion.bench_function("one composite read of ten paths", |bencher| {
        bencher.iter_custom(|iterations| {
            bench.timed(iterations, |bench| drop(bench.answer_to(device, &command, format::SENML_CBOR, &payload)))
        });
    });
}

/// With the broker's answer: Register, Connect, Connected, 2.01, the report. The de-registration after it is not
/// counted.
fn register(criterion: &mut Criterion) {
    let mut bench = Bench::new();
    let mut device = 0;
    criterion.bench_function("one register", |bencher| {
        bencher.iter_custom(|iterations| {
            bench.timed(iterations, |bench| {
                device += 1;
                let (_, location) = bench.register(device);
                let spent = bench.spent;
                bench.deregister(device, &location);
                bench.spent = spent;
            })
        });
    });
}

/// An Update that changes nothing, of a device with a list that no device has.
fn update(criterion: &mut Criterion) {
    for links in [3, 2_900] {
        let mut bench = Bench::new();
        let list: Vec<String> = (0..links).map(|instance| format!("</9/{instance}>")).collect();
        let (_, location) = bench.register_with(0, "1.0", list.join(",").into_bytes());
        criterion.bench_function(&format!("one update, {links} links"), |bencher| {
            bencher.iter_custom(|iterations| bench.timed(iterations, |bench| bench.update(0, &location)));
        });
    }
}

/// One turn of an onlooker among many devices: a page of rows, and pages that look at as many devices as one turn may
/// and find none. Each page begins where the one before ended, as those of onlookers do.
fn page(criterion: &mut Criterion) {
    let mut bench = Bench::new();
    (0..ONLOOKED_DEVICES).for_each(|device| drop(bench.register(device)));
    criterion.bench_function("one device with all that is known of it", |bencher| {
        bencher.iter(|| black_box(bench.gateway.device(bench.now, "bench-0").expect("it is registered")));
    });
    let any = DeviceFilter::default();
    for (name, filter) in [
        ("a hundred rows", any.clone()),
        ("a search by part of the name", DeviceFilter { name_parts: vec!["nothing".to_owned()], ..any.clone() }),
        ("a search by object", DeviceFilter { object: Some(32_000), ..any.clone() }),
        ("a search by username", DeviceFilter { username: Some("nobody".to_owned()), ..any.clone() }),
        ("a search by identity", DeviceFilter { identity: Some("nobody".to_owned()), ..any.clone() }),
        ("a search for silent devices", DeviceFilter { silent: Some(Duration::MAX), ..any }),
    ] {
        let mut after = None;
        criterion.bench_function(&format!("one page of {ONLOOKED_DEVICES} devices, {name}"), |bencher| {
            bencher.iter(|| {
                let query =
                    PageQuery { after: after.take(), filter: filter.clone(), limit: PAGE_ROWS, ..PageQuery::default() };
                let page = bench.gateway.page(bench.now, black_box(&query));
                after.clone_from(&page.next);
                black_box(page)
            });
        });
    }
}

impl Outcome {
    /// Returns the first message that was sent.
    fn message(&self) -> Option<Message> {
        self.sent.first().map(|datagram| Message::decode(datagram).expect("the gateway sends messages"))
    }
}

struct Bench {
    gateway: Gateway,
    now: Instant,
    next_id: u16,
    /// The time that the core has taken.
    spent: Duration,
}

/// What came out of the core until it was idle.
#[derive(Default)]
struct Outcome {
    sent: Vec<Vec<u8>>,
    connect: Option<RegistrationId>,
    publication: Option<Publication>,
}

impl Bench {
    fn new() -> Self {
        let xml = Path::new(env!("CARGO_MANIFEST_DIR")).join("xml");
        let model = definitions::read(&xml).expect("the definitions of the project").model;
        let now = Instant::now();
        let unix_time = Duration::from_secs(1_767_225_600);
        let mut config = Config::default().gateway;
        config.limits.registration_size = 1024 * 1024;
        config.limits.devices = 1_000_000;
        let gateway = Gateway::new(config, Arc::new(model), [7; 32], now, unix_time);
        Self { gateway, now, next_id: 0, spent: Duration::ZERO }
    }

    /// Returns the time that the core takes for so many operations.
    fn timed(&mut self, iterations: u64, mut operation: impl FnMut(&mut Self)) -> Duration {
        self.spent = Duration::ZERO;
        (0..iterations).for_each(|_| operation(self));
        self.spent
    }

    /// Gives the path of the registration, too.
    fn register(&mut self, number: u32) -> (RegistrationId, Vec<Vec<u8>>) {
        self.register_with(number, "1.0", b"</1/0>,</3/0>,</3303/0>".to_vec())
    }

    fn register_with(&mut self, number: u32, version: &str, links: Vec<u8>) -> (RegistrationId, Vec<Vec<u8>>) {
        let (endpoint, version) = (format!("ep=bench-{number}"), format!("lwm2m={version}"));
        let mut message = self.request(Code::POST, &["rd"]);
        for item in [endpoint.as_str(), "lt=86400", version.as_str(), "b=U"] {
            message.options.add_text(number::URI_QUERY, item);
        }
        message.options.add_uint(number::CONTENT_FORMAT, format::LINK_FORMAT.into());
        message.payload = links;
        let device = self.receive(number, &message.encode()).connect.expect("the broker is asked");

        let outcome =
            self.pass(|gateway, now| gateway.handle_broker(now, BrokerEvent::Connected { registration: device }));
        assert!(outcome.publication.is_some(), "the Register is reported");
        let created = outcome.message().expect("an answer");
        assert_eq!(created.code, Code::CREATED);
        (device, created.options.all(number::LOCATION_PATH).map(<[u8]>::to_vec).collect())
    }

    fn update(&mut self, number: u32, location: &[Vec<u8>]) {
        let mut message = self.request(Code::POST, &[]);
        for segment in location {
            message.options.add(number::URI_PATH, segment);
        }
        let answer = self.receive(number, &message.encode()).message();
        assert_eq!(answer.map(|message| message.code), Some(Code::CHANGED));
    }

    fn deregister(&mut self, number: u32, location: &[Vec<u8>]) {
        let mut message = self.request(Code::DELETE, &[]);
        for segment in location {
            message.options.add(number::URI_PATH, segment);
        }
        let answer = self.receive(number, &message.encode()).message();
        assert_eq!(answer.map(|message| message.code), Some(Code::DELETED));
    }

    /// Gives the token of the observation.
    fn observe(&mut self, device: RegistrationId, path: &str) -> Token {
        let command = format!(r#"{{"reqID":1,"msgType":"observe","data":{{"path":"{path}"}}}}"#);
        let request = self.request_for(device, &command);
        let answer = Message {
            kind: Kind::Acknowledgement,
            id: request.id,
            ..notification(request.token, 0, format::TEXT, b"21.5")
        };
        self.publication_of(0, &answer.encode()).expect("the answer is published");
        request.token
    }

    /// Sends a command and its answer by the device.
    fn answer_to(&mut self, device: RegistrationId, command: &str, content_format: u16, payload: &[u8]) -> Publication {
        let request = self.request_for(device, command);
        let mut options = Options::new();
        options.add_uint(number::CONTENT_FORMAT, content_format.into());
        let (id, token) = (request.id, request.token);
        let payload = payload.to_vec();
        let answer = Message { kind: Kind::Acknowledgement, code: Code::CONTENT, id, token, options, payload };
        self.publication_of(0, &answer.encode()).expect("the answer is published")
    }

    /// Gives the request that the device gets for this command.
    fn request_for(&mut self, device: RegistrationId, command: &str) -> Message {
        let event = BrokerEvent::Message {
            registration: device,
            topic: "lwm2m/bench-0/dn".to_owned(),
            payload: command.as_bytes().to_vec(),
            properties: Default::default(),
        };
        let outcome = self.pass(|gateway, now| gateway.handle_broker(now, event));
        outcome.message().expect("the command is sent to the device")
    }

    fn publication_of(&mut self, device: u32, datagram: &[u8]) -> Option<Publication> {
        self.receive(device, datagram).publication
    }

    fn receive(&mut self, device: u32, datagram: &[u8]) -> Outcome {
        self.now += PAUSE;
        self.pass(|gateway, now| {
            gateway.handle_timeout(now);
            gateway.handle_datagram(now, peer(device), datagram);
        })
    }

    /// Passes something to the core, and takes what comes out.
    fn pass(&mut self, input: impl FnOnce(&mut Gateway, Instant)) -> Outcome {
        let begin = Instant::now();
        input(&mut self.gateway, self.now);
        let outcome = self.outcome();
        self.spent += begin.elapsed();
        outcome
    }

    fn outcome(&mut self) -> Outcome {
        let mut outcome = Outcome::default();
        loop {
            match self.gateway.poll_output() {
                Output::Transmit(transmit) => {
                    outcome.sent.push(transmit.datagram);
                }
                Output::Broker(BrokerCommand::Connect { registration: device, .. }) => outcome.connect = Some(device),
                Output::Broker(BrokerCommand::Publish { publication, .. }) => outcome.publication = Some(publication),
                Output::Broker(
                    BrokerCommand::Resume { .. }
                    | BrokerCommand::SetLifetime { .. }
                    | BrokerCommand::Confirm { .. }
                    | BrokerCommand::Disconnect { .. }
                    | BrokerCommand::HandOver { .. }
                    | BrokerCommand::Abandon { .. },
                )
                | Output::FindKey(_)
                | Output::Claim(_)
                | Output::Unclaim { .. }
                | Output::DescribeImage { .. }
                | Output::ReadImage { .. }
                | Output::Answer(_)
                | Output::Report(_) => {}
                Output::Idle(_) => return outcome,
            }
        }
    }

    fn request(&mut self, method: Code, path: &[&str]) -> Message {
        self.next_id = self.next_id.wrapping_add(1);
        let mut options = Options::new();
        for segment in path {
            options.add_text(number::URI_PATH, segment);
        }
        let (id, token) = (MessageId(self.next_id), Token::new(&self.next_id.to_be_bytes()));
        Message { kind: Kind::Confirmable, code: method, id, token, options, payload: Vec::new() }
    }
}

/// The notification of this number, from a device that has its own message ids.
fn notification(token: Token, sent: u32, content_format: u16, payload: &[u8]) -> Message {
    let mut options = Options::new();
    options.add_uint(number::OBSERVE, (sent + 1) & 0x00ff_ffff);
    options.add_uint(number::CONTENT_FORMAT, content_format.into());
    let id = MessageId(sent as u16);
    Message { kind: Kind::NonConfirmable, code: Code::CONTENT, id, token, options, payload: payload.to_vec() }
}

/// `[{bn: "/3303/0/5700", bt: 1767225600, t: 0, v: 20.5}, {t: 1, v: 20.5} ...]` (RFC 8428 section 6).
fn senml_cbor_history() -> Vec<u8> {
    let mut payload = vec![0x80 | RECORDS];
    for record in 0..RECORDS {
        if record == 0 {
            payload.extend([0xa4, 0x21, 0x6c]);
            payload.extend(b"/3303/0/5700");
            payload.extend([0x22, 0x1a]);
            payload.extend(1_767_225_600_u32.to_be_bytes());
        } else {
            payload.push(0xa2);
        }
        payload.extend([0x06, record, 0x02, 0xfb]);
        payload.extend(20.5_f64.to_be_bytes());
    }
    payload
}

/// `[{n: "/3303/0/5700", v: 20.5}, {n: "/3303/1/5700", v: 20.5} ...]`.
fn senml_cbor_values() -> Vec<u8> {
    let mut payload = vec![0x80 | RECORDS];
    for instance in 0..RECORDS {
        payload.extend([0xa2, 0x00, 0x6c]);
        payload.extend(format!("/3303/{instance}/5700").as_bytes());
        payload.extend([0x02, 0xfb]);
        payload.extend(20.5_f64.to_be_bytes());
    }
    payload
}

/// Each device has an address of its own.
fn peer(device: u32) -> Peer {
    let [_, a, b, c] = device.to_be_bytes();
    Peer::udp(0, ([10, a, b, c], 5683).into())
}
