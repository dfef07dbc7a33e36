//! Servers of the tests: Redis and Sentinel of Debian's package `redis-server`.

use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use tempfile::TempDir;

use crate::common::ports;
use crate::common::program::send_signal;

pub(crate) const SEAL: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";
const PASSWORD: &str = "ha:ha";

pub(crate) struct RedisServer {
    child: Child,
    pub address: SocketAddr,
    pub folder: TempDir,
}

impl RedisServer {
    /// Starts a server; `None` where none is installed.
    pub(crate) fn start() -> Option<Self> {
        Self::start_with(&[])
    }

    /// Starts a server with these options besides.
    pub(crate) fn start_with(options: &[&str]) -> Option<Self> {
        Self::launch(|address, folder| {
            let mut command = Command::new("redis-server");
            command.args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "yes", "--requirepass", PASSWORD]);
            command.args(["--masterauth", PASSWORD, "--port", &address.port().to_string()]).args(options);
            command.arg("--dir").arg(folder);
            command
        })
    }

    /// Starts a server that only speaks TLS, with this certificate.
    pub(crate) fn start_tls(certificate: &Path, key: &Path) -> Option<Self> {
        Self::launch(|address, folder| {
            let mut command = Command::new("redis-server");
            command.args(["--bind", "127.0.0.1", "--save", "", "--requirepass", PASSWORD, "--port", "0"]);
            command.args(["--tls-port", &address.port().to_string(), "--tls-auth-clients", "no"]);
            command.arg("--tls-cert-file").arg(certificate).arg("--tls-key-file").arg(key).arg("--dir").arg(folder);
            command
        })
    }

    /// Starts a Sentinel that watches this primary, `mymaster`.
    pub(crate) fn start_sentinel(primary: &Self) -> Option<Self> {
        Self::launch(|address, folder| {
            let file = folder.join("sentinel.conf");
            let lines = format!(
                "bind 127.0.0.1\nport {}\nsentinel monitor mymaster 127.0.0.1 {} 1\nsentinel auth-pass mymaster {PASSWORD}\n\
                 sentinel down-after-milliseconds mymaster 1000\nsentinel failover-timeout mymaster 5000\n",
                address.port(),
                primary.address.port(),
            );
            fs::write(&file, lines).expect("a place for the configuration");
            let mut command = Command::new("redis-server");
            command.arg(file).arg("--sentinel").current_dir(folder);
            command
        })
    }

    fn launch(command: impl FnOnce(SocketAddr, &Path) -> Command) -> Option<Self> {
        let folder = TempDir::new().expect("a place for the server");
        let address = ports::free_address();
        let Ok(child) = command(address, folder.path()).stdout(Stdio::null()).spawn() else {
            assert!(std::env::var_os("CI").is_none(), "CI has redis-server");
            println!("skipped: redis-server is not installed");
            return None;
        };
        fs::write(folder.path().join("seal"), SEAL).expect("a place for the key");
        let server = Self { child, address, folder };
        until("the server answers", || TcpStream::connect(address).is_ok());
        Some(server)
    }

    /// The configuration of a gateway that has its store here.
    pub(crate) fn lines(&self) -> String {
        self.lines_with(&[self])
    }

    pub(crate) fn lines_with(&self, servers: &[&Self]) -> String {
        let urls: Vec<String> = servers.iter().map(|server| format!("redis://:ha%3Aha@{}", server.address)).collect();
        format!("store.redis.urls = {urls:?}\n{}", self.lines_without_urls())
    }

    /// The configuration of a gateway that asks this Sentinel for the primary.
    pub(crate) fn sentinel_lines(&self) -> String {
        let sentinel = format!("redis://{}", self.address);
        format!("store.redis.sentinels = [{sentinel:?}]\n{}", self.lines_without_urls())
    }

    /// The configuration of a gateway that connects by TLS and trusts this authority.
    pub(crate) fn tls_lines(&self, authority: &Path) -> String {
        let url = format!("rediss://localhost:{}", self.address.port());
        let lines = self.lines_without_urls();
        format!("store.redis.urls = [{url:?}]\nstore.redis.ssl.cacertfile = {authority:?}\n{lines}")
    }

    fn lines_without_urls(&self) -> String {
        let seal = self.folder.path().join("seal");
        format!("store.redis.password = {PASSWORD:?}\nstore.kind = \"redis\"\nstore.redis.seal_keyfile = {seal:?}\n")
    }

    /// Sends a command and returns the first line of the answer.
    pub(crate) fn ask(&self, command: &str) -> String {
        self.ask_all(command).lines().nth(1).unwrap_or_default().to_owned()
    }

    /// Sends a command and returns all lines, of which the first is the answer to AUTH.
    pub(crate) fn ask_all(&self, command: &str) -> String {
        let mut stream = TcpStream::connect(self.address).expect("the server listens");
        stream.set_read_timeout(Some(Duration::from_secs(5))).expect("the option is known");
        write!(stream, "AUTH {PASSWORD}\r\n{command}\r\n").expect("the server reads");
        // A Sentinel knows no QUIT.
        stream.shutdown(Shutdown::Write).expect("the connection is open");
        let mut answers = String::new();
        stream.read_to_string(&mut answers).expect("the server answers");
        answers
    }

    pub(crate) fn signal(&self, signal: &str) {
        send_signal(signal, self.child.id());
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        self.child.kill().expect("a child of ours");
        self.child.wait().expect("a child of ours");
    }
}

#[track_caller]
pub(crate) fn until(what: &str, done: impl FnMut() -> bool) {
    until_within(Duration::from_secs(30), what, done);
}

/// Waits until this is so, at most for so long.
pub(crate) fn until_within(patience: Duration, what: &str, mut done: impl FnMut() -> bool) {
    for _ in 0..patience.as_millis() / 100 {
        if done() {
            return;
        }
        thread::park_timeout(Duration::from_millis(100));
    }
    panic!("never: {what}");
}
