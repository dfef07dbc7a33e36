//! The script of the demonstration: one act for each version of LwM2M.

use std::time::Duration;

use serde_json::{Value, json};

use lwm2m_core::coap::options::format;
use lwm2m_simulator::{
    SimulatedDeviceConfig, SimulatedFirmwareConfig, SimulatedSample, SimulatedSend, SimulatedValue, SimulatedVersion,
};

use super::firmware;

pub(super) const TEMPERATURE: &str = "/3303/0/5700";

/// Interval of the thermometer's notifications.
const NOTIFICATION_INTERVAL: Duration = Duration::from_secs(2);

/// Time that the thermometer takes to install an image.
const UPDATE_TIME: Duration = Duration::from_secs(2);

/// The part of one device.
pub(crate) struct DemoAct {
    pub explanation: &'static str,
    pub device: SimulatedDeviceConfig,
    pub steps: Vec<DemoStep>,
}

pub(crate) struct DemoStep {
    pub explanation: &'static str,
    pub action: DemoAction,
    pub then: DemoWait,
}

pub(crate) enum DemoAction {
    /// The application publishes a command and waits for its answer.
    Command { msg_type: &'static str, data: Value },
    /// The device sends a history of its temperature, unasked.
    Send,
}

/// The event to wait for after the answer.
pub(crate) enum DemoWait {
    Go,
    Notifications,
    /// The device registers again.
    Registration,
    /// The firmware update ends.
    FirmwareUpdate,
}

/// Returns the acts. With `bootstrap` the first device is given its server before it registers.
pub(super) fn acts(bootstrap: bool) -> Vec<DemoAct> {
    let explanation = if bootstrap {
        "A thermometer of LwM2M 1.0 asks the bootstrap server for its server, and registers there."
    } else {
        "A thermometer of LwM2M 1.0 registers."
    };
    vec![
        DemoAct {
            explanation,
            device: SimulatedDeviceConfig { bootstrap, ..thermometer("demo-thermometer", SimulatedVersion::V1_0, &[]) },
            steps: steps_of_1_0(),
        },
        DemoAct {
            explanation: "A thermometer of LwM2M 1.1 registers. Its root link announces SenML CBOR (ct=112).",
            device: SimulatedDeviceConfig {
                firmware: Some(SimulatedFirmwareConfig {
                    update_time: UPDATE_TIME,
                    ..SimulatedFirmwareConfig::default()
                }),
                ..thermometer("demo-thermometer-11", SimulatedVersion::V1_1, &[format::SENML_CBOR])
            },
            steps: steps_of_1_1(),
        },
        DemoAct {
            explanation: "A thermometer of LwM2M 1.2 registers. Its root link announces LwM2M CBOR (ct=11544).",
            device: thermometer("demo-thermometer-12", SimulatedVersion::V1_2, &[format::LWM2M_CBOR]),
            steps: steps_of_1_2(),
        },
    ]
}

/// Returns the temperatures of the last two minutes, each with its time.
pub(super) fn history(unix_time: Duration) -> SimulatedSend {
    let temperature = TEMPERATURE.parse().expect("a path");
    let sample = |(seconds, degrees)| SimulatedSample {
        path: temperature,
        value: SimulatedValue::Float(degrees),
        time: Some(seconds),
    };
    SimulatedSend {
        format: format::SENML_CBOR,
        base_time: Some(unix_time.as_secs_f64().floor()),
        samples: [(-120.0, 20.4), (-60.0, 20.9), (0.0, 21.3)].map(sample).to_vec(),
    }
}

fn thermometer(endpoint: &str, version: SimulatedVersion, announced_formats: &[u16]) -> SimulatedDeviceConfig {
    SimulatedDeviceConfig {
        notification_interval: Some(NOTIFICATION_INTERVAL),
        announced_formats: announced_formats.to_vec(),
        ..SimulatedDeviceConfig::of_version(endpoint, version)
    }
}

fn command(explanation: &'static str, msg_type: &'static str, data: Value) -> DemoStep {
    command_then(explanation, msg_type, data, DemoWait::Go)
}

fn command_then(explanation: &'static str, msg_type: &'static str, data: Value, then: DemoWait) -> DemoStep {
    DemoStep { explanation, action: DemoAction::Command { msg_type, data }, then }
}

fn steps_of_1_0() -> Vec<DemoStep> {
    vec![
        command("Discover: what does its device object have?", "discover", json!({ "path": "/3/0" })),
        command("Read one resource, the manufacturer.", "read", json!({ "path": "/3/0/0" })),
        command(
            "Read the whole object instance: the device sends TLV, the application gets JSON.",
            "read",
            json!({ "path": "/3/0" }),
        ),
        command("Write the UTC offset.", "write", json!({ "path": "/3/0/14", "type": "String", "value": "+02:00" })),
        command_then(
            "Observe the temperature: the first answer is its value, then the device notifies.",
            "observe",
            json!({ "path": TEMPERATURE }),
            DemoWait::Notifications,
        ),
        command("Cancel the observation.", "cancel-observe", json!({ "path": TEMPERATURE })),
        command_then(
            "Execute the reboot: the device registers again.",
            "execute",
            json!({ "path": "/3/0/4" }),
            DemoWait::Registration,
        ),
    ]
}

fn steps_of_1_1() -> Vec<DemoStep> {
    vec![
        command(
            "Read an object instance: the device answers in SenML CBOR, which it announced.",
            "read",
            json!({ "path": "/3303/0" }),
        ),
        command(
            "Read-Composite: resources of several objects in one request. What the device does not have is missing.",
            "read-composite",
            json!({ "paths": ["/3/0/0", "/3/0/9", TEMPERATURE, "/3304/0/5700"] }),
        ),
        command(
            "Write-Composite: the device writes both resources, or none.",
            "write-composite",
            json!({ "content": [
                { "path": "/3/0/14", "type": "String", "value": "+02:00" },
                { "path": "/1/0/6", "type": "Boolean", "value": true },
            ] }),
        ),
        DemoStep {
            explanation: "Send: the device reports the temperatures of the last two minutes unasked, with their times.",
            action: DemoAction::Send,
            then: DemoWait::Go,
        },
        command_then(
            "Update the firmware: the gateway pushes an image, the device installs it, restarts and tells its version.",
            "firmware-update",
            firmware::update(),
            DemoWait::FirmwareUpdate,
        ),
    ]
}

fn steps_of_1_2() -> Vec<DemoStep> {
    let observed = json!({ "paths": [TEMPERATURE, "/3/0/9"] });
    vec![
        command(
            "Read an object instance: the device answers in LwM2M CBOR, the shortest format.",
            "read",
            json!({ "path": "/3303/0" }),
        ),
        command_then(
            "Observe-Composite: the device notifies the temperature and the battery level together.",
            "observe-composite",
            observed.clone(),
            DemoWait::Notifications,
        ),
        command("Cancel the composite observation.", "cancel-observe-composite", observed),
    ]
}
