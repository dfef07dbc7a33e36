//! Scripts between the device and a server that the test plays.

mod composite;
mod firmware;
mod formats;
mod send;

use std::collections::VecDeque;
use std::mem::discriminant;
use std::time::{Duration, Instant};

use super::*;
use lwm2m_core::coap::options::{format, number};
use lwm2m_core::coap::{Code, Kind, Message, MessageId, Options, Response, Token};
use lwm2m_core::lwm2m::path::Path;

/// A device, and the server that the test plays.
struct SimulatorScene {
    device: SimulatedDevice,
    now: Instant,
    next_id: u16,
    sent: VecDeque<Message>,
    events: VecDeque<DeviceEvent>,
}

impl SimulatorScene {
    fn new(config: SimulatedDeviceConfig) -> Self {
        let device = SimulatedDevice::new(config, 7);
        Self { device, now: Instant::now(), next_id: 0, sent: VecDeque::new(), events: VecDeque::new() }
    }

    /// Registered at `/rd/x`, with notifications on change only.
    fn registered() -> Self {
        Self::registered_with(config())
    }

    fn registered_with(config: SimulatedDeviceConfig) -> Self {
        let mut scene = Self::new(config);
        scene.device.start(scene.now);
        let register = scene.expect_transmitted();
        scene.answer(&register, created());
        scene.expect_event(DeviceEvent::Registered { location: "/rd/x".to_owned() });
        scene
    }

    fn receive(&mut self, message: &Message) {
        self.device.handle_datagram(self.now, &message.encode());
    }

    fn answer(&mut self, request: &Message, response: Response) {
        let Response { code, options, payload } = response;
        let (id, token) = (request.id, request.token);
        self.receive(&Message { kind: Kind::Acknowledgement, code, id, token, options, payload });
    }

    fn request(&mut self, method: Code, path: &str, options: &[(u16, u32)]) -> Message {
        self.next_id += 1;
        let mut message = Message {
            kind: Kind::Confirmable,
            code: method,
            id: MessageId(self.next_id),
            token: Token::new(&self.next_id.to_be_bytes()),
            options: Options::new(),
            payload: Vec::new(),
        };
        for segment in path.split('/').filter(|segment| !segment.is_empty()) {
            message.options.add_text(number::URI_PATH, segment);
        }
        for (number, value) in options {
            message.options.add_uint(*number, *value);
        }
        message
    }

    /// Sends a request and takes the reply, which has to be piggybacked.
    fn ask(&mut self, request: &Message) -> Message {
        self.receive(request);
        let reply = self.expect_transmitted();
        assert_eq!((reply.kind, reply.id, reply.token), (Kind::Acknowledgement, request.id, request.token));
        reply
    }

    fn read(&mut self, path: &str) -> (Code, String) {
        let request = self.request(Code::GET, path, &[]);
        let reply = self.ask(&request);
        (reply.code, String::from_utf8(reply.payload).expect("text"))
    }

    fn write(&mut self, method: Code, path: &str, content_format: u16, payload: &[u8]) -> Code {
        let mut request = self.request(method, path, &[(number::CONTENT_FORMAT, content_format.into())]);
        request.payload = payload.to_vec();
        self.ask(&request).code
    }

    /// Observes with Observe 0; gives the token.
    fn observe(&mut self, path: &str) -> Token {
        let request = self.request(Code::GET, path, &[(number::OBSERVE, 0)]);
        let reply = self.ask(&request);
        assert_eq!((reply.code, reply.options.uint(number::OBSERVE)), (Code::CONTENT, Ok(Some(1))));
        request.token
    }

    fn change(&mut self, path: &str, value: f64) {
        assert!(self.device.notify(self.now, at(path), SimulatedValue::Float(value)));
    }

    /// Takes what the device has to say; gives when it is due again.
    fn poll(&mut self) -> Option<Instant> {
        loop {
            match self.device.poll_output() {
                SimulatedDeviceOutput::Transmit(datagram) => {
                    self.sent.push_back(Message::decode(&datagram).expect("a message"))
                }
                SimulatedDeviceOutput::Event(event) => self.events.push_back(event),
                SimulatedDeviceOutput::Idle(next) => return next,
            }
        }
    }

    fn expect_transmitted(&mut self) -> Message {
        self.poll();
        self.sent.pop_front().expect("a datagram")
    }

    fn expect_notification(&mut self, token: Token, kind: Kind, number: u32, payload: &str) -> MessageId {
        let message = self.expect_transmitted();
        assert_eq!((message.kind, message.code, message.token), (kind, Code::CONTENT, token));
        assert_eq!(message.options.uint(number::OBSERVE), Ok(Some(number)));
        assert_eq!(String::from_utf8(message.payload).expect("text"), payload);
        message.id
    }

