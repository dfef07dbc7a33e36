//! The broker of a test: an embedded one of its own, or, with `EMQX_TEST=1`, the EMQX at `EMQX_MQTT`,
//! `EMQX_EXPROTO_LISTENER`, `EMQX_ADAPTER`, with its handler at `EMQX_HANDLER_BIND`.

use std::cell::Cell;
use std::env;
use std::net::SocketAddr;
use std::time::Duration;

use lwm2m_broker::{BrokerAddresses, BrokerConfig, BrokerControl, EmbeddedBroker};
use tokio::net::TcpSocket;

use super::device::PATIENCE;
use super::ports;
use super::turn::Turn;

/// Keep it as long as the test runs.
pub(crate) struct TestBroker {
    pub addresses: TestAddresses,
    kind: Kind,
}

#[derive(Clone, Debug)]
pub(crate) struct TestAddresses {
    /// `host:port`.
    pub mqtt: String,
    /// `host:port` of the MQTT listener for devices.
    pub devices: String,
    /// `host:port`.
    pub listener: String,
    /// `host:port` of the SSL listener, where settings asked for one.
    pub ssl: Option<String>,
    /// `http://host:port`.
    pub adapter: String,
    /// Where the broker expects the handler; free until the test binds it.
    pub handler_bind: SocketAddr,
}

enum Kind {
    Embedded {
        broker: EmbeddedBroker,
        /// Holds the handler's port without listening, so that nobody else is given it.
        _port: TcpSocket,
    },
    Emqx {
        _turn: Turn,
    },
}

/// The way of the gateway to the broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Upstream {
    ExProto,
    Mqtt,
}

impl Upstream {
    /// Returns the upstream that this thread's test runs over: ExProto unless `over_both_upstreams!` chose the other.
    pub(crate) fn of_this_test() -> Self {
        UPSTREAM.get()
    }

    /// Chooses the upstream for the test of this thread.
    pub(crate) fn choose(self) {
        UPSTREAM.set(self);
    }
}

thread_local! {
    static UPSTREAM: Cell<Upstream> = const { Cell::new(Upstream::ExProto) };
}

/// Makes two tests of each function: one over ExProto and one over MQTT, with the same topics, payloads and answers.
#[macro_export]
macro_rules! over_both_upstreams {
    ($($name:ident),* $(,)?) => {
        mod over_exproto {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $name() {
                super::$name().await;
            })*
        }
        mod over_mqtt {
            use $crate::common::broker::Upstream;
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $name() {
                Upstream::Mqtt.choose();
                super::$name().await;
            })*
        }
    };
}

impl TestBroker {
    pub(crate) async fn start() -> Self {
        Self::start_with(|_| ()).await
    }

    /// With other settings than the default. Settings do not reach an EMQX: such a test needs [`TestBroker::control`]
    /// first.
    pub(crate) async fn start_with(adjust: impl FnOnce(&mut BrokerConfig)) -> Self {
        if is_emqx() { Self::emqx() } else { Self::embedded(adjust).await }
    }

    pub(crate) fn is_emqx(&self) -> bool {
        matches!(self.kind, Kind::Emqx { .. })
    }

    /// What an administrator can do; none against an EMQX. A test that needs it says so and ends:
    ///
    /// ```ignore
    /// let Some(control) = broker.control() else { return };
    /// ```
    pub(crate) fn control(&self) -> Option<BrokerControl> {
        match &self.kind {
            Kind::Embedded { broker, .. } => Some(broker.control()),
            Kind::Emqx { .. } => {
                let test = std::thread::current();
                println!(
                    "{}: skipped, the administration of EMQX is not reachable from here",
                    test.name().unwrap_or("test")
                );
                None
            }
        }
    }

    /// It ends with all that it knows, and another one comes to its place. Only its MQTT is somewhere else. None can be
    /// started in the place of an EMQX.
    pub(crate) async fn restart(self) -> Option<Self> {
        let Self { addresses, kind: Kind::Embedded { broker, _port: port } } = self else { return None };
        let handler_bind = addresses.handler_bind;
        let BrokerAddresses { listener, adapter, .. } = broker.addresses();
        broker.control().stop().await;
        drop(broker);
        let config = BrokerConfig { listener, adapter, ..broker_config(handler_bind) };
        Some(Self::embedded_with(config, port, handler_bind).await)
    }

    async fn embedded(adjust: impl FnOnce(&mut BrokerConfig)) -> Self {
        let (port, handler_bind) = reserve_port();
        let mut config = broker_config(handler_bind);
        adjust(&mut config);
        Self::embedded_with(config, port, handler_bind).await
    }

    async fn embedded_with(config: BrokerConfig, port: TcpSocket, handler_bind: SocketAddr) -> Self {
        let devices = Some(ports::free_address());
        let broker = EmbeddedBroker::start(BrokerConfig { devices, ..config }).await.expect("free ports");
        let real = broker.addresses();
        let addresses = TestAddresses {
            mqtt: real.mqtt.to_string(),
            devices: real.devices.expect("it was asked for").to_string(),
            listener: real.listener.to_string(),
            ssl: real.ssl.map(|address| address.to_string()),
            adapter: format!("http://{}", real.adapter),
            handler_bind,
        };
        Self { addresses, kind: Kind::Embedded { broker, _port: port } }
    }

    fn emqx() -> Self {
        let turn = Turn::take();
        let handler_bind = setting("EMQX_HANDLER_BIND", "127.0.0.1:9001");
        let addresses = TestAddresses {
            mqtt: emqx_mqtt(),
            devices: emqx_mqtt(),
            listener: setting("EMQX_EXPROTO_LISTENER", "127.0.0.1:7993"),
            ssl: None,
            adapter: setting("EMQX_ADAPTER", "http://127.0.0.1:9100"),
            handler_bind: handler_bind.parse().expect("EMQX_HANDLER_BIND is ip:port"),
        };
        Self { addresses, kind: Kind::Emqx { _turn: turn } }
    }
}

/// Returns whether the tests run against the EMQX that is there.
pub(crate) fn is_emqx() -> bool {
    env::var("EMQX_TEST").is_ok_and(|value| value == "1")
}

/// Returns `host:port` of EMQX's MQTT listener.
pub(crate) fn emqx_mqtt() -> String {
    setting("EMQX_MQTT", "127.0.0.1:1883")
}

fn setting(name: &str, default: &str) -> String {
    env::var(name).unwrap_or_else(|_| default.to_owned())
}

/// Starts a stopped broker at its addresses. They may be taken for a moment: a program that another test starts has
/// copies of the closed sockets until it runs.
pub(crate) async fn start_again(control: &BrokerControl) {
    let attempt = async {
        while let Err(error) = control.start().await {
            println!("not yet started: {error:#}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, attempt).await.expect("the addresses are still free");
}

/// Returns settings with ports that are still free when a broker stops and starts again.
fn broker_config(handler_bind: SocketAddr) -> BrokerConfig {
    BrokerConfig {
        mqtt: ports::free_address(),
        listener: ports::free_address(),
        adapter: ports::free_address(),
        handler: format!("http://{handler_bind}"),
        ..BrokerConfig::default()
    }
}

fn reserve_port() -> (TcpSocket, SocketAddr) {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_reuseaddr(true).expect("the option is known");
    let address = ports::free_address();
    socket.bind(address).expect("a free port");
    (socket, address)
}
