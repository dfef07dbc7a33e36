//! An HTTP client for the API: a connection for each request, over TCP, TLS or a socket.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use lwm2m_base::secret::Secret;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;

use crate::errors::{plain, with_causes};
use crate::tls::{Connector, TlsConfig};

use super::document::Document;
use super::error::{ProblemDetails, RemoteError};
use super::event_stream::EventReader;
use super::place::ConsoleAddress;

/// The resources of the API are below this path.
const BASE: &str = "/api/v1";
/// Maximum time until the connection is there.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Maximum time until an answer begins: longer than a gateway lets a request wait.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(100);
/// Maximum size of an answer, in bytes.
const LARGEST_ANSWER: usize = 64 * 1024 * 1024;

/// Asks a console.
pub(crate) struct ApiClient {
    place: ConsoleAddress,
    authorization: Option<HeaderValue>,
    tls: Option<Connector>,
}

/// A path of the API with its query.
#[derive(Clone, Debug)]
pub(crate) struct ApiPath(String);

impl ApiPath {
    /// Joins the segments, which are encoded.
    pub(super) fn new(segments: &[&str]) -> Self {
        Self(BASE.to_owned() + &segments.iter().map(|segment| format!("/{}", encoded(segment))).collect::<String>())
    }

    /// Adds a parameter.
    pub(super) fn with(mut self, name: &str, value: &str) -> Self {
        let separator = if self.0.contains('?') { '&' } else { '?' };
        self.0 += &format!("{separator}{name}={}", encoded(value));
        self
    }

    /// Adds a parameter if there is a value.
    pub(crate) fn with_some(self, name: &str, value: Option<&str>) -> Self {
        match value {
            Some(value) => self.with(name, value),
            None => self,
        }
    }
}

impl ApiClient {
    pub(super) fn new(place: ConsoleAddress, token: Option<Secret>) -> Result<Self, RemoteError> {
        let authorization = token.map(|token| authorization(&token)).transpose()?;
        let tls = match place {
            ConsoleAddress::Tcp { tls: true, .. } => {
                let connector = Connector::new(&TlsConfig::default());
                Some(connector.map_err(|error| unreachable(&place, error.to_string()))?)
            }
            ConsoleAddress::Tcp { tls: false, .. } | ConsoleAddress::Socket(_) => None,
        };
        Ok(Self { place, authorization, tls })
    }

    /// Gets a JSON document.
    pub(super) async fn get(&self, path: ApiPath) -> Result<Document, RemoteError> {
        let response = self.send(Method::GET, path, None).await?;
        self.document(response).await
    }

    /// Posts JSON, and returns the status with the answer.
    pub(super) async fn post(&self, path: ApiPath, body: &Value) -> Result<(StatusCode, Document), RemoteError> {
        let response = self.send(Method::POST, path, Some(body)).await?;
        Ok((response.status(), self.document(response).await?))
    }

    /// Puts a resource that has no content.
    pub(super) async fn put(&self, path: ApiPath) -> Result<(), RemoteError> {
        self.send(Method::PUT, path, None).await.map(drop)
    }

    /// Deletes a resource.
    pub(super) async fn delete(&self, path: ApiPath) -> Result<(), RemoteError> {
        self.send(Method::DELETE, path, None).await.map(drop)
    }

    /// Gets a file.
    pub(super) async fn download(&self, path: ApiPath) -> Result<Bytes, RemoteError> {
        let response = self.send(Method::GET, path, None).await?;
        self.body(response).await
    }

    /// Opens a stream of events.
    pub(super) async fn events(&self, path: ApiPath) -> Result<EventReader, RemoteError> {
        let response = self.send(Method::GET, path, None).await?;
        let media_type = response.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
        if !media_type.is_some_and(|media_type| media_type.starts_with("text/event-stream")) {
            return Err(self.unexpected("no stream of events"));
        }
        Ok(EventReader::new(response.into_body(), self.place.to_string()))
    }

    /// Returns the error of an answer that a gateway does not give.
    pub(super) fn unexpected(&self, reason: &str) -> RemoteError {
        RemoteError::Answer { place: self.place.to_string(), reason: reason.to_owned() }
    }

    async fn document(&self, response: Response<Incoming>) -> Result<Document, RemoteError> {
        let bytes = self.body(response).await?;
        let text = String::from_utf8(bytes.into()).map_err(|_| self.unexpected("no text"))?;
        let value = serde_json::from_str(&text).map_err(|_| self.unexpected("no JSON"))?;
        Ok(Document { text, value })
    }

