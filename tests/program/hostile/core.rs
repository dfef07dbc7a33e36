//! Mutated datagrams, answers, notifications and commands, all at once, on the core in virtual time.

use lwm2m_base::Peer;
use lwm2m_core::coap::options::number;
use lwm2m_core::coap::{AckMode, Code, Kind, Message};
use rand::RngExt;

use super::bombs;
use super::corpus;
use super::effort;
use super::mutation::{LONGEST, mutate, mutate_behind};
use super::siege::{Siege, answer};

/// Hostile acts of a run in `cargo test`. Four in five are a datagram; the others are commands of an application, or
/// nothing when there is nothing to answer.
const ACTS: u64 = if cfg!(debug_assertions) { 60_000 } else { 1_000_000 };
/// Time between two of them, in seconds. They stay below the rate limit of unregistered peers, so that each is handled.
const PAUSE: f64 = 0.001;
const HONEST: usize = 12;
const HOSTILE: usize = 24;

#[test]
fn mutated_datagrams_harm_nobody_and_leave_nothing_behind() {
    besiege(Siege::begin(HONEST, HOSTILE, effort::rng(1)), ACTS);
}

/// Devices wait longer for an answer, so that more of their messages are under way at a time.
#[test]
fn mutated_datagrams_harm_nobody_where_devices_wait_for_the_broker() {
    besiege(Siege::begin_with(AckMode::Deferred, HONEST, HOSTILE, effort::rng(4)), ACTS / 3);
}

fn besiege(mut siege: Siege, most: u64) {
    let corpus: Vec<Vec<u8>> = corpus::of_unregistered_peers().iter().map(Message::encode).collect();
    let mut acts = 0_u64;
    for round in effort::rounds(most) {
        attack(&mut siege, &corpus);
        siege.pass(PAUSE);
        acts += 1;
        if round % 256 == 0 {
            siege.register_hostile((round / 256) as usize % HOSTILE);
        }
        if round % 16_384 == 0 {
            siege.look();
        }
        // Deadlines of every kind come while the others wait.
        if round % 65_536 == 65_535 {
            siege.pass(70.0);
        }
    }
    println!("{acts} acts, {} of them datagrams, in {:.0} s of virtual time", siege.datagrams, siege.at);
    siege.assert_honest_were_served();
    siege.assert_nothing_stays();
}

/// One hostile act.
fn attack(siege: &mut Siege, corpus: &[Vec<u8>]) {
    match siege.rng.random_range(0..100) {
        0..25 => unregistered_sends(siege, corpus),
        25..55 => device_answers(siege, corpus),
        55..70 => device_notifies(siege, corpus),
        70..78 => device_updates(siege, corpus),
        78..82 => device_sends(siege, corpus),
        82..95 => application_commands(siege),
        _ => anybody_sends_noise(siege),
    }
}

fn unregistered_sends(siege: &mut Siege, corpus: &[Vec<u8>]) {
    let mut datagram = corpus[siege.rng.random_range(0..corpus.len())].clone();
    mutate(&mut siege.rng, &mut datagram, corpus);
    let from = unknown_address(siege);
    siege.strike(from, datagram);
}

/// An answer to one of the last requests, with a content that is mutated or a bomb, or mutated as a whole.
fn device_answers(siege: &mut Siege, corpus: &[Vec<u8>]) {
    let number = siege.rng.random_range(0..HOSTILE);
    let hostile = &mut siege.hostile[number];
    let Some(asked) = hostile.asked.get(siege.rng.random_range(0..4)).cloned() else { return };
    let (peer, id) = (hostile.peer, hostile.fresh_id());
    let mut message = answer(&mut siege.rng, &asked, id);
    if asked.options.uint(number::OBSERVE) == Ok(Some(0)) && siege.rng.random_bool(0.7) {
        message.options.add_uint(number::OBSERVE, 2);
    }
    fill(siege, &mut message, corpus);
    send(siege, peer, &message, corpus);
}

fn device_notifies(siege: &mut Siege, corpus: &[Vec<u8>]) {
    let number = siege.rng.random_range(0..HOSTILE);
    let hostile = &mut siege.hostile[number];
    let Some(observed) = hostile.observed.get(siege.rng.random_range(0..4)).cloned() else { return };
    let (peer, id) = (hostile.peer, hostile.fresh_id());
    let kind = if siege.rng.random_bool(0.5) { Kind::Confirmable } else { Kind::NonConfirmable };
    let mut message = Message { kind, token: observed.token, ..answer(&mut siege.rng, &observed, id) };
    message.id = id;
    message.options.add_uint(number::OBSERVE, siege.rng.random_range(0..1 << 24));
    fill(siege, &mut message, corpus);
    send(siege, peer, &message, corpus);
}

