use lwm2m_base::AssociationId;
use lwm2m_core::coap::options::{format, number};
use lwm2m_core::coap::{DropReason, MessageId, Options, Request, Token};
use lwm2m_core::lwm2m::path::Path;
use lwm2m_core::lwm2m::register::Registration;
use lwm2m_dtls::HandshakeFailure;

use super::*;

const AT: Duration = Duration::from_secs(1_700_000_000);

/// A trace, and what arrives for it.
struct TestRecord {
    record: TraceRecord,
    hidden: HiddenPaths,
    model: Model,
}

impl TestRecord {
    fn new() -> Self {
        let target = TraceTarget::Endpoint("ep1".to_owned());
        let (by, now, lasts) = ("alice".to_owned(), Instant::now(), Duration::from_secs(60));
        let record = TraceRecord::new(TraceId(1), target, by, Timestamp(AT), now, lasts);
        let hidden = HiddenPaths::new(vec!["/0".parse().unwrap()]);
        Self { record, hidden, model: Model::default() }
    }

    fn add(&mut self, direction: Direction, port: u16, message: &Message, paths: &[&str]) -> &MessageEntry {
        let address = SocketAddr::from(([10, 0, 0, 9], port));
        let (peer, datagram) = (Peer::udp(0, address), message.encode());
        let traced = TracedMessage { direction, peer, address, datagram, subject: subject(paths) };
        let covered = CoveredMessage::of(traced, AT, &self.hidden, &self.model);
        self.record.add(AT, &covered);
        let newest = self.record.messages().next().expect("it is there");
        newest.1
    }

    fn note(&mut self, report: &Report) {
        let peer = Peer::udp(0, SocketAddr::from(([10, 0, 0, 9], 1)));
        self.record.note(AT, Some(peer), None, report);
    }

    fn outcomes(&self) -> Vec<Option<&str>> {
        fn outcome(entry: &TraceEntry) -> Option<&str> {
            match &entry.content {
                EntryContent::Message(message) => message.outcome.as_deref(),
                EntryContent::Dtls(dtls) => dtls.reason.as_deref(),
            }
        }
        self.record.entries(0).map(outcome).collect()
    }
}

fn subject(paths: &[&str]) -> Option<TracedSubject> {
    let mut register = Request::new(Code::POST);
    register.options.add_text(number::URI_QUERY, "ep=ep1");
    let lifetimes = Duration::from_secs(1)..=Duration::from_secs(86_400);
    let registration = Registration::from_register(&register, &lifetimes, None).expect("a registration");
    let paths: Vec<Path> = paths.iter().map(|path| path.parse().unwrap()).collect();
    (!paths.is_empty()).then_some(TracedSubject { registration, paths, is_composite: false })
}

fn message(kind: Kind, code: Code, id: u16, token: &[u8], payload: &[u8]) -> Message {
    let mut options = Options::new();
    if !payload.is_empty() {
        options.add_uint(number::CONTENT_FORMAT, format::TEXT.into());
    }
    Message { kind, code, id: MessageId(id), token: Token::new(token), options, payload: payload.to_vec() }
}

fn shows(entry: &MessageEntry, text: &[u8]) -> bool {
    entry.datagram.ends_with(text)
}

#[test]
fn a_message_answers_the_request_of_its_token_and_acknowledges_the_message_of_its_id() {
    let mut record = TestRecord::new();
    let con = Kind::Confirmable;
    record.add(Direction::Out, 1, &message(con, Code::GET, 7, b"t1", b""), &["/3/0/0"]);
    record.add(Direction::Out, 1, &message(con, Code::GET, 8, b"t2", b""), &["/3/0/1"]);
    let ack = record.add(Direction::In, 1, &Message::empty(Kind::Acknowledgement, MessageId(7)), &[]);
    assert_eq!(ack.answers, Some(1));
    let separate = message(con, Code::CONTENT, 99, b"t2", b"x");
    assert_eq!(record.add(Direction::In, 1, &separate, &["/3/0/1"]).answers, Some(2));
    let ack = record.add(Direction::Out, 1, &Message::empty(Kind::Acknowledgement, MessageId(99)), &[]);
    assert_eq!(ack.answers, Some(4));
    // The device has moved; its notification belongs to the same request.
    let moved = message(Kind::NonConfirmable, Code::CONTENT, 100, b"t1", b"y");
    assert_eq!(record.add(Direction::In, 2, &moved, &["/3/0/0"]).answers, Some(1));
    let other = message(Kind::NonConfirmable, Code::CONTENT, 101, b"t9", b"y");
    assert_eq!(record.add(Direction::In, 2, &other, &[]).answers, None);
}