    /// Looks past the events of another kind.
    fn expect_event(&mut self, expected: DeviceEvent) {
        self.poll();
        let same_kind = |event: &DeviceEvent| discriminant(event) == discriminant(&expected);
        let event = std::mem::take(&mut self.events).into_iter().find(same_kind);
        assert_eq!(event, Some(expected));
    }

    /// Nothing is on the wire; gives when the device is due again.
    fn expect_nothing_more(&mut self) -> Option<Instant> {
        let next = self.poll();
        assert_eq!(self.sent, []);
        next
    }

    fn advance(&mut self, seconds: u64) {
        self.now += Duration::from_secs(seconds);
        self.device.handle_timeout(self.now);
    }

    /// Gives how long it took.
    fn advance_to_next_deadline(&mut self) -> Duration {
        let next = self.expect_nothing_more().expect("a deadline");
        let waited = next - self.now;
        self.now = next;
        self.device.handle_timeout(next);
        waited
    }
}

fn config() -> SimulatedDeviceConfig {
    SimulatedDeviceConfig { notification_interval: None, wave: None, ..SimulatedDeviceConfig::new("dev-7") }
}

fn created() -> Response {
    let mut response = Response::new(Code::CREATED);
    response.options.add_text(number::LOCATION_PATH, "rd");
    response.options.add_text(number::LOCATION_PATH, "x");
    response
}

fn query(message: &Message) -> Vec<&str> {
    message.options.texts(number::URI_QUERY).expect("text")
}

fn at(path: &str) -> Path {
    path.parse().expect("a path")
}

#[test]
fn a_device_registers_with_what_it_is_and_what_it_has() {
    let mut scene = SimulatorScene::new(SimulatedDeviceConfig { query: vec!["imei=49".to_owned()], ..config() });
    scene.device.start(scene.now);

    let register = scene.expect_transmitted();
    assert_eq!((register.kind, register.code), (Kind::Confirmable, Code::POST));
    assert_eq!(register.options.texts(number::URI_PATH), Ok(vec!["rd"]));
    assert_eq!(query(&register), ["ep=dev-7", "lt=300", "lwm2m=1.0", "b=U", "imei=49"]);
    assert_eq!(register.options.content_format(), Some(format::LINK_FORMAT));
    assert_eq!(register.payload, b"</1/0>,</3/0>,</3303/0>");
    scene.expect_nothing_more();
}

#[test]
fn a_register_without_answer_is_repeated_with_doubled_waits_and_tried_again_later() {
    let mut scene = SimulatorScene::new(config());
    scene.device.start(scene.now);
    let first = scene.expect_transmitted();

    let mut wait = scene.advance_to_next_deadline();
    assert!(wait >= Duration::from_secs(2) && wait <= Duration::from_secs(3), "{wait:?}");
    for _ in 0..3 {
        assert_eq!(scene.expect_transmitted(), first);
        let next = scene.advance_to_next_deadline();
        assert_eq!(next, wait * 2);
        wait = next;
    }
    assert_eq!(scene.expect_transmitted(), first);
    scene.advance_to_next_deadline();
    scene.expect_event(DeviceEvent::Refused { code: None, retry_after: Duration::from_secs(60) });
    assert_eq!(scene.advance_to_next_deadline(), Duration::from_secs(60));
    assert_ne!(scene.expect_transmitted().id, first.id);
}

#[test]
fn an_empty_acknowledgement_ends_the_repetition_and_the_separate_answer_is_acknowledged_every_time() {
    let mut scene = SimulatorScene::new(config());
    scene.device.start(scene.now);
    let register = scene.expect_transmitted();
    scene.receive(&Message::empty(Kind::Acknowledgement, register.id));
    scene.advance(30);
    scene.expect_nothing_more();

    let Response { code, options, payload } = created();
    let (id, token) = (MessageId(900), register.token);
    let separate = Message { kind: Kind::Confirmable, code, id, token, options, payload };
    scene.receive(&separate);
    assert_eq!(scene.expect_transmitted(), Message::empty(Kind::Acknowledgement, id));
    scene.expect_event(DeviceEvent::Registered { location: "/rd/x".to_owned() });

    scene.receive(&separate);
    assert_eq!(scene.expect_transmitted(), Message::empty(Kind::Acknowledgement, id));
    scene.expect_nothing_more();
}

