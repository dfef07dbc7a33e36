use std::time::{Duration, Instant};

use lwm2m_base::Shard;
use proptest::prelude::*;

use super::*;
use crate::node::Incarnation;
use crate::term::Term;

fn start() -> Instant {
    Instant::now()
}

fn encoded(frame: &Frame<'_>, clock: FrameClock) -> Vec<u8> {
    let mut bytes = Vec::new();
    frame.encode(clock, &mut bytes).expect("a short frame");
    bytes
}

/// Returns the only frame in these bytes.
fn only_frame(mut bytes: &[u8]) -> &[u8] {
    let frame = split_frame(&mut bytes).expect("a valid length").expect("the whole frame");
    assert_eq!(bytes, b"", "nothing follows it");
    frame
}

fn process(node: u64, incarnation: u64) -> NodeProcess {
    NodeProcess { node: NodeNumber::try_from(node).expect("7 bits"), incarnation: Incarnation(incarnation) }
}

#[test]
fn a_forward_has_these_bytes() {
    let forward = Forward {
        shard: Shard::new(7),
        hops: 1,
        is_learned: true,
        entry: process(2, 0).node,
        flow: NamedFlow { listener: "udp", address: SocketAddr::from(([192, 0, 2, 1], 0x1633)) },
        datagram: b"CoAP",
    };
    let bytes = encoded(&Frame::Forward(forward), FrameClock::new(start()));
    assert_eq!(bytes, b"\0\0\0\x16\x01\x04\x07\x01\x01\x02\0\x03udp\x04\xc0\0\x02\x01\x16\x33CoAP");
}

#[test]
fn a_time_comes_back_exactly_from_a_node_whose_clock_began_at_another_time() {
    let (asker, answerer) = (FrameClock::new(start()), FrameClock::new(start() - Duration::from_secs(1_000)));
    let asked = start() + Duration::from_nanos(1_234_567_891);
    let ping = encoded(&Frame::Message(PeerMessage::Ping { from: process(1, 5), asked }), asker);

    let Ok(Frame::Message(PeerMessage::Ping { asked: foreign, .. })) = Frame::decode(only_frame(&ping), answerer)
    else {
        panic!("a ping")
    };
    let pong = PeerMessage::Pong {
        from: process(2, 6),
        asked: foreign,
        reaches: true,
        newest: None,
        acquired: Vec::new(),
        others: Vec::new(),
    };
    let pong = encoded(&Frame::Message(pong), answerer);

    let Ok(Frame::Message(PeerMessage::Pong { asked: returned, .. })) = Frame::decode(only_frame(&pong), asker) else {
        panic!("a pong")
    };
    assert_eq!(returned, asked);
}

#[test]
fn a_frame_that_is_cut_off_waits_for_its_rest() {
    let bytes = encoded(&Frame::NotMine(NotMine { shard: Shard::new(9), owner: None }), FrameClock::new(start()));
    for length in 0..bytes.len() {
        assert_eq!(split_frame(&mut &bytes[..length]), Ok(None), "{length} bytes");
    }
}

#[test]
fn a_length_above_the_maximum_is_refused_before_its_bytes_come() {
    let length = (MAX_FRAME as u32 + 1).to_be_bytes();
    assert_eq!(split_frame(&mut length.as_slice()), Err(FrameError::TooLong(MAX_FRAME + 1)));
}

#[test]
fn what_is_too_long_is_not_appended() {
    let (long, clock) = ("x".repeat(MAX_FRAME), FrameClock::new(start()));
    let mut buffer = b"before".to_vec();
    for frame in [
        Frame::Hello(Hello { process: process(1, 1), name: &long, address: "" }),
        Frame::Reply(ForwardReply {
            flow: NamedFlow { listener: "", address: SocketAddr::from(([0; 4], 0)) },
            datagram: long.as_bytes(),
        }),
    ] {
        assert!(matches!(frame.encode(clock, &mut buffer), Err(FrameError::TooLong(_))));
        assert_eq!(buffer, b"before");
    }
}

#[test]
fn a_kind_of_a_newer_program_is_told_from_a_malformed_frame() {
    let clock = FrameClock::new(start());
    assert_eq!(Frame::decode(b"\x01\xf0anything", clock), Err(FrameError::UnknownKind(0xf0)));
    assert_eq!(Frame::decode(b"\x02\x00", clock), Err(FrameError::Version(2)));
    for malformed in [b"".as_slice(), b"\x01", b"\x01\x03", b"\x01\x03\x07\x00", b"\x01\x07\x07\x02"] {
        assert_eq!(Frame::decode(malformed, clock), Err(FrameError::Malformed), "{malformed:?}");
    }
}

#[test]
fn hops_are_one_or_two_and_nodes_have_seven_bits() {
    let clock = FrameClock::new(start());
    let with = |hops, node| {
        let bytes = [b"\x01\x04\x07".as_slice(), &[hops], b"\x00", &[node], b"\x00\x00\x04\x7f\0\0\x01\0\x09"].concat();
        Frame::decode(&bytes, clock).map(drop)
    };
    assert_eq!([with(1, 127), with(2, 0)], [Ok(()), Ok(())]);
    assert_eq!([with(0, 0), with(3, 0), with(1, 128)], [Err(FrameError::Malformed); 3]);
}

