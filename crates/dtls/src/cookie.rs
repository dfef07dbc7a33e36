//! HelloVerifyRequest and its cookies (RFC 6347 section 4.2.1). A client that returns a cookie can be reached at its
//! address. The server keeps no state for clients that it asks.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use hmac::digest::KeyInit;
use hmac::{Hmac, Mac};
use rand::RngExt;
use rand::rngs::StdRng;
use sha2::Sha256;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use super::hello::{ClientHello, HELLO_VERIFY_REQUEST, MESSAGE_HEADER};
use super::record::{ContentType, VERSION_1_0, write_plain};

/// Short enough for a hello in fragments of 128 bytes; too long to be guessed.
const LENGTH: usize = 16;

/// Makes cookies, and knows its own. A secret is used for one lifetime, and believed for another one.
pub(crate) struct Cookies {
    lifetime: Duration,
    secret: Zeroizing<[u8; 32]>,
    former: Zeroizing<[u8; 32]>,
    since: Instant,
}

impl Cookies {
    pub(crate) fn new(lifetime: Duration, rng: &mut StdRng, now: Instant) -> Self {
        let mut secret = || Zeroizing::new(rng.random());
        Self { lifetime, secret: secret(), former: secret(), since: now }
    }

    /// Returns the HelloVerifyRequest that answers a hello without a valid cookie. It is shorter than any hello.
    pub(crate) fn hello_verify_request(
        &mut self,
        now: Instant,
        rng: &mut StdRng,
        from: (u16, SocketAddr),
        sequence: u64,
        hello: &ClientHello<'_>,
    ) -> Vec<u8> {
        self.rotate(now, rng);
        let cookie = cookie(&self.secret, from, hello);
        let length = [0, 0, 2 + 1 + LENGTH as u8];
        let mut message = Vec::with_capacity(MESSAGE_HEADER + 2 + 1 + LENGTH);
        message.push(HELLO_VERIFY_REQUEST);
        message.extend_from_slice(&length);
        // As the client counts: it is 1 where a cookie came that is not valid any more.
        message.extend_from_slice(&hello.message_sequence);
        message.extend_from_slice(&[0; 3]);
        message.extend_from_slice(&length);
        // DTLS 1.0, whatever will be agreed on: RFC 6347 section 4.2.1.
        message.extend_from_slice(&VERSION_1_0);
        message.push(LENGTH as u8);
        message.extend_from_slice(&cookie);
        write_plain(ContentType::Handshake, VERSION_1_0, sequence, &message)
    }

    pub(crate) fn is_valid(
        &mut self,
        now: Instant,
        rng: &mut StdRng,
        from: (u16, SocketAddr),
        hello: &ClientHello<'_>,
    ) -> bool {
        self.rotate(now, rng);
        let is_of = |secret| bool::from(cookie(secret, from, hello).ct_eq(hello.cookie));
        hello.cookie.len() == LENGTH && (is_of(&self.secret) || is_of(&self.former))
    }

    fn rotate(&mut self, now: Instant, rng: &mut StdRng) {
        let age = now.saturating_duration_since(self.since);
        if age < self.lifetime {
            return;
        }
        let next = Zeroizing::new(rng.random());
        let last = std::mem::replace(&mut self.secret, next);
        // After two lifetimes the earlier secret is not accepted either.
        self.former = if age < 2 * self.lifetime { last } else { Zeroizing::new(rng.random()) };
        self.since = now;
    }
}

