//! What the built program reads anew: at SIGHUP, and when a file has changed. And what the core does with it.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::common::program::Program;
use lwm2m_core::coap::Code;
use lwm2m_core::gateway::config::Limits;
use lwm2m_core::lwm2m::model::Model;
use lwm2m_testkit::scene::{content, peer, read};
use serde_json::json;
use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(20);
/// A file is taken when it looked the same twice.
const WATCH: &str = "watch_interval = \"50ms\"";
const ONLY_SIGNALS: &str = "watch_interval = 0";

#[test]
fn limits_that_become_narrower_keep_the_devices_that_are_there() {
    let mut scene = lwm2m_testkit::scene::Scene::registered();
    scene.gateway.set_limits(Limits { devices: 1, pending_commands: 1, ..Limits::default() });
    assert_eq!(scene.gateway.devices_limit(), 1);

    scene.command(&read(1));
    let request = scene.expect_request(Code::GET, "/3/0/0");
    scene.command(&read(2));
    scene.command(&read(3));
    assert_eq!(scene.expect_refused(&read(3)), "this device has too many pending commands (limits.pending_commands)");
    scene.answer_text(&request, "Acme");
    scene.expect_answer(&read(1), content("/3/0/0", "Acme"));
    scene.expect_request(Code::GET, "/3/0/0");

    let register = scene.register_message("ep=dev-8&lt=300");
    scene.device_sends_from(peer(2), &register);
    scene.expect_reply(peer(2), &register, Code::SERVICE_UNAVAILABLE);
    scene.gateway.set_limits(Limits { devices: 2, ..Limits::default() });
    let register = scene.register_message("ep=dev-8&lt=300");
    scene.device_sends_from(peer(2), &register);
    scene.expect_connect();
}

#[test]
fn more_registers_never_wait_than_requests_may() {
    let mut scene = lwm2m_testkit::scene::Scene::with(|settings| {
        settings.coap.pending_requests = 2;
        settings.limits.pending_registrations = 1;
    });
    scene.gateway.set_limits(Limits::default());
    scene.send_register("ep=dev-7&lt=300");
    scene.expect_connect();
    let second = scene.register_message("ep=dev-8&lt=300");
    scene.device_sends_from(peer(2), &second);
    scene.expect_reply(peer(2), &second, Code::SERVICE_UNAVAILABLE);
}

#[test]
fn what_a_device_sends_is_read_by_the_definitions_that_are_in_force_when_it_comes() {
    let mut scene = lwm2m_testkit::scene::Scene::registered();
    let command = json!({ "reqID": 1, "msgType": "read", "data": { "path": "/3303/0/5700" } });
    scene.gateway.set_model(Arc::new(Model::default()));
    scene.command(&command);
    let request = scene.expect_request(Code::GET, "/3303/0/5700");
    scene.gateway.set_model(lwm2m_testkit::scene::model());
    scene.answer_text(&request, "21.5");
    scene.expect_answer(&command, content("/3303/0/5700", 21.5));
}

#[test]
fn a_hangup_puts_new_limits_and_a_new_log_level_in_force() {
    let place = ReloadFolder::new(ONLY_SIGNALS);
    let program = place.start();
    assert!(program.metric("lwm2m_devices_limit") > 9.0);
    assert!(!program.output().contains("DEBUG"));
    place.configure("watch_interval = 0\nlimits.devices = 7\nlog.level = \"debug\"\nlifetime_max = 600");
    program.signal("HUP");
    program.wait_for_metric("lwm2m_devices_limit", 7.0);
    program.wait_for("changed settings are in force keys=\"limits.devices, log.level\"");
    program.wait_for("changed settings need a restart keys=\"lifetime_max\"");
    assert_eq!(program.metric("lwm2m_reloads_total{part=\"settings\",result=\"ok\"}"), 1.0);
    assert!(program.metric("lwm2m_reload_last_success_timestamp_seconds{part=\"settings\"}") > 1e9);

    place.configure("watch_interval = 0\nlimits.devices = 8\nlog.level = \"warn\"\nlifetime_max = 600");
    program.signal("HUP");
    program.wait_for_metric("lwm2m_devices_limit", 8.0);
    assert_eq!(program.output().matches("need a restart").count(), 1, "{}", program.output());
}

#[test]
fn a_configuration_with_a_mistake_leaves_all_as_it_was_and_the_mistake_is_named() {
    let place = ReloadFolder::new(ONLY_SIGNALS);
    let program = place.start();
    place.configure("limits.devices = 7\nlimits.observations = 0");
    program.signal("HUP");
    let failed = "lwm2m_reloads_total{part=\"settings\",result=\"failed\"}";
    program.wait_for_metric(failed, 1.0);
    program.wait_for("why=\"the configuration has 1 mistake limits.observations = 0: expected a whole number from 1");
    assert!(program.metric("lwm2m_devices_limit") > 9.0);
    assert_eq!(program.metric("lwm2m_reload_failing{part=\"settings\"}"), 1.0);

    place.configure("limits.devices = 7\nlimits.observations = 1");
    program.signal("HUP");
    program.wait_for_metric("lwm2m_devices_limit", 7.0);
    assert_eq!(program.metric("lwm2m_reload_failing{part=\"settings\"}"), 0.0);
    assert_eq!(program.metric(failed), 1.0);
}

