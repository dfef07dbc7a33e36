//! The address of a console: a URL, or a socket of the file system.

use std::fmt;
use std::path::{Path, PathBuf};

use hyper::Uri;

use super::error::RemoteError;

/// The socket of an installed gateway, which is used if it is there.
const SOCKET: &str = "/run/lwm2m-gateway/console.sock";
/// The console of a gateway on this machine.
const URL: &str = "http://127.0.0.1:8086";

/// The address of a console.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ConsoleAddress {
    Socket(PathBuf),
    Tcp { host: String, port: u16, tls: bool },
}

impl ConsoleAddress {
    /// Returns the socket if it is there, else the console at its standard port.
    pub(crate) fn by_default() -> Self {
        let socket = Path::new(SOCKET);
        if socket.exists() {
            return Self::Socket(socket.to_owned());
        }
        Self::parse(URL).expect("a URL")
    }

    /// Parses `unix:PATH` or a URL. Whatever follows the authority of a URL is ignored: a link of the page is a URL
    /// too.
    pub(crate) fn parse(text: &str) -> Result<Self, RemoteError> {
        if let Some(path) = text.strip_prefix("unix:") {
            return match path {
                "" => Err(wrong(text)),
                path => Ok(Self::Socket(PathBuf::from(path))),
            };
        }
        let uri: Uri = text.parse().map_err(|_| wrong(text))?;
        let (tls, standard_port) = match uri.scheme_str() {
            Some("http") => (false, 80),
            Some("https") => (true, 443),
            _ => return Err(wrong(text)),
        };
        let host = uri.host().filter(|host| !host.is_empty()).ok_or_else(|| wrong(text))?;
        Ok(Self::Tcp { host: host.to_owned(), port: uri.port_u16().unwrap_or(standard_port), tls })
    }

    /// Returns the header `Host` of requests.
    pub(crate) fn host(&self) -> String {
        match self {
            Self::Socket(_) => "localhost".to_owned(),
            Self::Tcp { host, port, .. } => format!("{host}:{port}"),
        }
    }
}

impl fmt::Display for ConsoleAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Socket(path) => write!(f, "unix:{}", path.display()),
            Self::Tcp { host, port, tls } => write!(f, "{}://{host}:{port}", if *tls { "https" } else { "http" }),
        }
    }
}

// The text may be a link with a token behind its `#`.
fn wrong(text: &str) -> RemoteError {
    let shown = text.split('#').next().unwrap_or_default();
    RemoteError::Usage(format!("--at {shown}: expected http://HOST:PORT, https://HOST:PORT or unix:PATH"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(text: &str) -> Option<String> {
        ConsoleAddress::parse(text).ok().map(|place| place.to_string())
    }

    #[test]
    fn a_place_is_a_url_or_a_socket() {
        for (text, shown) in [
            ("http://127.0.0.1:8086", "http://127.0.0.1:8086"),
            ("http://[::1]:8086/", "http://[::1]:8086"),
            ("https://gateway.example", "https://gateway.example:443"),
            ("http://127.0.0.1:8086/#token=lgw_planted", "http://127.0.0.1:8086"),
            ("unix:/run/console.sock", "unix:/run/console.sock"),
        ] {
            assert_eq!(place(text).as_deref(), Some(shown), "{text}");
        }
        for text in ["", "127.0.0.1:8086", "ftp://host", "unix:", "http://", "http:///api"] {
            assert_eq!(place(text), None, "{text}");
        }
    }

    #[test]
    fn an_error_shows_no_token() {
        let error = ConsoleAddress::parse("gateway/#token=lgw_planted").unwrap_err().to_string();
        assert!(!error.contains("planted"), "{error}");
    }
}
