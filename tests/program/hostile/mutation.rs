//! Mutates datagrams: bits, lengths, options and whole pieces change.

#![expect(clippy::ptr_arg, reason = "all changes have one signature, and some change the length")]

use rand::RngExt;
use rand::rngs::StdRng;

use super::bombs;

/// The longest datagram that is made.
pub(super) const LONGEST: usize = 60_000;
/// Numbers that are an edge somewhere: lengths, deltas, nibbles.
const EDGES: [u8; 12] = [0x00, 0x01, 0x7f, 0x80, 0xc0, 0xd0, 0xdd, 0xe0, 0xee, 0xf0, 0xfe, 0xff];

type Change = fn(&mut StdRng, &mut Vec<u8>, &[Vec<u8>]);

const CHANGES: [Change; 14] = [
    flip_a_bit,
    flip_a_bit,
    set_a_byte,
    set_an_edge,
    set_two_bytes,
    cut,
    cut_out,
    insert,
    repeat_a_piece,
    splice,
    insert_an_option,
    insert_a_huge_delta,
    insert_many_options,
    append_a_bomb,
];

/// Changes it in one to four ways. `others` are what it may be spliced with.
pub(super) fn mutate(rng: &mut StdRng, datagram: &mut Vec<u8>, others: &[Vec<u8>]) {
    for _ in 0..rng.random_range(1..=4) {
        CHANGES[rng.random_range(0..CHANGES.len())](rng, datagram, others);
        datagram.truncate(LONGEST);
    }
}

/// Changes only what is behind the header and the token, so that it still means somebody.
pub(super) fn mutate_behind(rng: &mut StdRng, datagram: &mut Vec<u8>, others: &[Vec<u8>]) {
    let token = datagram.first().map_or(0, |first| usize::from(first & 0x0f));
    let header = (4 + token).min(datagram.len());
    let mut rest = datagram.split_off(header);
    mutate(rng, &mut rest, others);
    datagram.append(&mut rest);
}

fn somewhere(rng: &mut StdRng, bytes: &[u8]) -> usize {
    rng.random_range(0..=bytes.len())
}

fn piece(rng: &mut StdRng, bytes: &[u8]) -> std::ops::Range<usize> {
    let (a, b) = (somewhere(rng, bytes), somewhere(rng, bytes));
    a.min(b)..a.max(b)
}

fn flip_a_bit(rng: &mut StdRng, bytes: &mut Vec<u8>, _: &[Vec<u8>]) {
    let (at, bit) = (somewhere(rng, bytes), rng.random_range(0..8));
    bytes.get_mut(at).into_iter().for_each(|byte| *byte ^= 1 << bit);
}

fn set_a_byte(rng: &mut StdRng, bytes: &mut Vec<u8>, _: &[Vec<u8>]) {
    let (at, value) = (somewhere(rng, bytes), rng.random());
    bytes.get_mut(at).into_iter().for_each(|byte| *byte = value);
}

fn set_an_edge(rng: &mut StdRng, bytes: &mut Vec<u8>, _: &[Vec<u8>]) {
    let (at, value) = (somewhere(rng, bytes), EDGES[rng.random_range(0..EDGES.len())]);
    bytes.get_mut(at).into_iter().for_each(|byte| *byte = value);
}

fn set_two_bytes(rng: &mut StdRng, bytes: &mut Vec<u8>, _: &[Vec<u8>]) {
    let at = somewhere(rng, bytes);
    let value: u16 = [0, 1, 0xff, 0x100, 0x7fff, 0x8000, 0xffff][rng.random_range(0..7)];
    bytes.get_mut(at..at + 2).into_iter().for_each(|place| place.copy_from_slice(&value.to_be_bytes()));
}

fn cut(rng: &mut StdRng, bytes: &mut Vec<u8>, _: &[Vec<u8>]) {
    let at = somewhere(rng, bytes);
    bytes.truncate(at);
}

fn cut_out(rng: &mut StdRng, bytes: &mut Vec<u8>, _: &[Vec<u8>]) {
    let piece = piece(rng, bytes);
    bytes.drain(piece);
}

fn insert(rng: &mut StdRng, bytes: &mut Vec<u8>, _: &[Vec<u8>]) {
    let at = somewhere(rng, bytes);
    let new: Vec<u8> = (0..rng.random_range(1..20)).map(|_| rng.random()).collect();
    bytes.splice(at..at, new);
}

fn repeat_a_piece(rng: &mut StdRng, bytes: &mut Vec<u8>, _: &[Vec<u8>]) {
    let piece = piece(rng, bytes);
    let at = piece.end;
    let times = if rng.random_bool(0.02) { rng.random_range(2..500) } else { rng.random_range(1..4) };
    let most = LONGEST / piece.len().max(1);
    let copies = bytes[piece].repeat(times.min(most));
    bytes.splice(at..at, copies);
}

fn splice(rng: &mut StdRng, bytes: &mut Vec<u8>, others: &[Vec<u8>]) {
    let Some(other) = others.get(rng.random_range(0..others.len().max(1))) else { return };
    let (at, from) = (somewhere(rng, bytes), somewhere(rng, other));
    bytes.truncate(at);
    bytes.extend_from_slice(&other[from..]);
}

fn insert_an_option(rng: &mut StdRng, bytes: &mut Vec<u8>, _: &[Vec<u8>]) {
    let at = somewhere(rng, bytes);
    let length = rng.random_range(0..13_u8);
    let option = [vec![rng.random_range(0..13_u8) << 4 | length], vec![b'a'; usize::from(length)]].concat();
    bytes.splice(at..at, option);
}

/// A delta and a length of 16 bits, with little behind them or with all of it.
fn insert_a_huge_delta(rng: &mut StdRng, bytes: &mut Vec<u8>, _: &[Vec<u8>]) {
    let at = somewhere(rng, bytes);
    let (delta, length): (u16, u16) = (rng.random(), rng.random_range(0..2_000));
    let head = [&[0xee], &delta.to_be_bytes()[..], &length.to_be_bytes()[..]].concat();
    let value = vec![b'x'; if rng.random_bool(0.1) { usize::from(length) + 269 } else { 3 }];
    bytes.splice(at..at, [head, value].concat());
}

fn insert_many_options(rng: &mut StdRng, bytes: &mut Vec<u8>, _: &[Vec<u8>]) {
    let at = somewhere(rng, bytes);
    let few = [0x00, 0x10, 0xb0, 0x01, 0xd0][rng.random_range(0..5)];
    let number = if rng.random_bool(0.05) { 5_000 } else { rng.random_range(2..60) };
    bytes.splice(at..at, vec![few; number]);
}

fn append_a_bomb(rng: &mut StdRng, bytes: &mut Vec<u8>, _: &[Vec<u8>]) {
    let longest = if rng.random_bool(0.02) { 20_000 } else { 300 };
    let (_, payload) = bombs::bomb(rng, longest);
    bytes.push(0xff);
    bytes.extend_from_slice(&payload);
}