#[test]
fn a_refused_device_comes_back_when_max_age_says_so() {
    let mut scene = SimulatorScene::new(config());
    scene.device.start(scene.now);
    let register = scene.expect_transmitted();
    let mut busy = Response::new(Code::SERVICE_UNAVAILABLE);
    busy.options.add_uint(number::MAX_AGE, 17);
    scene.answer(&register, busy);

    let (code, retry_after) = (Some(Code::SERVICE_UNAVAILABLE), Duration::from_secs(17));
    scene.expect_event(DeviceEvent::Refused { code, retry_after });
    assert_eq!(scene.advance_to_next_deadline(), retry_after);
    assert_eq!(scene.expect_transmitted().code, Code::POST);
}

#[test]
fn an_update_leaves_in_time_and_an_unknown_registration_is_made_again() {
    let mut scene = SimulatorScene::registered();
    // 300 s, less MAX_TRANSMIT_WAIT.
    assert_eq!(scene.advance_to_next_deadline(), Duration::from_secs(207));
    let update = scene.expect_transmitted();
    assert_eq!(update.options.texts(number::URI_PATH), Ok(vec!["rd", "x"]));
    assert_eq!((query(&update), update.payload.len()), (vec![], 0));
    scene.answer(&update, Response::new(Code::CHANGED));
    scene.expect_event(DeviceEvent::Updated);

    assert_eq!(scene.advance_to_next_deadline(), Duration::from_secs(207));
    let update = scene.expect_transmitted();
    scene.answer(&update, Response::new(Code::NOT_FOUND));
    assert_eq!(scene.expect_transmitted().options.texts(number::URI_PATH), Ok(vec!["rd"]));
    assert!(!scene.device.is_registered());
}

#[test]
fn a_stopped_device_de_registers_and_is_silent_from_then_on() {
    let mut scene = SimulatorScene::registered();
    scene.observe("/3303/0/5700");
    scene.device.stop(scene.now);
    let deregister = scene.expect_transmitted();
    assert_eq!(deregister.code, Code::DELETE);
    assert_eq!(deregister.options.texts(number::URI_PATH), Ok(vec!["rd", "x"]));
    scene.answer(&deregister, Response::new(Code::DELETED));
    scene.expect_event(DeviceEvent::Stopped);

    scene.change("/3303/0/5700", 3.0);
    let ping = Message::empty(Kind::Confirmable, MessageId(77));
    scene.receive(&ping);
    assert_eq!(scene.expect_nothing_more(), None);
}

#[test]
fn a_resource_is_read_as_text_and_an_instance_as_tlv() {
    let mut scene = SimulatorScene::registered();
    assert_eq!(scene.read("/3/0/0"), (Code::CONTENT, "Weather Works".to_owned()));

    let request = scene.request(Code::GET, "/3303/0", &[]);
    let reply = scene.ask(&request);
    assert_eq!(reply.options.content_format(), Some(format::TLV));
    let unit = b"\xe3\x16\x45Cel";
    assert!(reply.payload.ends_with(unit), "{:02x?}", reply.payload);
}

#[test]
fn what_cannot_be_read_is_answered_with_the_reason() {
    let mut scene = SimulatorScene::registered();
    for (path, code) in [
        ("/3/0/99", Code::NOT_FOUND),
        ("/3/7", Code::NOT_FOUND),
        ("/9", Code::NOT_FOUND),
        ("/rd", Code::NOT_FOUND),
        ("/3/0/4", Code::METHOD_NOT_ALLOWED),
        ("/3/0/6/7", Code::NOT_FOUND),
    ] {
        assert_eq!(scene.read(path).0, code, "{path}");
    }
    let request = scene.request(Code::GET, "/3/0/0", &[(number::ACCEPT, format::CBOR.into())]);
    assert_eq!(scene.ask(&request).code, Code::NOT_ACCEPTABLE);
    let request = scene.request(Code::GET, "/3/0/0", &[(number::BLOCK2, 6)]);
    assert_eq!(scene.ask(&request).code, Code::BAD_OPTION);
}

#[test]
fn discover_lists_what_is_below_with_the_written_attributes() {
    let mut scene = SimulatorScene::registered();
    let mut request = scene.request(Code::PUT, "/3303/0/5700", &[]);
    request.options.add_text(number::URI_QUERY, "pmin=2");
    request.options.add_text(number::URI_QUERY, "pmax=30");
    assert_eq!(scene.ask(&request).code, Code::CHANGED);

    let request = scene.request(Code::GET, "/3303/0", &[(number::ACCEPT, format::LINK_FORMAT.into())]);
    let links = String::from_utf8(scene.ask(&request).payload).expect("text");
    assert_eq!(
        links,
        "</3303/0>,</3303/0/5601>,</3303/0/5602>,</3303/0/5603>,</3303/0/5604>,</3303/0/5605>,\
         </3303/0/5700>;pmax=30;pmin=2,</3303/0/5701>"
    );
}

