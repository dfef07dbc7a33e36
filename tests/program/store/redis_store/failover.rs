//! DTLS devices over the Redis store, and a failover by Sentinel that loses what was written last.

use lwm2m_core::coap::Code;
use lwm2m_core::coap::options::number;

use super::server::{RedisServer, until};
use super::{metric, state, stored_devices};
use crate::common::broker::TestBroker;
use crate::common::device::{Device, PATIENCE};
use crate::common::gateway::Gateway;
use crate::common::ports;
use crate::common::scene::LINKS;
use crate::dtls_devices::program::{CredentialsFolder, SecuredDevice};
use crate::dtls_devices::scene::{register, update};

const KEY: &str = "0123456789abcdef";

/// A registered device with a DTLS session.
struct Registered {
    device: SecuredDevice,
    location: String,
}

impl Registered {
    fn new(place: &CredentialsFolder) -> Self {
        let mut device =
            SecuredDevice::connect(place.secured, "secured", KEY.as_bytes(), PATIENCE).expect("a DTLS session");
        let created = device.ask(&register("lt=300"));
        assert_eq!(created.code, Code::CREATED);
        let location = created.options.texts(number::LOCATION_PATH).expect("text")[1].to_owned();
        Self { device, location }
    }

    #[track_caller]
    fn updates(&mut self) {
        for _ in 0..10 {
            assert_eq!(self.device.ask(&update(&self.location)).code, Code::CHANGED);
        }
    }

    /// The DTLS session is the first one, and none of its record numbers came twice.
    #[track_caller]
    fn expect_rising_numbers(&self, gateway: &Gateway) {
        let handshakes = gateway.output().matches("association established").count();
        assert_eq!(handshakes, 1, "{}", gateway.output());
        let numbers = self.device.numbers();
        assert!(numbers.is_sorted_by(|one, next| one < next), "{numbers:?}");
    }
}

fn lines(place: &CredentialsFolder, store: &str) -> String {
    format!("log.level = \"debug\"\n{}{store}", place.lines())
}

#[tokio::test(flavor = "multi_thread")]
async fn dtls_sessions_outlive_kills_and_stops_and_no_number_comes_twice() {
    let Some(server) = RedisServer::start() else { return };
    let place = CredentialsFolder::new(&format!("secured:{KEY}\n"));
    let broker = TestBroker::start().await;
    let mut gateway = Gateway::start_with(&broker.addresses, 1, &lines(&place, &server.lines()));
    let mut registered = Registered::new(&place);
    for round in 0..4 {
        registered.updates();
        match round % 2 {
            0 => gateway.kill(),
            _ => assert_eq!(gateway.stop("TERM").code(), Some(0)),
        }
        gateway.start_again();
    }
    registered.updates();
    registered.expect_rising_numbers(&gateway);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failover_that_lost_the_last_second_loses_no_device_and_repeats_no_number() {
    let Some(primary) = RedisServer::start() else { return };
    let port = primary.address.port().to_string();
    let Some(replica) = RedisServer::start_with(&["--replicaof", "127.0.0.1", &port]) else { return };
    let Some(sentinel) = RedisServer::start_sentinel(&primary) else { return };
    let place = CredentialsFolder::new(&format!("secured:{KEY}\n"));
    let broker = TestBroker::start().await;
    let mut gateway = Gateway::start_with(&broker.addresses, 1, &lines(&place, &sentinel.sentinel_lines()));
    let mut registered = Registered::new(&place);
    until("the replica has the device", || stored_devices(&replica) == 1);
    until("the Sentinel knows the replica", || {
        sentinel.ask_all("SENTINEL REPLICAS mymaster").contains(&replica.address.port().to_string())
    });

    // From now on the replica gets nothing more: what comes is lost.
    assert_eq!(replica.ask("CONFIG SET masterauth wrong"), "+OK");
    assert_eq!(primary.ask("CLIENT KILL TYPE replica"), ":1");
    let mut lost = Device::new(gateway.address());
    lost.register("ep=lost&lt=300", LINKS);
    assert_eq!([stored_devices(&primary), stored_devices(&replica)], [2, 1]);
    primary.signal("KILL");
    registered.updates();
    until("the replica is the primary", || replica.ask_all("INFO replication").contains("role:master"));
    until("all is written again", || metric(&gateway, "lwm2m_store_rewrites_total") == 1.0);
    until("the store is written again", || state(&gateway) == ("up".to_owned(), 0.0));
    until("nothing is missing", || stored_devices(&replica) == 2);
    registered.updates();

    gateway.kill();
    gateway.start_again();
    registered.updates();
    assert_eq!(lost.update(&[], None).code, Code::CHANGED);
    registered.expect_rising_numbers(&gateway);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_serves_after_a_kill_and_nobody_registers_again() {
    let Some(server) = RedisServer::start() else { return };
    let place = CredentialsFolder::new(&format!("secured:{KEY}\n"));
    let mut broker = TestBroker::start().await;
    if broker.is_emqx() {
        return;
    }
    let mut first = Gateway::start_with(&broker.addresses, 1, &lines(&place, &server.lines()));
    let mut registered = Registered::new(&place);
    let mut plain = Device::new(first.address());
    plain.register("ep=plain&lt=300", LINKS);
    registered.updates();

    let standby = CredentialsFolder::new(&format!("secured:{KEY}\n"));
    // On a machine of its own the handler has the same port.
    broker.addresses.handler_bind = ports::free_address();
    let address = ports::free_address();
    let bind = format!("listeners.udp.default.bind = \"{address}\"\n");
    let start = || Gateway::start_without_waiting(&broker.addresses, &(lines(&standby, &server.lines()) + &bind));
    // It is started again and again, as a service manager does.
    let mut second = start();
    assert_eq!(second.wait().code(), Some(1));
    assert!(second.output().contains("another gateway uses the store"), "{}", second.output());
    first.kill();
    let mut second = start();
    second.listeners = vec![address];
    second.wait_until_it_hears();

    registered.device.reaches(standby.secured);
    plain.reaches(address);
    registered.updates();
    assert_eq!(plain.update(&[], None).code, Code::CHANGED);
    let numbers = registered.device.numbers();
    assert!(numbers.is_sorted_by(|one, next| one < next), "{numbers:?}");
    let output = second.output();
    assert!(!output.contains("device registered") && !output.contains("association established"), "{output}");
}
