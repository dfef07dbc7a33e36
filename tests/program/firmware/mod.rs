//! Firmware updates by the built program: images on the disk, devices on sockets, an application at the broker.

mod campaigns;

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use lwm2m_simulator::{DeviceEvent, FirmwareFault, SimulatedDeviceConfig, SimulatedFirmwareConfig, SimulatedVersion};
use openssl::sha::sha256;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::common::application::Application;
use crate::common::broker::TestBroker;
use crate::common::gateway::Gateway;
use crate::common::ports;
use crate::common::simulated::RunningSimulator;

crate::over_both_upstreams! {
    a_device_pulls_its_image_over_udp_and_runs_the_new_version,
    a_device_pulls_its_image_over_dtls,
    a_device_without_a_way_to_the_gateway_is_pushed_its_image,
    a_device_is_pushed_its_image_over_dtls,
    a_push_goes_on_after_the_link_was_away,
    a_cancelled_update_is_dropped_by_the_device,
    a_device_that_sleeps_is_updated_when_it_wakes,
    a_download_goes_on_after_the_gateway_was_killed,
    an_image_that_changes_during_the_download_ends_it,
    what_cannot_be_done_is_refused_before_anything_is_sent,
    a_device_without_the_object_has_no_update,
}

const ENDPOINT: &str = "firmware-1";
const IMAGE: &str = "app-3.0.bin";
const KEY: &[u8] = b"a key of sixteen";

/// A gateway with images, and an application that hears all of one device.
struct Workshop {
    udp: SocketAddr,
    dtls: SocketAddr,
    gateway: Gateway,
    application: Application,
    folder: TempDir,
    _broker: TestBroker,
}

impl Workshop {
    async fn open(pulls: bool) -> Self {
        Self::open_with(pulls, "").await
    }

