//! Honest devices at the built program, over real sockets: each is a thread that updates, notifies, sends and answers,
//! and repeats what is not acknowledged.

use std::collections::BTreeSet;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use lwm2m_core::coap::options::{format, number};
use lwm2m_core::coap::{Code, Kind, Message, Token};

use super::effort::now;
use crate::common::device::{fresh_id, request, response_to};
use crate::common::ports;

/// What the devices say is there.
pub(super) const LINKS: &[u8] = b"</1/0>,</3/0>,</3303/0>";
/// Between two rounds of a device, each an Update, a notification and a Send.
const ROUND: Duration = Duration::from_millis(150);

pub(super) struct HonestDevices {
    pub endpoint: String,
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Tally>,
}

/// What a device saw.
#[derive(Clone, Debug, Default)]
pub(super) struct Tally {
    /// How long each Update took.
    pub updates: Vec<Duration>,
    /// The values of the notifications that were acknowledged.
    pub acknowledged: BTreeSet<u32>,
    /// The values of the Sends that were answered 2.04.
    pub sent: BTreeSet<u32>,
    /// Reads that it answered.
    pub answered: usize,
    /// Messages that nobody acknowledged, however often they were sent.
    pub unacknowledged: usize,
    /// Requests of its own that were answered with an error.
    pub refused: Vec<Code>,
}

struct HonestCoapDevice {
    socket: UdpSocket,
    tally: Tally,
    observed: Option<Token>,
}

impl HonestDevices {
    /// Registers a device; it lives until it is stopped.
    pub(super) fn start(gateway: SocketAddr, endpoint: &str) -> Self {
        let socket = ports::udp_socket();
        socket.connect(gateway).expect("loopback");
        let mut device = HonestCoapDevice { socket, tally: Tally::default(), observed: None };
        let location = device.register(endpoint).expect("the gateway takes it");
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || device.live(&location, &stopped));
        Self { endpoint: endpoint.to_owned(), stop, thread }
    }

    pub(super) fn stop(self) -> Tally {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("the device does not panic")
    }
}

impl HonestCoapDevice {
    fn register(&mut self, endpoint: &str) -> Option<String> {
        let query = [&*format!("ep={endpoint}"), "lt=60", "lwm2m=1.0"];
        let answer = self.ask(&request(Code::POST, &["rd"], &query, Some((format::LINK_FORMAT, LINKS))))?;
        answer.options.texts(number::LOCATION_PATH).expect("text").get(1).map(|segment| (*segment).to_owned())
    }

    fn live(mut self, location: &str, stopped: &AtomicBool) -> Tally {
        let mut value = 0;
        while !stopped.load(Ordering::Relaxed) {
            let begun = now();
            let update = request(Code::POST, &["rd", location], &[], None);
            match self.ask(&update) {
                Some(answer) if answer.code == Code::CHANGED => self.tally.updates.push(now() - begun),
                Some(answer) => self.tally.refused.push(answer.code),
                None => self.tally.unacknowledged += 1,
            }
            value += 1;
            if let Some(token) = self.observed {
                self.notify(token, value);
            }
            self.send_value(value);
            self.hear_until(begun + ROUND, |_| false);
        }
        self.tally
    }

    fn notify(&mut self, token: Token, value: u32) {
        let mut message = Message { code: Code::CONTENT, token, ..Message::empty(Kind::Confirmable, fresh_id()) };
        message.options.add_uint(number::OBSERVE, value + 2);
        message.options.add_uint(number::CONTENT_FORMAT, format::TEXT.into());
        message.payload = value.to_string().into_bytes();
        match self.ask(&message) {
            Some(_) => drop(self.tally.acknowledged.insert(value)),
            None => self.tally.unacknowledged += 1,
        }
    }

    /// Reports a value that nobody asked for (LwM2M Core 1.1 section 6.4.6).
    fn send_value(&mut self, value: u32) {
        let content = format!(r#"[{{"n":"/3303/0/5700","v":{value}}}]"#);
        let content = Some((format::SENML_JSON, content.as_bytes()));
        match self.ask(&request(Code::POST, &["dp"], &[], content)) {
            Some(answer) if answer.code == Code::CHANGED => drop(self.tally.sent.insert(value)),
            Some(answer) => self.tally.refused.push(answer.code),
            None => self.tally.unacknowledged += 1,
        }
    }

    /// Sends a confirmable message until it is acknowledged (RFC 7252 section 4.2); gives the acknowledgement, or the
    /// separate response to it.
    fn ask(&mut self, message: &Message) -> Option<Message> {
        let datagram = message.encode();
        for wait in [2, 4, 8, 16] {
            self.socket.send(&datagram).expect("loopback takes a datagram");
            let end = now() + Duration::from_secs(wait);
            let heard = self.hear_until(end, |heard| {
                let acknowledges = heard.kind == Kind::Acknowledgement && heard.id == message.id;
                acknowledges && (heard.code != Code::EMPTY || !message.code.is_request())
                    || heard.code.is_response() && heard.token == message.token && message.code.is_request()
            });
            if heard.is_some() {
                return heard;
            }
        }
        None
    }

    /// Serves the gateway until something wanted comes.
    fn hear_until(&mut self, end: Instant, wanted: impl Fn(&Message) -> bool) -> Option<Message> {
        loop {
            let left = end.checked_duration_since(now()).filter(|left| !left.is_zero())?;
            self.socket.set_read_timeout(Some(left)).expect("the option is known");
            let mut buffer = [0; 2048];
            let Ok(length) = self.socket.recv(&mut buffer) else { continue };
            let message = Message::decode(&buffer[..length]).expect("the gateway writes well-formed messages");
            if wanted(&message) {
                if message.kind == Kind::Confirmable {
                    self.send(&Message::empty(Kind::Acknowledgement, message.id));
                }
                return Some(message);
            }
            if message.code.is_request() {
                self.answer(&message);
            }
        }
    }

    fn answer(&mut self, asked: &Message) {
        let observes = asked.options.uint(number::OBSERVE) == Ok(Some(0));
        let text: &[u8] = if observes { b"0" } else { b"Acme" };
        let mut answer = response_to(asked, Code::CONTENT, None);
        if observes {
            self.observed = Some(asked.token);
            answer.options.add_uint(number::OBSERVE, 1);
        } else {
            self.tally.answered += 1;
        }
        answer.options.add_uint(number::CONTENT_FORMAT, format::TEXT.into());
        answer.payload = text.to_vec();
        self.send(&answer);
    }

    fn send(&self, message: &Message) {
        self.socket.send(&message.encode()).expect("loopback takes a datagram");
    }
}
