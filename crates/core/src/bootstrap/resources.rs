//! The resources of the objects 0 (Security) and 1 (Server) that an account gives to a device (OMA LwM2M Core 1.1
//! appendices E.1 and E.2).

use std::time::Duration;

use crate::lwm2m::codec::Assignment;
use crate::lwm2m::path::Path;
use crate::lwm2m::value::Value;
use lwm2m_base::identity::PskIdentity;

use super::account::{KeyPair, ServerAccount, ServerSecurity};
use super::secret::SecretBytes;

pub(crate) const SECURITY: u16 = 0;
pub(crate) const SERVER: u16 = 1;

/// The pre-shared key of one device for one server.
#[derive(Clone, Debug, PartialEq)]
pub struct DeviceKey {
    pub identity: PskIdentity,
    pub secret: SecretBytes,
}

/// Returns the resources of an instance of the object 0; `None` for a server with a pre-shared key if `key` is missing.
pub fn security(server: &ServerAccount, instance: u16, key: Option<&DeviceKey>) -> Option<Vec<Assignment>> {
    let mut values = ResourceValues::new(SECURITY, instance);
    values.add(0, Value::String(server.uri.clone()));
    values.add(1, Value::Boolean(false));
    let (mode, [own, servers, secret]) = match (&server.security, key) {
        (ServerSecurity::Psk { .. }, Some(key)) => (0, [key.identity.as_str().as_bytes(), &[], key.secret.reveal()]),
        (ServerSecurity::RawPublicKey(pair), _) => (1, of_pair(pair)),
        (ServerSecurity::X509(pair), _) => (2, of_pair(pair)),
        (ServerSecurity::None, _) => (3, [&[][..], &[], &[]]),
        (ServerSecurity::Psk { .. }, None) => return None,
    };
    values.add(2, Value::Integer(mode));
    // They are mandatory: what the mode does not need is empty. Clients fail to read an instance without them.
    for (resource, bytes) in [(3, own), (4, servers), (5, secret)] {
        values.add(resource, Value::Opaque(bytes.to_vec()));
    }
    values.add(10, Value::Integer(server.short_server_id.into()));
    values.add_some(11, server.hold_off.map(seconds));
    values.add_some(12, server.account_timeout.map(seconds));
    Some(values.assignments)
}

/// Returns the resources of an instance of the object 1. Those of LwM2M 1.1 are only for devices that have them.
pub fn server(server: &ServerAccount, instance: u16, has_1_1: bool) -> Vec<Assignment> {
    let mut values = ResourceValues::new(SERVER, instance);
    values.add(0, Value::Integer(server.short_server_id.into()));
    values.add(1, seconds(server.lifetime));
    values.add_some(2, server.min_period.map(seconds));
    values.add_some(3, server.max_period.map(seconds));
    values.add_some(5, server.disable_timeout.map(seconds));
    values.add(6, Value::Boolean(server.store_notifications));
    values.add(7, Value::String(server.binding.clone()));
    if has_1_1 {
        server.since_1_1.iter().for_each(|(resource, value)| values.add(*resource, value.clone()));
    }
    values.assignments
}

/// Collects the resources of one instance.
struct ResourceValues {
    path: Path,
    assignments: Vec<Assignment>,
}

impl ResourceValues {
    fn new(object: u16, instance: u16) -> Self {
        Self {
            path: Path::of(&[object, instance]).expect("two numbers are the path of an instance"),
            assignments: Vec::new(),
        }
    }

    fn add(&mut self, resource: u16, value: Value) {
        self.assignments.extend(self.path.child(resource).map(|path| Assignment { path, value }));
    }

    fn add_some(&mut self, resource: u16, value: Option<Value>) {
        if let Some(value) = value {
            self.add(resource, value);
        }
    }
}

fn of_pair(pair: &KeyPair) -> [&[u8]; 3] {
    [&pair.own, &pair.server, pair.private_key.reveal()]
}

fn seconds(time: Duration) -> Value {
    Value::Integer(i64::try_from(time.as_secs()).unwrap_or(i64::MAX))
}
