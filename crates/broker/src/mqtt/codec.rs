//! Encodes and decodes the packets of a session in the version of MQTT that its client chose.

use bytes::BytesMut;

use super::packet::{ClientPacket, MalformedClientPacket, ServerPacket};
use super::{v5, v311};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MqttVersion {
    V311,
    V5,
}

impl MqttVersion {
    /// Returns the version that the first packet asks for (MQTT 5.0 section 3.1.2.2); `None` until enough of it has
    /// arrived.
    ///
    /// # Errors
    /// Not a CONNECT, or another version.
    pub(super) fn of_connect(bytes: &[u8]) -> Result<Option<Self>, MalformedClientPacket> {
        let length = bytes.iter().skip(1).take(4).position(|byte| byte & 0x80 == 0);
        let Some(after_length) = length.map(|length| length + 2) else {
            return if bytes.len() > 4 { Err(MalformedClientPacket("remaining length".to_owned())) } else { Ok(None) };
        };
        match bytes.get(after_length..after_length + 7) {
            None => Ok(None),
            Some([0, 4, b'M', b'Q', b'T', b'T', 4]) if bytes.first() == Some(&0x10) => Ok(Some(Self::V311)),
            Some([0, 4, b'M', b'Q', b'T', b'T', 5]) if bytes.first() == Some(&0x10) => Ok(Some(Self::V5)),
            Some(_) => Err(MalformedClientPacket("no CONNECT of MQTT 3.1.1 or 5".to_owned())),
        }
    }

    /// Takes the next packet, if all of it is there.
    pub(super) fn decode(self, bytes: &mut BytesMut) -> Result<Option<ClientPacket>, MalformedClientPacket> {
        match self {
            Self::V311 => v311::decode(bytes),
            Self::V5 => v5::decode(bytes),
        }
    }

    pub(super) fn encode(self, reply: ServerPacket<'_>, out: &mut BytesMut) -> Result<(), MalformedClientPacket> {
        match self {
            Self::V311 => v311::encode(reply, out),
            Self::V5 => v5::encode(reply, out),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_packet_tells_the_version() {
        let v311 = [0x10, 12, 0, 4, b'M', b'Q', b'T', b'T', 4, 2, 0, 0, 0, 0];
        let v5 = [0x10, 0x80, 1, 0, 4, b'M', b'Q', b'T', b'T', 5];
        assert_eq!(MqttVersion::of_connect(&v311).unwrap(), Some(MqttVersion::V311));
        assert_eq!(MqttVersion::of_connect(&v5).unwrap(), Some(MqttVersion::V5));
        for cut in 0..9 {
            assert_eq!(MqttVersion::of_connect(&v311[..cut]).unwrap(), None, "{cut} bytes");
        }
    }

    #[test]
    fn what_is_no_connect_of_a_known_version_is_refused() {
        for bytes in
            [&b"GET / HTTP/1.1\r\n"[..], &[0x10, 12, 0, 4, b'M', b'Q', b'T', b'T', 3], &[0x10, 255, 255, 255, 255, 1]]
        {
            assert!(MqttVersion::of_connect(bytes).is_err(), "{bytes:?}");
        }
    }
}
