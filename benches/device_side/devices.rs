//! Devices that say what a benchmark wants them to say.

use std::time::Instant;

use lwm2m_core::coap::options::{format, number};
use lwm2m_core::coap::{Code, Kind, Message, MessageId, Options, Token};
use lwm2m_dtls::test_client::{DtlsClient, DtlsClientConfig};

pub(crate) const OBSERVED: &str = "/3303/0/5700";
/// The pre-shared key of every device.
pub(crate) const KEY: &[u8] = b"0123456789abcdef";

pub(crate) const SUITE: &str = "PSK-AES128-CCM8";

const CONNECTION_ID: &[u8] = b"12345678";
const VALUE: &[u8] = b"21.5";

/// A device that is registered and observed once it has answered what it was asked.
pub(crate) struct BenchDevice {
    number: u32,
    last_id: u16,
    /// The path of the registration.
    location: Box<str>,
    observation: Option<Token>,
    notified: u32,
}

impl BenchDevice {
    pub(crate) fn new(number: u32) -> Self {
        Self { number, last_id: number as u16, location: Box::default(), observation: None, notified: 0 }
    }

    pub(crate) fn is_observed(&self) -> bool {
        self.observation.is_some() && !self.location.is_empty()
    }

    /// Returns the endpoint name, which is the identity of the device over DTLS, too.
    pub(crate) fn endpoint(&self) -> String {
        format!("urn:imei:49015420{:07}", self.number)
    }

    /// Returns a DTLS client with the key of the device and a connection ID of its own.
    pub(crate) fn dtls_client(&self, now: Instant) -> DtlsClient {
        let config = DtlsClientConfig::psk(&self.endpoint(), KEY).with_suites(SUITE).with_cid(CONNECTION_ID);
        DtlsClient::new(now, config)
    }

    pub(crate) fn register(&mut self) -> Vec<u8> {
        let mut message = self.request(Code::POST);
        message.options.add_text(number::URI_PATH, "rd");
        let endpoint = format!("ep={}", self.endpoint());
        for item in [endpoint.as_str(), "lt=3600", "lwm2m=1.0", "b=U"] {
            message.options.add_text(number::URI_QUERY, item);
        }
        message.options.add_uint(number::CONTENT_FORMAT, format::LINK_FORMAT.into());
        message.payload = b"</1/0>,</3/0>,</3303/0>".to_vec();
        message.encode()
    }

    /// An Update that changes nothing.
    pub(crate) fn update(&mut self) -> Vec<u8> {
        let mut message = self.request(Code::POST);
        for segment in self.location.split('/') {
            message.options.add_text(number::URI_PATH, segment);
        }
        message.encode()
    }

    /// A confirmable notification.
    pub(crate) fn notification(&mut self) -> Vec<u8> {
        self.notified += 1;
        let id = self.next_id();
        let token = self.observation.expect("the device is observed");
        content(Kind::Confirmable, id, token, Some(self.notified)).encode()
    }

    /// Takes a datagram of the gateway, and returns the answer if it is a request.
    pub(crate) fn handle_datagram(&mut self, datagram: &[u8]) -> Option<Vec<u8>> {
        let message = Message::decode(datagram).expect("the gateway sends messages");
        if message.code == Code::CREATED {
            let segments: Vec<_> =
                message.options.all(number::LOCATION_PATH).map(|segment| String::from_utf8_lossy(segment)).collect();
            self.location = segments.join("/").into();
        }
        if message.code != Code::GET {
            return None;
        }
        let observe = message.options.all(number::OBSERVE).next().is_some();
        if observe {
            self.observation = Some(message.token);
        }
        Some(content(Kind::Acknowledgement, message.id, message.token, observe.then_some(self.notified)).encode())
    }

    fn request(&mut self, method: Code) -> Message {
        let id = self.next_id();
        let token = Token::new(&id.0.to_be_bytes());
        Message { kind: Kind::Confirmable, code: method, id, token, options: Options::new(), payload: Vec::new() }
    }

    fn next_id(&mut self) -> MessageId {
        self.last_id = self.last_id.wrapping_add(1);
        MessageId(self.last_id)
    }
}

fn content(kind: Kind, id: MessageId, token: Token, observe: Option<u32>) -> Message {
    let mut options = Options::new();
    if let Some(number) = observe {
        options.add_uint(number::OBSERVE, number);
    }
    options.add_uint(number::CONTENT_FORMAT, format::TEXT.into());
    Message { kind, code: Code::CONTENT, id, token, options, payload: VALUE.to_vec() }
}
