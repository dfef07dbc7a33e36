//! `[dtls]`: credentials, with EMQX's words where it has them, and the bounds of [`dtls::DtlsConfig`].

use std::path::PathBuf;
use std::time::Duration;

use toml::Value;

use crate::bootstrap::BootstrapFiles;
use crate::credentials::{CredentialsConfig, Encoding, OnError, PLACEHOLDER, PskFileConfig, PskHttpConfig};
use lwm2m_base::secret::Secret;
use lwm2m_core::gateway::identity::{IdentityRule, Pattern};
use lwm2m_dtls as dtls;
use lwm2m_dtls::handshake::{AcceptorConfig, VerifyMode};

use super::groups::{rate_limit, tls};
use super::reader::ConfigReader;
use super::value_parsers::{
    HOUR, MAX_COUNT, MILLISECOND, SECOND, YEAR, choice, duration, list, switch, text, text_with_content, whole,
};

const ENCODINGS: [(&str, Encoding); 3] =
    [("text", Encoding::Text), ("hex", Encoding::Hex), ("base64", Encoding::Base64)];

pub(super) fn credentials(reader: &mut ConfigReader, bootstrap: &BootstrapFiles) -> CredentialsConfig {
    let default = AcceptorConfig::default();
    let on_error = [("disable", OnError::Disable), ("exit", OnError::Exit)];
    let mut cipher_suites = reader.read("dtls.ciphers", Vec::new(), suites);
    cipher_suites.extend(reader.read("dtls.psk_ciphers", Vec::new(), suites));
    CredentialsConfig {
        on_error: reader.read("dtls.on_error", OnError::Disable, choice(on_error)),
        certfile: reader.read("dtls.certfile", None, file),
        keyfile: reader.read("dtls.keyfile", None, file),
        password: reader.read_secret("dtls.password").map(Secret::new),
        cacertfile: reader.read("dtls.cacertfile", None, file),
        verify: verify(reader),
        pinned: reader
            .read("dtls.pinned", Vec::new(), list(text_with_content))
            .into_iter()
            .map(PathBuf::from)
            .collect(),
        raw_public_keys: reader.read("dtls.raw_public_keys", default.raw_public_keys, switch),
        cipher_suites,
        connection_ids: reader.read("dtls.connection_id", default.connection_ids, switch),
        tickets: reader.read("dtls.session_tickets", default.tickets, switch),
        mtu: reader.read("dtls.mtu", default.mtu, whole(AcceptorConfig::MIN_MTU..=16_384)),
        psk_file: psk_file(reader),
        psk_http: psk_http(reader),
        bootstrap: bootstrap.is_enabled,
        bootstrap_psk_file: bootstrap.keys.clone().filter(|_| bootstrap.is_enabled),
    }
}

/// Reads the limits of [`dtls::DtlsConfig`].
pub(super) fn read(reader: &mut ConfigReader) -> dtls::DtlsConfig {
    let default = dtls::DtlsConfig::default();
    let key = |last: &str| format!("dtls.{last}");
    let handshakes = reader.read(&key("handshakes"), default.handshakes, whole(1..=MAX_COUNT));
    dtls::DtlsConfig {
        begun: rate_limit(reader, "dtls.handshake_rate", default.begun),
        handshakes,
        handshakes_per_address: reader.read(
            &key("handshakes_per_address"),
            dtls::DtlsConfig::share_of(handshakes),
            whole(1..=MAX_COUNT),
        ),
        handshake_deadline: reader.read(&key("handshake_timeout"), default.handshake_deadline, duration(SECOND..=HOUR)),
        associations: reader.read(&key("associations"), default.associations, whole(1..=MAX_COUNT)),
        idle: reader.read(&key("idle_timeout"), default.idle, duration(SECOND..=YEAR)),
        cached_keys: reader.read(&key("cached_keys"), default.cached_keys, whole(1..=MAX_COUNT)),
        ..default
    }
}

pub(super) fn identity(reader: &mut ConfigReader, default: IdentityRule) -> IdentityRule {
    reader.read("dtls.identity", default, identity_rule)
}

