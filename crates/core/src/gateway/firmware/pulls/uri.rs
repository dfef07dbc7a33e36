//! The URI at which a device fetches its image from this gateway: `coap://HOST:PORT/fw/KEY/NAME`. A peer that knows the
//! key may fetch the image, so the key is a secret.

use std::fmt;
use std::net::Ipv6Addr;
use std::str::FromStr;

use lwm2m_base::ShardSet;
use lwm2m_base::secret::Secret;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::gateway::firmware::image::ImageName;
use crate::lwm2m::codec::Entry;
use crate::lwm2m::value::Value;

/// The path of Package URI, apart from the instance.
const OBJECT: u16 = 5;
const PACKAGE_URI: u16 = 1;

/// The first segment of the path.
pub(in crate::gateway) const PATH: &str = "fw";

/// The secret in the URI of one job: 96 bits as 16 characters that need no escape in a URI. The first eight are the
/// shard of the job and the others are random. Its `Debug` does not show it.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PullKey([u8; PullKey::LENGTH]);

/// A text that is not a key of a URI.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the key of a URI has 16 letters, digits, '-' and '_'")]
pub struct PullKeyError;

/// The protocol of a URI at which this gateway serves images.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UriScheme {
    Coap,
    Coaps,
}

/// The beginning of the URIs of a listener as devices reach it: `coap://HOST:PORT` or `coaps://HOST:PORT`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicUri {
    scheme: UriScheme,
    /// Host and port.
    authority: String,
}

/// A text that is not the beginning of a URI.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("expected coap://HOST:PORT or coaps://HOST:PORT, such as \"coap://gw.example.com:5683\"")]
pub struct PublicUriError;

/// The beginnings of the URIs of this gateway, at most one for each protocol.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PublicUris {
    pub coap: Option<PublicUri>,
    pub coaps: Option<PublicUri>,
}

/// The URI of an image would be longer than devices take.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the URI of the image has {0} bytes; devices take {max}", max = PublicUri::LONGEST)]
pub(crate) struct UriTooLong(usize);

impl PullKey {
    pub const LENGTH: usize = 16;
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

    /// Makes a key in one of these shards of random bytes. Six bits of each byte are used.
    pub fn from_random(bytes: [u8; Self::LENGTH], shards: ShardSet) -> Self {
        Self(shards.text(bytes))
    }

    /// Returns the key, for the URI that is sent to the device and for the store.
    pub fn reveal(&self) -> &str {
        std::str::from_utf8(&self.0).expect("the characters of a key are ASCII")
    }
}

impl FromStr for PullKey {
    type Err = PullKeyError;

    fn from_str(text: &str) -> Result<Self, PullKeyError> {
        let bytes: [u8; Self::LENGTH] = text.as_bytes().try_into().map_err(|_| PullKeyError)?;
        if bytes.iter().all(|byte| Self::ALPHABET.contains(byte)) { Ok(Self(bytes)) } else { Err(PullKeyError) }
    }
}

impl TryFrom<String> for PullKey {
    type Error = PullKeyError;

    fn try_from(text: String) -> Result<Self, PullKeyError> {
        text.parse()
    }
}

impl From<PullKey> for String {
    fn from(key: PullKey) -> Self {
        key.reveal().to_owned()
    }
}

impl fmt::Debug for PullKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PullKey(..)")
    }
}

impl PublicUri {
    /// Bytes of a URI of a package, at the most (LwM2M Core 1.1 appendix E.6: resource 1 has 0 to 255).
    pub const LONGEST: usize = 255;

    pub fn scheme(&self) -> UriScheme {
        self.scheme
    }

    /// Returns the URI of an image. It is a secret, because the key is.
    pub(crate) fn of_image(&self, key: &PullKey, name: &ImageName) -> Result<Secret, UriTooLong> {
        let uri = format!("{self}/{PATH}/{}/{name}", key.reveal());
        if uri.len() > Self::LONGEST { Err(UriTooLong(uri.len())) } else { Ok(Secret::new(uri)) }
    }
}

impl FromStr for PublicUri {
    type Err = PublicUriError;

