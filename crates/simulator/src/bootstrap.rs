//! Bootstrap, from the device's side (OMA LwM2M Core 1.1 section 6.1): the device asks for its servers, answers the
//! requests of the session, and checks at its end what it was given.

use std::collections::BTreeMap;
use std::time::Duration;

use lwm2m_core::coap::options::{format, number};
use lwm2m_core::coap::{Code, Message, Request, Response};
use lwm2m_core::lwm2m::path::Path;

use super::content::{self, SupportedFormats, WrittenChange, WrittenEntry};
use super::registration::SimulatedDeviceConfig;
use super::value::PayloadValue;

/// The instance of the object 0 that the device has from the factory.
const BOOTSTRAP_ACCOUNT: u16 = 0;

/// A server that the device was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SimulatedServer {
    pub short_server_id: u16,
    pub uri: String,
    pub lifetime: Duration,
    pub binding: String,
    /// The identity and the secret of a pre-shared key.
    pub psk: Option<(Vec<u8>, Vec<u8>)>,
}

/// The accounts of the device, beside its bootstrap account.
#[derive(Clone, Debug, Default)]
pub(super) struct BootstrapAccounts {
    /// The instances of the object 0.
    security: BTreeMap<u16, InstanceValues>,
    /// The instances of the object 1.
    servers: BTreeMap<u16, InstanceValues>,
}

/// The values of an instance by resource.
type InstanceValues = BTreeMap<u16, PayloadValue>;

/// Returns the request for a session.
pub(super) fn ask(config: &SimulatedDeviceConfig, preferred: Option<u16>) -> Request {
    let mut request = Request::new(Code::POST);
    request.options.add_text(number::URI_PATH, "bs");
    request.options.add_text(number::URI_QUERY, &format!("ep={}", config.endpoint));
    if let Some(preferred) = preferred {
        request.options.add_text(number::URI_QUERY, &format!("pct={preferred}"));
    }
    request
}

/// Returns whether a request of the server ends the session.
pub(super) fn is_finish(request: &Message) -> bool {
    request.code == Code::POST && request.options.all(number::URI_PATH).eq([b"bs".as_slice()])
}

impl BootstrapAccounts {
    /// Answers a request of the session that does not end it.
    pub(crate) fn answer(
        &mut self,
        request: &Message,
        path: Path,
        formats: &SupportedFormats,
        version: &str,
    ) -> Result<Response, Code> {
        match (request.code, path.len()) {
            (Code::GET, 0) => Ok(self.discover(version)),
            (Code::DELETE, 0..=2) => {
                self.delete(path);
                Ok(Response::new(Code::DELETED))
            }
            (Code::PUT, 2) => self.write(request, path, formats),
            _ => Err(Code::METHOD_NOT_ALLOWED),
        }
    }

    /// Returns the servers, if each of them can be used. Otherwise the account is inconsistent: 4.06.
    pub(crate) fn finish(&self) -> Result<Vec<SimulatedServer>, Code> {
        let servers: Option<Vec<_>> = self.servers.values().map(|server| self.server(server)).collect();
        servers.filter(|servers| !servers.is_empty()).ok_or(Code::NOT_ACCEPTABLE)
    }

    fn discover(&self, version: &str) -> Response {
        let mut links = format!("</>;lwm2m={version},</0>,</0/{BOOTSTRAP_ACCOUNT}>");
        for (object, instances) in [(0, &self.security), (1, &self.servers)] {
            for (instance, values) in instances {
                let resource = if object == 0 { 10 } else { 0 };
                let id = values.get(&resource).and_then(integer).unwrap_or_default();
                links += &format!(",</{object}/{instance}>;ssid={id}");
            }
        }
        let mut response = Response::new(Code::CONTENT);
        response.options.add_uint(number::CONTENT_FORMAT, format::LINK_FORMAT.into());
        response.payload = (links + ",</3/0>").into_bytes();
        response
    }

    fn delete(&mut self, path: Path) {
        for (object, instances) in [(0, &mut self.security), (1, &mut self.servers)] {
            instances.retain(|instance, _| !is_below(&[object, *instance], path));
        }
    }