#[test]
fn a_written_value_is_read_back_and_a_bad_one_changes_nothing() {
    let mut scene = SimulatorScene::registered();
    assert_eq!(scene.write(Code::PUT, "/3/0/14", format::TEXT, b"+02:00"), Code::CHANGED);
    assert_eq!(scene.write(Code::PUT, "/3/0/15", format::TLV, b"\xc3\x0fUTC"), Code::CHANGED);
    assert_eq!(scene.write(Code::PUT, "/3/0/13", format::TEXT, b"noon"), Code::BAD_REQUEST);
    assert_eq!(scene.write(Code::PUT, "/3/0/13", format::TLV, b"\xc3\x0d"), Code::BAD_REQUEST);
    assert_eq!(scene.write(Code::PUT, "/3/0/13", format::CBOR, b"\x01"), Code::UNSUPPORTED_CONTENT_FORMAT);
    assert_eq!(scene.write(Code::PUT, "/3/0/0", format::TEXT, b"Acme"), Code::METHOD_NOT_ALLOWED);

    assert_eq!(scene.read("/3/0/14").1, "+02:00");
    assert_eq!(scene.read("/3/0/15").1, "UTC");
    assert_eq!(scene.read("/3/0/13").1, "1767225600");
    assert_eq!(scene.read("/3/0/0").1, "Weather Works");
}

#[test]
fn a_written_lifetime_is_told_to_the_server() {
    let mut scene = SimulatorScene::registered();
    assert_eq!(scene.write(Code::PUT, "/1/0/1", format::TEXT, b"60"), Code::CHANGED);
    let update = scene.expect_transmitted();
    assert_eq!(query(&update), ["lt=60"]);
    scene.answer(&update, Response::new(Code::CHANGED));
    scene.expect_event(DeviceEvent::Updated);
    assert_eq!(scene.advance_to_next_deadline(), Duration::from_secs(30));
}

#[test]
fn an_instance_is_created_and_deleted_and_the_server_hears_the_new_list() {
    let mut scene = SimulatorScene::registered();
    let mut request = scene.request(Code::POST, "/3303", &[(number::CONTENT_FORMAT, format::TLV.into())]);
    request.payload = b"\x06\x05\xe3\x16\x45Far".to_vec();
    let reply = scene.ask(&request);
    assert_eq!(reply.code, Code::CREATED);
    assert_eq!(reply.options.texts(number::LOCATION_PATH), Ok(vec!["3303", "5"]));
    let update = scene.expect_transmitted();
    assert_eq!(update.payload, b"</1/0>,</3/0>,</3303/0>,</3303/5>");
    scene.answer(&update, Response::new(Code::CHANGED));
    scene.expect_event(DeviceEvent::Updated);
    assert_eq!(scene.read("/3303/5/5701").1, "Far");

    let request = scene.request(Code::DELETE, "/3303/5", &[]);
    assert_eq!(scene.ask(&request).code, Code::DELETED);
    assert_eq!(scene.expect_transmitted().payload, b"</1/0>,</3/0>,</3303/0>");
}

#[test]
fn an_execute_is_counted_once_though_its_request_comes_twice() {
    let mut scene = SimulatorScene::registered();
    let request = scene.request(Code::POST, "/3303/0/5605", &[]);
    let reply = scene.ask(&request);
    assert_eq!(reply.code, Code::CHANGED);

    scene.receive(&request);
    assert_eq!(scene.expect_transmitted(), reply);
    scene.expect_nothing_more();
    assert_eq!(scene.device.resource(at("/3303/0/5605")), Some(&SimulatedResource::Executable { runs: 1 }));
}

#[test]
fn a_reboot_registers_again_and_forgets_the_observations() {
    let mut scene = SimulatorScene::registered();
    scene.observe("/3303/0/5700");
    let request = scene.request(Code::POST, "/3/0/4", &[]);
    assert_eq!(scene.ask(&request).code, Code::CHANGED);
    scene.expect_event(DeviceEvent::Rebooted);
    let register = scene.expect_transmitted();
    assert_eq!(register.options.texts(number::URI_PATH), Ok(vec!["rd"]));
    scene.answer(&register, created());
    scene.expect_event(DeviceEvent::Registered { location: "/rd/x".to_owned() });

    scene.change("/3303/0/5700", 3.0);
    scene.expect_nothing_more();
}

