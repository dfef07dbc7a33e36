//! `[listeners.udp.NAME]` and `[listeners.dtls.NAME]`.

use std::collections::HashMap;
use std::net::SocketAddr;

use crate::transport::{Security, UdpListener};
use lwm2m_core::gateway::config::SocketRole;

use super::reader::ConfigReader;
use super::value_parsers::{SOCKET_ADDRESS, choice, parsed, whole};

/// Reads the listeners, those for plain UDP first. Without any listener in the configuration there is one for plain
/// UDP, named `default`. A DTLS listener needs credentials, so there is none by default.
pub(super) fn listeners(reader: &mut ConfigReader) -> Vec<UdpListener> {
    let udp = named(reader, "listeners.udp");
    let dtls = named(reader, "listeners.dtls").unwrap_or_default();
    let udp = udp.unwrap_or_else(|| if dtls.is_empty() { vec!["default".to_owned()] } else { Vec::new() });
    let mut listeners: Vec<UdpListener> =
        udp.into_iter().map(|name| listener(reader, name, Security::None, 5683)).collect();
    listeners.extend(dtls.into_iter().map(|name| listener(reader, name, Security::Dtls, 5684)));
    if listeners.is_empty() {
        reader.refuse("listeners.udp", "at least one listener is needed");
    }
    refuse_shared_addresses(reader, &listeners);
    listeners
}

/// Returns the valid listener names below a key; `None` if the key is absent.
fn named(reader: &mut ConfigReader, key: &str) -> Option<Vec<String>> {
    let (fit, unfit): (Vec<String>, Vec<String>) =
        reader.names_below(key)?.into_iter().partition(|name| is_listener_name(name));
    for name in unfit {
        let problem = "expected letters, digits, - and _ in the name of a listener";
        reader.refuse(&format!("{key}.{name}"), problem);
    }
    Some(fit)
}

fn listener(reader: &mut ConfigReader, name: String, security: Security, port: u16) -> UdpListener {
    let everywhere = SocketAddr::from(([0, 0, 0, 0], port));
    let (role, recbuf) = (SocketRole::All, 4 * 1024 * 1024);
    let mut listener = UdpListener { name, security, role, bind: everywhere, recbuf };
    let key = listener.key();
    listener.bind = reader.read(&format!("{key}.bind"), listener.bind, parsed(SOCKET_ADDRESS));
    listener.recbuf = reader.read(&format!("{key}.recbuf"), listener.recbuf, whole(2048..=1024 * 1024 * 1024));
    let roles =
        [("all", SocketRole::All), ("registration", SocketRole::Registration), ("bootstrap", SocketRole::Bootstrap)];
    listener.role = reader.read(&format!("{key}.role"), listener.role, choice(roles));
    listener
}

fn refuse_shared_addresses(reader: &mut ConfigReader, listeners: &[UdpListener]) {
    let mut first = HashMap::new();
    for listener in listeners.iter().filter(|listener| listener.bind.port() != 0) {
        if let Some(other) = first.insert(listener.bind, listener) {
            let problem = format!("{} is the address of {} too", listener.bind, other.key());
            reader.refuse(&format!("{}.bind", listener.key()), problem);
        }
    }
}

fn is_listener_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
}