    fn from_str(text: &str) -> Result<Self, PublicUriError> {
        let schemes = [("coap://", UriScheme::Coap), ("coaps://", UriScheme::Coaps)];
        let (scheme, authority) = schemes
            .into_iter()
            .find_map(|(prefix, scheme)| Some((scheme, text.strip_prefix(prefix)?)))
            .filter(|(_, authority)| is_authority(authority))
            .ok_or(PublicUriError)?;
        Ok(Self { scheme, authority: authority.to_owned() })
    }
}

impl fmt::Display for PublicUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.scheme, self.authority)
    }
}

impl fmt::Display for UriScheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Coap => "coap",
            Self::Coaps => "coaps",
        })
    }
}

impl PublicUris {
    /// Adds a beginning; `false` if there is one for its protocol already.
    pub fn add(&mut self, uri: PublicUri) -> bool {
        let place = match uri.scheme {
            UriScheme::Coap => &mut self.coap,
            UriScheme::Coaps => &mut self.coaps,
        };
        let is_first = place.is_none();
        if is_first {
            *place = Some(uri);
        }
        is_first
    }

    pub fn of(&self, scheme: UriScheme) -> Option<&PublicUri> {
        match scheme {
            UriScheme::Coap => self.coap.as_ref(),
            UriScheme::Coaps => self.coaps.as_ref(),
        }
    }
}

/// Covers the keys of all URIs of images in a text or a payload with stars: what stands behind `/fw/` and before the
/// next slash, if it may be a key.
pub fn cover_keys(bytes: &mut [u8]) {
    const BEFORE: &[u8] = b"/fw/";
    const LENGTH: usize = BEFORE.len() + PullKey::LENGTH + 1;
    let mut at = 0;
    while let Some(uri) = bytes.get_mut(at..at + LENGTH) {
        let (before, rest) = uri.split_at_mut(BEFORE.len());
        let (key, slash) = rest.split_at_mut(PullKey::LENGTH);
        let is_key = key.iter().all(|byte| PullKey::ALPHABET.contains(byte));
        if before == BEFORE && is_key && slash == b"/" {
            key.fill(b'*');
        }
        at += 1;
    }
}

/// Covers the keys in the values of Package URI. A device tells there what the gateway has written.
pub(in crate::gateway) fn cover_keys_in(entries: &mut [Entry]) {
    for entry in entries {
        let [OBJECT, _, PACKAGE_URI] = *entry.path.segments() else { continue };
        match &mut entry.value {
            Value::String(text) | Value::CoreLink(text) => {
                let mut bytes = std::mem::take(text).into_bytes();
                cover_keys(&mut bytes);
                // Stars in the place of other ASCII characters leave the text UTF-8.
                *text = String::from_utf8(bytes).unwrap_or_default();
            }
            Value::Opaque(bytes) => cover_keys(bytes),
            Value::Integer(_)
            | Value::UnsignedInteger(_)
            | Value::Float(_)
            | Value::Boolean(_)
            | Value::Time(_)
            | Value::ObjectLink(_) => {}
        }
    }
}

