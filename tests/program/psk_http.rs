//! The service of keys, over real HTTP: a small server that is told what to say.

use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use lwm2m_base::identity::PskIdentity;
use lwm2m_base::secret::Secret;
use lwm2m_dtls::credentials::{KeyAnswer, KeyQuestion, PskKey};
use lwm2m_dtls::test_client::credentials::Certified;
use lwm2m_gateway::credentials::{Encoding, FileKeys, KeyFinder, KeyServiceClient, KeyServiceError, PskHttpConfig};
use lwm2m_gateway::observability::metrics::Metrics;
use lwm2m_gateway::tls;
use openssl::ssl::{Ssl, SslAcceptor, SslMethod};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio_openssl::SslStream;

const FOUND: Duration = Duration::from_secs(3600);
const UNKNOWN: Duration = Duration::from_secs(60);

/// What was asked, with the header Authorization.
type ReceivedRequests = Arc<Mutex<Vec<(String, String)>>>;

/// Says this, or nothing at all.
async fn server(says: Option<(u16, Vec<u8>)>, tls: Option<SslAcceptor>) -> (String, ReceivedRequests) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let asked = ReceivedRequests::default();
    let heard = Arc::clone(&asked);
    let scheme = if tls.is_some() { "https" } else { "http" };
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let (says, heard, tls) = (says.clone(), Arc::clone(&heard), tls.clone());
            tokio::spawn(async move {
                let answer = service_fn(move |request: Request<Incoming>| {
                    let header = request.headers().get("authorization");
                    let header = header.map(|value| value.to_str().unwrap().to_owned()).unwrap_or_default();
                    heard.lock().unwrap().push((request.uri().to_string(), header));
                    let says = says.clone();
                    async move {
                        match says {
                            None => std::future::pending().await,
                            Some((status, body)) => Ok::<_, Infallible>(
                                Response::builder().status(status).body(Full::new(Bytes::from(body))).unwrap(),
                            ),
                        }
                    }
                });
                match tls {
                    None => drop(http1::Builder::new().serve_connection(TokioIo::new(stream), answer).await),
                    Some(acceptor) => {
                        let ssl = Ssl::new(acceptor.context()).unwrap();
                        let mut stream = SslStream::new(ssl, stream).unwrap();
                        if std::pin::Pin::new(&mut stream).accept().await.is_ok() {
                            drop(http1::Builder::new().serve_connection(TokioIo::new(stream), answer).await);
                        }
                    }
                }
            });
        }
    });
    (format!("{scheme}://localhost:{}", address.port()), asked)
}

fn config(base: &str) -> PskHttpConfig {
    PskHttpConfig {
        url: format!("{base}/psk/${{psk_identity}}?for=dtls"),
        authorization: Some(Secret::new("Bearer hunter2")),
        encoding: Encoding::Hex,
        ssl: tls::TlsConfig::default(),
        timeout: Duration::from_secs(10),
        requests: 2,
        cache_ttl: FOUND,
        negative_cache_ttl: UNKNOWN,
    }
}

fn question(name: &str) -> KeyQuestion {
    identity(name).into()
}

fn identity(name: &str) -> PskIdentity {
    PskIdentity::new(name.as_bytes()).unwrap()
}

fn found(key: &[u8]) -> KeyAnswer {
    KeyAnswer::Found { key: PskKey::new(key).unwrap().into(), keep_for: FOUND }
}

#[tokio::test]
async fn a_key_is_asked_for_by_the_encoded_identity() {
    let (base, asked) = server(Some((200, b"00ff10\n".to_vec())), None).await;
    let asker = KeyServiceClient::new(&config(&base)).unwrap();
    assert_eq!(asker.ask(&identity("urn:imei/7?ä")).await.unwrap(), found(&[0, 0xff, 0x10]));
    let expected = ("/psk/urn%3Aimei%2F7%3F%C3%A4?for=dtls".to_owned(), "Bearer hunter2".to_owned());
    assert_eq!(*asked.lock().unwrap(), [expected]);
}