fn device_updates(siege: &mut Siege, corpus: &[Vec<u8>]) {
    let number = siege.rng.random_range(0..HOSTILE);
    let hostile = &mut siege.hostile[number];
    let Some(location) = hostile.location.clone() else { return };
    let (peer, id) = (hostile.peer, hostile.fresh_id());
    let query: &[&str] = match siege.rng.random_range(0..4) {
        0 => &[],
        1 => &["lt=3600"],
        2 => &["b=UQ", "lt=60"],
        _ => &["b=U"],
    };
    let mut message = corpus::update(&location, query, id);
    if siege.rng.random_bool(0.5) {
        fill(siege, &mut message, corpus);
    }
    send(siege, peer, &message, corpus);
}

/// A Send with a content that is mutated or a bomb, or mutated as a whole.
fn device_sends(siege: &mut Siege, corpus: &[Vec<u8>]) {
    let hostile = &mut siege.hostile[siege.rng.random_range(0..HOSTILE)];
    let peer = hostile.peer;
    let mut message = corpus::request(Code::POST, &["dp"], &[], hostile.fresh_id());
    if siege.rng.random_bool(0.5) {
        message.kind = Kind::NonConfirmable;
    }
    fill(siege, &mut message, corpus);
    send(siege, peer, &message, corpus);
}

fn application_commands(siege: &mut Siege) {
    let rng = &mut siege.rng;
    let mut command = corpus::COMMANDS[rng.random_range(0..corpus::COMMANDS.len())].as_bytes().to_vec();
    match rng.random_range(0..10) {
        0..5 => {}
        5..9 => mutate(rng, &mut command, &corpus::COMMANDS.map(|command| command.as_bytes().to_vec())),
        _ => command = bombs::command(rng, LONGEST),
    }
    let endpoint = siege.hostile[siege.rng.random_range(0..HOSTILE)].endpoint.clone();
    siege.network.command_bytes(&endpoint, command);
}

fn anybody_sends_noise(siege: &mut Siege) {
    let length = siege.rng.random_range(0..200);
    let mut datagram: Vec<u8> = (0..length).map(|_| siege.rng.random()).collect();
    // Most of it would only be of another version.
    if siege.rng.random_bool(0.8) {
        datagram.first_mut().into_iter().for_each(|first| *first = *first & 0x38 | 0x40);
    }
    let from = if siege.rng.random_bool(0.5) { unknown_address(siege) } else { hostile(siege) };
    siege.strike(from, datagram);
}

/// A content that a device could have sent, mutated, or a bomb.
fn fill(siege: &mut Siege, message: &mut Message, corpus: &[Vec<u8>]) {
    let rng = &mut siege.rng;
    let (format, mut payload) = if rng.random_bool(0.2) {
        bombs::bomb(rng, 1_200)
    } else {
        let (format, content) = corpus::CONTENTS[rng.random_range(0..corpus::CONTENTS.len())];
        (format, content.to_vec())
    };
    if rng.random_bool(0.6) {
        mutate(rng, &mut payload, corpus);
        payload.truncate(1_200);
    }
    let format = if rng.random_bool(0.1) { rng.random() } else { format };
    message.options.add_uint(number::CONTENT_FORMAT, format.into());
    if rng.random_bool(0.15) {
        let block = rng.random_range(0..4_u32) << 4 | u32::from(rng.random_bool(0.7)) << 3 | rng.random_range(0..8);
        let of = if message.code.is_request() { number::BLOCK1 } else { number::BLOCK2 };
        message.options.add_uint(of, block);
    }
    if rng.random_bool(0.05) {
        message.options.add(number::ETAG, &[rng.random(); 4]);
    }
    message.payload = payload;
}

/// One in three is mutated once more, as a whole or behind its token.
fn send(siege: &mut Siege, from: Peer, message: &Message, corpus: &[Vec<u8>]) {
    let mut datagram = message.encode();
    match siege.rng.random_range(0..6) {
        0 => mutate(&mut siege.rng, &mut datagram, corpus),
        1 => mutate_behind(&mut siege.rng, &mut datagram, corpus),
        _ => {}
    }
    siege.strike(from, datagram);
}

fn unknown_address(siege: &mut Siege) -> Peer {
    let (host, port) = (siege.rng.random_range(0..200), siege.rng.random_range(1_024..1_034));
    Peer::udp(0, ([203, 0, 113, host], port).into())
}

fn hostile(siege: &mut Siege) -> Peer {
    siege.hostile[siege.rng.random_range(0..HOSTILE)].peer
}