pub(super) fn identity_rule(value: &Value) -> Result<IdentityRule, String> {
    match text(value)?.as_str() {
        "none" => Ok(IdentityRule::None),
        "equals" => Ok(IdentityRule::Equals),
        around => around.parse::<Pattern>().map(IdentityRule::Pattern).map_err(|error| {
            format!("expected \"none\", \"equals\" or a string such as \"device-${{endpoint_name}}\": {error}")
        }),
    }
}

pub(super) fn plain_udp_for_psk_devices(reader: &mut ConfigReader, default: bool) -> bool {
    reader.read("dtls.plain_udp_for_psk_devices", default, choice([("refuse", false), ("allow", true)]))
}

fn verify(reader: &mut ConfigReader) -> VerifyMode {
    let verifies = reader.read("dtls.verify", true, choice([("verify_peer", true), ("verify_none", false)]));
    let required = reader.read("dtls.fail_if_no_peer_cert", true, switch);
    if verifies { VerifyMode::Peer { required } } else { VerifyMode::None }
}

fn psk_file(reader: &mut ConfigReader) -> Option<PskFileConfig> {
    let separator = reader.read("dtls.psk_separator", ":".to_owned(), text_with_content);
    let encoding = psk_encoding(reader, "dtls.psk_encoding");
    let file = reader.read("dtls.psk_file", None, file)?;
    Some(PskFileConfig { file, separator, encoding })
}

pub(super) fn psk_encoding(reader: &mut ConfigReader, key: &str) -> Encoding {
    reader.read(key, Encoding::Text, choice(ENCODINGS))
}

fn psk_http(reader: &mut ConfigReader) -> Option<PskHttpConfig> {
    let key = |last: &str| format!("dtls.psk_http.{last}");
    let given = reader.read(&key("url"), None, |value| url(value).map(Some));
    let most = Duration::from_secs(30 * 24 * 3600);
    let config = PskHttpConfig {
        url: given.clone().unwrap_or_default(),
        authorization: reader.read_secret(&key("authorization")).map(Secret::new),
        encoding: reader.read(&key("encoding"), Encoding::Text, choice(ENCODINGS)),
        ssl: tls(reader, &key("ssl")),
        timeout: reader.read(&key("timeout"), 5 * SECOND, duration(MILLISECOND..=HOUR)),
        requests: reader.read(&key("requests"), 100, whole(1..=100_000)),
        cache_ttl: reader.read(&key("cache_ttl"), HOUR, duration(Duration::ZERO..=most)),
        negative_cache_ttl: reader.read(&key("negative_cache_ttl"), 60 * SECOND, duration(Duration::ZERO..=most)),
    };
    given.map(|_| config)
}

pub(super) fn file(value: &Value) -> Result<Option<PathBuf>, String> {
    text_with_content(value).map(|file| Some(PathBuf::from(file)))
}

/// Parses a list, or a string with commas or colons between the names, as in EMQX 4 and OpenSSL. Unknown suites are
/// found when the credentials are loaded.
fn suites(value: &Value) -> Result<Vec<String>, String> {
    let texts = list(text_with_content)(value)?;
    let names = texts.iter().flat_map(|text| text.split([',', ':'])).map(str::trim);
    Ok(names.filter(|name| !name.is_empty()).map(str::to_owned).collect())
}

fn url(value: &Value) -> Result<String, String> {
    let allowed = || format!("expected http://... or https://... with {PLACEHOLDER} in its path or query");
    let given = value.as_str().filter(|text| text.starts_with("http://") || text.starts_with("https://"));
    let given = given.ok_or_else(allowed)?;
    let (_, behind) = given.split_once("://").ok_or_else(allowed)?;
    let path = behind.find('/').map(|at| &behind[at..]);
    let fits = path.is_some_and(|path| path.contains(PLACEHOLDER));
    let example = given.replace(PLACEHOLDER, "identity");
    if fits && example.parse::<hyper::Uri>().is_ok() { Ok(given.to_owned()) } else { Err(allowed()) }
}