    fn write(&mut self, request: &Message, path: Path, formats: &SupportedFormats) -> Result<Response, Code> {
        let [object, instance] = *path.segments() else { return Err(Code::METHOD_NOT_ALLOWED) };
        let format = request.options.content_format().ok_or(Code::UNSUPPORTED_CONTENT_FORMAT)?;
        formats.check_written(format, None)?;
        let entries = content::decode(format, path, &request.payload)?;
        let values = entries.into_iter().filter_map(value_of).collect();
        match object {
            0 if instance == BOOTSTRAP_ACCOUNT => return Err(Code::BAD_REQUEST),
            0 => drop(self.security.insert(instance, values)),
            1 => drop(self.servers.insert(instance, values)),
            _ => return Err(Code::NOT_FOUND),
        }
        Ok(Response::new(Code::CHANGED))
    }

    fn server(&self, server: &InstanceValues) -> Option<SimulatedServer> {
        let id = integer(server.get(&0)?)?;
        let mut accounts = self.security.values();
        let security = accounts.find(|security| security.get(&10).and_then(integer) == Some(id))?;
        let short_server_id = u16::try_from(id).ok().filter(|id| (1..=65_534).contains(id))?;
        let uri = text(security.get(&0)?)?;
        let mode = integer(security.get(&2)?)?;
        server.get(&6)?;
        let psk = || Some((bytes(security.get(&3)?), bytes(security.get(&5)?)));
        // The mode 3 needs no key, and a URI of DTLS needs one.
        let psk = if mode == 0 { Some(psk()?) } else { None };
        if uri.starts_with("coaps") == (mode == 3) || security.get(&1).and_then(boolean) != Some(false) {
            return None;
        }
        Some(SimulatedServer {
            short_server_id,
            uri,
            lifetime: Duration::from_secs(integer(server.get(&1)?)?.try_into().ok()?),
            binding: text(server.get(&7)?)?,
            psk,
        })
    }
}

fn is_below(ids: &[u16], path: Path) -> bool {
    Path::of(ids).is_some_and(|instance| instance.is_at_or_below(&path))
}

fn value_of(entry: WrittenEntry) -> Option<(u16, PayloadValue)> {
    match entry.change {
        WrittenChange::Value(value) => Some((entry.path.resource()?, value)),
        WrittenChange::NoInstances | WrittenChange::Removal => None,
    }
}

fn text(value: &PayloadValue) -> Option<String> {
    match value {
        PayloadValue::Text(text) | PayloadValue::PlainText(text) => Some(text.clone()),
        PayloadValue::TlvBytes(bytes) => String::from_utf8(bytes.clone()).ok(),
        PayloadValue::Integer(_)
        | PayloadValue::Float(_)
        | PayloadValue::Boolean(_)
        | PayloadValue::Bytes(_)
        | PayloadValue::Link(_) => None,
    }
}

/// TLV has integers of 1, 2, 4 or 8 bytes with a sign.
fn integer(value: &PayloadValue) -> Option<i128> {
    match value {
        PayloadValue::Integer(number) => Some(*number),
        PayloadValue::TlvBytes(bytes) => match bytes.as_slice() {
            [byte] => Some(byte.cast_signed().into()),
            bytes => {
                let number = bytes.iter().fold(0_i128, |number, byte| (number << 8) | i128::from(*byte));
                let is_negative = bytes.first().is_some_and(|first| first & 0x80 != 0);
                (bytes.len() <= 8).then(|| if is_negative { number - (1 << (8 * bytes.len())) } else { number })
            }
        },
        PayloadValue::PlainText(_)
        | PayloadValue::Float(_)
        | PayloadValue::Boolean(_)
        | PayloadValue::Text(_)
        | PayloadValue::Bytes(_)
        | PayloadValue::Link(_) => None,
    }
}

fn boolean(value: &PayloadValue) -> Option<bool> {
    match value {
        PayloadValue::Boolean(value) => Some(*value),
        PayloadValue::TlvBytes(bytes) => Some(bytes == &[1]),
        PayloadValue::PlainText(_)
        | PayloadValue::Integer(_)
        | PayloadValue::Float(_)
        | PayloadValue::Text(_)
        | PayloadValue::Bytes(_)
        | PayloadValue::Link(_) => None,
    }
}

fn bytes(value: &PayloadValue) -> Vec<u8> {
    match value {
        PayloadValue::TlvBytes(bytes) | PayloadValue::Bytes(bytes) => bytes.clone(),
        PayloadValue::Text(text) | PayloadValue::PlainText(text) => text.clone().into_bytes(),
        PayloadValue::Integer(_) | PayloadValue::Float(_) | PayloadValue::Boolean(_) | PayloadValue::Link(_) => {
            Vec::new()
        }
    }
}
