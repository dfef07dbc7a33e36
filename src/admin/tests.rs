use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::*;
use crate::driver::control::{self, DriverRequest};

/// An admin listener, with a driver that answers or one that is stuck.
struct TestAdmin {
    address: SocketAddr,
    conditions: Conditions,
    metrics: Arc<Metrics>,
}

impl TestAdmin {
    async fn start() -> Self {
        let (control, mut requests) = control::control();
        tokio::spawn(async move {
            while let Some(request) = requests.recv().await {
                match request {
                    DriverRequest::Ping(asker) => asker.send(()).unwrap(),
                    DriverRequest::Snapshot(asker) => {
                        asker.send(DriverSnapshot { asleep: 3, ..DriverSnapshot::default() }).unwrap()
                    }
                    DriverRequest::Change(_)
                    | DriverRequest::Page(..)
                    | DriverRequest::Device(..)
                    | DriverRequest::Kick(..)
                    | DriverRequest::RemoveGeneratedKey(..)
                    | DriverRequest::Command(_)
                    | DriverRequest::CommandState(..)
                    | DriverRequest::Campaign(_)
                    | DriverRequest::Withdraw(..)
                    | DriverRequest::StreamOpen { .. }
                    | DriverRequest::Trace { .. }
                    | DriverRequest::EndTrace(_)
                    | DriverRequest::Watch(..)
                    | DriverRequest::Unwatch => {}
                }
            }
        });
        Self::start_with(control).await
    }

    async fn start_with(control: Control) -> Self {
        Self::start_for(TIMEOUTS, control).await
    }

    async fn start_for(patience: ConnectionTimeouts, control: Control) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (metrics, conditions) = (Arc::new(Metrics::default()), Conditions::default());
        let sources = AdminSources::new(Arc::clone(&metrics), conditions.clone(), control);
        tokio::spawn(serve_with(patience, listener, sources));
        Self { address, conditions, metrics }
    }

    async fn ask(&self, request: &str) -> String {
        self.send(format!("{request} HTTP/1.1\r\nHost: gateway\r\n\r\n").as_bytes()).await
    }

    /// All that comes back until the end of the connection.
    async fn send(&self, bytes: &[u8]) -> String {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        // It may be closed before it has taken all of it.
        let _sent = stream.write_all(bytes).await;
        let mut answer = Vec::new();
        let _reset = stream.read_to_end(&mut answer).await;
        String::from_utf8(answer).unwrap()
    }
}

#[tokio::test]
async fn the_page_of_metrics_has_what_was_counted_and_what_the_driver_tells() {
    let rig = TestAdmin::start().await;
    rig.metrics.transport.send_errors.inc();
    let answer = rig.ask("GET /metrics").await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert!(answer.contains(&format!("content-type: {}\r\n", page::CONTENT_TYPE)), "{answer}");
    assert!(answer.contains("\nlwm2m_socket_errors_total{direction=\"out\"} 1\n"), "{answer}");
    assert!(answer.contains("\nlwm2m_devices{state=\"asleep\"} 3\n"), "{answer}");
}

#[tokio::test]
async fn who_asks_often_does_not_keep_the_driver_busy() {
    let (control, mut requests) = control::control();
    let rig = TestAdmin::start_with(control).await;
    let driver = tokio::spawn(async move {
        let Some(DriverRequest::Snapshot(asker)) = requests.recv().await else {
            panic!("it is asked for something else")
        };
        asker.send(DriverSnapshot::default()).unwrap();
        requests
    });
    for _ in 0..3 {
        assert!(rig.ask("GET /metrics").await.contains("\nlwm2m_event_loop_up 1\n"));
    }
    assert!(driver.await.unwrap().try_recv().is_err(), "it is asked once more");
}

#[tokio::test]
async fn the_program_is_alive_as_long_as_the_driver_answers() {
    let rig = TestAdmin::start().await;
    assert!(rig.ask("GET /healthz").await.starts_with("HTTP/1.1 200 OK\r\n"));
    let (control, requests) = control::control();
    drop(requests);
    let rig = TestAdmin::start_with(control).await;
    let answer = rig.ask("GET /healthz").await;
    assert!(answer.starts_with("HTTP/1.1 503") && answer.ends_with("the driver does not answer\n"), "{answer}");
    assert!(rig.ask("GET /metrics").await.contains("\nlwm2m_event_loop_up 0\n"));
}

