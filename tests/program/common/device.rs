//! A device of a test: a socket, and what a device says and hears in CoAP messages. It does nothing by itself.

use std::net::{SocketAddr, UdpSocket};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use lwm2m_core::coap::options::{format, number};
use lwm2m_core::coap::{Code, Kind, Message, MessageId, Options, Token};

use super::ports;

/// Longer than anything takes on a busy machine, shorter than anybody wants to wait for a failure.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Message ids are not used twice in one test program: the gateway remembers them for minutes, also when the system
/// gives a port to another device of the test.
static NEXT_ID: AtomicU16 = AtomicU16::new(1);

pub(crate) struct Device {
    socket: UdpSocket,
    gateway: SocketAddr,
    /// The gateways that it has reached before. What still comes from them it does not hear.
    former: Vec<SocketAddr>,
    /// The segments of its registration's location, once it is registered.
    pub location: Vec<String>,
    /// The message id of the last expected request.
    expected: Mutex<Option<MessageId>>,
}

/// A payload, with its content format.
pub(crate) type Content<'a> = (u16, &'a [u8]);

impl Device {
    pub(crate) fn new(gateway: SocketAddr) -> Self {
        let socket = ports::udp_socket();
        socket.set_read_timeout(Some(PATIENCE)).expect("the option is known");
        Self { socket, gateway, former: Vec::new(), location: Vec::new(), expected: Mutex::default() }
    }

    /// The same device, seen from another address from now on.
    pub(crate) fn moves(&mut self) {
        let location = std::mem::take(&mut self.location);
        *self = Self { location, ..Self::new(self.gateway) };
    }

    /// The same device, which reaches another gateway from now on.
    pub(crate) fn reaches(&mut self, gateway: SocketAddr) {
        self.former.push(std::mem::replace(&mut self.gateway, gateway));
        self.former.retain(|former| *former != gateway);
    }

    pub(crate) fn send(&self, message: &Message) {
        self.send_bytes(&message.encode());
    }

    pub(crate) fn send_bytes(&self, datagram: &[u8]) {
        self.socket.send_to(datagram, self.gateway).expect("loopback takes a datagram");
    }

    pub(crate) fn receive(&self) -> Message {
        self.receive_within(PATIENCE).expect("the gateway has something to say to the device")
    }

    pub(crate) fn receive_within(&self, patience: Duration) -> Option<Message> {
        let mut buffer = [0; 65_536];
        self.socket.set_read_timeout(Some(patience)).expect("the option is known");
        let (length, from) = loop {
            let (length, from) = self.socket.recv_from(&mut buffer).ok()?;
            if !self.former.contains(&from) {
                break (length, from);
            }
        };
        assert_eq!(from, self.gateway, "only the gateway knows this device");
        Some(Message::decode(&buffer[..length]).expect("the gateway writes well-formed messages"))
    }

    /// Sends a request and gives the response, piggybacked or separate.
    pub(crate) fn request(&self, request: &Message) -> Message {
        self.send(request);
        let first = self.receive();
        assert_eq!((first.kind, first.id), (Kind::Acknowledgement, request.id), "the acknowledgement comes first");
        if first.code != Code::EMPTY {
            assert_eq!(first.token, request.token);
            return first;
        }
        let response = self.receive();
        assert_eq!(response.token, request.token, "then the separate response");
        // A refusal that may be lost is non-confirmable (RFC 7252 section 5.2.2 leaves the choice to the server).
        if response.kind == Kind::Confirmable {
            self.send(&Message::empty(Kind::Acknowledgement, response.id));
        }
        response
    }

    /// Registers, and keeps the location. `query` as in a URI; `links` empty for no payload.
    pub(crate) fn try_register(&mut self, query: &str, links: &str) -> Message {
        let content = (!links.is_empty()).then_some((format::LINK_FORMAT, links.as_bytes()));
        let response = self.request(&request(Code::POST, &["rd"], &query.split('&').collect::<Vec<_>>(), content));
        let location = response.options.texts(number::LOCATION_PATH).expect("a location is text");
        self.location = location.into_iter().map(str::to_owned).collect();
        response
    }

