//! The built program with several driver threads: devices of all threads, whatever thread their datagrams come to.

use std::net::SocketAddr;
use std::time::Duration;

use lwm2m_base::{Shard, ThreadShards};
use lwm2m_core::coap::options::number;
use lwm2m_core::coap::{Code, Kind};
use lwm2m_dtls::test_client::DtlsClientConfig;
use serde_json::{Value, json};

use crate::broker::embedded_broker::application::MqttClient;
use crate::broker::presence;
use crate::common::admin;
use crate::common::application::{Application, answer, content};
use crate::common::broker::{TestBroker, Upstream};
use crate::common::device::{Device, PATIENCE, path_of, response_to};
use crate::common::gateway::Gateway;
use crate::common::scene::LINKS;
use crate::console::devices::TestConsole;
use crate::console::exchange_with;
use crate::dtls_devices::program::{CredentialsFolder, SecuredDevice, until};
use crate::dtls_devices::scene::{register, update};
use crate::over_both_upstreams;

const TWO: &str = "driver.threads = 2\n";
const KEY: &[u8] = b"0123456789abcdef";
const KEYS: &str = "one:0123456789abcdef\ntwo:0123456789abcdef\n";

/// Returns the thread of a location, of two.
fn thread_of(location: &str) -> u8 {
    let shard = Shard::of_text(location.as_bytes()).expect("a location of the gateway");
    ThreadShards::thread_of(shard, 2.try_into().expect("not zero"))
}

fn metric(gateway: &Gateway, series: &str) -> f64 {
    admin::sum(&gateway.ask_admin("/metrics").1, series)
}

/// Registers devices at fresh addresses until each of the two threads has one.
fn one_of_each_thread(gateway: SocketAddr) -> Vec<(String, Device)> {
    let mut devices: Vec<(String, Device)> = Vec::new();
    for number in 0..64 {
        let (endpoint, mut device) = (format!("threads-{number}"), Device::new(gateway));
        device.register(&format!("ep={endpoint}&lt=300"), LINKS);
        if devices.iter().all(|(_, other)| thread_of(&other.location[1]) != thread_of(&device.location[1])) {
            devices.push((endpoint, device));
        }
        if devices.len() == 2 {
            return devices;
        }
    }
    panic!("one thread has all devices");
}

fn read(id: u64) -> Value {
    json!({ "reqID": id, "msgType": "read", "data": { "path": "/3/0/0" } })
}

/// An application reads from a device.
#[track_caller]
fn reads(application: &mut Application, (endpoint, device): (&str, &Device), id: u64) {
    application.send(endpoint, &read(id));
    let request = device.expect_request(Code::GET, "/3/0/0");
    device.answer_text(&request, "Acme");
    expects_answer(application, endpoint, id);
}

#[track_caller]
fn expects_answer(application: &mut Application, endpoint: &str, id: u64) {
    application.expect(&format!("lwm2m/{endpoint}/up/resp"), &answer(&read(id), content("/3/0/0", "Acme")));
}

/// The reports of these devices that they have registered.
fn hears_registers(application: &mut Application, number: usize) {
    for _ in 0..number {
        assert_eq!(application.receive().1["msgType"], "register");
    }
}

over_both_upstreams!(
    devices_of_all_threads_are_commanded_and_notify_from_any_address,
    devices_survive_a_kill_and_another_number_of_threads,
    a_device_that_makes_handshakes_from_many_addresses_moves_between_threads_and_outlives_a_kill,
);

