//! Firmware campaigns by the built program: begun by the command line and by MQTT, with simulated devices on sockets.

use std::fs;
use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use lwm2m_simulator::{FirmwareFault, SimulatedDeviceConfig, SimulatedFirmwareConfig, SimulatedVersion};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::broker::embedded_broker::application::MqttClient;
use crate::common::admin;
use crate::common::broker::{TestBroker, Upstream};
use crate::common::gateway::Gateway;
use crate::common::ports;
use crate::common::simulated::RunningSimulator;

const CAMPAIGN: &str = "
    name = \"spring\"
    image = \"app-3.0.bin\"
    version = \"3.0\"
    pattern = \"unit-*\"
    concurrency = 2
    pace = 6000
    stop_after = 5
    filter = { \"/3/0/0\" = \"Weather Works\" }
";

/// A gateway with an image and a console at a socket.
struct Fleet {
    udp: SocketAddr,
    gateway: Gateway,
    broker: TestBroker,
    folder: TempDir,
}

impl Fleet {
    async fn open() -> Self {
        Upstream::Mqtt.choose();
        let broker = TestBroker::start().await;
        let folder = tempfile::tempdir().expect("a place for images");
        let mut image = b"version: 3.0\n".to_vec();
        image.resize(20_000, 7);
        fs::write(folder.path().join("app-3.0.bin"), image).expect("a place for images");
        let udp = ports::free_address();
        let lines = format!(
            "firmware.dir = {:?}\nfirmware.public_uri = [\"coap://{udp}\"]\nfirmware.mqtt = true\n\
             firmware.progress_interval = \"1s\"\nconsole.socket = {:?}\nlisteners.udp.plain.bind = \"{udp}\"\n",
            folder.path(),
            folder.path().join("console.sock"),
        );
        let mut gateway = Gateway::start_without_waiting(&broker.addresses, &lines);
        gateway.listeners = vec![udp];
        gateway.wait_until_it_hears();
        Self { udp, gateway, broker, folder }
    }

    fn device(&self, endpoint: &str, faults: &[FirmwareFault]) -> RunningSimulator {
        let firmware = SimulatedFirmwareConfig {
            protocols: vec![0],
            update_time: Duration::from_millis(100),
            faults: faults.to_vec(),
            ..SimulatedFirmwareConfig::default()
        };
        let config = SimulatedDeviceConfig {
            notification_interval: None,
            wave: None,
            firmware: Some(firmware),
            ..SimulatedDeviceConfig::of_version(endpoint, SimulatedVersion::V1_1)
        };
        RunningSimulator::start(self.udp, config, None)
    }

    /// Runs the command line. Returns whether it succeeded, and what it printed.
    fn run(&self, arguments: &[&str]) -> (bool, String) {
        let place = format!("unix:{}", self.folder.path().join("console.sock").display());
        let mut command = Command::new(env!("CARGO_BIN_EXE_lwm2m-gateway"));
        let command = command.arg("firmware").args(arguments).env("LWM2M_GATEWAY_AT", place);
        let output = command.env_remove("LWM2M_GATEWAY_TOKEN").output().expect("the program is built");
        let text = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8(text).expect("text"))
    }

    fn begin(&self, campaign: &str) -> (bool, String) {
        let file = self.folder.path().join("campaign.toml");
        fs::write(&file, campaign).expect("a place for the campaign");
        self.run(&["campaign", file.to_str().expect("text")])
    }

    fn show(&self) -> Value {
        let (_, text) = self.run(&["show", "spring", "--json"]);
        serde_json::from_str(&text).unwrap_or_default()
    }

    /// Returns how many records of campaigns were written.
    fn written(&self) -> f64 {
        admin::sum(&self.gateway.ask_admin("/metrics").1, "lwm2m_store_campaign_writes_total")
    }

    async fn wait_until(&self, is_done: impl Fn(&Value) -> bool) -> Value {
        for _ in 0..200 {
            let campaign = self.show();
            if is_done(&campaign) {
                return campaign;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("{}\n{}", self.show(), self.gateway.output());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_campaign_of_the_command_line_updates_the_devices_that_it_selects() {
    let mut fleet = Fleet::open().await;
    let _devices = [
        fleet.device("unit-1", &[]),
        fleet.device("unit-2", &[]),
        fleet.device("unit-3", &[FirmwareFault::FailsUpdate { result: 8 }]),
        fleet.device("other", &[]),
    ];
    // The client of the campaigns is one of them.
    fleet.gateway.wait_for_clients(5.0);
    for (campaign, reason) in [
        ("name = 1\n".to_owned(), "invalid type"),
        (CAMPAIGN.replace("pace", "pase"), "unknown field `pase`"),
        (CAMPAIGN.replace("app-3.0.bin", "app-4.bin"), "there is no such image in firmware.dir"),
    ] {
        let (is_begun, said) = fleet.begin(&campaign);
        assert!(!is_begun && said.contains(reason), "{said}");
    }
    let (is_begun, said) = fleet.begin(CAMPAIGN);
    assert!(is_begun && said.contains("running"), "{said}");
    let (is_begun, said) = fleet.begin(CAMPAIGN);
    assert!(!is_begun && said.contains("there is a campaign spring already"), "{said}");

    let ended = |campaign: &Value| campaign["devices"]["waiting"] == 0 && campaign["devices"]["updating"] == 0;
    let campaign = fleet.wait_until(|campaign| ended(campaign) && campaign["devices"]["total"] == 3).await;
    assert_eq!((&campaign["devices"]["succeeded"], &campaign["devices"]["failed"]), (&json!(2), &json!(1)));
    let (_, devices) = fleet.run(&["show", "spring", "--devices"]);
    let rows: Vec<Vec<&str>> = devices.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(rows[3], ["unit-3", "failed", "update_failed"], "{devices}");

    // A gateway that was killed knows all that, and a device that comes later takes part.
    let written = fleet.written();
    assert!(fleet.run(&["pause", "spring"]).0);
    for _ in 0..200 {
        if fleet.written() > written {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    fleet.gateway.kill();
    fleet.gateway.start_again();
    let campaign = fleet.wait_until(|campaign| campaign["status"] == "paused").await;
    assert_eq!(campaign["devices"]["succeeded"], 2);
    assert!(fleet.run(&["resume", "spring"]).0);
    let _late = fleet.device("unit-4", &[]);
    fleet.wait_until(|campaign| campaign["devices"]["succeeded"] == 3).await;
    let (is_done, said) = fleet.run(&["cancel", "spring"]);
    assert!(is_done && said.contains("cancelled"), "{said}");
    let (_, list) = fleet.run(&["list"]);
    assert!(list.contains("spring") && list.contains("cancelled"), "{list}");
    let (_, metrics) = fleet.gateway.ask_admin("/metrics");
    assert!(metrics.contains("lwm2m_firmware_campaign_devices_total{outcome=\"succeeded\"} 1"), "{metrics}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_application_controls_a_campaign_by_mqtt_and_hears_how_it_goes() {
    let fleet = Fleet::open().await;
    let mut application = MqttClient::connect(&fleet.broker.addresses.mqtt, "application-of-campaigns").await;
    application.subscribe("lwm2m-firmware/answer", 1).await;
    application.subscribe("lwm2m-firmware/campaigns/+", 1).await;
    fleet.gateway.wait_for_clients(1.0);
    let mut campaign = json!({ "name": "spring", "image": "app-3.0.bin", "version": "3.0", "endpoints": ["unit-1"] });
    let start = |campaign: &Value| json!({ "reqID": 5, "action": "start", "campaign": campaign }).to_string();
    campaign["pattern"] = json!("*");
    application.publish("lwm2m-firmware/command", 1, start(&campaign).as_bytes()).await;
    let refused = hear(&mut application, "lwm2m-firmware/answer").await;
    let data = json!({ "code": "4.00", "reason": "pattern and endpoints exclude each other" });
    assert_eq!(refused, json!({ "reqID": 5, "action": "start", "data": data }));

    campaign.as_object_mut().expect("an object").remove("pattern");
    application.publish("lwm2m-firmware/command", 1, start(&campaign).as_bytes()).await;
    let answer = hear(&mut application, "lwm2m-firmware/answer").await;
    assert_eq!((&answer["data"]["code"], &answer["data"]["campaign"]["status"]), (&json!("2.01"), &json!("running")));

    let _device = fleet.device("unit-1", &[]);
    let device = loop {
        let event = hear(&mut application, "lwm2m-firmware/campaigns/spring").await;
        if event["msgType"] == "campaign-device" {
            break event;
        }
    };
    assert_eq!(device["data"], json!({ "name": "spring", "ep": "unit-1", "state": "succeeded" }));
    let end = loop {
        let event = hear(&mut application, "lwm2m-firmware/campaigns/spring").await;
        if event["data"]["status"] != "running" {
            break event;
        }
    };
    assert_eq!((&end["data"]["status"], &end["data"]["devices"]["succeeded"]), (&json!("completed"), &json!(1)));
    let pause = json!({ "action": "pause", "name": "spring" }).to_string();
    application.publish("lwm2m-firmware/command", 1, pause.as_bytes()).await;
    let refused = hear(&mut application, "lwm2m-firmware/answer").await;
    assert_eq!(refused, json!({ "action": "pause", "data": { "code": "4.09", "reason": "the campaign is over" } }));
}

/// Returns the next message on this topic.
async fn hear(application: &mut MqttClient, topic: &str) -> Value {
    loop {
        let message = application.message().await;
        if message.topic == topic {
            return serde_json::from_slice(&message.payload).expect("JSON");
        }
    }
}