/// Returns whether the text is a host, or a host and a port other than 0 (RFC 3986 section 3.2).
fn is_authority(text: &str) -> bool {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, Some(port)),
        Some(_) | None => (text, None),
    };
    let bracketed = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    let host_fits = match bracketed {
        Some(address) => address.parse::<Ipv6Addr>().is_ok(),
        None => !host.is_empty() && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte)),
    };
    host_fits && port.is_none_or(|port| port.parse().is_ok_and(|port: u16| port != 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> PullKey {
        PullKey::from_random([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 61, 62, 63, 64, 255, 26], ShardSet::ALL)
    }

    #[test]
    fn the_uri_of_an_image_has_the_key_and_the_name() {
        let uri: PublicUri = "coaps://gw.example.com:5684".parse().unwrap();
        let image = uri.of_image(&key(), &"app-2.1.0.bin".parse().unwrap()).unwrap();
        assert_eq!(image.reveal(), "coaps://gw.example.com:5684/fw/ABCDEFGHIJ9-_A_a/app-2.1.0.bin");
    }

    #[test]
    fn a_uri_that_devices_would_not_take_is_refused() {
        let uri: PublicUri = "coap://gw.example.com:5683".parse().unwrap();
        let rest = "coap://gw.example.com:5683/fw/ABCDEFGHIJ9-_A_a/".len();
        let name = |length: usize| "x".repeat(length).parse::<ImageName>().unwrap();
        assert!(uri.of_image(&key(), &name(200)).is_ok());
        let long: PublicUri = format!("coap://{}:5683", "g".repeat(44)).parse().unwrap();
        assert_eq!(long.of_image(&key(), &name(200)), Err(UriTooLong(200 + rest + 30)));
    }

    #[test]
    fn no_debug_output_shows_a_key() {
        assert_eq!(format!("{:?}", key()), "PullKey(..)");
        assert_eq!(key().reveal().parse(), Ok(key()));
        for bad in ["", "ABCDEFGHIJ9-_A_", "ABCDEFGHIJ9-_A_ab", "ABCDEFGHIJ9-_A_/"] {
            assert_eq!(bad.parse::<PullKey>(), Err(PullKeyError), "{bad}");
        }
    }

    #[test]
    fn the_keys_of_uris_are_covered_wherever_they_stand() {
        let covered = |text: &str| {
            let mut bytes = text.as_bytes().to_vec();
            cover_keys(&mut bytes);
            String::from_utf8(bytes).unwrap()
        };
        let uri = format!("coap://gw/fw/{}/a.bin", key().reveal());
        let stars = "coap://gw/fw/****************/a.bin";
        assert_eq!(covered(&uri), stars);
        assert_eq!(covered(&format!("\u{1}{uri} {uri}")), format!("\u{1}{stars} {stars}"));
        for other in ["", "/fw/", "coap://gw/fw/short/a.bin", "/fw/ABCDEFGHIJ9-_A_a", "/ab/ABCDEFGHIJ9-_A_a/c"] {
            assert_eq!(covered(other), other);
        }
    }

    #[test]
    fn what_a_device_tells_of_its_package_uri_has_no_key() {
        let uri = Value::String(format!("coap://gw/fw/{}/a.bin", key().reveal()));
        let entry = |path: &str, value: &Value| {
            let (path, value) = (path.parse().unwrap(), value.clone());
            Entry { path, value, time: None, undefined: false }
        };
        let mut entries = [entry("/5/0/1", &uri), entry("/5/2/1", &uri), entry("/5/0/6", &uri)];
        cover_keys_in(&mut entries);
        let covered = Value::String("coap://gw/fw/****************/a.bin".to_owned());
        assert_eq!(entries.map(|entry| entry.value), [covered.clone(), covered, uri]);
    }

    #[test]
    fn a_public_uri_has_a_protocol_of_coap_a_host_and_perhaps_a_port() {
        for text in ["coap://gw.example.com", "coaps://192.0.2.1:5684", "coap://[2001:db8::1]:5683", "coap://[::1]"] {
            assert_eq!(text.parse::<PublicUri>().unwrap().to_string(), text);
        }
        let bad = [
            "",
            "gw.example.com:5683",
            "http://gw.example.com",
            "coap://",
            "coap://:5683",
            "coap://gw:0",
            "coap://gw:x",
            "coap://gw/fw",
            "coap://gw?a",
            "coap://user@gw",
            "coap://[gw]",
            "coap://[::1",
            "coap://g w",
        ];
        for text in bad {
            assert_eq!(text.parse::<PublicUri>(), Err(PublicUriError), "{text}");
        }
    }

    #[test]
    fn there_is_one_public_uri_for_each_protocol() {
        let mut uris = PublicUris::default();
        let [first, second, secured] = ["coap://a", "coap://b", "coaps://a"].map(|text| text.parse().unwrap());
        assert_eq!([first, second, secured].map(|uri: PublicUri| uris.add(uri)), [true, false, true]);
        assert_eq!(uris.of(UriScheme::Coap).unwrap().to_string(), "coap://a");
        assert_eq!(uris.of(UriScheme::Coaps).unwrap().to_string(), "coaps://a");
    }
}
