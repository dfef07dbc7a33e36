//! Looks up pre-shared keys at a service: `GET` by identity over HTTP. 200 with the secret as the body is a key, 404 is
//! an unknown identity, and everything else is a failure.
//!
//! How long an answer is kept is ours to say. A question that finds too many others under way has no answer, so that a
//! flood of handshakes with invented identities neither fills the memory nor overruns the service.

use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Empty, LengthLimitError, Limited};
use hyper::body::Bytes;
use hyper::header::{AUTHORIZATION, HeaderValue};
use hyper::{Request, StatusCode, Uri};
use hyper_openssl::client::legacy::HttpsConnector;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use thiserror::Error;
use tokio::time::timeout;
use zeroize::Zeroizing;

use crate::tls;
use lwm2m_base::identity::PskIdentity;
use lwm2m_base::secret::Secret;
use lwm2m_dtls::credentials::{KeyAnswer, PskKey};

use super::psk_file::{Encoding, LineProblem, decode};

/// The placeholder of the identity in the URL.
pub(crate) const PLACEHOLDER: &str = "${psk_identity}";
/// Maximum size of an answer, in bytes: a key in hexadecimal digits and a line end.
const LONGEST_ANSWER: usize = 2 * PskKey::MAX + 2;
/// Maximum number of idle connections.
const IDLE_CONNECTIONS: usize = 8;

/// The configuration of the key service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PskHttpConfig {
    /// `http://` or `https://`, with `PLACEHOLDER` in its path or query.
    pub url: String,
    /// The header `Authorization`.
    pub authorization: Option<Secret>,
    pub encoding: Encoding,
    pub ssl: tls::TlsConfig,
    /// Maximum duration of a lookup.
    pub timeout: Duration,
    /// Maximum number of lookups in flight.
    pub requests: usize,
    /// Cache time of a key.
    pub cache_ttl: Duration,
    /// Cache time of the answer that an identity has no key.
    pub negative_cache_ttl: Duration,
}

/// A client of the key service. Clones share its connections.
#[derive(Clone)]
pub struct KeyServiceClient(Arc<Inner>);

struct Inner {
    client: Client<HttpsConnector<HttpConnector>, Empty<Bytes>>,
    config: PskHttpConfig,
    authorization: Option<HeaderValue>,
}