#[test]
fn a_file_that_was_edited_is_read_without_a_signal() {
    let place = ReloadFolder::new(WATCH);
    let program = place.start();
    place.configure(&format!("{WATCH}\nlimits.devices = 9"));
    program.wait_for_metric("lwm2m_devices_limit", 9.0);
    fs::remove_file(place.file()).unwrap();
    program.wait_for_metric("lwm2m_reload_failing{part=\"settings\"}", 1.0);
    assert_eq!(program.metric("lwm2m_devices_limit"), 9.0);
}

#[test]
fn a_definition_more_is_taken_and_a_broken_one_leaves_all_definitions_as_they_were() {
    let place = ReloadFolder::new(WATCH);
    let program = place.start();
    let built_in = built_in();
    assert_eq!(program.metric("lwm2m_object_definitions"), built_in + 1.0);
    place.define("3304-1_1.xml");
    program.wait_for_metric("lwm2m_object_definitions", built_in + 2.0);

    fs::write(place.definitions().join("3303-1_1.xml"), "<LWM2M>").unwrap();
    place.define("3311-1_0.xml");
    program.wait_for_metric("lwm2m_reload_failing{part=\"definitions\"}", 1.0);
    program.wait_for("3303-1_1.xml: ");
    assert_eq!(program.metric("lwm2m_object_definitions"), built_in + 2.0);

    place.define("3303-1_1.xml");
    program.wait_for_metric("lwm2m_object_definitions", built_in + 3.0);
    program.wait_for_metric("lwm2m_reload_failing{part=\"definitions\"}", 0.0);
}

#[test]
fn a_definition_that_is_broken_from_the_start_does_not_keep_others_out() {
    let place = ReloadFolder::new(WATCH);
    fs::write(place.definitions().join("broken.xml"), "<LWM2M>").unwrap();
    let program = place.start();
    place.define("3304-1_1.xml");
    program.wait_for_metric("lwm2m_object_definitions", built_in() + 2.0);
}

/// A configuration and a folder with one definition.
/// Returns the number of definitions that the program has without a folder.
fn built_in() -> f64 {
    lwm2m_gateway::definitions::read(Path::new("")).unwrap().model.objects().count() as f64
}

struct ReloadFolder(TempDir);

impl ReloadFolder {
    fn new(lines: &str) -> Self {
        let place = Self(tempfile::tempdir().unwrap());
        fs::create_dir(place.definitions()).unwrap();
        place.define("3303-1_1.xml");
        place.configure(lines);
        place
    }

    /// EMQX is away, and is not needed.
    fn configure(&self, lines: &str) {
        let config = format!(
            "{lines}
            xml_dir = {:?}
            listeners.udp.default.bind = \"127.0.0.1:0\"
            admin.bind = \"127.0.0.1:0\"
            store.enable = false
            [upstream.exproto]
            listener = \"127.0.0.1:1\"
            adapter = \"http://127.0.0.1:1\"
            handler_bind = \"{}\"",
            self.definitions(),
            free_port(),
        );
        fs::write(self.file(), config).unwrap();
    }

    fn define(&self, name: &str) {
        let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("xml").join(name);
        // Another object than the built-in ones.
        let content = fs::read_to_string(shipped).unwrap().replace("<ObjectID>3", "<ObjectID>23");
        fs::write(self.definitions().join(name), content).unwrap();
    }

    fn start(&self) -> Program {
        Program::start(self.0.path(), &["run", "--config", self.file().to_str().unwrap()])
    }

    fn file(&self) -> PathBuf {
        self.0.path().join("gateway.toml")
    }

    fn definitions(&self) -> PathBuf {
        self.0.path().join("xml")
    }
}

/// The same one in all configurations of a test, so that it is no change.
fn free_port() -> std::net::SocketAddr {
    thread_local! {
        static PORT: std::net::SocketAddr =
            crate::common::ports::free_address();
    }
    PORT.with(|port| *port)
}

trait Watched {
    fn wait_for_metric(&self, series: &str, value: f64);
    fn wait_for(&self, text: &str);
}

impl Watched for Program {
    fn wait_for_metric(&self, series: &str, value: f64) {
        let start = now();
        while self.metric(series) != value {
            assert!(now() - start < PATIENCE, "{series} is {}:\n{}", self.metric(series), self.output());
        }
    }

    fn wait_for(&self, text: &str) {
        let start = now();
        while !self.output().contains(text) {
            assert!(now() - start < PATIENCE, "{text} is not in:\n{}", self.output());
            std::thread::yield_now();
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "a test of a process waits in real time")]
fn now() -> Instant {
    Instant::now()
}