#[test]
fn an_observed_value_is_notified_on_change_until_observe_1() {
    let mut scene = SimulatorScene::registered();
    let token = scene.observe("/3303/0/5700");
    scene.change("/3303/0/5700", 19.5);
    scene.expect_notification(token, Kind::NonConfirmable, 2, "19.5");
    scene.change("/3303/0/5601", 1.0);
    scene.expect_nothing_more();

    let mut cancel = scene.request(Code::GET, "/3303/0/5700", &[(number::OBSERVE, 1)]);
    cancel.token = token;
    assert!(!scene.ask(&cancel).options.contains(number::OBSERVE));
    scene.change("/3303/0/5700", 20.0);
    scene.expect_nothing_more();
}

#[test]
fn a_reset_ends_the_observation() {
    let mut scene = SimulatorScene::registered();
    let token = scene.observe("/3303/0/5700");
    scene.change("/3303/0/5700", 19.5);
    let id = scene.expect_notification(token, Kind::NonConfirmable, 2, "19.5");
    scene.receive(&Message::empty(Kind::Reset, id));
    scene.change("/3303/0/5700", 20.0);
    scene.expect_nothing_more();
}

#[test]
fn a_confirmable_notification_is_repeated_and_the_newest_value_follows_its_acknowledgement() {
    let mut scene =
        SimulatorScene::registered_with(SimulatedDeviceConfig { confirmable_notifications: true, ..config() });
    let token = scene.observe("/3303/0/5700");
    scene.change("/3303/0/5700", 19.5);
    let id = scene.expect_notification(token, Kind::Confirmable, 2, "19.5");
    scene.change("/3303/0/5700", 20.0);
    scene.change("/3303/0/5700", 20.5);
    scene.advance_to_next_deadline();
    assert_eq!(scene.expect_notification(token, Kind::Confirmable, 2, "19.5"), id);

    scene.receive(&Message::empty(Kind::Acknowledgement, id));
    scene.expect_notification(token, Kind::Confirmable, 3, "20.5");
    scene.expect_nothing_more();
}

#[test]
fn a_server_that_acknowledges_no_notification_is_given_up() {
    let mut scene =
        SimulatorScene::registered_with(SimulatedDeviceConfig { confirmable_notifications: true, ..config() });
    let token = scene.observe("/3303/0/5700");
    scene.change("/3303/0/5700", 19.5);
    for _ in 0..5 {
        scene.expect_notification(token, Kind::Confirmable, 2, "19.5");
        scene.advance_to_next_deadline();
    }
    scene.change("/3303/0/5700", 20.0);
    scene.expect_nothing_more();
}

#[test]
fn pmax_says_how_often_and_pmin_how_soon() {
    let mut scene = SimulatorScene::registered();
    let token = scene.observe("/3303/0/5700");
    let mut request = scene.request(Code::PUT, "/3303/0", &[]);
    request.options.add_text(number::URI_QUERY, "pmin=3");
    request.options.add_text(number::URI_QUERY, "pmax=10");
    assert_eq!(scene.ask(&request).code, Code::CHANGED);
    assert_eq!(scene.advance_to_next_deadline(), Duration::from_secs(10));
    scene.expect_notification(token, Kind::NonConfirmable, 2, "21");

    scene.advance(1);
    scene.change("/3303/0/5700", 22.0);
    assert_eq!(scene.advance_to_next_deadline(), Duration::from_secs(2));
    scene.expect_notification(token, Kind::NonConfirmable, 3, "22");
}

#[test]
fn the_temperature_goes_up_and_down_by_itself() {
    let mut scene = SimulatorScene::registered_with(SimulatedDeviceConfig::new("dev-7"));
    let token = scene.observe("/3303/0/5700");
    for (number, value) in [(2, "22.5"), (3, "23.6"), (4, "24"), (5, "23.6"), (6, "22.5"), (7, "21"), (8, "19.5")] {
        assert_eq!(scene.advance_to_next_deadline(), Duration::from_secs(5));
        scene.expect_notification(token, Kind::NonConfirmable, number, value);
    }
}

#[test]
fn a_ping_and_an_answer_to_nothing_are_reset() {
    let mut scene = SimulatorScene::registered();
    let ping = Message::empty(Kind::Confirmable, MessageId(77));
    scene.receive(&ping);
    assert_eq!(scene.expect_transmitted(), Message::empty(Kind::Reset, ping.id));

    let mut stray = scene.request(Code::CONTENT, "", &[]);
    stray.payload = b"?".to_vec();
    scene.receive(&stray);
    assert_eq!(scene.expect_transmitted(), Message::empty(Kind::Reset, stray.id));
    scene.device.handle_datagram(scene.now, b"\x00");
    scene.expect_nothing_more();
}