fn processes() -> impl Strategy<Value = NodeProcess> {
    (0..128_u64, any::<u64>()).prop_map(|(node, incarnation)| process(node, incarnation))
}

fn shards() -> impl Strategy<Value = Shard> {
    any::<u8>().prop_map(Shard::new)
}

fn addresses() -> impl Strategy<Value = SocketAddr> {
    let v4 = any::<([u8; 4], u16)>().prop_map(SocketAddr::from);
    let v6 = any::<([u8; 16], u16, u32, u32)>();
    let v6 = v6.prop_map(|(ip, port, flow, scope)| std::net::SocketAddrV6::new(ip.into(), port, flow, scope).into());
    prop_oneof![v4, v6]
}

/// The texts and the datagram of a frame.
type Contents = (String, String, Vec<u8>);

fn contents() -> impl Strategy<Value = Contents> {
    ("\\PC{0,40}", "\\PC{0,40}", prop::collection::vec(any::<u8>(), 0..200))
}

fn pongs(clock: Instant) -> impl Strategy<Value = PeerMessage> {
    let acquired = prop::collection::vec((shards(), any::<u64>().prop_map(Term::new)), 0..300);
    let others = prop::collection::vec(processes(), 0..130);
    let fields = (processes(), any::<u32>(), any::<bool>(), prop::option::of(any::<u64>()), acquired, others);
    fields.prop_map(move |(from, asked, reaches, newest, acquired, others)| PeerMessage::Pong {
        from,
        asked: clock + Duration::from_nanos(asked.into()),
        reaches,
        newest: newest.map(Incarnation),
        acquired,
        others,
    })
}

proptest! {
    #[test]
    fn what_is_written_is_read(
        (one, other, datagram) in contents(),
        (process, address, shard) in (processes(), addresses(), shards()),
        (flag, hops) in (any::<bool>(), 1..=MAX_HOPS),
        owner in prop::option::of(processes()),
        asked in any::<u32>(),
        number in any::<u64>().prop_map(MoveNumber),
        pong in pongs(std::time::Instant::now()),
    ) {
        let start = std::time::Instant::now() - Duration::from_secs(100);
        let (clock, flow) = (FrameClock::new(start), NamedFlow { listener: &one, address });
        let asked = start + Duration::from_nanos(asked.into());
        let frames = [
            Frame::Hello(Hello { process, name: &one, address: &other }),
            Frame::Message(PeerMessage::Ping { from: process, asked }),
            Frame::Message(pong),
            Frame::Message(PeerMessage::Yours { shard }),
            Frame::Message(PeerMessage::Settled { shard }),
            Frame::Forward(Forward { shard, hops, is_learned: flag, entry: process.node, flow, datagram: &datagram }),
            Frame::Reply(ForwardReply { flow, datagram: &datagram }),
            Frame::Learn(Learn { flow, shard, has_device: flag }),
            Frame::NotMine(NotMine { shard, owner: owner.map(|owner| owner.node) }),
            Frame::Ways(DeviceWays { entry: process.node, listener: &one, addresses: vec![address; usize::from(hops)] }),
            Frame::Fetch(Fetch {
                number,
                shard,
                reason: [FetchReason::Register, FetchReason::Request, FetchReason::Handshake][usize::from(hops)],
                device: if flag { FetchedDevice::Endpoint(&one) } else { FetchedDevice::Location(&one) },
                association: AssociationId(process.incarnation.0),
                identity: &other,
            }),
            Frame::Fetched(FetchResult { number, answer: FetchAnswer::Frozen { shard, version: number.0, endpoint: &one } }),
            Frame::Fetched(FetchResult { number, answer: FetchAnswer::Absent }),
            Frame::Fetched(FetchResult { number, answer: FetchAnswer::Busy }),
            Frame::Fetched(FetchResult { number, answer: FetchAnswer::Forbidden(hops) }),
            Frame::Done(Done { version: number.0, endpoint: &one }),
        ];
        let mut bytes = Vec::new();
        for frame in &frames {
            prop_assert_eq!(frame.encode(clock, &mut bytes), Ok(()));
        }
        let mut rest = bytes.as_slice();
        for frame in frames {
            let read = split_frame(&mut rest).expect("a valid length").expect("a whole frame");
            prop_assert_eq!(Frame::decode(read, clock), Ok(frame));
        }
        prop_assert!(rest.is_empty());
    }

    #[test]
    fn what_is_read_is_written_as_the_same_bytes(
        kind in 0..18_u8,
        fields in prop::collection::vec(prop_oneof![0..3_u8, any::<u8>()], 0..32),
    ) {
        let clock = FrameClock::new(std::time::Instant::now());
        let bytes = [&[VERSION, kind], fields.as_slice()].concat();
        if let Ok(frame) = Frame::decode(&bytes, clock) {
            let mut again = Vec::new();
            prop_assert_eq!(frame.encode(clock, &mut again), Ok(()));
            prop_assert_eq!(&again[PREFIX..], bytes.as_slice());
        }
    }
}
