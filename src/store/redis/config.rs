//! The configuration of the Redis store.

use std::fmt;
use std::path::PathBuf;

use crate::tls::TlsConfig;
use lwm2m_base::secret::Secret;

/// The configuration of the Redis store.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RedisConfig {
    /// The servers; the first that is a primary is used.
    pub urls: Vec<RedisUrl>,
    /// The Sentinels, which know the primary; used instead of `urls` if there are any.
    pub sentinels: Vec<RedisUrl>,
    /// The name of the primary at the Sentinels.
    pub master: String,
    pub username: Option<String>,
    pub password: Option<Secret>,
    /// The file of the password, of which the first line counts.
    pub passwordfile: Option<PathBuf>,
    /// The number of the database.
    pub database: u8,
    /// The first part of all keys.
    pub prefix: String,
    /// The file of the key that seals the records.
    pub seal_keyfile: Option<PathBuf>,
    /// The file of another key that opens records, while the key is changed.
    pub other_seal_keyfile: Option<PathBuf>,
    pub ssl: TlsConfig,
}

/// The address of a server, with the credentials that the URL had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RedisUrl {
    pub host: String,
    pub port: u16,
    pub tls: bool,
    pub username: Option<String>,
    pub password: Option<Secret>,
}

impl RedisUrl {
    /// Parses `redis://[[USER]:PASSWORD@]HOST[:PORT]`, or the same with `rediss` for TLS.
    pub fn parse(text: &str, default_port: u16) -> Option<Self> {
        let url = ::redis::parse_redis_url(text)?;
        let tls = match url.scheme() {
            "redis" | "valkey" => false,
            "rediss" | "valkeys" => true,
            _ => return None,
        };
        if !matches!(url.path(), "" | "/") || url.query().is_some() || url.fragment().is_some() {
            return None;
        }
        let host = url.host_str().filter(|host| !host.is_empty())?;
        let host = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host).to_owned();
        let username = decoded(url.username())?;
        let password = match url.password() {
            Some(password) => Some(Secret::new(decoded(password)?)),
            None => None,
        };
        Some(Self {
            host,
            port: url.port().unwrap_or(default_port),
            tls,
            username: Some(username).filter(|name| !name.is_empty()),
            password,
        })
    }
}

/// Shows the address without the credentials.
impl fmt::Display for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port, tls, .. } = self;
        let scheme = if *tls { "rediss" } else { "redis" };
        match host.contains(':') {
            true => write!(f, "{scheme}://[{host}]:{port}"),
            false => write!(f, "{scheme}://{host}:{port}"),
        }
    }
}

/// Decodes `%` and two hexadecimal digits (RFC 3986 section 2.1).
fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        rest = after;
        let [high, low, after @ ..] = after else {
            bytes.push(*first);
            if *first == b'%' {
                return None;
            }
            continue;
        };
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let digit = |digit: u8| char::from(digit).to_digit(16);
        bytes.push(u8::try_from(digit(*high)? << 4 | digit(*low)?).ok()?);
        rest = after;
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_has_an_address_and_credentials_which_nothing_shows() {
        let url = RedisUrl::parse("rediss://gw:p%40ss%3A1@valkey-0:7000", 6379).unwrap();
        assert_eq!((url.host.as_str(), url.port, url.tls), ("valkey-0", 7000, true));
        assert_eq!((url.username.as_deref(), url.password.as_ref().map(Secret::reveal)), (Some("gw"), Some("p@ss:1")));
        assert_eq!(url.to_string(), "rediss://valkey-0:7000");
        assert!(!format!("{url:?}").contains("p@ss"), "{url:?}");
        let plain = RedisUrl::parse("redis://[::1]", 6379).unwrap();
        assert_eq!((plain.to_string().as_str(), plain.username, plain.password), ("redis://[::1]:6379", None, None));
        for wrong in
            ["", "valkey-0:6379", "http://a", "redis://a/3", "redis://a?x=1", "redis+unix:///x", "redis://a:%zz@b"]
        {
            assert_eq!(RedisUrl::parse(wrong, 6379), None, "{wrong}");
        }
    }
}
