//! What a service manager hears of the built program (sd_notify(3)), and that the watchdog is fed by the event loop.

use std::ffi::OsString;
use std::future::poll_fn;
use std::io::ErrorKind;
use std::os::unix::net::UnixDatagram;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::task::Poll;
use std::time::Duration;

use crate::common::broker::TestBroker;
use crate::common::device::{Device, PATIENCE, fresh_id};
use crate::common::gateway::Gateway;
use lwm2m_core::coap::{Kind, Message};
use lwm2m_core::gateway;
use lwm2m_gateway::clock::{monotonic_now, unix_time};
use lwm2m_gateway::conditions::Conditions;
use lwm2m_gateway::config::Config;
use lwm2m_gateway::driver::{Driver, control};
use lwm2m_gateway::observability::metrics::Metrics;
use lwm2m_gateway::process::service::Watchdog;
use lwm2m_gateway::transport::UdpSockets;
use lwm2m_gateway::upstream::{self, UpstreamLink};
use tempfile::TempDir;

#[tokio::test(flavor = "multi_thread")]
async fn the_service_manager_hears_of_the_start_of_a_reload_and_of_the_end() {
    let broker = TestBroker::start().await;
    let manager = Manager::new();
    let mut gateway = Gateway::start_in(&broker.addresses, manager.variables(None));

    assert_eq!(manager.hears(), "READY=1\n");
    let ping = Message::empty(Kind::Confirmable, fresh_id());
    let device = Device::new(gateway.address());
    device.send(&ping);
    assert_eq!(device.receive(), Message::empty(Kind::Reset, ping.id));

    gateway.signal("HUP");
    let said = manager.hears();
    let time = said.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").expect("the time is told along").trim_end();
    assert!(time.parse::<u64>().is_ok(), "{said}");
    assert_eq!(manager.hears(), "READY=1\n");

    gateway.signal("TERM");
    assert_eq!(manager.hears(), "STOPPING=1\n");
    assert_eq!(gateway.wait().code(), Some(0));
    manager.hears_nothing_for(Duration::from_millis(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watched_program_feeds_the_watchdog_until_its_end() {
    let broker = TestBroker::start().await;
    let manager = Manager::new();
    let mut gateway = Gateway::start_in(&broker.addresses, manager.variables(Some(Duration::from_millis(100))));

    let heard: Vec<String> = (0..8).map(|_| manager.hears()).collect();
    assert_eq!(heard.iter().filter(|said| *said == "READY=1\n").count(), 1, "{heard:?}");
    assert_eq!(heard.iter().filter(|said| *said == "WATCHDOG=1").count(), 7, "{heard:?}");
    assert_eq!(gateway.stop("TERM").code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_manager_that_is_gone_is_no_trouble() {
    let broker = TestBroker::start().await;
    let manager = Manager::new();
    let variables = manager.variables(Some(Duration::from_millis(20)));
    drop(manager);
    let mut gateway = Gateway::start_in(&broker.addresses, variables);
    gateway.wait_until_it_hears();
    assert_eq!(gateway.stop("TERM").code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_feeds_the_watchdog_for_an_event_loop_that_is_stuck() {
    let manager = Manager::new();
    let (trap, mut stuck) = Trap::new();
    let driver = driver(&manager, Duration::from_millis(40)).await;
    let driving = tokio::spawn(driver.run(poll_fn(move |_| stuck.poll()), Duration::ZERO));
    (0..3).for_each(|_| assert_eq!(manager.hears(), "WATCHDOG=1"));

    let release = trap.spring();
    manager.forgets();
    // Ten times what the service manager would wait.
    manager.hears_nothing_for(Duration::from_millis(400));

    release.send(()).expect("the event loop waits for it");
    driving.await.expect("it ends when it is released");
}

#[test]
fn the_service_manager_hears_of_several_threads_when_the_loops_of_all_have_turned() {
    let (manager, now) = (Manager::new(), monotonic_now());
    let mut first = Watchdog::new(manager.place(), Duration::from_millis(20), now).expect("a socket");
    let mut second = first.of_thread(1);
    first.feed(now);
    first.feed(first.next());
    manager.hears_nothing_for(Duration::from_millis(50));
    second.feed(now);
    assert_eq!(manager.hears(), "WATCHDOG=1");
    // At the shutdown one of them ends before the other.
    second.feed(second.next());
    first.end();
    assert_eq!(manager.hears(), "WATCHDOG=1");
    second.feed(second.next());
    assert_eq!(manager.hears(), "WATCHDOG=1");
}

/// A driver of a gateway without devices, and with a broker that is away.
async fn driver(manager: &Manager, timeout: Duration) -> Driver {
    let mut config = Config::default();
    config.listeners[0].bind = "127.0.0.1:0".parse().expect("an address");
    let upstream::UpstreamConfig::ExProto(exproto) = &mut config.upstream else { panic!("the default is ExProto") };
    exproto.handler_bind = "127.0.0.1:0".parse().expect("an address");
    let metrics = Arc::new(Metrics::default());
    let sockets = UdpSockets::bind(&config.listeners).expect("free ports");
    let link = UpstreamLink::start(config.upstream, Arc::clone(&metrics.upstream), Conditions::default().add("emqx"))
        .await
        .expect("free ports");
    let now = monotonic_now();
    let unix_time = unix_time().expect("the clock of this machine is set");
    let gateway = gateway::Gateway::new(config.gateway, Arc::default(), [0; 32], now, unix_time);
    let watchdog = Watchdog::new(manager.place(), timeout, now).expect("a socket");
    let (_, requests) = control::control();
    Driver::new(gateway, sockets, link, None, requests, metrics).watched_by(Some(watchdog))
}

/// The service manager: hears what is said at its socket.
struct Manager {
    socket: UnixDatagram,
    folder: TempDir,
}

impl Manager {
    fn new() -> Self {
        let folder = TempDir::new().expect("a place for the socket");
        let socket = UnixDatagram::bind(folder.path().join("notify")).expect("a new socket");
        socket.set_read_timeout(Some(PATIENCE)).expect("the option is known");
        Self { socket, folder }
    }

    fn place(&self) -> OsString {
        self.folder.path().join("notify").into()
    }

    /// What it puts into the environment of a service, with this much patience for its watchdog.
    fn variables(&self, watchdog: Option<Duration>) -> Vec<(String, OsString)> {
        let watchdog = watchdog.map(|timeout| ("WATCHDOG_USEC".to_owned(), timeout.as_micros().to_string().into()));
        [("NOTIFY_SOCKET".to_owned(), self.place())].into_iter().chain(watchdog).collect()
    }

    fn hears(&self) -> String {
        let mut buffer = [0; 4096];
        let length = self.socket.recv(&mut buffer).expect("the service has something to say");
        String::from_utf8(buffer[..length].to_vec()).expect("the protocol is text")
    }

    /// What was said up to now.
    fn forgets(&self) {
        self.socket.set_nonblocking(true).expect("the option is known");
        while self.socket.recv(&mut [0; 4096]).is_ok() {}
        self.socket.set_nonblocking(false).expect("the option is known");
    }

    /// Waits in the thread of the test: an event loop that is stuck may have the timers of the runtime in its hands.
    fn hears_nothing_for(&self, time: Duration) {
        self.socket.set_read_timeout(Some(time)).expect("the option is known");
        let heard = self.socket.recv(&mut [0; 4096]);
        assert_eq!(heard.map_err(|error| error.kind()), Err(ErrorKind::WouldBlock));
    }
}

/// Stops the event loop where it waits for its end.
struct Trap {
    sprung: Sender<()>,
    inside: Receiver<Sender<()>>,
}

/// What steps into the trap.
struct Walker {
    sprung: Receiver<()>,
    inside: Sender<Sender<()>>,
}

impl Trap {
    fn new() -> (Self, Walker) {
        let (spring, sprung) = channel();
        let (enter, inside) = channel();
        (Self { sprung: spring, inside }, Walker { sprung, inside: enter })
    }

    /// Returns when the event loop is stuck, with what releases it.
    fn spring(self) -> Sender<()> {
        self.sprung.send(()).expect("the event loop goes round");
        self.inside.recv_timeout(PATIENCE).expect("the event loop looks whether it should end")
    }
}

impl Walker {
    /// Blocks the thread once the trap was sprung, until it is released; then the event loop ends.
    fn poll(&mut self) -> Poll<()> {
        if self.sprung.try_recv().is_err() {
            return Poll::Pending;
        }
        let (release, released) = channel();
        self.inside.send(release).expect("the test waits");
        released.recv().expect("the test releases it");
        Poll::Ready(())
    }
}
