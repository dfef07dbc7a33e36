//! The commands with the built program as the gateway, and simulated devices.

use std::fs;

use tempfile::TempDir;

use crate::trial::Trial;

use super::stub::{Run, program, wait_until};

/// Runs the program against the console of a trial.
pub fn run(trial: &Trial, arguments: &[&str]) -> Run {
    let (address, token) = trial.link();
    let mut command = program(arguments);
    command.env("LWM2M_GATEWAY_AT", format!("http://{address}")).env("LWM2M_GATEWAY_TOKEN", token);
    Run::of(&command.output().expect("the program is built"))
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
    let overview = run(&trial, &["overview"]);
    assert!(overview.rows().contains(&vec!["devices", "3"]), "{}", overview.stdout);

    assert_eq!(run(&trial, &["kick", "thermometer-1"]).code, Some(0));
    for command in ["kick", "show"] {
        let gone = run(&trial, &[command, "nobody"]);
        assert_eq!(gone.code, Some(6));
        assert_eq!(gone.stderr, "lwm2m-gateway: The device is not registered: \"nobody\" is not registered\n");
    }
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