    pub(crate) fn register(&mut self, query: &str, links: &str) {
        let response = self.try_register(query, links);
        assert_eq!(response.code, Code::CREATED, "{}", String::from_utf8_lossy(&response.payload));
        assert_eq!(self.location.len(), 2, "{:?}", self.location);
    }

    pub(crate) fn update(&self, query: &[&str], content: Option<Content<'_>>) -> Message {
        self.request(&request(Code::POST, &self.location_path(), query, content))
    }

    pub(crate) fn deregister(&self) -> Message {
        self.request(&request(Code::DELETE, &self.location_path(), &[], None))
    }

    /// The next datagram is this request. The request before it may come once more: on a busy machine the answer to it
    /// may take longer than the time to the first retransmission.
    pub(crate) fn expect_request(&self, method: Code, path: &str) -> Message {
        let mut expected = self.expected.lock().expect("no test goes on after a failure");
        let mut request = self.receive();
        while *expected == Some(request.id) {
            request = self.receive();
        }
        *expected = Some(request.id);
        assert_eq!(request.kind, Kind::Confirmable);
        assert_eq!((request.code, path_of(&request).as_str()), (method, path));
        request
    }

    /// The next datagram acknowledges this message.
    pub(crate) fn expect_acknowledgement(&self, of: &Message) {
        assert_eq!(self.receive(), Message::empty(Kind::Acknowledgement, of.id));
    }

    pub(crate) fn answer(&self, request: &Message, code: Code, content: Option<Content<'_>>) {
        self.send(&response_to(request, code, content));
    }

    pub(crate) fn answer_text(&self, request: &Message, text: &str) {
        self.answer(request, Code::CONTENT, Some((format::TEXT, text.as_bytes())));
    }

    /// Answers `observe` with this text, as the first value.
    pub(crate) fn answer_observe(&self, request: &Message, text: &str) {
        let mut response = response_to(request, Code::CONTENT, Some((format::TEXT, text.as_bytes())));
        response.options.add_uint(number::OBSERVE, 0);
        self.send(&response);
    }

    /// Sends a notification of the observation that `request` began, and gives it.
    pub(crate) fn notify(&self, request: &Message, kind: Kind, sequence: u32, text: &str) -> Message {
        let mut message = response_to(request, Code::CONTENT, Some((format::TEXT, text.as_bytes())));
        message.kind = kind;
        message.id = fresh_id();
        message.options.add_uint(number::OBSERVE, sequence);
        self.send(&message);
        message
    }

    fn location_path(&self) -> Vec<&str> {
        self.location.iter().map(String::as_str).collect()
    }
}

/// A confirmable request of a device.
pub(crate) fn request(method: Code, path: &[&str], query: &[&str], content: Option<Content<'_>>) -> Message {
    let id = fresh_id();
    let mut message = Message {
        kind: Kind::Confirmable,
        code: method,
        id,
        token: Token::new(&id.0.to_be_bytes()),
        options: Options::new(),
        payload: Vec::new(),
    };
    path.iter().for_each(|segment| message.options.add_text(number::URI_PATH, segment));
    query.iter().for_each(|item| message.options.add_text(number::URI_QUERY, item));
    fill(&mut message, content);
    message
}

/// A piggybacked response.
pub(crate) fn response_to(request: &Message, code: Code, content: Option<Content<'_>>) -> Message {
    let mut message = Message {
        kind: Kind::Acknowledgement,
        code,
        id: request.id,
        token: request.token,
        options: Options::new(),
        payload: Vec::new(),
    };
    fill(&mut message, content);
    message
}

pub(crate) fn fresh_id() -> MessageId {
    MessageId(NEXT_ID.fetch_add(1, Ordering::Relaxed))
}

/// `/3/0/9`.
pub(crate) fn path_of(message: &Message) -> String {
    let segments = message.options.texts(number::URI_PATH).expect("a path is text");
    segments.iter().map(|segment| format!("/{segment}")).collect()
}

fn fill(message: &mut Message, content: Option<Content<'_>>) {
    let Some((format, payload)) = content else { return };
    message.options.add_uint(number::CONTENT_FORMAT, format.into());
    message.payload = payload.to_vec();
}
