//! The section `firmware`.

use std::path::PathBuf;
use std::time::Duration;

use crate::firmware::ImagesConfig;
use lwm2m_base::secret::Secret;
use lwm2m_core::gateway::broker::BrokerLogin;
use lwm2m_core::gateway::firmware::config::FirmwareConfig;
use lwm2m_core::gateway::firmware::pulls::uri::{PublicUri, PublicUriError, PublicUris};

use super::reader::ConfigReader;
use super::value_parsers::{HOUR, SECOND, duration, list, switch, text, text_with_content, whole};

const MEBIBYTE: u64 = 1024 * 1024;
const DAY: Duration = Duration::from_secs(24 * 3600);

/// Bytes of the largest image that may be configured: a block option counts 2^20 blocks of 1024 bytes (RFC 7959 section
/// 2.2).
const LARGEST: u64 = 1024 * MEBIBYTE;

/// Reads where images are.
pub(super) fn images(reader: &mut ConfigReader) -> ImagesConfig {
    ImagesConfig {
        dir: PathBuf::from(reader.read("firmware.dir", "firmware".to_owned(), text_with_content)),
        max_size: reader.read("firmware.max_size", 64 * MEBIBYTE, whole(1..=LARGEST)),
    }
}

/// Reads the settings of updates.
pub(super) fn updates(reader: &mut ConfigReader, default: FirmwareConfig) -> FirmwareConfig {
    let uri = |value: &toml::Value| text(value)?.parse().map_err(|error: PublicUriError| error.to_string());
    let uris: Vec<PublicUri> = reader.read("firmware.public_uri", Vec::new(), list(uri));
    let mut public_uris = PublicUris::default();
    let repeated = uris.into_iter().find(|uri| !public_uris.add(uri.clone()));
    if let Some(repeated) = repeated {
        let problem = format!("{repeated} is a second URI with {}://; expected at most one of each", repeated.scheme());
        reader.refuse("firmware.public_uri", problem);
    }
    FirmwareConfig {
        public_uris,
        progress_interval: reader.read(
            "firmware.progress_interval",
            default.progress_interval,
            duration(SECOND..=HOUR),
        ),
        poll_interval: reader.read("firmware.poll_interval", default.poll_interval, duration(SECOND..=DAY)),
        stall_timeout: reader.read("firmware.stall_timeout", default.stall_timeout, duration(10 * SECOND..=30 * DAY)),
        update_timeout: reader.read(
            "firmware.update_timeout",
            default.update_timeout,
            duration(10 * SECOND..=30 * DAY),
        ),
        login: default.login,
    }
}

/// Reads the client at the broker by which applications control campaigns.
pub(super) fn login(reader: &mut ConfigReader, is_mqtt: bool) -> Option<BrokerLogin> {
    let is_wanted = reader.read("firmware.mqtt", false, switch);
    if is_wanted && !is_mqtt {
        reader.refuse("firmware.mqtt", "requires upstream.kind = \"mqtt\"");
    }
    let username = reader.read("firmware.mqtt_username", "lwm2m-firmware".to_owned(), text);
    let password = reader.read_secret("firmware.mqtt_password").map(Secret::new);
    is_wanted.then_some(BrokerLogin { username, password })
}
