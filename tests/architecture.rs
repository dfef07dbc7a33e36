//! The wall between the core and the shell: the core names no socket, no file, no runtime and no clock, and each of its
//! layers knows only those below it (the drawing is in `src/lib.rs`).

use std::fs;
use std::path::{Path, PathBuf};

/// A room of the core, and the rooms that it may name with `crate::`.
const CORE: &[(&str, &[&str])] = &[
    ("deadlines.rs", &[]),
    ("secret.rs", &[]),
    ("rate.rs", &["deadlines"]),
    ("coap", &["deadlines"]),
    ("lwm2m", &["coap", "secret"]),
    // Of `dtls` it needs what an identity is.
    ("registry", &["coap", "deadlines", "dtls", "lwm2m", "mqtt", "secret"]),
    ("mqtt", &["lwm2m", "coap", "secret"]),
    ("dtls", &["coap", "deadlines", "rate", "secret"]),
    // The other end of the wire knows the messages, and nothing of the gateway.
    ("simulator", &["coap", "deadlines", "lwm2m"]),
    ("gateway", &["coap", "deadlines", "dtls", "lwm2m", "mqtt", "rate", "registry", "secret"]),
];

/// What belongs to the shell, whoever names it.
const OUTSIDE: &[&str] = &[
    "tokio",
    "tonic",
    "rumqttc",
    "std::fs",
    "std::thread",
    "std::env",
    "std::process",
    "UdpSocket",
    "TcpStream",
    "TcpListener",
    "Instant::now",
    "SystemTime",
    "tracing",
    "redb",
];

#[test]
fn the_core_names_nothing_of_the_shell() {
    for (file, text) in core_sources() {
        for word in OUTSIDE {
            assert!(!names(&text, word), "{} names {word}", file.display());
        }
    }
}

#[test]
fn a_room_of_the_core_names_only_the_rooms_below_it() {
    for (room, allowed) in CORE {
        let own = room.trim_end_matches(".rs");
        for (file, text) in sources(&source_folder().join(room)) {
            for named in crate_rooms(&text) {
                assert!(
                    named == own || allowed.contains(&named.as_str()),
                    "{} names crate::{named}; {own} may name {allowed:?}",
                    file.display()
                );
            }
        }
    }
}

/// Generated protobuf types stay in the two rooms that speak the contract.
#[test]
fn only_the_exproto_rooms_know_its_messages() {
    for (file, text) in sources(&source_folder()) {
        let inside = file.starts_with(source_folder().join("upstream/exproto"))
            || file.starts_with(source_folder().join("embedded"))
            || file == source_folder().join("lib.rs");
        assert!(inside || !names(&text, "exproto::v1"), "{} knows the messages of ExProto", file.display());
    }
}

/// The packets of MQTT stay in the two rooms that speak it.
#[test]
fn only_the_mqtt_rooms_know_its_packets() {
    for (file, text) in sources(&source_folder()) {
        let upstream = file.starts_with(source_folder().join("upstream/mqtt"));
        assert!(upstream || !names(&text, "mqtt_protocol_core"), "{} knows the packets of MQTT", file.display());
        let embedded =
            file.starts_with(source_folder().join("embedded/mqtt")) || file.starts_with(source_folder().join("demo"));
        assert!(embedded || !names(&text, "rumqttc"), "{} knows the packets of the embedded broker", file.display());
    }
}

#[test]
fn only_the_store_knows_its_database() {
    for (file, text) in sources(&source_folder()) {
        let inside = file.starts_with(source_folder().join("store"));
        assert!(inside || !names(&text, "redb::Database"), "{} knows the database of the store", file.display());
    }
}

#[test]
fn only_the_handshake_is_unsafe_or_speaks_to_openssl() {
    for (file, text) in sources(&source_folder()) {
        let handshake = file.starts_with(source_folder().join("dtls/handshake"));
        assert!(handshake || !names(&text, "unsafe"), "{} is unsafe", file.display());
        assert!(handshake || !names(&text, "openssl_sys"), "{} calls OpenSSL's functions", file.display());
    }
    for (file, text) in core_sources() {
        let handshake = file.starts_with(source_folder().join("dtls/handshake"));
        assert!(handshake || !names(&text, "openssl"), "{} names OpenSSL", file.display());
    }
}

/// DTLS needs the names of peers from `coap`, and nothing that it does.
#[test]
fn dtls_knows_nothing_of_coap_but_peers() {
    for (file, text) in sources(&source_folder().join("dtls")) {
        for import in text.split("crate::coap::").skip(1) {
            let import = import.split(';').next().unwrap_or_default().trim_matches(['{', '}']);
            for name in import.split(',').map(str::trim) {
                assert!(["Peer", "AssociationId"].contains(&name), "{} names coap::{name}", file.display());
            }
        }
    }
}

fn core_sources() -> Vec<(PathBuf, String)> {
    CORE.iter().flat_map(|(room, _)| sources(&source_folder().join(room))).collect()
}

fn source_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

/// The Rust files at or below a place, each up to its unit tests, without comments.
fn sources(place: &Path) -> Vec<(PathBuf, String)> {
    if place.is_dir() {
        let entries = fs::read_dir(place).expect("a readable folder");
        return entries.flat_map(|entry| sources(&entry.expect("an entry").path())).collect();
    }
    let is_unit_tests = place.file_name().is_some_and(|name| name == "tests.rs");
    if is_unit_tests || place.extension().is_none_or(|extension| extension != "rs") {
        return Vec::new();
    }
    let text = fs::read_to_string(place).unwrap_or_else(|error| panic!("{}: {error}", place.display()));
    let code = text.split("#[cfg(test)]\nmod ").next().unwrap_or_default();
    let lines: Vec<&str> = code.lines().filter(|line| !line.trim_start().starts_with("//")).collect();
    vec![(place.to_owned(), lines.join("\n"))]
}

/// Whether the word stands there as a word of its own.
fn names(text: &str, word: &str) -> bool {
    let part = |byte: Option<&u8>| byte.is_some_and(|byte| byte.is_ascii_alphanumeric() || *byte == b'_');
    text.match_indices(word).any(|(at, _)| {
        let bytes = text.as_bytes();
        !part(at.checked_sub(1).and_then(|before| bytes.get(before))) && !part(bytes.get(at + word.len()))
    })
}

fn crate_rooms(text: &str) -> Vec<String> {
    text.split("crate::")
        .skip(1)
        .map(|rest| rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect())
        .collect()
}
