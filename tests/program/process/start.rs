//! The start of the built program: the first line of its log, a log that is JSON to the last line, and how many devices
//! there is room for.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;

use crate::common::broker::TestBroker;
use crate::common::device::{Device, PATIENCE};
use crate::common::gateway::Gateway;
use lwm2m_core::coap::Code;
use serde_json::Value;
use tempfile::TempDir;

const LINKS: &str = "</3/0>";

#[test]
fn the_first_line_of_the_log_says_which_program_this_is_and_what_it_serves() {
    let run = Run::start("log.format = \"text\"");
    let output = run.wait_for("metrics and health");
    let first = output.lines().find(|line| line.contains("INFO")).expect("a line of the log");
    let version = env!("CARGO_PKG_VERSION");
    let expected = format!("version=\"{version}\" configuration=\"gateway.toml\" listeners=\"udp 127.0.0.1:0\"");
    assert!(first.contains("lwm2m-gateway starts") && first.ends_with(&expected), "{first}");
    assert!(!output.contains("lwm2m_gateway::"), "modules are for developers:\n{output}");
}

#[test]
fn a_banner_never_mixes_with_a_json_log() {
    let run = Run::start("log.format = \"json\"");
    let output = run.wait_for("devices are served");
    let lines: Vec<Value> = output.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(lines[0]["message"], "lwm2m-gateway starts", "{output}");
    assert_eq!(lines[0]["configuration"], "gateway.toml");
    let served = lines.iter().find(|line| line["message"] == "devices are served").expect("it waited for it");
    let udp = served["udp"].as_str().expect("an address");
    assert!(udp.starts_with("127.0.0.1:") && udp != "127.0.0.1:0", "{served}");
    assert!(lines.iter().all(|line| line["target"].is_null()), "modules are for developers:\n{output}");
}

#[test]
fn warnings_about_the_configuration_are_in_the_log() {
    let run = Run::start("mountpoint = \"lwm2m/\"");
    let output = run.wait_for("metrics and health");
    assert!(output.lines().any(|line| line.contains("WARN mountpoint: all devices share the topic")), "{output}");
}

/// The devices take all descriptors but those that are kept: the broker is not to blame, and everything else goes on.
#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_whose_descriptors_are_used_up_serves_its_devices_and_is_reloaded() {
    let broker = TestBroker::start().await;
    if broker.control().is_none() {
        return;
    }
    for (kind, threads) in [("exproto", 1), ("mqtt", 1), ("mqtt", 2)] {
        let mqtt = format!("upstream.mqtt.brokers = [\"{}\"]", broker.addresses.devices);
        let lines = format!(
            "watch_interval = 0\nlimits.devices = 500\ndriver.threads = {threads}\nupstream.kind = \"{kind}\"\n{mqtt}\n"
        );
        let mut gateway = Gateway::start_with(&broker.addresses, 1, &lines);
        gateway.stop("TERM");
        gateway.limit_descriptors(120);
        gateway.start_again();
        wait_until(&gateway, "/readyz", |(status, _)| status == 200);

        let mut registered = Vec::new();
        let mut refused = 0;
        for number in 0..100 {
            let mut device = Device::new(gateway.address());
            match device.try_register(&format!("ep={kind}-{number}&lt=300"), LINKS).code {
                Code::CREATED => registered.push(device),
                Code::SERVICE_UNAVAILABLE => refused += 1,
                other => panic!("{other:?}"),
            }
        }
        assert!(registered.len() > 30 && refused > 5, "{} and {refused}", registered.len());
        let (status, ready) = gateway.ask_admin("/readyz");
        assert_eq!(status, 200, "{ready}");
        let ready: Value = serde_json::from_str(&ready).expect("JSON");
        let descriptors = &ready["conditions"]["descriptors"]["detail"];
        assert_eq!(descriptors, "120 open files are allowed: room for 90 devices");
        let page = gateway.ask_admin("/metrics").1;
        assert!(page.contains("\nlwm2m_node_changes_total{state=\"down\"} 0\n"), "the broker is not to blame");
        assert!(gateway.output().contains("the limit of open files allows fewer devices than limits.devices"));

        gateway.edit("limits.devices = 500", "limits.devices = 20");
        gateway.signal("HUP");
        wait_until(&gateway, "/metrics", |(_, page)| page.contains("\nlwm2m_devices_limit 20\n"));
        assert_eq!(registered[0].update(&[], None).code, Code::CHANGED);
        assert_eq!(gateway.ask_admin("/healthz").0, 200);
    }
}

fn wait_until(gateway: &Gateway, page: &str, done: impl Fn((u16, String)) -> bool) {
    let there = (0..400).any(|_| {
        let there = done(gateway.ask_admin(page));
        if !there {
            thread::park_timeout(PATIENCE / 400);
        }
        there
    });
    assert!(there, "{page}: {:?}", gateway.ask_admin(page));
}

/// The program with both outputs in one file, as a container has them, and no broker.
struct Run {
    child: Child,
    folder: TempDir,
}

impl Run {
    fn start(line: &str) -> Self {
        let folder = TempDir::new().expect("a folder");
        let config = format!(
            "{line}
            listeners.udp.default.bind = \"127.0.0.1:0\"
            admin.bind = \"127.0.0.1:0\"
            store.enable = false
            upstream.kind = \"mqtt\"
            upstream.mqtt.brokers = [\"127.0.0.1:1\"]"
        );
        fs::write(folder.path().join("gateway.toml"), config).expect("a place for the configuration");
        let output = File::create(folder.path().join("output")).expect("a place for the output");
        let child = Command::new(env!("CARGO_BIN_EXE_lwm2m-gateway"))
            .args(["run", "--config", "gateway.toml"])
            .current_dir(folder.path())
            .env("NO_COLOR", "1")
            .stdin(Stdio::null())
            .stdout(output.try_clone().expect("an open file"))
            .stderr(output)
            .spawn()
            .expect("the program is built");
        Self { child, folder }
    }

    /// Returns the output when this is in it, up to the end of a line.
    fn wait_for(&self, text: &str) -> String {
        let read = |folder: &Path| fs::read_to_string(folder.join("output")).expect("the output is text");
        let there = (0..400).find_map(|_| {
            let output = read(self.folder.path());
            let found = output.contains(text) && output.ends_with('\n');
            if !found {
                thread::park_timeout(PATIENCE / 400);
            }
            found.then_some(output)
        });
        there.unwrap_or_else(|| panic!("no {text:?} in\n{}", read(self.folder.path())))
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        self.child.kill().expect("a child of ours");
        self.child.wait().expect("a child of ours");
    }
}
