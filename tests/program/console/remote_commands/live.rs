//! The commands with the built program as the gateway, and simulated devices.

use std::fs;
use std::path::Path;

use lwm2m_dtls::test_client::credentials::Certified;
use tempfile::TempDir;

use crate::console::trial::Trial;

use super::stub::{Run, RunningProgram, program, wait_until};

/// Runs the program against the console of a trial.
pub(super) fn run(trial: &Trial, arguments: &[&str]) -> Run {
    let (address, token) = trial.link();
    let mut command = program(arguments);
    command.env("LWM2M_GATEWAY_AT", format!("http://{address}")).env("LWM2M_GATEWAY_TOKEN", token);
    Run::of(&command.output().expect("the program is built"))
}

/// Starts the program against the console of a trial.
fn start(trial: &Trial, arguments: &[&str]) -> RunningProgram {
    let (address, token) = trial.link();
    let mut command = program(arguments);
    command.env("LWM2M_GATEWAY_AT", format!("http://{address}")).env("LWM2M_GATEWAY_TOKEN", token);
    RunningProgram::start(command)
}

#[test]
fn devices_of_a_gateway_are_listed_shown_and_ended() {
    let trial = Trial::start("console.bind = \"127.0.0.1:0\"", &["--simulate", "3"]);
    wait_until(|| run(&trial, &["devices"]).rows().len() == 4);
    let devices = run(&trial, &["devices", "--prefix", "meter"]);
    assert_eq!(devices.rows()[1][0], "meter-2", "{}", devices.stdout);
    let one = run(&trial, &["devices", "--limit", "1"]);
    assert_eq!((one.rows().len(), one.stderr.as_str()), (2, "there may be more: --all\n"));
    let shown = run(&trial, &["show", "thermometer-1"]);
    assert!(shown.stdout.lines().any(|line| line.ends_with("  Temperature")), "{}", shown.stdout);
    assert_eq!(run(&trial, &["queue", "thermometer-1"]).rows().len(), 1);
    // The state of the tables is asked for once in a second.
    wait_until(|| run(&trial, &["overview"]).rows().contains(&vec!["devices", "3"]));

    assert_eq!(run(&trial, &["kick", "thermometer-1"]).code, Some(0));
    for command in ["kick", "show"] {
        let gone = run(&trial, &[command, "nobody"]);
        assert_eq!(gone.code, Some(6));
        assert_eq!(gone.stderr, "lwm2m-gateway: The device is not registered: \"nobody\" is not registered\n");
    }
}

/// A trial in which meters sleep soon.
fn sleepy_trial() -> Trial {
    let lines = "console.bind = \"127.0.0.1:0\"\nqmode_time_window = \"300ms\"";
    let trial = Trial::start(lines, &["--simulate", "3"]);
    wait_until(|| run(&trial, &["devices"]).rows().len() == 4);
    trial
}

#[test]
fn a_device_is_commanded() {
    let trial = sleepy_trial();
    let done = |arguments: &[&str]| {
        let run = run(&trial, arguments);
        assert_eq!((run.code, run.stderr.as_str()), (Some(0), ""), "{arguments:?}");
        run.stdout
    };
    let ep = "thermometer-1";
    assert_eq!(done(&["read", ep, "/3/0/0"]), "PATH    VALUE\n/3/0/0  Weather Works\n");
    assert_eq!(done(&["write", ep, "/3/0/14", "+09:00"]), "PATH     CODE  MEANING\n/3/0/14  2.04  changed\n");
    assert_eq!(done(&["read", ep, "/3/0/14"]), "PATH     VALUE\n/3/0/14  +09:00\n");
    assert!(done(&["exec", ep, "/3303/0/5605", "--yes"]).contains("2.04"));
    assert!(done(&["write-attr", ep, "/3303/0/5700", "pmin=7"]).contains("2.04"));
    assert!(done(&["discover", ep, "/3303/0"]).contains("/3303/0/5700  pmin=7\n"));
    assert!(done(&["create", ep, "/3303/4", "5700=1.5", "--yes"]).contains("2.01"));
    assert_eq!(done(&["read", ep, "/3303/4/5700"]), "PATH          VALUE\n/3303/4/5700  1.5\n");
    assert!(done(&["delete", ep, "/3303/4", "--yes"]).contains("2.02"));
    let missing = run(&trial, &["read", ep, "/3/0/99"]);
    assert_eq!((missing.code, missing.stderr.as_str()), (Some(3), "the device answered 4.04 not_found\n"));
    let invalid = run(&trial, &["read", ep, "a path"]);
    assert_eq!(invalid.code, Some(1), "{}", invalid.stderr);
    assert_eq!(run(&trial, &["read", "nobody", "/3"]).code, Some(6));
}

#[test]
fn a_command_for_a_sleeping_device_waits_and_is_withdrawn() {
    let trial = sleepy_trial();
    wait_until(|| run(&trial, &["devices", "--state", "asleep"]).rows().len() == 2);
    let refused = run(&trial, &["read", "meter-2", "/3/0/0", "--ttl", "0"]);
    assert_eq!(refused.code, Some(4), "{}", refused.stderr);
    let waits = run(&trial, &["read", "meter-2", "/3/0/0", "--wait", "500ms"]);
    assert_eq!((waits.code, waits.stdout.as_str()), (Some(5), ""), "{}", waits.stderr);
    assert!(waits.stderr.contains("still waits, at place 1"), "{}", waits.stderr);
    let queue = run(&trial, &["queue", "meter-2"]);
    assert_eq!(queue.rows()[1][1..4], ["waits", "read", "/3/0/0"], "{}", queue.stdout);
    let number = queue.rows()[1][0].to_owned();
    assert_eq!(run(&trial, &["queue", "meter-2", "--withdraw", &number]).code, Some(0));
    assert_eq!(run(&trial, &["queue", "meter-2"]).rows().len(), 1);
    let handed_over = run(&trial, &["read", "meter-2", "/3/0/0", "--wait", "0"]);
    assert_eq!((handed_over.code, handed_over.rows()[1][1]), (Some(0), "pending"), "{}", handed_over.stderr);
}