async fn devices_of_all_threads_are_commanded_and_notify_from_any_address() {
    let broker = TestBroker::start().await;
    let lines = TWO.to_owned() + "limits.devices = 1001\n";
    let mut gateway = Gateway::start_with(&broker.addresses, 1, &lines);
    for (endpoint, device) in &mut one_of_each_thread(gateway.address()) {
        let mut application = Application::connect(&broker.addresses.mqtt, &[endpoint]);
        reads(&mut application, (endpoint, device), 1);
        let observe = json!({ "reqID": 2, "msgType": "observe", "data": { "path": "/3303/0/5700" } });
        application.send(endpoint, &observe);
        let request = device.expect_request(Code::GET, "/3303/0/5700");
        device.answer_observe(&request, "20.5");
        assert_eq!(application.receive().1["reqID"], 2);
        // Each address is of a thread that the kernel chooses.
        for number in 1..9 {
            device.moves();
            assert_eq!(device.update(&[], None).code, Code::CHANGED);
            let sent = device.notify(&request, Kind::Confirmable, number, "21.5");
            device.expect_acknowledgement(&sent);
            assert_eq!(application.receive().1["msgType"], "notify");
            reads(&mut application, (endpoint, device), 2 + u64::from(number));
        }
        // By its endpoint name it is found from an address that no thread knows.
        device.moves();
        device.register(&format!("ep={endpoint}&lt=300"), LINKS);
        assert_eq!(application.receive().1["msgType"], "register");
        reads(&mut application, (endpoint, device), 99);
    }
    assert!(metric(&gateway, "lwm2m_thread_datagrams_total{result=\"forwarded\"}") > 0.0);
    assert!(metric(&gateway, "lwm2m_thread_datagrams_total{result=\"dropped\"}") < 1.0);
    assert_eq!(metric(&gateway, "lwm2m_devices_limit"), 1001.0, "that of both threads");
    assert_eq!(gateway.stop("TERM").code(), Some(0));
}

async fn devices_survive_a_kill_and_another_number_of_threads() {
    let broker = TestBroker::start().await;
    let mut gateway = Gateway::start_with(&broker.addresses, 1, TWO);
    let devices = one_of_each_thread(gateway.address());
    let count = metric(&gateway, "lwm2m_devices{state=\"awake\"}");
    for (id, threads) in [(1, 2), (2, 1), (3, 3), (4, 2)] {
        gateway.kill();
        gateway.edit("driver.threads", &format!("driver.threads = {threads} #"));
        gateway.start_again();
        gateway.wait_for_clients(count);
        for (endpoint, device) in &devices {
            let mut application = Application::connect(&broker.addresses.mqtt, &[endpoint]);
            reads(&mut application, (endpoint, device), id);
            assert_eq!(device.update(&[], None).code, Code::CHANGED, "with {threads} threads");
        }
    }
}

