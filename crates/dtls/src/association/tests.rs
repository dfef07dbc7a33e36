use super::super::cipher::{OpenedRecord, Suite};
use super::super::credentials::{KeyKind, PskKey};
use super::super::record::{OwnCid, records};
use super::*;
use lwm2m_base::identity::PskIdentity;
use lwm2m_cluster::NodeNumber;

/// The parameters of an association in a test.
pub(crate) struct Making {
    pub suite: Suite,
    pub own_cid: bool,
    pub peer_cid: &'static [u8],
    pub identity: Identity,
}

impl Default for Making {
    fn default() -> Self {
        let identity = Identity::Psk(PskIdentity::new(b"urn:imei:1").unwrap());
        Self { suite: Suite::Aes128Ccm8, own_cid: true, peer_cid: &[1, 2], identity }
    }
}

pub(crate) fn association(making: Making) -> Association {
    let id = AssociationId(7);
    let key = PskKey::new(*b"0123456789abcdef").unwrap();
    let is_psk = matches!(making.identity, Identity::Psk(_));
    let key = is_psk.then(|| KeyMark::new(&key, KeyKind::Registration, id));
    let established = Established {
        keys: RecordKeys::derive(making.suite, &[3; 48], &[1; 32], &[2; 32]),
        own_cid: making.own_cid.then(|| OwnCid(id.0.to_be_bytes())),
        peer_cid: PeerCid::new(making.peer_cid),
        next_write_sequence: 1,
        newest_read_sequence: 0,
        last_flight: vec![b"ChangeCipherSpec".to_vec(), b"Finished".to_vec()],
        early: Vec::new(),
        identity: making.identity,
        resumed: false,
    };
    let numbers = WriteNumbers::born_in(BORN, NodeNumber::SINGLE);
    Association::new(id, (1, "192.0.2.1:5000".parse().unwrap()), (established, key), (numbers, Instant::now()))
}

/// The term in which the association of a test was made.
pub(crate) const BORN: Term = Term::new(1_000);

/// The numbers of a term.
const PER_TERM: u16 = (1 << 14) - 1;

/// The other end of an association of a test.
struct AssociationPair {
    keys: RecordKeys,
    own_cid: bool,
}

impl AssociationPair {
    fn of(association: &Association) -> Self {
        Self { keys: association.keys.clone(), own_cid: association.has_own_cid }
    }

    fn seal(&self, content_type: ContentType, sequence: u64, plaintext: &[u8]) -> Vec<u8> {
        let cid = if self.own_cid { &7u64.to_be_bytes()[..] } else { &[] };
        self.keys.seal(Sealing { writer: RecordWriter::Client, content_type, sequence, cid }, plaintext)
    }

    fn open(&self, datagram: &[u8], cid_length: usize) -> OpenedRecord {
        let record = records(datagram, cid_length).next().unwrap();
        self.keys.open(RecordWriter::Server, &record).unwrap()
    }
}

fn open(association: &mut Association, datagram: &[u8]) -> Result<(ReplayCheck, ReceivedContent), DtlsDropReason> {
    let record = records(datagram, OwnCid::LENGTH).next().unwrap();
    association.open(Instant::now(), &record)
}

fn pair() -> (Association, AssociationPair) {
    let association = association(Making::default());
    let device = AssociationPair::of(&association);
    (association, device)
}

#[test]
fn data_goes_both_ways_with_each_suite_with_and_without_connection_ids() {
    for suite in Suite::ALL {
        for (own_cid, peer_cid) in [(true, &[1, 2][..]), (true, &[]), (false, &[])] {
            let mut association = association(Making { suite, own_cid, peer_cid, ..Making::default() });
            let device = AssociationPair::of(&association);
            let up = device.seal(ContentType::ApplicationData, 1, b"up");
            assert_eq!(open(&mut association, &up), Ok((ReplayCheck::Newest, ReceivedContent::Data(b"up".to_vec()))));
            let down = association.seal(TermTurn::UpTo(BORN), b"down").unwrap();
            assert_eq!(down[0], if peer_cid.is_empty() { 23 } else { 25 });
            let opened = device.open(&down, peer_cid.len());
            assert_eq!((opened.content_type, opened.plaintext), (ContentType::ApplicationData, b"down".to_vec()));
        }
    }
}

#[test]
fn a_record_is_taken_once_and_a_forged_one_does_not_mark_the_window() {
    let (mut association, device) = pair();
    let (first, second) =
        (device.seal(ContentType::ApplicationData, 5, b"5"), device.seal(ContentType::ApplicationData, 6, b"6"));
    let mut forged = second.clone();
    *forged.last_mut().unwrap() ^= 1;

    assert_eq!(open(&mut association, &forged), Err(DtlsDropReason::Forged));
    // Far ahead: were it believed, all of the device's records would be too old.
    let mut ahead = first.clone();
    ahead[5] = 0xff;
    assert_eq!(open(&mut association, &ahead), Err(DtlsDropReason::Forged));

    assert_eq!(open(&mut association, &second), Ok((ReplayCheck::Newest, ReceivedContent::Data(b"6".to_vec()))));
    assert_eq!(open(&mut association, &first), Ok((ReplayCheck::Late, ReceivedContent::Data(b"5".to_vec()))));
    assert_eq!(open(&mut association, &first), Err(DtlsDropReason::Replayed));
    assert_eq!(open(&mut association, &second), Err(DtlsDropReason::Replayed));
}