#[test]
fn an_observation_is_followed_and_gone_after_ctrl_c() {
    let trial = sleepy_trial();
    let following = start(&trial, &["observe", "thermometer-1", "/3303/0/5700", "--follow"]);
    // Header, first value, and two notifications.
    following.wait_for_lines(4);
    let observed = || run(&trial, &["show", "thermometer-1", "--json"]).json_lines()[0]["observed"].clone();
    assert_eq!(observed()[0]["path"], "/3303/0/5700");
    let followed = following.interrupt();
    assert_eq!(followed.code, Some(0), "{}", followed.stderr);
    assert!(followed.rows()[1..].iter().all(|row| row[1] == "/3303/0/5700"), "{}", followed.stdout);
    assert_eq!(observed(), serde_json::json!([]));
}

#[test]
fn events_of_a_device_are_printed() {
    let trial = sleepy_trial();
    let events = start(&trial, &["events", "thermometer-1"]);
    events.wait_for_lines(2);
    assert_eq!(run(&trial, &["kick", "thermometer-1"]).code, Some(0));
    events.wait_for_lines(3);
    let printed = events.interrupt();
    let names: Vec<&str> = printed.rows().iter().map(|row| row[1]).collect();
    assert_eq!(names[..2], ["EVENT", "hello"], "{}", printed.stdout);
    let left = printed.rows().into_iter().find(|row| row[1] == "left").expect("it has left");
    assert_eq!(left[2..], ["thermometer-1", "reason=operator"]);
}

#[test]
fn the_messages_of_a_device_are_traced() {
    let trial = sleepy_trial();
    let folder = TempDir::new().expect("a folder");
    let file = folder.path().join("trace.pcap");
    let printed = start(&trial, &["trace", "thermometer-1"]);
    let written = start(&trial, &["trace", "thermometer-1", "--pcap", file.to_str().expect("text")]);
    wait_until(|| fs::read(&file).is_ok_and(|bytes| bytes.len() >= 24));
    // The one that prints has begun when it prints.
    wait_until(|| {
        assert_eq!(run(&trial, &["read", "thermometer-1", "/3/0/0"]).code, Some(0));
        printed.printed().len() > 200
    });
    let printed = printed.interrupt();
    assert_eq!(printed.code, Some(0), "{}", printed.stderr);
    let request = printed.rows().into_iter().find(|row| row.contains(&"GET")).expect("a request");
    assert_eq!((request[1], request[3], request.contains(&"/3/0/0")), ("out", "CON", true), "{}", printed.stdout);
    let answer = printed.rows().into_iter().find(|row| row[4] == "2.05").expect("an answer");
    assert_eq!((answer[1], answer[3]), ("in", "ACK"), "{}", printed.stdout);
    assert_eq!(written.interrupt().code, Some(0));
    assert!(fs::read(&file).expect("a file").len() > 24 + 2 * 16);
}

#[test]
fn a_console_with_a_certificate_is_asked_over_tls_if_the_certificate_is_trusted() {
    let place = TempDir::new().expect("a folder");
    let ca = Certified::authority("Test CA");
    let (authority, _) = ca.write(place.path(), "ca");
    let (certfile, keyfile) = ca.certify("localhost").write(place.path(), "console");
    let certificate = format!("console.certfile = {certfile:?}\nconsole.keyfile = {keyfile:?}");
    let trial = Trial::start(&format!("console.bind = \"127.0.0.1:0\"\n{certificate}"), &[]);
    let (address, token) = trial.link();
    let ask = |trusted: Option<&Path>| {
        let mut command = program(&["devices", "--at", &format!("https://localhost:{}", address.port())]);
        command.env("LWM2M_GATEWAY_TOKEN", &token).env_remove("SSL_CERT_FILE");
        command.envs(trusted.map(|file| ("SSL_CERT_FILE", file)));
        Run::of(&command.output().expect("the program is built"))
    };
    let trusting = ask(Some(authority.as_ref()));
    assert_eq!((trusting.code, trusting.rows().len()), (Some(0), 1), "{}", trusting.stderr);
    let refusing = ask(None);
    assert_eq!(refusing.code, Some(1));
    assert!(refusing.stderr.contains("the certificate of localhost"), "{}", refusing.stderr);
}

#[test]
fn a_wrong_token_and_none_are_not_allowed_and_a_socket_needs_none() {
    let folder = TempDir::new().expect("a folder");
    let socket = folder.path().join("console.sock");
    let trial = Trial::start(&format!("console.bind = \"127.0.0.1:0\"\nconsole.socket = {socket:?}"), &[]);
    let at = format!("http://{}", trial.link().0);
    let file = folder.path().join("token");
    fs::write(&file, "lgw_wrong").expect("a file");
    let wrong = program(&["devices", "--at", &at, "--token-file", file.to_str().expect("text")]).output();
    for output in [wrong, program(&["devices", "--at", &at]).output()] {
        let run = Run::of(&output.expect("the program is built"));
        assert_eq!((run.code, run.stdout.as_str()), (Some(7), ""), "{}", run.stderr);
        assert!(run.stderr.contains("--token-file") && !run.stderr.contains("lgw_"), "{}", run.stderr);
    }
    let by_socket = program(&["devices", "--at", &format!("unix:{}", socket.display())]).output();
    assert_eq!(by_socket.expect("the program is built").status.code(), Some(0));
}