async fn a_device_that_makes_handshakes_from_many_addresses_moves_between_threads_and_outlives_a_kill() {
    let (place, broker) = (CredentialsFolder::new(KEYS), TestBroker::start().await);
    let lines = place.lines() + TWO + "log.level = \"debug\"\n";
    let mut gateway = Gateway::start_with(&broker.addresses, 1, &lines);
    let mut application = Application::connect(&broker.addresses.mqtt, &["one"]);
    let connect = || SecuredDevice::connect(place.secured, "one", KEY, PATIENCE).expect("an association");
    let mut device = connect();
    let created = device.ask(&register("ep=one&lt=300"));
    let location = created.options.texts(number::LOCATION_PATH).expect("text")[1].to_owned();
    hears_registers(&mut application, 1);
    let mut read_by = |device: &mut SecuredDevice, id: u64| {
        application.send("one", &read(id));
        let request = device.receive();
        assert_eq!(path_of(&request), "/3/0/0");
        device.send(&response_to(&request, Code::CONTENT, Some((0, b"Acme"))));
        expects_answer(&mut application, "one", id);
    };
    read_by(&mut device, 1);
    for id in 2..6 {
        device.moves();
        assert_eq!(device.ask(&update(&location)).code, Code::CHANGED, "by its connection ID");
        read_by(&mut device, id);
    }
    for id in 6..14 {
        device = connect();
        assert_eq!(device.ask(&update(&location)).code, Code::CHANGED, "by another association");
        // ExProto keeps no commands for a device that is not connected.
        gateway.wait_for_clients(1.0);
        read_by(&mut device, id);
    }
    assert!(metric(&gateway, "lwm2m_thread_claims_total{result=\"moved\"}") > 0.0);
    assert_eq!(metric(&gateway, "lwm2m_devices{state=\"awake\"}"), 1.0);

    for (id, threads) in [(20, 2), (21, 1), (22, 2)] {
        tokio::time::sleep(Duration::from_millis(500)).await;
        gateway.kill();
        gateway.edit("driver.threads", &format!("driver.threads = {threads} #"));
        gateway.start_again();
        gateway.wait_for_clients(1.0);
        read_by(&mut device, id);
        assert_eq!(device.ask(&update(&location)).code, Code::CHANGED, "with {threads} threads");
        assert_eq!(metric(&gateway, "lwm2m_devices{state=\"awake\"}"), 1.0);
    }
    assert_eq!(gateway.output().matches("association established").count(), 9, "{}", gateway.output());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_association_without_connection_id_is_found_after_another_number_of_threads() {
    Upstream::Mqtt.choose();
    let (place, broker) = (CredentialsFolder::new(KEYS), TestBroker::start().await);
    let mut gateway = Gateway::start_with(&broker.addresses, 1, &(place.lines() + TWO));
    let mut devices = ["one", "two"].map(|identity| {
        let config = DtlsClientConfig::psk(identity, KEY);
        let mut device = SecuredDevice::connect_with(place.secured, config, PATIENCE).expect("an association");
        let created = device.ask(&register(&format!("ep={identity}&lt=300")));
        let location = created.options.texts(number::LOCATION_PATH).expect("text")[1].to_owned();
        (device, location)
    });
    for threads in [5, 2, 7] {
        gateway.kill();
        gateway.edit("driver.threads", &format!("driver.threads = {threads} #"));
        gateway.start_again();
        gateway.wait_for_clients(2.0);
        for (device, location) in &mut devices {
            assert_eq!(device.ask(&update(location)).code, Code::CHANGED, "with {threads} threads");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_console_lists_and_commands_the_devices_of_all_threads() {
    Upstream::Mqtt.choose();
    let console = TestConsole::start_with(TWO).await;
    let devices = one_of_each_thread(console.gateway.address());
    let list = console.ask("GET /api/v1/devices").json();
    let names: Vec<&str> =
        list["devices"].as_array().expect("a list").iter().filter_map(|row| row["endpoint"].as_str()).collect();
    assert!(devices.iter().all(|(endpoint, _)| names.contains(&endpoint.as_str())), "{list}");
    assert_eq!(list["total"], names.len());
    for (endpoint, device) in &devices {
        let command = json!({ "msgType": "read", "data": { "path": "/3/0/0" } });
        let answer = console.give_and_wait(&format!("{endpoint}/commands?wait=20"), &command);
        let request = device.expect_request(Code::GET, "/3/0/0");
        device.answer_text(&request, "Acme");
        let answer = answer.join().expect("an answer");
        assert_eq!(answer.status, 200, "{}", answer.body);
    }
    let campaign = json!({ "name": "all", "image": "a.bin", "version": "2", "pattern": "*" }).to_string();
    let headers = [("Content-Type", "application/json"), ("Content-Length", &campaign.len().to_string())];
    let line = "POST /api/v1/firmware/campaigns";
    let refused = exchange_with(console.connect(), "localhost", line, &headers, campaign.as_bytes());
    assert!(refused.status == 409 && refused.body.contains("driver.threads = 1"), "{}", refused.body);
    let endpoint = &devices[1].0;
    assert_eq!(console.ask(&format!("DELETE /api/v1/devices/{endpoint}")).status, 204);
    assert_eq!(console.ask(&format!("GET /api/v1/devices/{endpoint}")).status, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stored_campaign_waits_for_a_start_with_one_thread_and_that_is_told() {
    Upstream::Mqtt.choose();
    let images = tempfile::tempdir().expect("a place for images");
    std::fs::write(images.path().join("a.bin"), [7; 5_000]).expect("a place for images");
    let lines = format!("driver.threads = 1\nfirmware.dir = {:?}\n", images.path());
    let mut console = TestConsole::start_with(&lines).await;
    let campaign = json!({ "name": "spring", "image": "a.bin", "version": "2", "pattern": "unit-*" }).to_string();
    let headers = [("Content-Type", "application/json"), ("Content-Length", &campaign.len().to_string())];
    let line = "POST /api/v1/firmware/campaigns";
    let begun = exchange_with(console.connect(), "localhost", line, &headers, campaign.as_bytes());
    assert!(begun.status < 300, "{} {}", begun.status, begun.body);
    let show = "GET /api/v1/firmware/campaigns/spring";
    let before = console.ask(show).json();

    console.gateway.edit("driver.threads = 1", "driver.threads = 2");
    assert_eq!(console.gateway.stop("TERM").code(), Some(0));
    console.gateway.start_again();
    let output = console.gateway.output();
    assert!(output.contains("firmware campaigns are suspended") && output.contains("spring"), "{output}");
    assert_eq!(console.ask(show).status, 404);

    console.gateway.edit("driver.threads = 2", "driver.threads = 1");
    assert_eq!(console.gateway.stop("TERM").code(), Some(0));
    console.gateway.start_again();
    assert_eq!(console.ask(show).json()["state"], before["state"]);
}

/// Each thread has a client of its own for presence, with the same session number in its own core and link.
#[tokio::test(flavor = "multi_thread")]
async fn each_thread_takes_back_the_presence_of_its_devices() {
    Upstream::Mqtt.choose();
    let broker = TestBroker::start().await;
    let Some(control) = broker.control() else { return };
    let lines = TWO.to_owned() + "translators.status.enable = true\ntranslators.status.own_client = true\n";
    let gateway = Gateway::start_with(&broker.addresses, 1, &lines);
    let own_clients = || control.clients().iter().filter(|client| client.starts_with("lwm2m-status-")).count();
    until(|| own_clients() == 2).await;
    let mut application = MqttClient::connect(&broker.addresses.mqtt, "application-of-threads").await;
    for (endpoint, device) in &mut one_of_each_thread(gateway.address()) {
        application.subscribe(&format!("lwm2m/{endpoint}/up/status"), 1).await;
        presence::hear(&mut application, "online").await;
        for _ in 0..8 {
            assert!(control.kick(endpoint).await);
            presence::hear(&mut application, "offline").await;
            assert_eq!(device.update(&[], None).code, Code::NOT_FOUND);
            // The kernel chooses the thread of the new address.
            device.moves();
            device.register(&format!("ep={endpoint}&lt=300"), LINKS);
            presence::hear(&mut application, "online").await;
        }
    }
    assert_eq!(own_clients(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_reaches_all_threads() {
    Upstream::Mqtt.choose();
    let (place, broker) = (CredentialsFolder::new("one:0123456789abcdef\n"), TestBroker::start().await);
    let gateway = Gateway::start_with(&broker.addresses, 1, &(place.lines() + TWO + "limits.devices = 4\n"));
    assert_eq!(metric(&gateway, "lwm2m_devices_limit"), 4.0);
    place.write("one:fedcba9876543210\n");
    let reloaded = || gateway.output().contains("pre-shared keys reloaded");
    until(reloaded).await;
    // Each handshake reaches one of the threads.
    for _ in 0..8 {
        let connects = |key, patience| SecuredDevice::connect(place.secured, "one", key, patience).is_some();
        assert!(connects(b"fedcba9876543210", PATIENCE));
    }
    gateway.edit("limits.devices = 4", "limits.devices = 6");
    until(|| metric(&gateway, "lwm2m_devices_limit") == 6.0).await;
    let registered = |number| {
        let mut device = Device::new(gateway.address());
        device.try_register(&format!("ep=limit-{number}&lt=300"), LINKS).code == Code::CREATED
    };
    assert_eq!((0..32).filter(|number| registered(*number)).count(), 6, "both threads together");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_program_finds_the_address_of_the_threads_in_use() {
    Upstream::Mqtt.choose();
    let broker = TestBroker::start().await;
    let gateway = Gateway::start_with(&broker.addresses, 1, TWO);
    let lines = format!("{TWO}listeners.udp.listener0.bind = \"{}\"", gateway.address());
    let mut second = Gateway::start_without_waiting(&broker.addresses, &lines);
    assert_eq!(second.wait().code(), Some(1));
    let (output, begin) = (second.output(), "listeners.udp.listener0.bind = 127.0.0.1:");
    assert!(output.contains(begin) && output.to_lowercase().contains("address already in use"), "{output}");
}
