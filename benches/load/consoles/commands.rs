//! The application of the swallowing upstream: it sends commands as datagrams, and gets their answers.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use serde::Deserialize;
use serde_json::json;
use tokio::net::UnixDatagram;
use tokio::time::timeout;

const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// The size of the largest answer.
const ANSWER_BYTES: usize = 64 * 1024;

/// A socket, whose file is removed on drop.
pub(super) struct CommandSocket {
    socket: UnixDatagram,
    path: PathBuf,
}

/// The part of an answer that matters here.
#[derive(Deserialize)]
struct CommandAnswer {
    #[serde(rename = "reqID")]
    id: Option<u64>,
}

impl CommandSocket {
    /// Connects to the upstream at this socket.
    pub(super) fn connect(upstream: &Path) -> anyhow::Result<Self> {
        let path = upstream.with_extension("commands");
        let socket = UnixDatagram::bind(&path).context("the socket for commands")?;
        socket.connect(upstream).context("the server has no upstream that swallows")?;
        Ok(Self { socket, path })
    }

    /// Sends a command to a device, and waits until it is answered.
    pub(super) async fn command(&self, endpoint: &str, id: u64, msg_type: &str, path: &str) -> anyhow::Result<()> {
        let command = json!({ "reqID": id, "msgType": msg_type, "data": { "path": path } });
        self.socket.send(format!("{endpoint}\n{command}").as_bytes()).await.context("sending a command")?;
        timeout(ANSWER_TIMEOUT, self.answer(id)).await.with_context(|| format!("command {id} was not answered"))?
    }

    async fn answer(&self, id: u64) -> anyhow::Result<()> {
        let mut buffer = vec![0; ANSWER_BYTES];
        loop {
            let length = self.socket.recv(&mut buffer).await?;
            let answer: CommandAnswer = serde_json::from_slice(&buffer[..length])?;
            if answer.id == Some(id) {
                return Ok(());
            }
        }
    }
}

impl Drop for CommandSocket {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.path) {
            eprintln!("load: {} is left: {error}", self.path.display());
        }
    }
}
