//! The MQTT sessions that a program leaves behind at the EMQX of the tests. The next test with a device of the same
//! name would get the commands that were published meanwhile.

use std::collections::HashSet;
use std::io::{self, Read as _, Write as _};
use std::net::TcpStream;

use super::broker::emqx_mqtt;
use super::device::PATIENCE;

/// DISCONNECT without properties.
const DISCONNECT: [u8; 2] = [0xE0, 0];

/// Ends the sessions of all devices that have registered by what the program said. Its end does not wait for them.
pub(crate) fn end_sessions(output: &str) {
    for client_id in registered(output) {
        if let Err(error) = end_session(client_id) {
            println!("the session of {client_id} may be left: {error}");
        }
    }
}

/// Returns the names in lines such as `device{endpoint="one"}: device registered`.
fn registered(output: &str) -> HashSet<&str> {
    output.lines().filter_map(registered_name).collect()
}

fn registered_name(line: &str) -> Option<&str> {
    let (begin, _) = line.split_once("\"}: device registered")?;
    Some(begin.split_once("device{endpoint=\"")?.1)
}

/// Connects with Clean Start and without a session expiry: EMQX discards the former session, and at the end this one.
fn end_session(client_id: &str) -> io::Result<()> {
    let mut stream = TcpStream::connect(emqx_mqtt())?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(&connect(client_id))?;
    let mut acknowledged = [0; 4];
    stream.read_exact(&mut acknowledged)?;
    stream.write_all(&DISCONNECT)
}

/// Returns the CONNECT of MQTT 5 with Clean Start, a keep-alive of 10 s and no properties.
fn connect(client_id: &str) -> Vec<u8> {
    let length = u8::try_from(client_id.len()).expect("a short name");
    let mut body = b"\0\x04MQTT\x05\x02\0\x0A\0\0".to_vec();
    body.push(length);
    body.extend_from_slice(client_id.as_bytes());
    let mut packet = vec![0x10, u8::try_from(body.len()).expect("a short packet")];
    packet.extend(body);
    packet
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_devices_that_registered_are_found_in_the_log() {
        let output = "2026-11-29T03:32:44Z  INFO device{endpoint=\"one\"}: device registered peer=127.0.0.1:1 lifetime=5m\n\
                      2026-11-29T03:32:44Z  INFO device{endpoint=\"two\"}: registration rejected code=4.03\n";
        assert_eq!(registered(output), HashSet::from(["one"]));
    }

    #[test]
    fn connect_has_the_name_behind_its_length() {
        assert_eq!(connect("one"), b"\x10\x10\0\x04MQTT\x05\x02\0\x0A\0\0\x03one");
    }
}