#[test]
fn a_repetition_is_marked_and_shows_what_was_shown_before_and_no_more() {
    let mut record = TestRecord::new();
    let answer = message(Kind::Acknowledgement, Code::CONTENT, 7, b"t1", b"ACME");
    let first = record.add(Direction::In, 1, &answer, &["/3/0/0"]);
    assert!(shows(first, b"ACME") && !first.again && !first.hidden);
    // Nobody waits for the second one: it is not known any more what it is about.
    let second = record.add(Direction::In, 1, &answer, &[]);
    assert!(shows(second, b"ACME") && second.again && !second.hidden && second.subject.is_some());

    let key = message(Kind::Acknowledgement, Code::CONTENT, 8, b"t2", b"key!");
    for (paths, again) in [(&["/0/0/5"][..], false), (&[], true)] {
        let covered = record.add(Direction::In, 1, &key, paths);
        assert!(shows(covered, b"****") && covered.hidden);
        assert_eq!(covered.again, again);
    }
    let late = message(Kind::Acknowledgement, Code::CONTENT, 9, b"t3", b"late");
    assert!(shows(record.add(Direction::In, 1, &late, &[]), b"****"), "nobody has asked for it");
}

#[test]
fn the_oldest_entries_go_by_number_and_by_size() {
    let mut record = TestRecord::new();
    for id in 0..600 {
        record.add(Direction::Out, 1, &message(Kind::Confirmable, Code::GET, id, b"t", b""), &[]);
    }
    assert_eq!((record.record.len(), record.record.gone(), record.record.newest()), (512, 88, 600));
    assert_eq!(record.record.entries(0).next().map(|entry| entry.n), Some(89));
    assert_eq!(record.record.entries(598).count(), 2);
    for id in 0..20 {
        record.add(
            Direction::In,
            1,
            &message(Kind::Confirmable, Code::CONTENT, id, b"t", &[b'x'; 60_000]),
            &["/3/0/0"],
        );
    }
    assert_eq!(record.record.len(), 8);
    assert!(record.record.bytes <= ENTRY_BYTES);
}

#[test]
fn the_outcome_of_a_message_becomes_its_verdict() {
    let mut record = TestRecord::new();
    let peer = Peer::udp(0, SocketAddr::from(([10, 0, 0, 9], 1)));
    let outcome = |outcome| Report::Datagram { peer, outcome };
    let register = message(Kind::Confirmable, Code::POST, 7, b"t1", b"");
    record.add(Direction::In, 1, &register, &[]);
    record.note(&outcome(DatagramOutcome::Request));
    record.add(Direction::Out, 1, &Message::empty(Kind::Acknowledgement, MessageId(7)), &[]);
    record.add(Direction::In, 1, &register, &[]);
    record.note(&outcome(DatagramOutcome::Duplicate));
    record.add(Direction::In, 1, &message(Kind::NonConfirmable, Code::GET, 8, b"", b""), &[]);
    record.note(&outcome(DatagramOutcome::Dropped(DropReason::RateLimited)));
    let wrong_key =
        Report::Dtls(DtlsReport::HandshakeFailed { peer, identity: None, reason: HandshakeFailure::WrongKey });
    record.note(&wrong_key);
    let association = AssociationId(1);
    record.note(&Report::Dtls(DtlsReport::Unsent { association }));
    let outcomes = record.outcomes();
    assert_eq!(
        outcomes[..3],
        [
            Some("request"),
            Some("not sent: the DTLS association is closed"),
            Some("duplicate, the reply was sent again")
        ]
    );
    assert!(outcomes[3].is_some_and(|outcome| outcome.starts_with("rate limit of unregistered peers")));
    assert_eq!(outcomes[4], Some("the device has another key for this identity"));

    let reason = "wrong password".to_owned();
    record.note(&Report::RegisterRejected { peer, endpoint: None, code: Code::FORBIDDEN, reason });
    assert_eq!(record.outcomes()[2], Some("refused 4.03: wrong password"), "the newest Register");
}

#[test]
fn no_block_of_the_uri_of_an_image_is_shown_even_if_nothing_is_hidden() {
    let mut record = TestRecord::new();
    record.hidden = HiddenPaths::default();
    let uri = b"coap://gw.example.com:5683/fw/ABCDEFGHIJKLMNOP/app.bin";
    for (at, block) in uri.chunks(16).enumerate() {
        let more = u32::from((at + 1) * 16 < uri.len());
        let value = u32::try_from(at).unwrap() << 4 | more << 3;
        let mut write = message(Kind::Confirmable, Code::PUT, 10, b"t1", block);
        write.options.add_uint(number::BLOCK1, value);
        let mut read = message(Kind::Acknowledgement, Code::CONTENT, 11, b"t2", block);
        read.options.add_uint(number::BLOCK2, value);
        let stars = vec![b'*'; block.len()];
        for paths in [&["/5/0/1"][..], &["/5/0"], &["/5"], &["/"], &[]] {
            for (direction, message) in [(Direction::Out, &write), (Direction::In, &read)] {
                let entry = record.add(direction, 1, message, paths);
                assert!(entry.hidden && shows(entry, &stars), "block {at} of {paths:?}");
            }
        }
    }
    let mut other = message(Kind::Confirmable, Code::PUT, 12, b"t3", b"a block of an image");
    other.options.add_uint(number::BLOCK1, 8);
    assert!(shows(record.add(Direction::Out, 1, &other, &["/5/0/0"]), b"a block of an image"));
}
