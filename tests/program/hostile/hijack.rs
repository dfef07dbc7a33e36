//! Attempts to take over what belongs to others: guesses of tokens, locations and message ids, and the addresses of
//! devices on datagrams that are not theirs, as far as plain UDP leaves something to defend.

use lwm2m_base::Peer;
use lwm2m_core::coap::options::{format, number};
use lwm2m_core::coap::{Code, Kind, Message, MessageId, Token};
use rand::RngExt;

use super::corpus;
use super::effort;
use super::mutation::mutate_behind;
use super::siege::Siege;

const GUESSES: u64 = if cfg!(debug_assertions) { 30_000 } else { 300_000 };
const PAUSE: f64 = 0.001;
const HONEST: usize = 10;

#[test]
fn guesses_from_elsewhere_reach_no_registration_and_no_exchange() {
    let mut siege = Siege::begin(HONEST, 0, effort::rng(2));
    for round in effort::rounds(GUESSES) {
        let guess = guess(&mut siege);
        let from = Peer::udp(0, ([198, 51, 100, siege.rng.random()], siege.rng.random_range(1_024..60_000)).into());
        siege.strike(from, guess.encode());
        siege.pass(PAUSE);
        if round % 16_384 == 0 {
            siege.look();
        }
    }
    report(&siege);
    siege.assert_honest_were_served();
    assert_eq!(siege.network.gateway.table_sizes().devices, HONEST);
    siege.assert_nothing_stays();
}

/// Who can send from the address of a device sees neither its tokens nor its location. What it may do in plain UDP is
/// left out here: to acknowledge or reset a message whose id it guesses, and to register the name anew. What it may
/// provoke is a reset of the gateway with an id that it guesses: see [`Siege`]. Mutations make Registers of other
/// names, too, and the broker accepts them.
#[test]
fn guesses_from_the_address_of_a_device_harm_neither_it_nor_the_others() {
    let mut siege = Siege::begin(HONEST, 0, effort::rng(3));
    let corpus: Vec<Vec<u8>> = corpus::of_unregistered_peers().iter().map(Message::encode).collect();
    for round in effort::rounds(GUESSES) {
        let mut guess = guess(&mut siege);
        if matches!(guess.kind, Kind::Reset | Kind::Acknowledgement) {
            guess.kind = Kind::NonConfirmable;
        }
        let mut datagram = guess.encode();
        if siege.rng.random_bool(0.3) {
            mutate_behind(&mut siege.rng, &mut datagram, &corpus);
        }
        let from = siege.honest_address();
        siege.strike(from, datagram);
        siege.pass(PAUSE);
        if round % 16_384 == 0 {
            siege.look();
        }
    }
    report(&siege);
    siege.assert_honest_were_served();
    siege.assert_registered_are_connected();
    siege.assert_nothing_stays();
}

fn report(siege: &Siege) {
    let (datagrams, resets, time) = (siege.datagrams, siege.forged_resets(), siege.at);
    println!("{datagrams} datagrams in {time:.0} s of virtual time, {resets} resets for messages of honest devices");
}

/// What would do harm, if it were right.
fn guess(siege: &mut Siege) -> Message {
    let rng = &mut siege.rng;
    let id = MessageId(rng.random());
    let location: String = (0..12).map(|_| char::from(rng.random_range(b'a'..=b'z'))).collect();
    let token: [u8; 8] = rng.random();
    let length = rng.random_range(0..=8);
    let answer = |kind, options: &[(u16, u32)]| {
        let token = Token::new(&token[..length]);
        let mut message = Message { code: Code::CONTENT, token, ..Message::empty(kind, id) };
        options.iter().for_each(|(number, value)| message.options.add_uint(*number, *value));
        message.options.add_uint(number::CONTENT_FORMAT, format::TEXT.into());
        message.payload = b"666.0".to_vec();
        message
    };
    match rng.random_range(0..9) {
        0 => corpus::update(&location, &["lt=1"], id),
        1 => corpus::update(&location, &["lt=60", "b=UQ"], id),
        2 => corpus::request(Code::DELETE, &["rd", &location], &[], id),
        3 => corpus::request(Code::GET, &["rd", &location], &[], id),
        4 => answer(Kind::Acknowledgement, &[]),
        5 => answer(Kind::Confirmable, &[]),
        6 => answer(Kind::NonConfirmable, &[(number::OBSERVE, 0x00ff_ffff)]),
        7 => answer(Kind::Confirmable, &[(number::OBSERVE, 5), (number::BLOCK2, 0x1e)]),
        _ => Message::empty(Kind::Reset, id),
    }
}
