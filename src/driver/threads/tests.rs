use std::net::SocketAddr;

use lwm2m_router::Claims;

use super::*;

const ENDPOINT: &str = "ep1";

fn two() -> [DriverThread; 2] {
    let shards = ThreadShards::new(0, 2).expect("there is such a thread");
    let owners = EndpointOwners::new(Claims::new(shards, 10));
    let threads = DriverThread::all(NonZero::new(2).expect("two"), 1, &owners);
    threads.try_into().unwrap_or_else(|_| panic!("two threads"))
}

fn peer() -> Peer {
    Peer::udp(0, SocketAddr::from(([192, 0, 2, 1], 5683)))
}

fn question(purpose: ClaimPurpose) -> ClaimQuestion {
    ClaimQuestion { device: DeviceName::Endpoint(ENDPOINT.to_owned()), purpose, peer: peer(), identity: None }
}

fn answer_of(asked: Option<(ClaimQuestion, ClaimAnswer)>) -> Option<ClaimAnswer> {
    asked.map(|(_, answer)| answer)
}

fn message(thread: &mut DriverThread) -> MoveMessage {
    thread.moves.try_recv().unwrap_or_else(|error| panic!("a message of another thread: {error}"))
}

/// The thread that has a device gives it, or its name, to the one that asks.
fn answers(owner: &mut DriverThread, asker: &mut DriverThread, answer: ClaimAnswer) -> ClaimAnswer {
    let MoveMessage::Release { question, asker: number, room } = message(owner) else { panic!("a question") };
    assert_eq!(number, asker.number());
    owner.give(question, answer, (number, room));
    let MoveMessage::Released { answer, from, .. } = message(asker) else { panic!("an answer") };
    assert_eq!(from, owner.number());
    answer
}

#[test]
fn a_name_is_of_the_first_thread_that_claims_it_until_that_thread_gives_it_back() {
    let [first, second] = two();
    let register = || question(ClaimPurpose::Register);
    assert_eq!(answer_of(first.ask(register())), Some(ClaimAnswer::Mine));
    assert_eq!(answer_of(first.ask(register())), Some(ClaimAnswer::Mine));
    assert_eq!(answer_of(first.ask(question(ClaimPurpose::Handshake))), Some(ClaimAnswer::Absent), "it is here");
    second.unclaim(ENDPOINT);
    assert_eq!(first.owners().find(ENDPOINT), Some(0), "only the owner gives it back");
    first.unclaim(ENDPOINT);
    assert_eq!(answer_of(second.ask(question(ClaimPurpose::Handshake))), Some(ClaimAnswer::Absent));
    assert_eq!(answer_of(second.ask(register())), Some(ClaimAnswer::Mine));
}

#[test]
fn a_thread_that_does_not_have_the_device_any_more_gives_its_name_to_a_register() {
    let [mut first, mut second] = two();
    assert!(first.ask(question(ClaimPurpose::Register)).is_some());
    assert_eq!(answer_of(second.ask(question(ClaimPurpose::Register))), None, "the other thread is asked");
    assert_eq!(answers(&mut first, &mut second, ClaimAnswer::Absent), ClaimAnswer::Absent, "its claim stands");
    assert!(second.ask(question(ClaimPurpose::Register)).is_none());
    first.unclaim(ENDPOINT);
    assert_eq!(answers(&mut first, &mut second, ClaimAnswer::Absent), ClaimAnswer::Mine);
    assert_eq!(second.owners().find(ENDPOINT), Some(1));
}

#[test]
fn a_question_is_answered_at_once_if_there_is_no_room_for_its_answer_or_for_itself() {
    let [first, second] = two();
    assert!(first.ask(question(ClaimPurpose::Register)).is_some());
    // Each question takes a place in the queue of the thread that is asked, and one in the queue of the thread that
    // asks.
    for _ in 0..MOVES {
        assert!(second.ask(question(ClaimPurpose::Handshake)).is_none());
    }
    assert_eq!(answer_of(second.ask(question(ClaimPurpose::Register))), Some(ClaimAnswer::Unknown));
    let (mut first, mut second) = (first, second);
    for _ in 0..MOVES {
        assert_eq!(answers(&mut first, &mut second, ClaimAnswer::Absent), ClaimAnswer::Absent);
    }
    assert!(second.ask(question(ClaimPurpose::Register)).is_none(), "there is room again");
}

#[test]
fn a_datagram_that_finds_no_room_is_dropped_and_moves_have_room_all_the_same() {
    let [first, mut second] = two();
    for _ in 0..DATAGRAMS {
        assert!(first.forward(1, peer(), b"datagram", false));
    }
    assert!(!first.forward(1, peer(), b"datagram", false));
    assert!(second.ask(question(ClaimPurpose::Register)).is_some());
    assert!(first.ask(question(ClaimPurpose::Handshake)).is_none());
    let Some(DatagramMessage::Forwarded { datagram, from, .. }) = second.next_datagram() else { panic!("a datagram") };
    assert_eq!((&*datagram, from), (&b"datagram"[..], 0));
    assert!(first.forward(1, peer(), b"datagram", false));
}

#[test]
fn an_address_is_remembered_while_the_other_thread_has_a_device_there() {
    let [mut first, mut second] = two();
    let now = crate::clock::monotonic_now();
    let empty = [0x40, 0, 0, 1];
    assert_eq!(first.route(now, peer(), &empty), Route::Own);
    for (has_device, route) in [(true, Route::Thread { thread: 1, is_learned: true }), (false, Route::Own)] {
        second.teach(0, peer(), has_device);
        let Some(DatagramMessage::Learn { flow, thread, has_device }) = first.next_datagram() else {
            panic!("a lesson")
        };
        first.learn(now, flow, thread, has_device);
        assert_eq!(first.route(now, peer(), &empty), route);
    }
    assert!(second.next_datagram().is_none());
}

#[test]
fn a_former_record_is_removed_when_the_store_has_the_new_one() {
    let [mut first, mut second] = two();
    let [before, after] = [BatchNumber::default(), version_after(BatchNumber::default())];
    second.note_arrival(ENDPOINT.to_owned(), 0);
    second.note_flushed(before, |_| true);
    second.note_stored(Some(after));
    assert!(first.moves.try_recv().is_err(), "its record is in no batch yet");
    second.note_flushed(after, |_| false);
    second.note_stored(Some(before));
    assert!(first.moves.try_recv().is_err(), "its batch is not stored yet");
    second.note_stored(Some(after));
    let MoveMessage::HandedOver { endpoint } = message(&mut first) else { panic!("a hand-over") };
    assert_eq!(endpoint, ENDPOINT);
    second.note_stored(Some(after));
    assert!(first.moves.try_recv().is_err(), "once");
}

/// The number of a batch after this one: a gateway without a store counts them, too.
fn version_after(version: BatchNumber) -> BatchNumber {
    use lwm2m_core::gateway::{Gateway, config::GatewayConfig};
    let now = crate::clock::monotonic_now();
    let mut gateway = Gateway::new(GatewayConfig::default(), Arc::default(), [0; 32], now, std::time::Duration::ZERO);
    let next = gateway.take_batch(now, 1).version;
    assert!(next > version);
    next
}