#[derive(Debug, Error)]
pub enum KeyServiceSetUpError {
    #[error("dtls.psk_http.ssl: {0}")]
    Ssl(#[from] tls::TlsError),
    #[error("dtls.psk_http.authorization: expected printable ASCII characters")]
    Authorization,
    #[error("TLS: {0}")]
    Library(#[from] openssl::error::ErrorStack),
}

/// Reasons why a lookup failed. They show neither the key nor the URL, which may contain a password.
#[derive(Debug, Error)]
pub enum KeyServiceError {
    #[error("the identity does not fit into the URL")]
    Url,
    #[error("{0}")]
    Unreachable(String),
    #[error("no answer in time")]
    TimedOut,
    #[error("status {0}")]
    Status(StatusCode),
    #[error("the answer is too long")]
    TooLong,
    #[error("the answer broke off: {0}")]
    BrokenOff(String),
    #[error("the answer is not a key: {0}")]
    NoKey(#[from] LineProblem),
}

impl KeyServiceClient {
    pub fn new(config: &PskHttpConfig) -> Result<Self, KeyServiceSetUpError> {
        let mut connector = HttpConnector::new();
        connector.enforce_http(false);
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(config.timeout));
        let client = Client::builder(TokioExecutor::new())
            .pool_max_idle_per_host(IDLE_CONNECTIONS)
            .build(secured(connector, config)?);
        let header = |secret: &Secret| {
            let mut value = HeaderValue::from_str(secret.reveal()).map_err(|_| KeyServiceSetUpError::Authorization)?;
            value.set_sensitive(true);
            Ok::<_, KeyServiceSetUpError>(value)
        };
        let authorization = config.authorization.as_ref().map(header).transpose()?;
        Ok(Self(Arc::new(Inner { client, config: config.clone(), authorization })))
    }

    /// Looks up a key. The configured timeout limits the duration.
    pub async fn ask(&self, identity: &PskIdentity) -> Result<KeyAnswer, KeyServiceError> {
        let Inner { config, .. } = &*self.0;
        timeout(config.timeout, self.ask_patiently(identity)).await.unwrap_or(Err(KeyServiceError::TimedOut))
    }

    async fn ask_patiently(&self, identity: &PskIdentity) -> Result<KeyAnswer, KeyServiceError> {
        let Inner { client, config, .. } = &*self.0;
        if is_dots(identity) {
            return Ok(KeyAnswer::Unknown { keep_for: config.negative_cache_ttl });
        }
        let response = client.request(self.request(identity)?).await;
        let response = response.map_err(|error| KeyServiceError::Unreachable(with_causes(&error)))?;
        match response.status() {
            StatusCode::OK => {}
            StatusCode::NOT_FOUND => return Ok(KeyAnswer::Unknown { keep_for: config.negative_cache_ttl }),
            other => return Err(KeyServiceError::Status(other)),
        }
        let body = Limited::new(response.into_body(), LONGEST_ANSWER).collect().await;
        let body = body.map_err(|error| match error.downcast_ref::<LengthLimitError>() {
            Some(_) => KeyServiceError::TooLong,
            None => KeyServiceError::BrokenOff(error.to_string()),
        })?;
        let body = Zeroizing::new(body.to_bytes().to_vec());
        let key = decode(without_line_end(&body), config.encoding)?;
        let key = PskKey::new(key).ok_or(LineProblem::Length)?;
        Ok(KeyAnswer::Found { key: key.into(), keep_for: config.cache_ttl })
    }

    fn request(&self, identity: &PskIdentity) -> Result<Request<Empty<Bytes>>, KeyServiceError> {
        let Inner { config, authorization, .. } = &*self.0;
        let uri: Uri = url(&config.url, identity).parse().map_err(|_| KeyServiceError::Url)?;
        let mut request = Request::get(uri).body(Empty::new()).map_err(|_| KeyServiceError::Url)?;
        if let Some(authorization) = authorization {
            request.headers_mut().insert(AUTHORIZATION, authorization.clone());
        }
        Ok(request)
    }
}

/// Returns whether the identity is a dot segment. It would be removed from the path (RFC 3986 section 5.2.4), and the
/// request would not be for a key.
fn is_dots(identity: &PskIdentity) -> bool {
    [".", ".."].contains(&identity.as_str())
}

/// Returns the URL with the identity, percent-encoded except for the unreserved characters of RFC 3986 section 2.3.
pub(super) fn url(template: &str, identity: &PskIdentity) -> String {
    let mut encoded = String::new();
    for byte in identity.as_str().bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => encoded.push(char::from(byte)),
            other => write!(encoded, "%{other:02X}").expect("a string takes everything"),
        }
    }
    template.replace(PLACEHOLDER, &encoded)
}

fn secured(
    connector: HttpConnector,
    config: &PskHttpConfig,
) -> Result<HttpsConnector<HttpConnector>, KeyServiceSetUpError> {
    let mut https = HttpsConnector::with_connector(connector, tls::builder(&config.ssl)?)?;
    let ssl = config.ssl.clone();
    https.set_callback(move |configuration, _| tls::expect_name(configuration, &ssl));
    Ok(https)
}

fn without_line_end(body: &[u8]) -> &[u8] {
    let body = body.strip_suffix(b"\n").unwrap_or(body);
    body.strip_suffix(b"\r").unwrap_or(body)
}

/// Formats an error of a library with its causes.
fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        write!(text, ": {error}").expect("a string takes everything");
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_identity_that_would_leave_the_path_is_unknown_without_a_question() {
        let config = PskHttpConfig {
            url: "http://127.0.0.1:1/psk/${psk_identity}".to_owned(),
            authorization: None,
            encoding: Encoding::Text,
            ssl: tls::TlsConfig::default(),
            timeout: Duration::from_secs(1),
            requests: 1,
            cache_ttl: Duration::from_secs(1),
            negative_cache_ttl: Duration::from_secs(60),
        };
        let asker = KeyServiceClient::new(&config).unwrap();
        for (name, is_asked) in [(".", false), ("..", false), ("...", true)] {
            let answer = asker.ask(&PskIdentity::new(name.as_bytes()).unwrap()).await;
            assert_eq!(answer.is_err(), is_asked, "{name}: {answer:?}");
        }
    }
}
