//! Keys of EMQX's own LwM2M gateway, and other formats: for those who bring their configuration along.
//! `docs/migration.md` has all of them.

use std::path::Path;

/// The last part of a key of EMQX's gateway, and its replacement here.
const KEYS: [(&str, &str); 26] = [
    ("max_connections", "limits.devices bounds the devices, max_connections of its listener bounds them in EMQX"),
    ("max_conn_rate", "limits.registers bounds how many devices register in a second"),
    ("authentication", "EMQX authenticates: its gateway.exproto.authentication, or the chain of its MQTT listener"),
    ("enable_authn", "EMQX authenticates each device that it has an authenticator for"),
    ("enable_stats", "metrics are at admin.bind, under /metrics"),
    ("idle_timeout", "dtls.idle_timeout for DTLS; a registration ends with its lifetime"),
    ("clientinfo_override", "the section clientinfo"),
    ("access_rules", "a firewall, or EMQX's access rules"),
    ("acceptors", "nothing takes its place"),
    ("active_n", "nothing takes its place"),
    ("proxy_protocol", "nothing takes its place: datagrams have no PROXY header"),
    ("udp_options", "recbuf of the listener"),
    ("sndbuf", "nothing takes its place: datagrams are sent at once"),
    ("buffer", "nothing takes its place"),
    ("reuseaddr", "nothing takes its place"),
    ("dtls_options", "the section dtls"),
    ("ssl_options", "the section dtls for devices, upstream.exproto.ssl or upstream.mqtt.ssl for the broker"),
    ("depth", "nothing takes its place"),
    ("versions", "DTLS 1.2 is spoken, and no other version"),
    ("secure_renegotiate", "renegotiation is always refused"),
    ("gateway", "the keys of gateway.lwm2m stand at the top of the file, without a section"),
    ("lwm2m", "the keys of lwm2m stand at the top of the file, without a section"),
    ("topics", "the section translators: [translators.command] with the key topic"),
    ("lb", "nothing takes its place"),
    ("enable", "a listener that is in the file is enabled"),
    ("gc_interval", "nothing takes its place"),
];

/// Returns the replacement of a key of EMQX's gateway.
pub(super) fn successor(key: &str) -> Option<&'static str> {
    let last = key.rsplit('.').next().unwrap_or(key);
    KEYS.iter().find(|(name, _)| *name == last).map(|(_, successor)| *successor)
}

/// Returns the probable format of a file that is no TOML.
pub(crate) fn format_of(file: &Path, text: &str) -> Option<&'static str> {
    let extension = file.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
    match extension {
        "yaml" | "yml" => return Some("YAML"),
        "hocon" => return Some("HOCON"),
        "json" => return Some("JSON"),
        _ => {}
    }
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with(['#', '/']));
    let first = lines.next()?;
    if first == "{" {
        return Some("JSON");
    }
    let all = || std::iter::once(first).chain(text.lines().map(str::trim));
    // `section {` is HOCON's, `key: value` that of YAML; TOML has neither.
    let is_key = |key: &str| !key.is_empty() && key.chars().all(|c| c.is_ascii_alphanumeric() || "_-.\"".contains(c));
    if all()
        .any(|line| line.strip_suffix('{').is_some_and(|key| is_key(key.trim_end().trim_end_matches('=').trim_end())))
    {
        return Some("HOCON");
    }
    all().any(|line| line.split_once(':').is_some_and(|(key, _)| is_key(key))).then_some("YAML")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_format_of_a_file_is_seen_by_its_name_or_its_first_lines() {
        let of = |file: &str, text: &str| format_of(Path::new(file), text);
        assert_eq!(of("emqx.conf", "## ours\ngateway.lwm2m {\n  xml_dir = \"x\"\n}"), Some("HOCON"));
        assert_eq!(of("a", "coap = {\n  ack_timeout = 2s\n}"), Some("HOCON"));
        assert_eq!(of("a.toml", "upstream:\n  kind: mqtt\n"), Some("YAML"));
        assert_eq!(of("a.yaml", ""), Some("YAML"));
        assert_eq!(of("a.toml", "{\n\"upstream\": 1}"), Some("JSON"));
        assert_eq!(of("a.toml", "lifetime_max = \n[coap]\nlistener = \"a:1\"\n"), None);
    }

    #[test]
    fn a_former_key_is_known_in_every_section() {
        assert!(
            successor("listeners.udp.default.max_connections").is_some_and(|text| text.starts_with("limits.devices"))
        );
        assert_eq!(successor("limits.devises"), None);
    }
}
