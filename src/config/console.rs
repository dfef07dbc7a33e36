//! The section `console`.

use std::net::SocketAddr;
use std::path::PathBuf;

use toml::Value;

use crate::console::hide::HiddenPaths;
use crate::console::{CertificateFiles, ConsoleConfig};
use lwm2m_core::lwm2m::path::Path;

use super::reader::ConfigReader;
use super::value_parsers::{SOCKET_ADDRESS, list, parsed, switch, text_with_content};

const PATH: &str = "a path, such as \"/0\" or \"/3/0/5\"";
/// Permissions of the socket without the key: those of its owner and its group.
const SOCKET_MODE: u32 = 0o660;
/// Objects whose values are not shown without the key `hide`: Security and OSCORE hold keys.
const KEY_OBJECTS: [u16; 2] = [0, 21];

pub(super) fn read(reader: &mut ConfigReader) -> ConsoleConfig {
    let file = |value: &Value| text_with_content(value).map(|file| Some(PathBuf::from(file)));
    let bind = SocketAddr::from(([127, 0, 0, 1], 8086));
    let bind = reader.read("console.bind", bind, parsed(SOCKET_ADDRESS));
    let tokens = reader.read("console.tokens", None, file);
    let certfile = reader.read("console.certfile", None, file);
    let keyfile = reader.read("console.keyfile", None, file);
    let plaintext = reader.read("console.plaintext", false, switch);
    for (one, other) in [("certfile", "keyfile"), ("keyfile", "certfile")] {
        let [one, other] = [one, other].map(|last| format!("console.{last}"));
        if reader.has(&one) && !reader.has(&other) {
            reader.refuse(&one, format!("requires {other} as well"));
        }
    }
    let is_exposed = tokens.is_some() && !bind.ip().is_loopback() && certfile.is_none() && !plaintext;
    if is_exposed && reader.all_valid(&["console.bind", "console.certfile"]) {
        let problem = "an address that is not loopback requires console.certfile and console.keyfile, or \
                       console.plaintext = true if a proxy in front of it uses TLS";
        reader.refuse("console.bind", problem);
    }
    ConsoleConfig {
        bind,
        tokens,
        socket: reader.read("console.socket", None, file),
        socket_mode: reader.read("console.socket_mode", SOCKET_MODE, mode),
        certificate: certfile.zip(keyfile).map(|(certfile, keyfile)| CertificateFiles { certfile, keyfile }),
        hosts: reader.read("console.hosts", Vec::new(), list(text_with_content)),
        trial_token: None,
        hide: HiddenPaths::new(reader.read("console.hide", hidden_by_default(), list(parsed(PATH)))),
    }
}

fn hidden_by_default() -> Vec<Path> {
    KEY_OBJECTS.iter().filter_map(|object| Path::ROOT.child(*object)).collect()
}

/// Reads whether applications see the answers to the console's commands.
pub(super) fn publish_answers(reader: &mut ConfigReader, default: bool) -> bool {
    reader.read("console.publish_answers", default, switch)
}

/// Parses the permissions of a file, in octal digits.
fn mode(value: &Value) -> Result<u32, String> {
    let mode = value.as_str().and_then(|digits| u32::from_str_radix(digits, 8).ok());
    mode.filter(|mode| *mode <= 0o777)
        .ok_or_else(|| "expected permissions in octal digits, such as \"0660\"".to_owned())
}
