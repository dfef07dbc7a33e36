//! Traces as pcap files (draft-ietf-opsawg-pcap), so that Wireshark shows the decrypted messages without keys. The link
//! type is LINKTYPE_WIRESHARK_UPPER_PDU: tags with the name of the dissector and with the addresses stand before each
//! message, each with its type and its length in two bytes (epan/exported_pdu.h of Wireshark).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use lwm2m_core::gateway::operators::trace::Direction;

use super::record::{EntryContent, MessageEntry, TraceEntry};

const MAGIC_MICROSECONDS: u32 = 0xa1b2_c3d4;
const VERSION: [u16; 2] = [2, 4];
const LINKTYPE_WIRESHARK_UPPER_PDU: u32 = 252;
/// More than any message has.
const SNAPSHOT_LENGTH: u32 = 262_144;

const TAG_END: u16 = 0;
const TAG_DISSECTOR: u16 = 12;
const TAG_IPV4_SOURCE: u16 = 20;
const TAG_IPV4_DESTINATION: u16 = 21;
const TAG_IPV6_SOURCE: u16 = 22;
const TAG_IPV6_DESTINATION: u16 = 23;
const TAG_PORT_TYPE: u16 = 24;
const TAG_SOURCE_PORT: u16 = 25;
const TAG_DESTINATION_PORT: u16 = 26;
const PORT_TYPE_UDP: u32 = 3;
const DISSECTOR: &[u8; 4] = b"coap";

/// Writes the file of these entries. `sockets` are the addresses of the gateway, in the order of its sockets.
pub(super) fn file<'e>(entries: impl Iterator<Item = &'e TraceEntry>, sockets: &[SocketAddr]) -> Vec<u8> {
    let mut file = Vec::new();
    file.extend(MAGIC_MICROSECONDS.to_le_bytes());
    VERSION.iter().for_each(|number| file.extend(number.to_le_bytes()));
    for number in [0, 0, SNAPSHOT_LENGTH, LINKTYPE_WIRESHARK_UPPER_PDU] {
        file.extend(number.to_le_bytes());
    }
    for entry in entries {
        let EntryContent::Message(message) = &entry.content else { continue };
        let packet = packet(message, sockets);
        let length = u32::try_from(packet.len()).unwrap_or(u32::MAX);
        let seconds = u32::try_from(entry.at.as_secs()).unwrap_or(u32::MAX);
        for number in [seconds, entry.at.subsec_micros(), length, length] {
            file.extend(number.to_le_bytes());
        }
        file.extend(packet);
    }
    file
}

fn packet(message: &MessageEntry, sockets: &[SocketAddr]) -> Vec<u8> {
    let device = message.address;
    let own = own_address(sockets.get(usize::from(message.peer.socket)), device);
    let (source, destination) = match message.direction {
        Direction::In => (device, own),
        Direction::Out => (own, device),
    };
    let mut packet = Vec::new();
    tag(&mut packet, TAG_DISSECTOR, DISSECTOR);
    match (source.ip(), destination.ip()) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            tag(&mut packet, TAG_IPV4_SOURCE, &source.octets());
            tag(&mut packet, TAG_IPV4_DESTINATION, &destination.octets());
        }
        (source, destination) => {
            tag(&mut packet, TAG_IPV6_SOURCE, &v6(source).octets());
            tag(&mut packet, TAG_IPV6_DESTINATION, &v6(destination).octets());
        }
    }
    tag(&mut packet, TAG_PORT_TYPE, &PORT_TYPE_UDP.to_be_bytes());
    tag(&mut packet, TAG_SOURCE_PORT, &u32::from(source.port()).to_be_bytes());
    tag(&mut packet, TAG_DESTINATION_PORT, &u32::from(destination.port()).to_be_bytes());
    tag(&mut packet, TAG_END, &[]);
    packet.extend_from_slice(&message.datagram);
    packet
}

/// Adds a tag. Each value here has a length that is a multiple of four.
fn tag(packet: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let length = u16::try_from(value.len()).unwrap_or_default();
    packet.extend(kind.to_be_bytes());
    packet.extend(length.to_be_bytes());
    packet.extend_from_slice(value);
}

/// Returns the address of a socket of the gateway, in the family of the device. A socket may be open at all addresses.
fn own_address(socket: Option<&SocketAddr>, device: SocketAddr) -> SocketAddr {
    let unspecified = match device.ip() {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    let port = socket.map_or(0, SocketAddr::port);
    let same_family = socket.filter(|socket| socket.is_ipv4() == device.is_ipv4());
    same_family.copied().unwrap_or_else(|| SocketAddr::new(unspecified, port))
}

fn v6(address: IpAddr) -> Ipv6Addr {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped(),
        IpAddr::V6(address) => address,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use lwm2m_base::Peer;

    use super::*;

    fn entry(direction: Direction, device: &str, datagram: &[u8]) -> TraceEntry {
        let address = device.parse().unwrap();
        let message = MessageEntry {
            direction,
            peer: Peer::udp(1, address),
            address,
            datagram: datagram.to_vec(),
            hidden: false,
            header: None,
            subject: None,
            outcome: None,
            answers: None,
            again: false,
        };
        let at = Duration::new(1_700_000_000, 120_000_000);
        TraceEntry { n: 1, at, content: EntryContent::Message(message) }
    }

    fn sockets() -> [SocketAddr; 2] {
        ["0.0.0.0:5683", "10.0.0.1:5684"].map(|socket| socket.parse().unwrap())
    }

    #[test]
    fn a_file_has_a_header_and_the_packets_with_their_addresses() {
        let get = [0x40, 1, 0, 7];
        let file = file([entry(Direction::In, "10.0.0.9:56830", &get)].iter(), &sockets());
        let expected: Vec<u8> = [
            &[0xd4, 0xc3, 0xb2, 0xa1, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4, 0, 252, 0, 0, 0][..],
            &[0, 0xf1, 0x53, 0x65, 0xc0, 0xd4, 1, 0, 56, 0, 0, 0, 56, 0, 0, 0],
            &[0, 12, 0, 4],
            b"coap",
            &[0, 20, 0, 4, 10, 0, 0, 9, 0, 21, 0, 4, 10, 0, 0, 1],
            &[0, 24, 0, 4, 0, 0, 0, 3],
            &[0, 25, 0, 4, 0, 0, 0xdd, 0xfe, 0, 26, 0, 4, 0, 0, 0x16, 0x34],
            &[0, 0, 0, 0],
            &get,
        ]
        .concat();
        assert_eq!(file, expected);
    }

    #[test]
    fn what_is_sent_goes_the_other_way_and_a_socket_of_the_other_family_has_no_address() {
        let file = file([entry(Direction::Out, "[2001:db8::9]:5683", &[0x60, 0, 0, 7])].iter(), &sockets());
        let packet = &file[24 + 16 + 8..];
        assert_eq!(packet[..4], [0, 22, 0, 16]);
        assert_eq!(packet[4..20], [0; 16]);
        assert_eq!(packet[20..24], [0, 23, 0, 16]);
        assert_eq!(packet[24..40], "2001:db8::9".parse::<Ipv6Addr>().unwrap().octets());
    }
}
