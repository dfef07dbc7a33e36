//! `check --connect` of the built program, at the embedded broker and where nothing is.

use std::fs;
use std::net::UdpSocket;
use std::process::{Command, Output};

use crate::common::broker::{TestAddresses, TestBroker};
use tempfile::TempDir;

#[tokio::test(flavor = "multi_thread")]
async fn what_works_is_told_and_the_broker_is_asked_as_a_device_asks_it() {
    let broker = TestBroker::start().await;
    if broker.control().is_none() {
        return;
    }
    for kind in ["exproto", "mqtt"] {
        let (code, said) = check(&broker.addresses, kind, "");
        assert_eq!(code, Some(0), "{said}");
        for part in [
            "tried: listeners.udp.default can listen at 127.0.0.1:0\n",
            "tried: admin can listen at 127.0.0.1:0\n",
            " can be written\n",
            " serves. It let in a device of an invented name without a password: nothing authenticates devices there\n",
            "/up/resp\n",
            "/up/notify\n",
            "/up/send\n",
        ] {
            assert!(said.contains(part), "{kind}: {part} is not in\n{said}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_publication_that_is_denied_is_told_though_devices_publish_with_qos_0() {
    let broker = TestBroker::start().await;
    let Some(control) = broker.control() else { return };
    control.deny_publish("+/+/up/notify");
    for kind in ["exproto", "mqtt"] {
        let (code, said) = check(&broker.addresses, kind, "");
        assert_eq!(code, Some(1), "{said}");
        let denied: Vec<&str> = said.lines().filter(|line| line.starts_with("failed: ")).collect();
        let [denied] = denied.as_slice() else { panic!("{said}") };
        assert!(denied.contains("denies the publication to lwm2m/lwm2m-gateway-check-"), "{denied}");
        assert!(denied.contains("/up/notify: its access rules have to allow a device its own topics"), "{denied}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_authenticates_is_no_problem() {
    let broker = TestBroker::start().await;
    let Some(control) = broker.control() else { return };
    control.refuse(|_| true);
    for kind in ["exproto", "mqtt"] {
        let (code, said) = check(&broker.addresses, kind, "");
        assert_eq!(code, Some(0), "{said}");
        assert!(said.contains("answers. It refused a device of an invented name ("), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_work_is_told_with_the_key_and_the_next_step() {
    let broker = TestBroker::start().await;
    if broker.control().is_none() {
        return;
    }
    let taken = UdpSocket::bind("127.0.0.1:0").expect("a port");
    let taken = taken.local_addr().map(|address| (address, taken)).expect("an address");
    let nowhere = TestAddresses {
        listener: "127.0.0.1:1".to_owned(),
        devices: "127.0.0.1:1".to_owned(),
        ..broker.addresses.clone()
    };
    let lines = format!("listeners.udp.other.bind = \"{}\"\nstore.file = \"nowhere/store.redb\"", taken.0);
    for (kind, why) in [
        (
            "exproto",
            "failed: the broker 127.0.0.1:1 is unavailable: its exproto listener (upstream.exproto.listener) cannot be \
                     reached: connection refused. Is EMQX running, and exproto enabled? \"emqx ctl gateway list\" tells\n",
        ),
        (
            "mqtt",
            "failed: the broker 127.0.0.1:1 is unavailable: it cannot be reached (upstream.mqtt.brokers): connection \
                  refused. Is it running, and its MQTT listener here?\n",
        ),
    ] {
        let (code, said) = check(&nowhere, kind, &lines);
        assert_eq!(code, Some(1), "{said}");
        let port = format!(
            "failed: listeners.udp.other.bind = {}: address already in use. Is a gateway running here \
                            already?\n",
            taken.0
        );
        let store = "failed: store.file = nowhere/store.redb: No such file or directory";
        for part in [&port, store, why, "3 of the things that were tried do not work\n"] {
            assert!(said.contains(part), "{kind}: {part} is not in\n{said}");
        }
    }
}

/// The exit code, and both outputs.
pub(crate) fn check(broker: &TestAddresses, kind: &str, lines: &str) -> (Option<i32>, String) {
    let folder = TempDir::new().expect("a folder");
    let TestAddresses { listener, adapter, devices, handler_bind, .. } = broker;
    let config = format!(
        "upstream.kind = \"{kind}\"
        upstream.exproto.listener = \"{listener}\"
        upstream.exproto.adapter = \"{adapter}\"
        upstream.exproto.handler_bind = \"{handler_bind}\"
        upstream.mqtt.brokers = [\"{devices}\"]
        listeners.udp.default.bind = \"127.0.0.1:0\"
        admin.bind = \"127.0.0.1:0\"
        {lines}"
    );
    fs::write(folder.path().join("gateway.toml"), config).expect("a place for the configuration");
    let output: Output = Command::new(env!("CARGO_BIN_EXE_lwm2m-gateway"))
        .args(["check", "--connect", "-c", "gateway.toml"])
        .current_dir(folder.path())
        .env_clear()
        .output()
        .expect("the program is built");
    let both = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).expect("text"));
    (output.status.code(), both.concat())
}