#[test]
fn the_last_flight_is_repeated_as_it_was_until_data_comes() {
    let (mut association, device) = pair();
    let flight = association.last_flight.to_vec();
    for sequence in 1..4 {
        let finished = device.seal(ContentType::Handshake, sequence, &[FINISHED, 0, 0, 12]);
        assert_eq!(open(&mut association, &finished).unwrap().1, ReceivedContent::LastFlightLost(flight.clone()));
    }
    assert_eq!(association.numbers.next_number(), Ok(1), "it takes no sequence numbers");
    open(&mut association, &device.seal(ContentType::ApplicationData, 4, b"data")).unwrap();
    let finished = device.seal(ContentType::Handshake, 5, &[FINISHED, 0, 0, 12]);
    assert_eq!(open(&mut association, &finished).unwrap().1, ReceivedContent::Unexpected);
}

#[test]
fn alerts_and_handshake_messages_are_told_apart() {
    let (mut association, device) = pair();
    let cases: [(ContentType, &[u8], ReceivedContent); 10] = [
        (ContentType::Alert, &[1, 0], ReceivedContent::CloseNotify),
        (ContentType::Alert, &[2, 0], ReceivedContent::CloseNotify),
        (ContentType::Alert, &[2, 40], ReceivedContent::FatalAlert(40)),
        (ContentType::Alert, &[1, 90], ReceivedContent::Warning),
        (ContentType::Alert, &[3, 90], ReceivedContent::Unexpected),
        (ContentType::Alert, &[1], ReceivedContent::Unexpected),
        (ContentType::Handshake, &[CLIENT_HELLO, 0, 0, 50], ReceivedContent::Renegotiation),
        (ContentType::Handshake, &[0, 0, 0, 0], ReceivedContent::Unexpected),
        (ContentType::Handshake, &[], ReceivedContent::Unexpected),
        (ContentType::ChangeCipherSpec, &[1], ReceivedContent::Unexpected),
    ];
    for (sequence, (content_type, plaintext, received)) in (1..).zip(cases) {
        let record = device.seal(content_type, sequence, plaintext);
        assert_eq!(
            open(&mut association, &record),
            Ok((ReplayCheck::Newest, received)),
            "{content_type:?} {plaintext:?}"
        );
    }
}

#[test]
fn the_last_sequence_number_is_for_the_alert() {
    let (mut association, device) = pair();
    association.numbers.skip_below(u64::from(PER_TERM) - 1);
    assert!(association.seal(TermTurn::UpTo(BORN), b"last").is_ok());
    assert_eq!(
        association.seal(TermTurn::UpTo(Term::new(BORN.number() - PATIENT_TERMS)), b"one too many"),
        Err(NoRecord::Never)
    );
    let alert = association.seal_alert(Alert::CloseNotify).unwrap();
    assert_eq!(device.open(&alert, 2).plaintext, [1, 0]);
    assert_eq!(association.seal_alert(Alert::CloseNotify), None);
}

#[test]
fn an_association_that_has_used_the_numbers_of_its_term_is_silent_until_it_may_begin_the_next() {
    let (mut association, device) = pair();
    association.numbers.skip_below(u64::from(PER_TERM));
    assert_eq!(association.seal(TermTurn::UpTo(BORN), b"too early"), Err(NoRecord::Yet));
    let record = association.seal(TermTurn::UpTo(BORN.next()), b"in the next term").unwrap();
    assert_eq!(device.open(&record, 2).plaintext, b"in the next term");
    assert_eq!(records(&record, 2).next().unwrap().sequence, WriteNumbers::PER_TERM + 1);
}

#[test]
fn it_is_to_be_written_anew_when_a_term_begins_and_before_much_was_received() {
    let (mut association, device) = pair();
    for _ in 0..PER_TERM - 1 {
        association.seal(TermTurn::UpTo(BORN), b"").unwrap();
    }
    assert!(!association.is_worn());
    association.seal(TermTurn::UpTo(BORN.next()), b"").unwrap();
    assert!(association.is_worn());
    association.written();
    for sequence in 1..64 {
        open(&mut association, &device.seal(ContentType::ApplicationData, sequence, b"")).unwrap();
    }
    assert!(!association.is_worn());
    open(&mut association, &device.seal(ContentType::ApplicationData, 64, b"")).unwrap();
    assert!(association.is_worn());
    association.written();
    assert!(!association.is_worn());
}

/// Bounds the memory of an association: with its keys, its identity and its table entries, 50,000 of them took 755
/// bytes each when it had 208 itself. The time and the kind of its handshake are 24 more, and the mark of its key 8.
#[test]
fn an_association_takes_less_than_a_kibibyte_by_far() {
    assert!(size_of::<Association>() <= 240, "{} bytes", size_of::<Association>());
    assert_eq!(association(Making::default()).keys.block().len(), 40);
}