    async fn body(&self, response: Response<Incoming>) -> Result<Bytes, RemoteError> {
        let collected = timeout(ANSWER_TIMEOUT, Limited::new(response.into_body(), LARGEST_ANSWER).collect()).await;
        match collected {
            Ok(Ok(body)) => Ok(body.to_bytes()),
            Ok(Err(error)) => Err(self.unexpected(&error.to_string())),
            Err(_) => Err(self.unexpected("it did not end")),
        }
    }

    /// Sends a request. The answer of a gateway that refuses it is an error.
    async fn send(
        &self,
        method: Method,
        path: ApiPath,
        body: Option<&Value>,
    ) -> Result<Response<Incoming>, RemoteError> {
        let response = self.exchange(self.request(method, path, body)).await?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let body = self.body(response).await?;
        Err(RemoteError::Problem(ProblemDetails::of(status.as_u16(), &String::from_utf8_lossy(&body))))
    }

    fn request(&self, method: Method, ApiPath(path): ApiPath, body: Option<&Value>) -> Request<Full<Bytes>> {
        let bytes = body.map(|body| Bytes::from(body.to_string())).unwrap_or_default();
        let mut request = Request::new(Full::new(bytes));
        *request.method_mut() = method;
        *request.uri_mut() = path.parse().expect("segments and parameters are encoded");
        let headers = request.headers_mut();
        headers.insert(HOST, HeaderValue::try_from(self.place.host()).expect("a host of a URL is a header"));
        headers.insert(ACCEPT, HeaderValue::from_static("application/json, text/event-stream, */*"));
        if body.is_some() {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        headers.extend(self.authorization.clone().map(|value| (AUTHORIZATION, value)));
        request
    }

    async fn exchange(&self, request: Request<Full<Bytes>>) -> Result<Response<Incoming>, RemoteError> {
        let connected = timeout(CONNECT_TIMEOUT, self.connect()).await;
        let stream = connected.map_err(|_| self.unreachable("no connection within 10 s"))??;
        let failed = |error: hyper::Error| self.unreachable(with_causes(&error.to_string(), Some(&error)));
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(failed)?;
        // An error of the connection is one of the request, or of its body.
        tokio::spawn(connection);
        let answered = timeout(ANSWER_TIMEOUT, sender.send_request(request)).await;
        answered.map_err(|_| self.unreachable("no answer"))?.map_err(failed)
    }

    async fn connect(&self) -> Result<Box<dyn ByteStream>, RemoteError> {
        let failed = |error: io::Error| self.unreachable(plain(&error));
        match &self.place {
            ConsoleAddress::Socket(path) => Ok(Box::new(UnixStream::connect(path).await.map_err(failed)?)),
            ConsoleAddress::Tcp { host, port, .. } => {
                let host = host.trim_matches(['[', ']']);
                let stream = TcpStream::connect((host, *port)).await.map_err(failed)?;
                let Some(tls) = &self.tls else { return Ok(Box::new(stream)) };
                let secured = tls.connect(host, stream).await;
                Ok(Box::new(secured.map_err(|error| self.unreachable(error.to_string()))?))
            }
        }
    }

    fn unreachable(&self, reason: impl Into<String>) -> RemoteError {
        unreachable(&self.place, reason)
    }
}

trait ByteStream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> ByteStream for S {}

fn unreachable(place: &ConsoleAddress, reason: impl Into<String>) -> RemoteError {
    RemoteError::Unreachable { place: place.to_string(), reason: reason.into() }
}

fn authorization(token: &Secret) -> Result<HeaderValue, RemoteError> {
    let value = HeaderValue::try_from(format!("Bearer {}", token.reveal()));
    let mut value = value.map_err(|_| RemoteError::Usage("the token has characters that no token has".to_owned()))?;
    value.set_sensitive(true);
    Ok(value)
}

/// Percent-encodes everything but unreserved characters (RFC 3986 section 2.3).
fn encoded(text: &str) -> String {
    let encode = |byte: u8| match byte {
        b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => char::from(byte).to_string(),
        other => format!("%{other:02X}"),
    };
    text.bytes().map(encode).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_and_parameters_are_encoded_as_a_whole() {
        let path = ApiPath::new(&["devices", "urn:imei:1/2 ü"]).with("q", "a&b").with_some("prefix", None);
        assert_eq!(path.with("limit", "3").0, "/api/v1/devices/urn%3Aimei%3A1%2F2%20%C3%BC?q=a%26b&limit=3");
    }
}
