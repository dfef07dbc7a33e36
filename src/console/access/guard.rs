//! Decides whether a request reaches the API: its host and its site, its body, and its token.
//!
//! A browser lets any page send requests to any address, and a name of another site may lead to this address (DNS
//! rebinding). So requests for other hosts and from other sites are rejected, and no header ever allows them (CORS).

use std::net::{IpAddr, SocketAddr};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::http::Method;
use axum::http::header::{AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, HOST, HeaderName, ORIGIN};
use axum::http::request::Parts;
use axum::http::uri::Authority;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use tracing::warn;

use crate::clock::monotonic_now;
use lwm2m_base::rate::{Limiter, Rate, RateLimit, SourceNetwork};

use super::tokens::{Access, ApiTokens};
use crate::console::emqx;
use crate::console::http::problem::{Problem, ProblemKind};

/// Maximum size of a request body, in bytes.
pub(crate) const BODY_BYTES: usize = 64 * 1024;
/// Maximum size of the body of a command, in bytes: a firmware image may be in one.
pub(crate) const COMMAND_BYTES: usize = 8 * 1024 * 1024;
/// The API's resources are below this path; everything else is a file of the page.
pub(crate) const API: &str = "/api/";
/// The description of the API, which tells nothing of devices.
pub(crate) const DOCUMENT_PATH: &str = "/api/v1/openapi.json";
/// The devices are below this path.
const DEVICES: &str = "/api/v1/devices/";
/// A campaign may list many devices.
const CAMPAIGNS: &str = "/api/v1/firmware/campaigns";
/// Rate of wrong tokens. An address beyond it is answered 429.
const WRONG_TOKENS: RateLimit =
    RateLimit { total: Rate { per_second: 1_000, burst: 1_000 }, address: Rate { per_second: 10, burst: 10 } };
/// Minimum time between two warnings about wrong tokens.
const WARNING_EVERY: Duration = Duration::from_secs(60);

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
const SEC_FETCH_MODE: HeaderName = HeaderName::from_static("sec-fetch-mode");

/// The other side of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ConsolePeer {
    Tcp {
        remote: SocketAddr,
        /// The address that the client connected to.
        local: SocketAddr,
    },
    /// A process of this machine, by its user ID.
    Process(u32),
}

/// Rejects requests.
pub(crate) struct Guard {
    hosts: Vec<String>,
    wrong_tokens: Mutex<WrongTokens>,
}

struct WrongTokens {
    limiter: Limiter,
    warned: Option<Instant>,
    /// Number of wrong tokens since the last warning.
    count: u64,
}

impl Guard {
    pub(in crate::console) fn new(hosts: Vec<String>) -> Self {
        let wrong_tokens = WrongTokens { limiter: Limiter::new(WRONG_TOKENS), warned: None, count: 0 };
        Self { hosts, wrong_tokens: Mutex::new(wrong_tokens) }
    }

    /// Returns the access of a request; `None` for a resource that needs no token.
    pub(in crate::console) fn admit(
        &self,
        peer: ConsolePeer,
        request: &Parts,
        tokens: &ApiTokens,
    ) -> Result<Option<Access>, Problem> {
        if request.method == Method::OPTIONS {
            return Err(ProblemKind::MethodNotAllowed.because("OPTIONS is not supported"));
        }
        if let ConsolePeer::Tcp { local, .. } = peer {
            self.check_host(local.ip(), request)?;
        }
        check_site(request)?;
        let path = request.uri.path();
        if !path.starts_with(API) || path == DOCUMENT_PATH {
            return Ok(None);
        }
        let access = self.authenticate(peer, request, tokens)?;
        check_body(request)?;
        Ok(Some(access))
    }

