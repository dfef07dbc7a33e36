//! The allocations of one operation have an upper bound.

use std::time::Duration;

use lwm2m_core::coap::options::{format, number};
use lwm2m_core::coap::{Code, Kind, Message, MessageId, Options, Token};
use lwm2m_core::gateway::Output;
use lwm2m_core::gateway::broker::{BrokerCommand, BrokerEvent, MessageProperties, RegistrationId};
use lwm2m_core::gateway::operators::trace::{TraceId, TraceTarget};
use lwm2m_testkit::scene::{Scene, peer};

/// What one operation allocates. A change that needs less lowers the number; one that needs more has a reason for it.
const MOST_OF_A_NOTIFICATION: u64 = 15;
const MOST_OF_A_READ: u64 = 43;
const MOST_OF_A_REGISTER: u64 = 72;
const MOST_OF_AN_UPDATE: u64 = 10;

/// The time between two operations.
const PAUSE: Duration = Duration::from_millis(100);
/// Operations that fill the tables, so that none of them grows in the one that counts.
const BEFORE: u16 = 100;
/// A resource of the type Float in TLV: 20.5.
const TLV: [u8; 7] = [0xe4, 0x16, 0x44, 0x41, 0xa4, 0, 0];

/// What came out for the device, and whether something was published.
#[derive(Default)]
struct CameOut {
    datagram: Vec<u8>,
    publications: usize,
    /// The registration that the broker was asked to connect.
    asked: Option<RegistrationId>,
}

#[test]
fn a_notification_allocates_no_more_than_it_did() {
    let mut scene = Scene::registered();
    let observe = scene.observe(1, "/3303/0/5700");
    let mut one = |id: u16| {
        let notification = content(Kind::NonConfirmable, MessageId(id), observe.token, Some(id.into())).encode();
        counted(&mut scene, |scene| scene.gateway.handle_datagram(scene.now, scene.peer, &notification))
    };
    (1..BEFORE).for_each(|id| drop(one(id)));
    let (allocations, out) = one(BEFORE);
    assert_eq!(out.publications, 1);
    assert!(allocations <= MOST_OF_A_NOTIFICATION, "{allocations}");
}

#[test]
fn a_read_and_its_answer_allocate_no_more_than_they_did() {
    let mut scene = Scene::registered();
    let mut one = || {
        let command = BrokerEvent::Message {
            registration: scene.device,
            topic: String::new(),
            payload: br#"{"reqID":1,"msgType":"read","data":{"path":"/3303/0/5700"}}"#.to_vec(),
            properties: MessageProperties::default(),
        };
        let (command, out) = counted(&mut scene, |scene| scene.gateway.handle_broker(scene.now, command));
        let request = Message::decode(&out.datagram).unwrap();
        let answer = content(Kind::Acknowledgement, request.id, request.token, None).encode();
        let (answer, out) = counted(&mut scene, |scene| scene.gateway.handle_datagram(scene.now, scene.peer, &answer));
        (command + answer, out)
    };
    (1..BEFORE).for_each(|_| drop(one()));
    let (allocations, out) = one();
    assert_eq!(out.publications, 1);
    assert!(allocations <= MOST_OF_A_READ, "{allocations}");
}

#[test]
fn a_register_allocates_no_more_than_it_did() {
    let mut scene = Scene::new();
    let mut one = |id: u16| {
        let register = scene.register_message(&format!("ep=dev-{id}&lt=300&lwm2m=1.0")).encode();
        let (begun, out) =
            counted(&mut scene, |scene| scene.gateway.handle_datagram(scene.now, peer(id.into()), &register));
        let connected = BrokerEvent::Connected { registration: out.asked.unwrap() };
        let (done, out) = counted(&mut scene, |scene| scene.gateway.handle_broker(scene.now, connected));
        (begun + done, out)
    };
    (1..BEFORE).for_each(|id| drop(one(id)));
    let (allocations, out) = one(BEFORE);
    assert_eq!(Message::decode(&out.datagram).unwrap().code, Code::CREATED);
    assert!(allocations <= MOST_OF_A_REGISTER, "{allocations}");
}

#[test]
fn an_update_that_changes_nothing_allocates_no_more_than_it_did() {
    let mut scene = Scene::registered();
    let mut one = || {
        let update = scene.update("").encode();
        counted(&mut scene, |scene| scene.gateway.handle_datagram(scene.now, scene.peer, &update))
    };
    (1..BEFORE).for_each(|_| drop(one()));
    let (allocations, out) = one();
    assert_eq!(Message::decode(&out.datagram).unwrap().code, Code::CHANGED);
    assert!(allocations <= MOST_OF_AN_UPDATE, "{allocations}");
}

#[test]
fn without_a_trace_no_message_is_copied() {
    let mut scene = Scene::registered();
    let one = |scene: &mut Scene| {
        let update = scene.update("").encode();
        let update = |scene: &mut Scene| scene.gateway.handle_datagram(scene.now, scene.peer, &update);
        let (allocations, _) = counted(scene, update);
        (allocations, std::iter::from_fn(|| scene.gateway.poll_trace()).count())
    };
    (1..BEFORE).for_each(|_| {
        one(&mut scene);
    });
    let before = one(&mut scene);
    assert_eq!(before.1, 0);

    let (trace, target) = (TraceId(1), TraceTarget::Address(scene.peer.address.ip()));
    assert!(scene.gateway.trace(scene.now, trace, target));
    let during = one(&mut scene);
    assert!(during.0 > before.0 && during.1 > 0, "{during:?}");

    scene.gateway.end_trace(trace);
    assert_eq!(one(&mut scene), before);
}

/// Counts the allocations of an operation until nothing more comes out.
fn counted(scene: &mut Scene, act: impl FnOnce(&mut Scene)) -> (u64, CameOut) {
    scene.now += PAUSE;
    scene.gateway.handle_timeout(scene.now);
    let mut out = CameOut::default();
    let counts = allocation_counter::measure(|| {
        act(scene);
        out = come_out(scene);
    });
    (counts.count_total, out)
}

fn come_out(scene: &mut Scene) -> CameOut {
    let mut out = CameOut::default();
    loop {
        match scene.gateway.poll_output() {
            Output::Transmit(transmit) => out.datagram = transmit.datagram,
            Output::Broker(BrokerCommand::Connect { registration, .. }) => out.asked = Some(registration),
            Output::Broker(BrokerCommand::Publish { .. }) => out.publications += 1,
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
            Output::Idle(_) => return out,
        }
    }
}

/// Returns a response with a value, or a notification if it has an Observe number.
fn content(kind: Kind, id: MessageId, token: Token, observe: Option<u32>) -> Message {
    let mut options = Options::new();
    observe.into_iter().for_each(|sent| options.add_uint(number::OBSERVE, sent));
    options.add_uint(number::CONTENT_FORMAT, format::TLV.into());
    Message { kind, code: Code::CONTENT, id, token, options, payload: TLV.to_vec() }
}
