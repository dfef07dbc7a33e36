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

/// Sends a signal, by its name without SIG, to a process. A process that is to be stopped does nothing more when this
/// returns: on a busy machine its threads run for some milliseconds after the signal, and answer what comes.
pub(crate) fn send_signal(signal: &str, process: u32) {
    let done = Command::new("kill").args([format!("-{signal}"), process.to_string()]).status();
    assert!(done.expect("there is a kill").success());
    while signal == "STOP" && !is_stopped(process) {
        thread::yield_now();
    }
}

/// Returns whether all threads of a process are stopped (proc_pid_stat(5)).
fn is_stopped(process: u32) -> bool {
    let threads = fs::read_dir(format!("/proc/{process}/task")).expect("a process of ours");
    threads.map(|thread| thread.expect("a thread").path().join("stat")).all(|stat| {
        // A thread may have ended meanwhile. Its name, in parentheses, may contain anything.
        fs::read_to_string(stat)
            .is_ok_and(|stat| stat.rsplit_once(") ").is_some_and(|(_, state)| state.starts_with('T')))
    })
}

impl Drop for Program {
    fn drop(&mut self) {
        self.child.kill().expect("a child of ours");
        self.child.wait().expect("a child of ours");
    }
}
