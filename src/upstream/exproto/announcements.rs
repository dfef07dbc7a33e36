//! The token lines by which connections of EMQX are recognized as anchors of devices or probes.
//!
//! Anybody may connect to EMQX's listener, and EMQX reports every connection. The bytes of unknown connections are kept
//! only while they could still become a token line, and their number is bounded.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use lwm2m_base::expiring_map::ExpiringMap;
use lwm2m_base::{ShardSet, ThreadShards};
use rand::{Rng, RngExt};

use super::devices::AnchorOwner;

/// Limits the connections that have sent the beginning of a line. The oldest is forgotten for the next.
const BEGUN_LINES: usize = 4096;
/// Time for which the beginning of a line is kept.
const BEGUN_LINE_LIFE: Duration = Duration::from_secs(60);

/// The first line of an anchor: 128 random bits, or some fewer with several driver threads, so that nobody else can
/// announce a connection as one of the gateway's devices.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct AnchorToken(String);

/// Says what the bytes of a connection have been.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LineResult {
    Token(AnchorOwner),
    /// The line is no expected token, or too long to be one.
    Unknown,
    /// The bytes are the beginning of a line.
    Incomplete,
}

/// Holds the tokens that are expected, each with the owner of its anchor.
#[derive(Debug)]
pub(crate) struct Announcements {
    expected: HashMap<AnchorToken, AnchorOwner>,
    /// The lines that have begun, by their connection.
    begun: ExpiringMap<String, Vec<u8>>,
}

impl AnchorToken {
    const LENGTH: usize = 32;

    /// Makes a token whose first two characters name one of these shards. With all shards each of them is random.
    pub fn random(rng: &mut impl Rng, shards: ThreadShards) -> Self {
        let [first, rest @ ..] = rng.random::<u128>().to_be_bytes();
        let rest = rest.into_iter().fold(0, |number, byte| number << 8 | u128::from(byte));
        let number = u128::from(ShardSet::from(shards).choose(first).number()) << (u128::BITS - u8::BITS) | rest;
        Self(format!("{number:0width$x}", width = Self::LENGTH))
    }

    /// Returns the bytes that the anchor writes.
    pub fn line(&self) -> Vec<u8> {
        format!("{}\n", self.0).into_bytes()
    }
}

impl Default for Announcements {
    fn default() -> Self {
        Self { expected: HashMap::new(), begun: ExpiringMap::new(BEGUN_LINES) }
    }
}

impl Announcements {
    pub(super) fn expect(&mut self, token: AnchorToken, who: AnchorOwner) {
        self.expected.insert(token, who);
    }

    pub(super) fn forget(&mut self, token: &AnchorToken) {
        self.expected.remove(token);
    }

    /// Takes bytes of a connection that is not yet known. A token is accepted once.
    pub(super) fn received(&mut self, now: Instant, conn: &str, bytes: &[u8]) -> LineResult {
        self.begun.remove_expired(now);
        let mut line = self.begun.remove(conn).unwrap_or_default();
        let end = bytes.iter().position(|byte| *byte == b'\n');
        let addition = &bytes[..end.unwrap_or(bytes.len())];
        if line.len() + addition.len() > AnchorToken::LENGTH {
            return LineResult::Unknown;
        }
        line.extend_from_slice(addition);
        if end.is_none() {
            self.begun.insert(conn.to_owned(), now + BEGUN_LINE_LIFE, line);
            return LineResult::Incomplete;
        }
        let token = String::from_utf8(line).map(AnchorToken).ok();
        let who = token.and_then(|token| self.expected.remove(&token));
        who.map_or(LineResult::Unknown, LineResult::Token)
    }

    /// Forgets a connection that has ended.
    pub(super) fn closed(&mut self, conn: &str) {
        self.begun.remove(conn);
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::*;
    use lwm2m_core::gateway::broker::RegistrationId;

    const DEVICE: AnchorOwner = AnchorOwner::Device(RegistrationId(1));

    fn expecting() -> (Announcements, Vec<u8>) {
        let token = AnchorToken::random(&mut StdRng::seed_from_u64(1), ThreadShards::ALL);
        let line = token.line();
        let mut announcements = Announcements::default();
        announcements.expect(token, DEVICE);
        (announcements, line)
    }

    #[test]
    fn a_token_line_names_its_device_once() {
        let (mut announcements, line) = expecting();
        let now = Instant::now();
        assert_eq!(announcements.received(now, "a", &line), LineResult::Token(DEVICE));
        assert_eq!(announcements.received(now, "b", &line), LineResult::Unknown);
    }

    #[test]
    fn the_line_may_come_in_pieces_and_with_more_behind_it() {
        let (mut announcements, mut line) = expecting();
        let now = Instant::now();
        line.extend_from_slice(b"and more\nlines");
        let (first, second) = line.split_at(9);
        assert_eq!(announcements.received(now, "a", first), LineResult::Incomplete);
        assert_eq!(announcements.received(now, "other", b"hello"), LineResult::Incomplete);
        assert_eq!(announcements.received(now, "a", b""), LineResult::Incomplete);
        assert_eq!(announcements.received(now, "a", second), LineResult::Token(DEVICE));
    }

    #[test]
    fn a_line_that_is_no_expected_token_is_unknown() {
        let (mut announcements, line) = expecting();
        let now = Instant::now();
        assert_eq!(announcements.received(now, "a", b"\n"), LineResult::Unknown);
        assert_eq!(announcements.received(now, "a", b"\xff\xfe\n"), LineResult::Unknown);
        assert_eq!(announcements.received(now, "a", &[b'0'; 33]), LineResult::Unknown);
        assert_eq!(announcements.received(now, "a", &line[1..]), LineResult::Unknown);
        let endless = (0..40).map(|_| announcements.received(now, "a", b"0")).collect::<Vec<_>>();
        assert_eq!(endless.iter().filter(|heard| **heard == LineResult::Unknown).count(), 1);
    }

    #[test]
    fn begun_lines_are_forgotten_with_their_connection_with_time_and_for_room() {
        let (mut announcements, line) = expecting();
        let start = Instant::now();
        let (first, second) = line.split_at(9);

        announcements.received(start, "a", first);
        announcements.closed("a");
        assert_eq!(announcements.received(start, "a", second), LineResult::Unknown);

        announcements.received(start, "b", first);
        assert_eq!(announcements.received(start + BEGUN_LINE_LIFE, "b", second), LineResult::Unknown);

        announcements.received(start, "c", first);
        for other in 0..BEGUN_LINES {
            announcements.received(start, &other.to_string(), b"x");
        }
        assert_eq!(announcements.begun.len(), BEGUN_LINES);
        assert_eq!(announcements.received(start, "c", second), LineResult::Unknown);
    }
}
