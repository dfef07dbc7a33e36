//! `run --embedded`, with which people try the program: its console, and the devices of `--simulate`.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use super::{Answer, exchange};
use crate::common::program::Program;

/// The program as a person starts it for a first look, with ports of the system's choice.
pub(crate) struct Trial {
    program: Program,
    _folder: TempDir,
}

impl Trial {
    pub(crate) fn start(lines: &str, options: &[&str]) -> Self {
        let folder = TempDir::new().expect("a folder");
        fs::write(folder.path().join("gateway.toml"), configuration(lines)).expect("a place for the configuration");
        let arguments = [&["run", "--embedded", "--config", "gateway.toml"], options].concat();
        let program = Program::start(folder.path(), &arguments);
        wait_until(|| program.output().contains("Ctrl-C stops."));
        Self { program, _folder: folder }
    }

    /// Returns the address and the token of the link.
    pub(crate) fn link(&self) -> (SocketAddr, String) {
        let output = self.program.output();
        let line = output.lines().find(|line| line.starts_with("  console ")).expect("a link of the console");
        let (_, link) = line.split_once("://").expect("a URL");
        let (address, token) = link.split_once("/#token=").expect("a token");
        (address.parse().expect("an address"), token.to_owned())
    }

    fn ask(&self, line: &str) -> Answer {
        let (address, token) = self.link();
        ask(address, &token, line)
    }
}

#[test]
fn a_trial_prints_one_link_to_a_console_that_lists_the_simulated_devices() {
    let trial = Trial::start("console.bind = \"127.0.0.1:0\"", &["--simulate", "3"]);
    let list = || trial.ask("GET /api/v1/devices").json();
    wait_until(|| list()["devices"].as_array().is_some_and(|devices| devices.len() == 3));

    let list = list();
    let devices = list["devices"].as_array().expect("devices");
    let names: Vec<&str> = devices.iter().filter_map(|device| device["endpoint"].as_str()).collect();
    assert_eq!(names, ["faulty-3", "meter-2", "thermometer-1"]);
    let has_window = |device: &Value| device.get("awakeUntil").is_some();
    assert_eq!(devices.iter().map(has_window).collect::<Vec<_>>(), [false, true, false], "{list}");
    let session = trial.ask("GET /api/v1/session").json();
    assert_eq!((&session["name"], &session["role"]), (&"trial".into(), &"operator".into()));
    assert_eq!(trial.program.output().matches("#token=").count(), 1);
    trial.program.signal("TERM");
    wait_until(|| TcpStream::connect(trial.link().0).is_err());
}

#[test]
fn a_trial_takes_another_port_when_that_of_the_console_is_in_use() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = taken.local_addr().expect("it is bound");
    let trial = Trial::start(&format!("console.bind = \"{address}\""), &[]);
    assert_ne!(trial.link().0, address);
    assert_eq!(trial.ask("GET /api/v1/devices").json()["total"], 0);
}

#[test]
fn a_trial_with_tokens_of_its_own_prints_no_token() {
    let folder = TempDir::new().expect("a folder");
    let tokens = folder.path().join("tokens");
    fs::write(&tokens, super::make_token("alice", &[]).1).expect("a place for the tokens");
    let trial = Trial::start(&format!("console.tokens = {tokens:?}\nconsole.bind = \"127.0.0.1:0\""), &[]);
    let output = trial.program.output();
    assert!(output.contains("  console  ") && !output.contains("#token="), "{output}");
}

#[test]
fn a_trial_with_a_log_in_json_prints_its_link_as_json() {
    let folder = TempDir::new().expect("a folder");
    let lines = "log.format = \"json\"\nconsole.bind = \"127.0.0.1:0\"";
    fs::write(folder.path().join("gateway.toml"), configuration(lines)).expect("a place for the configuration");
    let mut program = Command::new(env!("CARGO_BIN_EXE_lwm2m-gateway"))
        .args(["run", "--embedded", "--config", "gateway.toml"])
        .current_dir(folder.path())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("the program is built");
    let mut lines = BufReader::new(program.stdout.take().expect("its output")).lines();
    let link = lines.find_map(|line| {
        let line: Value = serde_json::from_str(&line.expect("text")).expect("each line is JSON");
        line["console"].as_str().map(str::to_owned)
    });
    let session = link.as_deref().map(|link| {
        let (address, token) = link.trim_start_matches("http://").split_once("/#token=").expect("a token");
        ask(address.parse().expect("an address"), token, "GET /api/v1/session").json()
    });
    program.kill().expect("a child of ours");
    program.wait().expect("a child of ours");
    assert_eq!(session.expect("a link")["role"], "operator");
}

fn ask(address: SocketAddr, token: &str, line: &str) -> Answer {
    let stream = TcpStream::connect(address).expect("it listens");
    exchange(stream, &address.to_string(), line, &[("Authorization", &format!("Bearer {token}"))])
}

/// Returns a configuration with these lines, and with ports of the system's choice.
fn configuration(lines: &str) -> String {
    format!(
        "{lines}
        listeners.udp.default.bind = \"127.0.0.1:0\"
        admin.enable = true
        admin.bind = \"127.0.0.1:0\"
        upstream.kind = \"mqtt\"
        embedded.mqtt = \"127.0.0.1:0\"
        embedded.listener = \"127.0.0.1:0\"
        embedded.adapter = \"127.0.0.1:0\""
    )
}

fn wait_until(done: impl Fn() -> bool) {
    let there = (0..400).any(|_| {
        let there = done();
        if !there {
            thread::park_timeout(Duration::from_millis(50));
        }
        there
    });
    assert!(there, "it did not happen");
}