    /// Accepts a host that is the address of the connection, `localhost`, or a configured name.
    fn check_host(&self, local: IpAddr, request: &Parts) -> Result<(), Problem> {
        // RFC 9112 section 3.2: a request has one Host.
        let mut headers = request.headers.get_all(HOST).iter();
        let only = headers.next().filter(|_| headers.next().is_none());
        let header = only.and_then(|host| host.to_str().ok()?.parse::<Authority>().ok());
        let named = [header.as_ref(), request.uri.authority()];
        let fits = |authority: &Authority| {
            let host = authority.host().trim_matches(['[', ']']);
            host.eq_ignore_ascii_case("localhost")
                || host.parse::<IpAddr>().is_ok_and(|address| address.to_canonical() == local.to_canonical())
                || self.hosts.iter().any(|known| known.eq_ignore_ascii_case(host))
        };
        if header.is_some() && named.into_iter().flatten().all(fits) {
            return Ok(());
        }
        Err(ProblemKind::WrongHost.because("Host is not a name of the console; console.hosts lists further names"))
    }

    fn authenticate(&self, peer: ConsolePeer, request: &Parts, tokens: &ApiTokens) -> Result<Access, Problem> {
        let Some(header) = request.headers.get(AUTHORIZATION) else {
            return match peer {
                ConsolePeer::Process(uid) => Ok(Access::of_process(uid)),
                ConsolePeer::Tcp { .. } => {
                    Err(ProblemKind::NotAuthenticated.because("Authorization: Bearer TOKEN is missing"))
                }
            };
        };
        let credentials = header.to_str().ok().and_then(|text| text.split_once(' '));
        let access = credentials.and_then(|(scheme, credentials)| match scheme.to_ascii_lowercase().as_str() {
            "bearer" => tokens.access(credentials.trim()),
            "basic" if emqx::is_path(request.uri.path()) => api_key(credentials.trim(), tokens),
            _ => None,
        });
        match access {
            Some(access) => Ok(access),
            None => Err(self.wrong_token(monotonic_now(), peer)),
        }
    }

    fn wrong_token(&self, now: Instant, peer: ConsolePeer) -> Problem {
        let wrong = ProblemKind::NotAuthenticated.because("the token is unknown");
        let ConsolePeer::Tcp { remote, .. } = peer else { return wrong };
        let mut tokens = self.wrong_tokens.lock().unwrap_or_else(PoisonError::into_inner);
        tokens.count += 1;
        if tokens.warned.is_none_or(|warned| now - warned >= WARNING_EVERY) {
            warn!(address = %remote.ip(), count = tokens.count, "requests with wrong tokens rejected");
            (tokens.warned, tokens.count) = (Some(now), 0);
        }
        match tokens.limiter.take(now, SourceNetwork::of(remote)) {
            Ok(()) => wrong,
            Err(_) => ProblemKind::TooMany.because("too many wrong tokens came from this address"),
        }
    }
}

/// Returns the access of an API key as EMQX has them: the name of the token is the key, the token is its secret.
fn api_key(credentials: &str, tokens: &ApiTokens) -> Option<Access> {
    let text = String::from_utf8(STANDARD.decode(credentials).ok()?).ok()?;
    let (name, token) = text.split_once(':')?;
    tokens.access(token).filter(|access| access.name == name)
}

/// Rejects a request that a page of another site makes. Another site may link to the page, which shows nothing by
/// itself.
fn check_site(request: &Parts) -> Result<(), Problem> {
    let headers = &request.headers;
    let is = |name: &HeaderName, words: &[&str]| {
        headers.get(name).is_none_or(|value| value.to_str().is_ok_and(|value| words.contains(&value)))
    };
    let is_link = !request.uri.path().starts_with(API)
        && request.method == Method::GET
        && headers.contains_key(SEC_FETCH_MODE)
        && is(&SEC_FETCH_MODE, &["navigate"]);
    let same_site = is(&SEC_FETCH_SITE, &["same-origin", "none"]) || is_link;
    let origin = headers.get(ORIGIN).map(|origin| origin.to_str().unwrap_or_default());
    let host = headers.get(HOST).and_then(|host| host.to_str().ok());
    let same_origin = origin.is_none_or(|origin| {
        let authority = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
        authority.is_some_and(|authority| host.is_some_and(|host| authority.eq_ignore_ascii_case(host)))
    });
    if same_site && same_origin {
        return Ok(());
    }
    Err(ProblemKind::CrossSite.because("requests of pages from other sites are rejected"))
}

