//! A connection to the primary: found, authenticated and checked.

use std::time::Duration;

use ::redis::aio::MultiplexedConnection;
use ::redis::{AsyncConnectionConfig, Cmd, FromRedisValue, Pipeline, RedisConnectionInfo, cmd};
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::tls::{Connector, TlsError};
use lwm2m_base::secret::Secret;

use super::config::{RedisConfig, RedisUrl};

/// Maximum time for a connection, and for an answer.
pub(super) const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

/// The oldest version that has what the scripts need.
const OLDEST: u32 = 7;

/// Reasons why a server cannot be used now. None contains a secret.
#[derive(Debug, Error)]
pub enum ConnectionError {
    #[error("{0}: it does not answer")]
    Silent(String),
    #[error("{server}: {problem}")]
    Failed { server: String, problem: String },
    #[error("{0}: it is not a primary; name the primary in urls, or use sentinels")]
    Replica(String),
    #[error("{0}: version {1} is older than {OLDEST}")]
    TooOld(String, String),
    #[error("{0}: maxmemory-policy is {1}, and records would be evicted; it has to be noeviction")]
    Evicts(String, String),
    #[error("{0}: Redis Cluster is not supported; use one primary with replicas and Sentinel")]
    Cluster(String),
    #[error("{0}: it does not know a primary with the name {1:?} (store.redis.master)")]
    NoPrimary(String, String),
}

/// Opens connections by the settings.
pub(crate) struct RedisDialer {
    config: RedisConfig,
    /// The password, unless the URL has one.
    password: Option<Secret>,
    connector: Connector,
}

/// An open connection. It is closed when it is dropped.
pub(crate) struct RedisConnection {
    /// The address, for people.
    pub server: String,
    /// Whether the server writes an append-only file.
    pub is_persistent: bool,
    connection: MultiplexedConnection,
    task: JoinHandle<()>,
}

/// Returns the connection for a request.
///
/// # Errors
///
/// Fails if there is none.
pub(super) fn connected(connection: &mut Option<RedisConnection>) -> Result<&mut RedisConnection, ConnectionError> {
    connection.as_mut().ok_or_else(|| ConnectionError::Silent("the store".to_owned()))
}

/// Returns the address of the connected server, for people.
pub(super) fn server(connection: &Option<RedisConnection>) -> &str {
    connection.as_ref().map_or("the server", |connection| connection.server.as_str())
}

impl RedisDialer {
    pub(super) fn new(config: RedisConfig, password: Option<Secret>) -> Result<Self, TlsError> {
        let connector = Connector::new(&config.ssl)?;
        Ok(Self { config, password, connector })
    }

    /// Connects to the primary.
    pub(super) async fn connect(&self) -> Result<RedisConnection, ConnectionError> {
        let mut last = None;
        let asked = if self.config.sentinels.is_empty() { &self.config.urls } else { &self.config.sentinels };
        for url in asked {
            let connected = match self.config.sentinels.is_empty() {
                true => self.open(url).await,
                false => self.by_sentinel(url).await,
            };
            match connected {
                Ok(connection) => return Ok(connection),
                Err(error) => last = Some(error),
            }
        }
        Err(last.expect("the configuration has a server"))
    }

    async fn by_sentinel(&self, sentinel: &RedisUrl) -> Result<RedisConnection, ConnectionError> {
        let mut connection = self.dial(sentinel, sentinel.password.as_ref(), 0).await?;
        let mut question = cmd("SENTINEL");
        question.arg("get-master-addr-by-name").arg(&self.config.master);
        let answer: Option<(String, u16)> = connection.ask(&question).await?;
        let Some((host, port)) = answer else {
            return Err(ConnectionError::NoPrimary(sentinel.to_string(), self.config.master.clone()));
        };
        let primary = RedisUrl { host, port, tls: sentinel.tls, username: None, password: None };
        self.open(&primary).await
    }

    /// Connects to a server, and checks that it can be used.
    async fn open(&self, url: &RedisUrl) -> Result<RedisConnection, ConnectionError> {
        let password = url.password.as_ref().or(self.password.as_ref());
        let mut connection = self.dial(url, password, self.config.database).await?;
        let info: String = connection.ask(&cmd("INFO")).await?;
        connection.is_persistent = check(&connection.server, &info)?;
        Ok(connection)
    }

