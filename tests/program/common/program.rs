//! The built program, started with any arguments, and watched from outside.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;

pub(crate) struct Program {
    child: Child,
    output: PathBuf,
}

impl Program {
    /// Starts it in a folder, where its output is kept too, and waits until its admin listener is there.
    pub(crate) fn start(folder: &Path, arguments: &[&str]) -> Self {
        let output = folder.join("output");
        let file = File::create(&output).expect("a place for the output");
        let child = Command::new(env!("CARGO_BIN_EXE_lwm2m-gateway"))
            .args(arguments)
            .current_dir(folder)
            .env("NO_COLOR", "1")
            .stdin(Stdio::null())
            .stdout(file.try_clone().expect("an open file"))
            .stderr(file)
            .spawn()
            .expect("the program is built");
        let mut program = Self { child, output };
        while super::admin::address(&program.output()).is_none() {
            let ended = program.child.try_wait().expect("a child of ours");
            assert!(ended.is_none(), "it ended:\n{}", program.output());
            thread::yield_now();
        }
        program
    }

    pub(crate) fn output(&self) -> String {
        fs::read_to_string(&self.output).expect("the output is text")
    }

    /// The sum of all series that begin so.
    pub(crate) fn metric(&self, series: &str) -> f64 {
        let address = super::admin::address(&self.output()).expect("it has printed where");
        super::admin::sum(&super::admin::ask(address, "/metrics").1, series)
    }

    pub(crate) fn signal(&self, signal: &str) {
        send_signal(signal, self.child.id());
    }
}

/// Sends a signal, by its name without SIG, to a process.
pub(crate) fn send_signal(signal: &str, process: u32) {
    let done = Command::new("kill").args([format!("-{signal}"), process.to_string()]).status();
    assert!(done.expect("there is a kill").success());
}

impl Drop for Program {
    fn drop(&mut self) {
        self.child.kill().expect("a child of ours");
        self.child.wait().expect("a child of ours");
    }
}