/// Returns the maximum size of the body of a request for this path, in bytes.
pub(crate) fn most_bytes(path: &str) -> usize {
    let is_command = path.starts_with(DEVICES) && path.ends_with("/commands");
    if is_command || path == CAMPAIGNS { COMMAND_BYTES } else { BODY_BYTES }
}

/// Rejects a body that is too large, and a POST that is not JSON: a form of another site cannot send JSON. The paths of
/// EMQX have no bodies.
fn check_body(request: &Parts) -> Result<(), Problem> {
    let length = request.headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
    let most = most_bytes(request.uri.path());
    if length.is_some_and(|length| length > most) {
        return Err(ProblemKind::BodyTooLarge.because(format!("a body has at most {most} bytes")));
    }
    if request.method != Method::POST || emqx::is_path(request.uri.path()) {
        return Ok(());
    }
    let media_type = request.headers.get(CONTENT_TYPE).and_then(|media_type| media_type.to_str().ok());
    let media_type = media_type.map(|text| text.split(';').next().unwrap_or_default().trim());
    if media_type.is_some_and(|media_type| media_type.eq_ignore_ascii_case("application/json")) {
        return Ok(());
    }
    Err(ProblemKind::NotJson.because("expected Content-Type: application/json"))
}

#[cfg(test)]
mod tests {
    use axum::http::Request;

    use super::*;
    use crate::console::access::tokens::{NewToken, Role};

    const PATH: &str = "/api/v1/overview";

    struct TestGuard {
        guard: Guard,
        tokens: ApiTokens,
        token: String,
        peer: ConsolePeer,
    }

    impl TestGuard {
        fn new() -> Self {
            let NewToken { token, line } = NewToken::new([1; 32], "alice", Role::Viewer, None).ok().unwrap();
            let folder = tempfile::tempdir().unwrap();
            let file = folder.path().join("tokens");
            std::fs::write(&file, line).unwrap();
            let local = "10.0.0.1:8086".parse().unwrap();
            Self {
                guard: Guard::new(vec!["gateway.example".to_owned()]),
                tokens: ApiTokens::read(&file).ok().unwrap(),
                token: token.reveal().to_owned(),
                peer: ConsolePeer::Tcp { remote: "10.0.0.9:4711".parse().unwrap(), local },
            }
        }

        fn admit(&self, method: &str, path: &str, headers: &[(&str, &str)]) -> Result<Option<Access>, ProblemKind> {
            let mut request = Request::builder().method(method).uri(path);
            for (name, value) in headers {
                request = request.header(*name, *value);
            }
            let (parts, ()) = request.body(()).unwrap().into_parts();
            self.guard.admit(self.peer, &parts, &self.tokens).map_err(|problem| problem.kind)
        }

        /// Sends a request for this host, with the token and another header.
        fn get(&self, host: &str, header: (&str, &str)) -> Result<Option<Access>, ProblemKind> {
            let bearer = format!("Bearer {}", self.token);
            self.admit("GET", PATH, &[("host", host), ("authorization", &bearer), header])
        }
    }

    #[test]
    fn a_host_that_is_not_the_console_is_rejected() {
        let guard = TestGuard::new();
        for host in ["10.0.0.1:8086", "localhost:8086", "LOCALHOST", "gateway.example", "gateway.example:443"] {
            assert!(guard.get(host, ("accept", "*/*")).is_ok(), "{host}");
        }
        for host in ["evil.example", "10.0.0.2:8086", "gateway.example.evil.example", "localhost.evil.example", ""] {
            assert_eq!(guard.get(host, ("accept", "*/*")), Err(ProblemKind::WrongHost), "{host}");
        }
        assert_eq!(guard.admit("GET", "/", &[]), Err(ProblemKind::WrongHost));
        let two = [("host", "localhost"), ("host", "evil.example")];
        assert_eq!(guard.admit("GET", "/", &two), Err(ProblemKind::WrongHost));
        let elsewhere = guard.admit("GET", "http://evil.example/", &[("host", "10.0.0.1:8086")]);
        assert_eq!(elsewhere, Err(ProblemKind::WrongHost));
    }