    async fn dial(
        &self,
        url: &RedisUrl,
        password: Option<&Secret>,
        database: u8,
    ) -> Result<RedisConnection, ConnectionError> {
        let server = url.to_string();
        let failed = |problem: String| ConnectionError::Failed { server: server.clone(), problem };
        let dialing = async {
            let stream = TcpStream::connect((url.host.as_str(), url.port)).await;
            let stream = stream.map_err(|error| failed(error.to_string()))?;
            stream.set_nodelay(true).map_err(|error| failed(error.to_string()))?;
            let info = RedisConnectionInfo::default().set_db(i64::from(database)).set_skip_set_lib_name();
            let username = url.username.as_deref().or(self.config.username.as_deref());
            let info = match (username, password) {
                (Some(username), Some(_)) => info.set_username(username),
                _ => info,
            };
            let info = match password {
                Some(password) => info.set_password(password.reveal()),
                None => info,
            };
            match url.tls {
                true => {
                    let stream = self.connector.connect(&url.host, stream).await;
                    hand_over(server.clone(), stream.map_err(|error| failed(error.to_string()))?, &info).await
                }
                false => hand_over(server.clone(), stream, &info).await,
            }
        };
        timeout(ANSWER_TIMEOUT, dialing).await.map_err(|_| ConnectionError::Silent(server.clone()))?
    }
}

/// Authenticates at a server by a stream.
pub(super) async fn hand_over(
    server: String,
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    info: &RedisConnectionInfo,
) -> Result<RedisConnection, ConnectionError> {
    // Each request has a time-out of its own.
    let config = AsyncConnectionConfig::new().set_response_timeout(None);
    let opened = MultiplexedConnection::new_with_config(info, stream, config).await;
    let (connection, driving) =
        opened.map_err(|error| ConnectionError::Failed { server: server.clone(), problem: error.to_string() })?;
    Ok(RedisConnection { server, is_persistent: true, connection, task: tokio::spawn(driving) })
}

impl RedisConnection {
    /// Sends a command and returns the answer.
    pub(super) async fn ask<T: FromRedisValue>(&mut self, command: &Cmd) -> Result<T, ConnectionError> {
        let answer = timeout(ANSWER_TIMEOUT, command.query_async(&mut self.connection)).await;
        let answer = answer.map_err(|_| ConnectionError::Silent(self.server.clone()))?;
        answer.map_err(|error| self.failed(&error))
    }

    /// Sends commands together and returns their answers, which may be large.
    pub(super) async fn ask_all<T: FromRedisValue>(&mut self, commands: &Pipeline) -> Result<T, ConnectionError> {
        let answer = timeout(10 * ANSWER_TIMEOUT, commands.query_async(&mut self.connection)).await;
        let answer = answer.map_err(|_| ConnectionError::Silent(self.server.clone()))?;
        answer.map_err(|error| self.failed(&error))
    }

    fn failed(&self, error: &::redis::RedisError) -> ConnectionError {
        ConnectionError::Failed { server: self.server.clone(), problem: error.to_string() }
    }
}

impl Drop for RedisConnection {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Checks the answer to `INFO`. Returns whether the server writes an append-only file.
fn check(server: &str, info: &str) -> Result<bool, ConnectionError> {
    let value = |name: &str| {
        let line = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.unwrap_or_default().trim().to_owned()
    };
    let version = value("redis_version");
    let major = version.split('.').next().and_then(|major| major.parse().ok());
    if major.is_none_or(|major: u32| major < OLDEST) {
        return Err(ConnectionError::TooOld(server.to_owned(), version));
    }
    if value("cluster_enabled") == "1" {
        return Err(ConnectionError::Cluster(server.to_owned()));
    }
    if value("role") != "master" {
        return Err(ConnectionError::Replica(server.to_owned()));
    }
    let policy = value("maxmemory_policy");
    if policy != "noeviction" {
        return Err(ConnectionError::Evicts(server.to_owned(), policy));
    }
    Ok(value("aof_enabled") == "1")
}

#[cfg(test)]
mod tests {
    use super::*;

    const INFO: &str = "# Server\r\nredis_version:7.0.15\r\n# Replication\r\nrole:master\r\n\
                        maxmemory_policy:noeviction\r\naof_enabled:0\r\ncluster_enabled:0\r\n";

    #[test]
    fn a_server_that_would_lose_records_is_refused() {
        assert_eq!(check("s", INFO).ok(), Some(false));
        assert_eq!(check("s", &INFO.replace("aof_enabled:0", "aof_enabled:1")).ok(), Some(true));
        for (of, to, said) in [
            ("7.0.15", "6.2.1", "s: version 6.2.1 is older than 7"),
            ("role:master", "role:slave", "s: it is not a primary; name the primary in urls, or use sentinels"),
            ("noeviction", "allkeys-lru", "maxmemory-policy is allkeys-lru"),
            ("cluster_enabled:0", "cluster_enabled:1", "Redis Cluster is not supported"),
        ] {
            let refused = check("s", &INFO.replace(of, to)).unwrap_err().to_string();
            assert!(refused.contains(said), "{refused}");
        }
    }
}
