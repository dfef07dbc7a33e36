//! Tries the server for `check --connect`. Reads who uses the store, and changes nothing.

use ::redis::{Pipeline, cmd};

use super::config::RedisConfig;
use super::lease::ProcessIdentity;
use super::seal::Seal;
use super::{RedisError, check_about, dialer, layout, seal_key, shared};

/// Holds what a server that can be used tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RedisTrial {
    /// The address, for people.
    pub server: String,
    /// Whether the server writes an append-only file.
    pub is_persistent: bool,
    /// The gateway whose lease has not expired.
    pub user: Option<String>,
}

/// Tests whether the server and its records could be used, in a cluster if `is_shared`; nothing is changed there.
///
/// # Errors
/// The server cannot be reached or used, it has records of another format or key, or a file of the settings cannot be
/// read.
pub(crate) async fn try_out(config: &RedisConfig, is_shared: bool) -> Result<RedisTrial, RedisError> {
    let seal = Seal::fingerprint(&seal_key(config)?)?;
    let mut connection = dialer(config)?.connect().await?;
    let format = if is_shared { shared::FORMAT } else { layout::FORMAT };
    check_about(&mut connection, (&config.prefix, &seal), format).await?;
    let identity = ProcessIdentity { prefix: config.prefix.clone(), owner: String::new(), seal };
    let mut questions = Pipeline::new();
    questions.add_command(identity.ask_lease()).add_command(cmd("TIME"));
    let (lease, time): (Vec<Option<String>>, Vec<u64>) = connection.ask_all(&questions).await?;
    Ok(RedisTrial {
        server: connection.server.clone(),
        is_persistent: connection.is_persistent,
        user: user(lease, &time),
    })
}

/// Returns the owner of a lease that has not expired. `time` is that of the server: seconds since 1970, microseconds.
fn user(lease: Vec<Option<String>>, time: &[u64]) -> Option<String> {
    let [Some(owner), Some(until)]: [Option<String>; 2] = lease.try_into().ok()? else { return None };
    let until: u64 = until.parse().ok()?;
    let is_used = !owner.is_empty() && until > time.first()?.saturating_mul(1000);
    is_used.then_some(owner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_that_was_given_up_or_has_expired_is_of_nobody() {
        let user = |owner: &str, until: &str| user(vec![Some(owner.to_owned()), Some(until.to_owned())], &[100, 5]);
        assert_eq!(user("gw:1", "104000").as_deref(), Some("gw:1"));
        assert_eq!(user("gw:1", "99999"), None);
        assert_eq!(user("", "104000"), None);
        assert_eq!(super::user(vec![None, None], &[100, 5]), None);
    }
}
