//! Groups of keys that several sections have.

use std::path::PathBuf;

use toml::Value;

use crate::tls;
use crate::upstream::LinkConfig;
use lwm2m_base::rate::{Rate, RateLimit};

use super::reader::ConfigReader;
use super::value_parsers::{
    HOUR, MAX_COUNT, MILLISECOND, SECOND, choice, duration, list, parsed, text_with_content, whole,
};

/// Reads `SECTION.per_second`, `SECTION.burst` and the same keys with `address_`.
pub(crate) fn rate_limit(reader: &mut ConfigReader, section: &str, default: RateLimit) -> RateLimit {
    let total = rate(reader, section, default.total);
    RateLimit { total, address: prefixed_rate(reader, section, "address_", default.address) }
}

/// Reads `SECTION.per_second` and `SECTION.burst`.
pub(super) fn rate(reader: &mut ConfigReader, section: &str, default: Rate) -> Rate {
    prefixed_rate(reader, section, "", default)
}

fn prefixed_rate(reader: &mut ConfigReader, section: &str, prefix: &str, default: Rate) -> Rate {
    Rate {
        per_second: reader.read(&format!("{section}.{prefix}per_second"), default.per_second, whole(1..=1_000_000)),
        burst: reader.read(&format!("{section}.{prefix}burst"), default.burst, whole(1..=1_000_000)),
    }
}

/// Reads the keys that the sections of both upstreams have.
pub(crate) fn link(reader: &mut ConfigReader, section: &str) -> LinkConfig {
    let key = |last: &str| format!("{section}.{last}");
    let link = LinkConfig {
        source_addresses: reader.read(&key("source_addresses"), Vec::new(), list(parsed("an IP address"))),
        connect_timeout: reader.read(&key("connect_timeout"), 10 * SECOND, duration(MILLISECOND..=HOUR)),
        connections_per_second: reader.read(&key("connections_per_second"), 5_000, whole(1..=1_000_000)),
        queue_per_device: reader.read(&key("queue_per_device"), 100, whole(1..=MAX_COUNT)),
        queue_total: reader.read(&key("queue_total"), 100_000, whole(1..=MAX_COUNT)),
        event_queue: reader.read(&key("event_queue"), 65_536, whole(1..=MAX_COUNT)),
    };
    let [one, all] = [key("queue_per_device"), key("queue_total")];
    if reader.all_valid(&[&one, &all]) && link.queue_per_device > link.queue_total {
        reader.refuse(&one, format!("expected at most queue_total, which is {}", link.queue_total));
    }
    link
}

/// Reads the settings of a TLS client below a key.
pub(super) fn tls(reader: &mut ConfigReader, below: &str) -> tls::TlsConfig {
    let key = |last: &str| format!("{below}.{last}");
    let file = |value: &Value| text_with_content(value).map(|file| Some(PathBuf::from(file)));
    let verify = [("verify_peer", tls::Verify::Peer), ("verify_none", tls::Verify::None)];
    let config = tls::TlsConfig {
        cacertfile: reader.read(&key("cacertfile"), None, file),
        certfile: reader.read(&key("certfile"), None, file),
        keyfile: reader.read(&key("keyfile"), None, file),
        verify: reader.read(&key("verify"), tls::Verify::Peer, choice(verify)),
        server_name: reader.read(&key("server_name_indication"), None, |value| text_with_content(value).map(Some)),
    };
    for (one, other) in [("certfile", "keyfile"), ("keyfile", "certfile")] {
        if reader.has(&key(one)) && !reader.has(&key(other)) {
            reader.refuse(&key(one), format!("requires {} as well", key(other)));
        }
    }
    config
}