    /// With another setting than the default.
    async fn open_with(pulls: bool, setting: &str) -> Self {
        let broker = TestBroker::start().await;
        let folder = tempfile::tempdir().expect("a place for images");
        let keys = folder.path().join("keys");
        fs::write(&keys, format!("{ENDPOINT}:{}", String::from_utf8_lossy(KEY))).expect("a place for keys");
        let (udp, dtls) = (ports::free_address(), ports::free_address());
        let public = format!("firmware.public_uri = [\"coap://{udp}\", \"coaps://{dtls}\"]");
        let lines = [
            setting.to_owned(),
            format!("firmware.dir = {:?}", folder.path()),
            "firmware.progress_interval = \"1s\"\nfirmware.max_size = 1_000_000".to_owned(),
            if pulls { public } else { String::new() },
            format!("dtls.psk_file = {keys:?}\ndtls.plain_udp_for_psk_devices = \"allow\""),
            format!("listeners.udp.plain.bind = \"{udp}\"\nlisteners.dtls.secured.bind = \"{dtls}\"\n"),
        ];
        let lines = lines.join("\n");
        let mut gateway = Gateway::start_without_waiting(&broker.addresses, &lines);
        gateway.listeners = vec![udp];
        gateway.wait_until_it_hears();
        let application = Application::connect(&broker.addresses.mqtt, &[ENDPOINT]);
        Self { udp, dtls, gateway, application, folder, _broker: broker }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn update(&mut self, data: Value) {
        self.application.send(ENDPOINT, &json!({ "reqID": 7, "msgType": "firmware-update", "data": data }));
    }

    /// Returns the `data` of the next message on this topic of the device.
    #[track_caller]
    fn hear(&mut self, topic: &str) -> Value {
        loop {
            let (heard, mut payload) = self.application.receive();
            if heard == format!("lwm2m/{ENDPOINT}/{topic}") && payload["msgType"] != "update" {
                return payload["data"].take();
            }
        }
    }

    /// Gives the command, and expects that it is accepted.
    #[track_caller]
    fn begin(&mut self, data: Value) -> Value {
        self.update(data);
        let answer = self.hear("up/resp");
        assert_eq!(answer["code"], "2.01", "{answer}");
        answer
    }

    /// Returns the phases up to the last one, and the event of the last one.
    #[track_caller]
    fn phases(&mut self) -> (Vec<String>, Value) {
        let mut phases: Vec<String> = Vec::new();
        loop {
            let event = self.hear("up/firmware");
            let phase = event["phase"].as_str().expect("a phase").to_owned();
            if phases.last() != Some(&phase) {
                phases.push(phase.clone());
            }
            if ["succeeded", "failed", "cancelled", "deferred"].contains(&phase.as_str()) {
                return (phases, event);
            }
        }
    }

    /// Expects that the command is refused with this code, and returns the reason.
    #[track_caller]
    fn refused(&mut self, data: Value, code: &str) -> String {
        self.update(data.clone());
        let answer = self.hear("up/resp");
        assert_eq!(answer["code"], code, "{data}: {answer}");
        answer["reason"].as_str().unwrap_or_default().to_owned()
    }

    fn device(&mut self, firmware: Option<SimulatedFirmwareConfig>, secured: bool) -> RunningSimulator {
        let config = SimulatedDeviceConfig::of_version(ENDPOINT, SimulatedVersion::V1_1);
        self.device_of(SimulatedDeviceConfig { notification_interval: None, wave: None, firmware, ..config }, secured)
    }

    fn device_of(&mut self, config: SimulatedDeviceConfig, secured: bool) -> RunningSimulator {
        let (address, key) = if secured { (self.dtls, Some(KEY)) } else { (self.udp, None) };
        let device = RunningSimulator::start(address, config, key);
        let report = self.hear("up/resp");
        assert_eq!(report["ep"], ENDPOINT, "{report}");
        self.gateway.wait_for_clients(1.0);
        device
    }
}

/// An image of so many bytes, of version 3.0.
fn image(length: usize) -> Vec<u8> {
    let mut image = b"version: 3.0\n".to_vec();
    image.extend((image.len()..length).map(|at| (at % 251) as u8));
    image
}

/// A device that takes this image only.
fn firmware(image: &[u8]) -> SimulatedFirmwareConfig {
    SimulatedFirmwareConfig {
        protocols: vec![0, 1],
        update_time: Duration::from_millis(300),
        accepted_sha256: Some(sha256(image)),
        ..SimulatedFirmwareConfig::default()
    }
}

/// Lets a device update itself, and returns the phases and the last event.
async fn update(pulls: bool, secured: bool) -> (Vec<String>, Value) {
    let mut workshop = Workshop::open(pulls).await;
    let bytes = image(200_000);
    fs::write(workshop.path(IMAGE), &bytes).expect("a place for images");
    let _device = workshop.device(Some(firmware(&bytes)), secured);
    let answer = workshop.begin(json!({ "image": IMAGE, "version": "3.0" }));
    let digits: String = sha256(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!((&answer["size"], &answer["sha256"]), (&json!(bytes.len()), &json!(digits)));
    workshop.phases()
}

#[track_caller]
fn assert_updated((phases, last): (Vec<String>, Value), method: &str) {
    let expected = ["preparing", "downloading", "downloaded", "updating", "verifying", "succeeded"];
    assert_eq!(phases, expected, "{last}");
    let told = ["method", "state", "result", "bytes", "size", "progress", "attempt"].map(|name| last[name].clone());
    assert_eq!(json!(told), json!([method, 0, 1, 200_000, 200_000, 100, 1]), "{last}");
}

async fn a_device_pulls_its_image_over_udp_and_runs_the_new_version() {
    assert_updated(update(true, false).await, "pull");
}

async fn a_device_pulls_its_image_over_dtls() {
    assert_updated(update(true, true).await, "pull");
}

async fn a_device_without_a_way_to_the_gateway_is_pushed_its_image() {
    assert_updated(update(false, false).await, "push");
}

async fn a_device_is_pushed_its_image_over_dtls() {
    assert_updated(update(false, true).await, "push");
}

async fn a_push_goes_on_after_the_link_was_away() {
    let mut workshop = Workshop::open(false).await;
    let bytes = image(100_000);
    fs::write(workshop.path(IMAGE), &bytes).expect("a place for images");
    let away = FirmwareFault::LosesLinkAt { byte: 40_960, lasts: Duration::from_millis(1500) };
    let device = workshop.device(Some(SimulatedFirmwareConfig { faults: vec![away], ..firmware(&bytes) }), false);
    workshop.begin(json!({ "image": IMAGE, "version": "3.0" }));
    let (_, last) = workshop.phases();
    assert_eq!((&last["phase"], &last["method"], &last["attempt"]), (&json!("succeeded"), &json!("push"), &json!(1)));
    device.wait_for(|event| matches!(event, DeviceEvent::Rebooted));
}

async fn a_cancelled_update_is_dropped_by_the_device() {
    let mut workshop = Workshop::open(true).await;
    let bytes = image(300_000);
    fs::write(workshop.path(IMAGE), &bytes).expect("a place for images");
    let block_interval = Duration::from_millis(10);
    let device = workshop.device(Some(SimulatedFirmwareConfig { block_interval, ..firmware(&bytes) }), false);
    workshop.begin(json!({ "image": IMAGE }));
    while workshop.hear("up/firmware")["bytes"].as_u64().unwrap_or_default() < 20_000 {}
    workshop.application.send(ENDPOINT, &json!({ "reqID": 8, "msgType": "firmware-cancel" }));
    let (_, last) = workshop.phases();
    assert_eq!((&last["phase"], &last["error"]), (&json!("cancelled"), &Value::Null), "{last}");
    device.wait_for(|event| matches!(event, DeviceEvent::FirmwareChanged { instance: 0, state: 0, result: 10 }));
    workshop.begin(json!({ "image": IMAGE, "method": "push" }));
}

async fn a_device_that_sleeps_is_updated_when_it_wakes() {
    let mut workshop = Workshop::open_with(true, "qmode_time_window = \"1s\"").await;
    let bytes = image(50_000);
    fs::write(workshop.path(IMAGE), &bytes).expect("a place for images");
    let _device = workshop.device_of(
        SimulatedDeviceConfig {
            // It sends an Update each four seconds.
            lifetime: Duration::from_secs(8),
            queue_mode: true,
            notification_interval: None,
            wave: None,
            firmware: Some(firmware(&bytes)),
            ..SimulatedDeviceConfig::of_version(ENDPOINT, SimulatedVersion::V1_1)
        },
        false,
    );
    tokio::time::sleep(Duration::from_millis(1500)).await;
    workshop.begin(json!({ "image": IMAGE, "version": "3.0" }));
    let (phases, last) = workshop.phases();
    assert_eq!(
        (&phases[0], &phases[1], &last["phase"]),
        (&"waiting".to_owned(), &"preparing".to_owned(), &json!("succeeded"))
    );
}

async fn a_download_goes_on_after_the_gateway_was_killed() {
    let mut workshop = Workshop::open(true).await;
    let bytes = image(300_000);
    fs::write(workshop.path(IMAGE), &bytes).expect("a place for images");
    let block_interval = Duration::from_millis(10);
    let device = workshop.device(Some(SimulatedFirmwareConfig { block_interval, ..firmware(&bytes) }), false);
    workshop.begin(json!({ "image": IMAGE, "version": "3.0" }));
    while workshop.hear("up/firmware")["bytes"].as_u64().unwrap_or_default() < 50_000 {}

    workshop.gateway.kill();
    workshop.gateway.start_again();
    let (_, last) = workshop.phases();
    assert_eq!((&last["phase"], &last["attempt"], &last["bytes"]), (&json!("succeeded"), &json!(1), &json!(300_000)));
    device.wait_for(|event| matches!(event, DeviceEvent::Rebooted));
}

async fn an_image_that_changes_during_the_download_ends_it() {
    let mut workshop = Workshop::open(true).await;
    let bytes = image(300_000);
    fs::write(workshop.path(IMAGE), &bytes).expect("a place for images");
    let block_interval = Duration::from_millis(10);
    let _device = workshop.device(Some(SimulatedFirmwareConfig { block_interval, ..firmware(&bytes) }), false);
    workshop.begin(json!({ "image": IMAGE }));
    while workshop.hear("up/firmware")["bytes"].as_u64().unwrap_or_default() < 50_000 {}
    fs::write(workshop.path(IMAGE), image(300_001)).expect("a place for images");
    let (_, last) = workshop.phases();
    assert_eq!((&last["phase"], &last["error"]), (&json!("failed"), &json!("image_changed")), "{last}");
}

async fn what_cannot_be_done_is_refused_before_anything_is_sent() {
    let mut workshop = Workshop::open(true).await;
    fs::write(workshop.path(IMAGE), image(10_000)).expect("a place for images");
    fs::write(workshop.path("large.bin"), image(1_000_001)).expect("a place for images");
    fs::write(workshop.path("empty.bin"), b"").expect("a place for images");
    std::os::unix::fs::symlink("/etc/hostname", workshop.path("link.bin")).expect("a place for images");
    let stalling = SimulatedFirmwareConfig { faults: vec![FirmwareFault::StallsAt(1024)], ..Default::default() };
    let _device = workshop.device(Some(stalling), false);
    workshop.refused(json!({ "image": "absent.bin" }), "4.04");
    for name in ["../keys", "/etc/hostname", "..", ""] {
        workshop.refused(json!({ "image": name }), "4.00");
    }
    for (name, reason) in [("large.bin", "firmware.max_size"), ("empty.bin", "empty"), ("link.bin", "regular file")] {
        let told = workshop.refused(json!({ "image": name }), "4.00");
        assert!(told.contains(reason), "{name}: {told}");
    }
    workshop.refused(json!({ "image": IMAGE, "sha256": "00".repeat(32) }), "4.00");
    workshop.begin(json!({ "image": IMAGE }));
    workshop.refused(json!({ "image": IMAGE }), "4.09");
}

async fn a_device_without_the_object_has_no_update() {
    let mut workshop = Workshop::open(true).await;
    fs::write(workshop.path(IMAGE), image(10_000)).expect("a place for images");
    let _device = workshop.device(None, false);
    workshop.refused(json!({ "image": IMAGE }), "4.04");
}
