//! A Redis server whose time and run are those of a model.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use ::redis::{Arg, Cmd, FromRedisValue, RedisConnectionInfo, cmd};
use tempfile::TempDir;
use tokio::net::UnixStream;

use super::super::super::connection::{RedisConnection, hand_over};
use lwm2m_cluster::WallTime;
use lwm2m_cluster::engine::RunId;

/// What the scripts ask, and what they ask in its place here.
const REPLACED: [(&str, &str); 2] = [
    ("redis.call('TIME')", "redis.call('HMGET', 'clock', 'seconds', 'microseconds')"),
    ("redis.call('INFO', 'server')", "redis.call('GET', 'run')"),
];

pub(super) struct ModelledServer {
    child: Child,
    connection: RedisConnection,
    _folder: TempDir,
}

impl ModelledServer {
    /// Starts a server; `None` where none is installed.
    pub(super) async fn start() -> Option<Self> {
        let folder = TempDir::new().expect("a place for the server");
        let socket = folder.path().join("socket");
        let mut command = Command::new("redis-server");
        command.args(["--port", "0", "--save", "", "--unixsocket"]).arg(&socket).arg("--dir").arg(folder.path());
        let Ok(child) = command.stdout(Stdio::null()).spawn() else {
            assert!(std::env::var_os("CI").is_none(), "CI has redis-server");
            println!("skipped: redis-server is not installed");
            return None;
        };
        let mut stream = UnixStream::connect(&socket).await;
        for _ in 0..400 {
            if stream.is_ok() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
            stream = UnixStream::connect(&socket).await;
        }
        let stream = stream.expect("the server listens");
        let info = RedisConnectionInfo::default().set_skip_set_lib_name();
        let connection = hand_over("the server".to_owned(), stream, &info).await.expect("the server answers");
        Some(Self { child, connection, _folder: folder })
    }

    /// Sets the time and the run that the scripts read.
    pub(super) async fn set(&mut self, time: WallTime, run: RunId) {
        let mut clock = cmd("HSET");
        clock.arg("clock").arg("seconds").arg(time.0 / 1_000).arg("microseconds").arg(time.0 % 1_000 * 1_000);
        let _: u64 = self.ask(&clock).await;
        let _: String = self.ask(cmd("SET").arg("run").arg(format!("run_id:{:016x}{:024x}", run.0, 7))).await;
    }

    /// Carries out a command. A script reads the time and the run that were set.
    pub(super) async fn ask<T: FromRedisValue>(&mut self, command: &Cmd) -> T {
        let mut replaced = Cmd::new();
        for argument in command.args_iter() {
            let Arg::Simple(argument) = argument else { panic!("no command has a cursor") };
            match std::str::from_utf8(argument) {
                Ok(text) => replaced.arg(REPLACED.iter().fold(text.to_owned(), |text, (of, to)| text.replace(of, to))),
                Err(_) => replaced.arg(argument),
            };
        }
        self.connection.ask(&replaced).await.expect("the server answers")
    }
}

impl Drop for ModelledServer {
    fn drop(&mut self) {
        self.child.kill().expect("a child of ours");
        self.child.wait().expect("a child of ours");
    }
}