#[tokio::test]
async fn only_404_says_that_an_identity_is_unknown() {
    let ask = async |status, body: &[u8]| {
        let (base, _) = server(Some((status, body.to_vec())), None).await;
        KeyServiceClient::new(&config(&base)).unwrap().ask(&identity("a")).await
    };
    assert_eq!(ask(404, b"").await.unwrap(), KeyAnswer::Unknown { keep_for: UNKNOWN });
    for status in [204, 301, 401, 500, 503] {
        assert!(matches!(ask(status, b"00").await, Err(KeyServiceError::Status(said)) if said == status), "{status}");
    }
    assert!(matches!(ask(200, b"hunter2").await, Err(KeyServiceError::NoKey(_))));
    assert!(matches!(ask(200, b"").await, Err(KeyServiceError::NoKey(_))));
    assert!(matches!(ask(200, &[b'0'; 10_000]).await, Err(KeyServiceError::TooLong)));
    let error = ask(200, b"hunter2").await.unwrap_err();
    assert!(!format!("{error} {error:?}").contains("hunter2"));
}

#[tokio::test]
async fn a_service_that_is_away_or_silent_is_no_answer_in_time() {
    let (base, _) = server(None, None).await;
    let impatient = PskHttpConfig { timeout: Duration::from_millis(50), ..config(&base) };
    let error = KeyServiceClient::new(&impatient).unwrap().ask(&identity("a")).await.unwrap_err();
    assert!(matches!(error, KeyServiceError::TimedOut), "{error}");
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let away = config(&format!("http://{closed}"));
    let error = KeyServiceClient::new(&away).unwrap().ask(&identity("a")).await.unwrap_err();
    assert!(matches!(error, KeyServiceError::Unreachable(_)) && !error.to_string().contains("hunter2"), "{error}");
}

#[tokio::test]
async fn https_asks_only_a_server_that_is_trusted() {
    let folder = TempDir::new().unwrap();
    let ca = Certified::authority("Test CA");
    let (authority, _) = ca.write(folder.path(), "ca");
    let localhost = ca.certify("localhost");
    let mut acceptor = SslAcceptor::mozilla_intermediate_v5(SslMethod::tls_server()).unwrap();
    acceptor.set_certificate(&localhost.certificate).unwrap();
    acceptor.set_private_key(&localhost.key).unwrap();
    let (base, asked) = server(Some((200, b"0a".to_vec())), Some(acceptor.build())).await;

    let error = KeyServiceClient::new(&config(&base)).unwrap().ask(&identity("a")).await.unwrap_err();
    assert!(matches!(error, KeyServiceError::Unreachable(_)) && error.to_string().contains("certificate"), "{error}");
    assert_eq!(*asked.lock().unwrap(), [], "nothing is said to somebody else");

    let trusting = |server_name: Option<&str>| {
        let ssl = tls::TlsConfig {
            cacertfile: Some(authority.clone()),
            server_name: server_name.map(str::to_owned),
            ..tls::TlsConfig::default()
        };
        KeyServiceClient::new(&PskHttpConfig { ssl, ..config(&base) }).unwrap()
    };
    assert_eq!(trusting(None).ask(&identity("a")).await.unwrap(), found(&[10]));
    assert_eq!(trusting(Some("localhost")).ask(&identity("a")).await.unwrap(), found(&[10]));
    assert!(trusting(Some("other")).ask(&identity("a")).await.is_err());
}

#[tokio::test]
async fn the_file_answers_at_once_and_the_service_later_and_never_too_many_at_a_time() {
    let (base, _) = server(Some((200, b"0a".to_vec())), None).await;
    let asker = KeyServiceClient::new(&config(&base)).unwrap();
    let file = FileKeys::default();
    file.replace([(identity("in-file"), PskKey::new(*b"secret").unwrap())].into());
    let mut keys = KeyFinder::new(file, Some((asker, 2)), Arc::new(Metrics::default()));
    assert!(
        matches!(keys.find(&question("in-file")), Some(KeyAnswer::Found { key, .. }) if key.key.reveal() == b"secret")
    );
    assert_eq!(keys.find(&question("a")), None);
    assert_eq!(keys.find(&question("b")), None);
    assert_eq!(keys.find(&question("c")), Some(KeyAnswer::Unavailable));
    let mut answers = [keys.answer().await, keys.answer().await];
    answers.sort_by(|(one, _), (other, _)| one.identity.cmp(&other.identity));
    assert_eq!(answers, [(question("a"), found(&[10])), (question("b"), found(&[10]))]);
    assert_eq!(keys.find(&question("c")), None);

    let mut none = KeyFinder::none(Arc::new(Metrics::default()));
    assert!(matches!(none.find(&question("a")), Some(KeyAnswer::Unknown { .. })));
}
