//! `run --exit-with-parent`: the built program as the child of a process that holds its standard input.

#![expect(clippy::disallowed_methods, reason = "a test of a process waits in real time")]

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;

use serde_json::Value;
use tempfile::TempDir;

use crate::common::device::PATIENCE;

struct FollowedProgram {
    child: Child,
    input: Option<ChildStdin>,
    lines: Receiver<Value>,
    folder: TempDir,
}

impl FollowedProgram {
    fn start() -> Self {
        let folder = TempDir::new().expect("a folder");
        write_config(&folder, "info");
        let mut child = Command::new(env!("CARGO_BIN_EXE_lwm2m-gateway"))
            .args(["run", "--exit-with-parent", "-c", "gateway.toml"])
            .current_dir(folder.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program is built");
        let (sender, lines) = channel();
        let outputs: [Box<dyn BufRead + Send>; 2] = [
            Box::new(BufReader::new(child.stdout.take().expect("it is piped"))),
            Box::new(BufReader::new(child.stderr.take().expect("it is piped"))),
        ];
        for output in outputs {
            let sender = sender.clone();
            thread::spawn(move || {
                for line in output.lines() {
                    let line = line.expect("the output is text");
                    let parsed = serde_json::from_str(&line).unwrap_or_else(|_| panic!("not JSON: {line}"));
                    // A test that has seen enough has left.
                    sender.send(parsed).unwrap_or_default();
                }
            });
        }
        let input = child.stdin.take();
        let program = Self { child, input, lines, folder };
        program.until("devices are served");
        program
    }

    /// Waits for the line with this message.
    fn until(&self, message: &str) -> Value {
        loop {
            let line = self.lines.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("no line {message:?}"));
            if line["message"].as_str().is_some_and(|text| text.contains(message)) {
                return line;
            }
        }
    }

    fn write(&mut self, line: &str) {
        writeln!(self.input.as_mut().expect("it is open"), "{line}").expect("the program reads it");
    }

    /// Waits until it has ended by itself, and returns its exit code.
    fn exit_code(&mut self) -> Option<i32> {
        self.until("shutting down");
        let end = std::time::Instant::now() + PATIENCE;
        while std::time::Instant::now() < end {
            if let Some(status) = self.child.try_wait().expect("a child of ours") {
                return status.code();
            }
            thread::yield_now();
        }
        panic!("it does not end");
    }
}

impl Drop for FollowedProgram {
    fn drop(&mut self) {
        self.child.kill().unwrap_or_default();
        self.child.wait().expect("a child of ours");
    }
}

fn write_config(folder: &TempDir, level: &str) {
    let text = format!(
        "watch_interval = 0\nlisteners.udp.default.bind = \"127.0.0.1:0\"\nadmin.bind = \"127.0.0.1:0\"\n\
         log.level = \"{level}\"\nlog.format = \"text\"\nupstream.kind = \"mqtt\"\n\
             upstream.mqtt.brokers = [\"127.0.0.1:1\"]\n"
    );
    fs::write(folder.path().join("gateway.toml"), text).expect("a place for it");
}

#[test]
fn the_program_ends_when_its_parent_closes_the_standard_input() {
    let mut program = FollowedProgram::start();
    program.input = None;
    assert_eq!(program.exit_code(), Some(0));
}

#[test]
fn the_program_ends_when_its_parent_asks_for_it_and_the_input_may_end_meanwhile() {
    let mut program = FollowedProgram::start();
    program.write("stop");
    program.input = None;
    assert_eq!(program.exit_code(), Some(0));
}

#[test]
fn a_line_of_the_parent_reloads_the_configuration_and_other_lines_are_told() {
    let mut program = FollowedProgram::start();
    program.write("restart");
    assert_eq!(program.until("neither stop nor reload")["line"], "restart");
    write_config(&program.folder, "debug");
    program.write("reload");
    program.until("changed settings are in force");
    assert_eq!(program.child.try_wait().expect("a child of ours"), None);
}