    #[test]
    fn a_page_of_another_site_reaches_nothing_and_may_link_to_the_page() {
        let guard = TestGuard::new();
        for header in [
            ("sec-fetch-site", "cross-site"),
            ("sec-fetch-site", "same-site"),
            ("origin", "http://evil.example"),
            ("origin", "null"),
            ("origin", "http://10.0.0.1:8087"),
        ] {
            assert_eq!(guard.get("10.0.0.1:8086", header), Err(ProblemKind::CrossSite), "{header:?}");
        }
        for header in [("sec-fetch-site", "same-origin"), ("origin", "http://10.0.0.1:8086")] {
            assert!(guard.get("10.0.0.1:8086", header).is_ok(), "{header:?}");
        }
        let link = [("host", "localhost"), ("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "navigate")];
        assert_eq!(guard.admit("GET", "/", &link), Ok(None));
        assert_eq!(guard.admit("GET", PATH, &link), Err(ProblemKind::CrossSite));
        assert_eq!(guard.admit("GET", "/main.js", &link[..2]), Err(ProblemKind::CrossSite));
        assert_eq!(guard.admit("OPTIONS", PATH, &link[..1]), Err(ProblemKind::MethodNotAllowed));
    }

    #[test]
    fn wrong_tokens_are_limited_for_their_address_and_right_ones_are_not() {
        let guard = TestGuard::new();
        let wrong = [("host", "localhost"), ("authorization", "Bearer lgw_wrong")];
        let answers: Vec<_> = (0..20).map(|_| guard.admit("GET", PATH, &wrong).unwrap_err()).collect();
        assert_eq!(answers[..10], [ProblemKind::NotAuthenticated; 10]);
        assert_eq!(answers[19], ProblemKind::TooMany);
        assert!(guard.get("localhost", ("accept", "*/*")).is_ok());
    }

    #[test]
    fn a_process_that_uses_the_socket_is_an_operator_unless_it_brings_a_token() {
        let guard = TestGuard { peer: ConsolePeer::Process(1000), ..TestGuard::new() };
        let access = guard.admit("GET", PATH, &[]).unwrap().unwrap();
        assert_eq!((access.name.as_str(), access.role), ("uid:1000", Role::Operator));
        let access = guard.get("", ("accept", "*/*")).unwrap().unwrap();
        assert_eq!((access.name.as_str(), access.role), ("alice", Role::Viewer));
        let wrong = guard.admit("GET", PATH, &[("authorization", "Basic YTpi")]);
        assert_eq!(wrong, Err(ProblemKind::NotAuthenticated));
    }

    #[test]
    fn a_body_is_json_and_not_too_large() {
        let guard = TestGuard { peer: ConsolePeer::Process(1000), ..TestGuard::new() };
        let post = |headers: &[(&str, &str)]| guard.admit("POST", PATH, headers).map(|_| ());
        assert_eq!(post(&[("content-type", "application/json; charset=utf-8"), ("content-length", "65536")]), Ok(()));
        assert_eq!(post(&[("content-length", "65537")]), Err(ProblemKind::BodyTooLarge));
        assert_eq!(post(&[("content-type", "text/plain")]), Err(ProblemKind::NotJson));
        let firmware = |length| {
            let headers = [("content-type", "application/json"), ("content-length", length)];
            guard.admit("POST", "/api/v1/devices/ep%2F1/commands", &headers).map(|_| ())
        };
        assert_eq!((firmware("8388608"), firmware("8388609")), (Ok(()), Err(ProblemKind::BodyTooLarge)));
        assert_eq!(post(&[]), Err(ProblemKind::NotJson));
    }
}