#[tokio::test]
async fn the_program_is_ready_when_nothing_is_down() {
    let rig = TestAdmin::start().await;
    let broker = rig.conditions.add("broker");
    rig.conditions.add("dtls").set(ConditionState::Off, "no certificate");
    let answer = rig.ask("GET /readyz").await;
    assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");

    broker.set(ConditionState::Up, "10.0.0.5:7993 serves");
    let answer = rig.ask("GET /readyz").await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    let (_, body) = answer.split_once("\r\n\r\n").unwrap();
    let expected = json!({ "ready": true, "pid": std::process::id(), "conditions": {
        "broker": { "state": "up", "detail": "10.0.0.5:7993 serves" },
        "dtls": { "state": "off", "detail": "no certificate" },
    } });
    assert_eq!(serde_json::from_str::<Value>(body).unwrap(), expected);
}

#[tokio::test]
async fn head_has_no_body_and_nothing_else_is_taken() {
    let rig = TestAdmin::start().await;
    let head = rig.ask("HEAD /metrics").await;
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n") && head.ends_with("\r\n\r\n"), "{head}");
    let post = rig.ask("POST /metrics").await;
    assert!(post.starts_with("HTTP/1.1 405") && post.contains("allow: GET, HEAD\r\n"), "{post}");
    assert!(rig.ask("GET /").await.starts_with("HTTP/1.1 404"));
    let counted = &rig.metrics.admin;
    assert_eq!((counted.requests_answered.get(), counted.requests_refused.get()), (1, 2));
}

#[tokio::test]
async fn a_head_that_is_too_large_is_refused() {
    let rig = TestAdmin::start().await;
    let long = format!("GET /metrics HTTP/1.1\r\nHost: gateway\r\nCookie: {}\r\n\r\n", "x".repeat(64 * 1024));
    let answer = rig.send(long.as_bytes()).await;
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 431"), "{answer}");
    let many = format!("GET /metrics HTTP/1.1\r\n{}\r\n", "A: b\r\n".repeat(100));
    let answer = rig.send(many.as_bytes()).await;
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 431"), "{answer}");
    assert!(rig.ask("GET /healthz").await.starts_with("HTTP/1.1 200"));
}

/// Time plays no part.
const FOR_EVER: ConnectionTimeouts =
    ConnectionTimeouts { head: Duration::from_secs(600), whole: Duration::from_secs(600) };

#[tokio::test]
async fn a_head_that_does_not_come_at_once_ends_its_connection() {
    let (control, _requests) = control::control();
    let rig = TestAdmin::start_for(ConnectionTimeouts { head: Duration::from_millis(50), ..FOR_EVER }, control).await;
    for begun in ["", "GET /healthz HTTP/1.1\r\nHost: gate"] {
        let mut stream = TcpStream::connect(rig.address).await.unwrap();
        stream.write_all(begun.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        // It ends without an answer, or with one that says so.
        let _reset = stream.read_to_end(&mut answer).await;
        assert!(!answer.starts_with(b"HTTP/1.1 200"), "{begun:?}");
    }
    assert_eq!(rig.metrics.admin.connections_aborted.get(), 2);
    assert!(rig.ask("GET /readyz").await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn probes_are_answered_however_many_connections_are_half_open() {
    let (control, mut requests) = control::control();
    tokio::spawn(async move {
        while let Some(DriverRequest::Ping(asker)) = requests.recv().await {
            asker.send(()).unwrap();
        }
    });
    let rig = TestAdmin::start_for(FOR_EVER, control).await;
    let mut half_open = Vec::new();
    for _ in 0..5 * CONNECTIONS {
        let mut stream = TcpStream::connect(rig.address).await.unwrap();
        stream.write_all(b"GET /metrics HTTP/1.1\r\n").await.unwrap();
        half_open.push(stream);
        if half_open.len().is_multiple_of(8) {
            assert!(rig.ask("GET /healthz").await.starts_with("HTTP/1.1 200"), "{}", half_open.len());
        }
    }
    assert!(rig.metrics.admin.connections_aborted.get() >= 4 * CONNECTIONS as u64);

    // The oldest went, and the newest is still served.
    assert_eq!(half_open[0].read(&mut [0]).await.unwrap_or_default(), 0);
    let newest = half_open.last_mut().unwrap();
    newest.write_all(b"Host: gateway\r\n\r\n").await.unwrap();
    let mut answer = [0; 15];
    newest.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 200 OK");
}