fn cookie(secret: &[u8; 32], (socket, from): (u16, SocketAddr), hello: &ClientHello<'_>) -> [u8; LENGTH] {
    let mut mac = <Hmac<Sha256> as KeyInit>::new_from_slice(secret).expect("HMAC takes keys of any length");
    mac.update(&socket.to_be_bytes());
    match from.ip() {
        IpAddr::V4(ip) => mac.update(&ip.to_ipv6_mapped().octets()),
        IpAddr::V6(ip) => mac.update(&ip.octets()),
    }
    mac.update(&from.port().to_be_bytes());
    mac.update(hello.parameters);
    *mac.finalize().into_bytes().first_chunk().expect("SHA-256 has 32 bytes")
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::super::hello::tests::hello;
    use super::super::record::{HEADER, records};
    use super::*;

    const LIFETIME: Duration = Duration::from_secs(60);

    fn at(text: &str) -> (u16, SocketAddr) {
        (0, text.parse().unwrap())
    }

    fn asked(request: &[u8]) -> Vec<u8> {
        let record = records(request, 8).next().unwrap();
        record.fragment[MESSAGE_HEADER + 3..].to_vec()
    }

    #[test]
    fn a_request_is_a_record_like_the_hello_and_shorter_than_it() {
        let (now, mut rng) = (Instant::now(), StdRng::from_seed([1; 32]));
        let mut cookies = Cookies::new(LIFETIME, &mut rng, now);
        // No session id, no cookie: the shortest that can be read.
        let mut shortest = hello(1, &[]);
        shortest.drain(MESSAGE_HEADER + 34..MESSAGE_HEADER + 39);
        shortest.insert(MESSAGE_HEADER + 34, 0);
        shortest.truncate(MESSAGE_HEADER + 36);
        shortest[11] = 36;
        let hello = ClientHello::parse(&shortest).unwrap();

        let request = cookies.hello_verify_request(now, &mut rng, at("192.0.2.1:5000"), 0x1234, &hello);

        assert!(request.len() < HEADER + shortest.len(), "{} bytes", request.len());
        let record = records(&request, 8).next().unwrap();
        assert_eq!((record.version, record.epoch, record.sequence), (VERSION_1_0, 0, 0x1234));
        assert_eq!(record.fragment[..15], [3, 0, 0, 19, 0, 0, 0, 0, 0, 0, 0, 19, 0xfe, 0xff, 16]);
        assert_eq!(record.fragment.len(), 15 + LENGTH);
    }

    #[test]
    fn a_cookie_belongs_to_an_address_a_socket_and_a_hello() {
        let (now, mut rng) = (Instant::now(), StdRng::from_seed([1; 32]));
        let mut cookies = Cookies::new(LIFETIME, &mut rng, now);
        let first = hello(1, &[]);
        let request =
            cookies.hello_verify_request(now, &mut rng, at("192.0.2.1:5000"), 0, &ClientHello::parse(&first).unwrap());
        let cookie = asked(&request);
        let mut is_valid = |from: (u16, SocketAddr), random: u8, cookie: &[u8]| {
            let second = hello(random, cookie);
            cookies.is_valid(now, &mut rng, from, &ClientHello::parse(&second).unwrap())
        };

        assert!(is_valid(at("192.0.2.1:5000"), 1, &cookie));
        assert!(!is_valid(at("192.0.2.1:5001"), 1, &cookie));
        assert!(!is_valid(at("192.0.2.2:5000"), 1, &cookie));
        assert!(!is_valid((1, at("192.0.2.1:5000").1), 1, &cookie));
        assert!(!is_valid(at("192.0.2.1:5000"), 2, &cookie));
        assert!(!is_valid(at("192.0.2.1:5000"), 1, &cookie[1..]));
        assert!(!is_valid(at("192.0.2.1:5000"), 1, &[]));
    }

    /// Mbed TLS 2.28 makes a new session id for each hello with a session ticket.
    #[test]
    fn a_cookie_is_valid_in_a_hello_with_another_session_id() {
        let (now, mut rng) = (Instant::now(), StdRng::from_seed([1; 32]));
        let mut cookies = Cookies::new(LIFETIME, &mut rng, now);
        let from = at("192.0.2.1:5000");
        let first = hello(1, &[]);
        let request = cookies.hello_verify_request(now, &mut rng, from, 0, &ClientHello::parse(&first).unwrap());
        let mut second = hello(1, &asked(&request));
        let session_id = MESSAGE_HEADER + 2 + 32 + 1;
        assert_eq!(second[session_id..session_id + 4], [1, 2, 3, 4]);
        second[session_id..session_id + 4].copy_from_slice(&[5, 6, 7, 8]);
        assert!(cookies.is_valid(now, &mut rng, from, &ClientHello::parse(&second).unwrap()));
    }

    #[test]
    fn a_cookie_is_believed_for_one_lifetime_at_least_and_two_at_most() {
        let (start, mut rng) = (Instant::now(), StdRng::from_seed([1; 32]));
        for (made, shown, believed) in
            [(0, 59, true), (59, 119, true), (0, 119, true), (0, 120, false), (59, 180, false)]
        {
            let mut cookies = Cookies::new(LIFETIME, &mut rng, start);
            let (made, shown) = (start + Duration::from_secs(made), start + Duration::from_secs(shown));
            let from = at("[2001:db8::1]:5000");
            let first = hello(1, &[]);
            let cookie =
                asked(&cookies.hello_verify_request(made, &mut rng, from, 0, &ClientHello::parse(&first).unwrap()));
            let second = hello(1, &cookie);
            let is_valid = cookies.is_valid(shown, &mut rng, from, &ClientHello::parse(&second).unwrap());
            assert_eq!(is_valid, believed, "{:?}", shown - made);
        }
    }
}
