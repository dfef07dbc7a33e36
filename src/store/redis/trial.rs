//! Tries the server for `check --connect`. Reads who uses the store, and changes nothing.

use super::config::RedisConfig;
use super::users::{StoreUser, check_new_key, users};
use super::{RedisError, check_about, dialer, layout, seal_keys, shared};

/// The answers of a server that can be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RedisTrial {
    /// The address, for people.
    pub server: String,
    /// Whether the server writes an append-only file.
    pub is_persistent: bool,
    /// The gateway without a cluster whose lease has not expired.
    pub user: Option<String>,
    /// The nodes that run.
    pub nodes: Vec<String>,
    pub sealing: SealingState,
}

/// The keys with which records are sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SealingState {
    /// All records have the sealing key of the configuration, or there are no records.
    OneKey,
    /// All records have the sealing key of the configuration, which also has a second key that is not needed.
    OtherUnused,
    /// All records have the second key of the configuration, which opens records but seals none.
    OtherOnly,
    /// Records have either key: the key is being changed.
    Both,
}

/// Tests whether the server and its records could be used, by this node or without a cluster; nothing is changed there.
///
/// # Errors
/// The server cannot be reached or used, it has records of another format or key, a node that runs does not know the key
/// of the configuration, or a file of the settings cannot be read.
pub(crate) async fn try_out(config: &RedisConfig, node: Option<&str>) -> Result<RedisTrial, RedisError> {
    let keys = seal_keys(config)?;
    let fingerprints = keys.fingerprints()?;
    let mut connection = dialer(config)?.connect().await?;
    let format = if node.is_some() { shared::FORMAT } else { layout::FORMAT };
    let noted = check_about(&mut connection, (&config.prefix, &fingerprints), format).await?;
    let (users, _) = users(&mut connection, &config.prefix).await?;
    if let Some(node) = node {
        check_new_key(&users, (noted.as_deref(), &fingerprints), node)?;
    }
    let living = |is_node: bool| {
        let living = users.iter().filter(move |user| user.lives && user.is_node == is_node);
        living.map(|user: &StoreUser| user.name.clone())
    };
    Ok(RedisTrial {
        server: connection.server.clone(),
        is_persistent: connection.is_persistent,
        user: living(false).next(),
        nodes: living(true).collect(),
        sealing: sealing_state(noted.as_deref().unwrap_or_default(), &fingerprints),
    })
}

/// Compares the keys of the records with those of the configuration, of which the first one seals.
fn sealing_state(noted: &str, known: &str) -> SealingState {
    let (sealing, other) = known.split_once(' ').map_or((known, None), |(sealing, other)| (sealing, Some(other)));
    let is_noted = |key: &str| noted.split(' ').any(|noted| noted == key);
    match other {
        Some(other) if is_noted(other) && is_noted(sealing) => SealingState::Both,
        Some(other) if is_noted(other) => SealingState::OtherOnly,
        Some(_) => SealingState::OtherUnused,
        None => SealingState::OneKey,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_steps_of_a_change_of_the_key_are_told_apart() {
        assert_eq!(sealing_state("", "old"), SealingState::OneKey);
        assert_eq!(sealing_state("old", "old"), SealingState::OneKey);
        assert_eq!(sealing_state("old", "old new"), SealingState::OtherUnused, "the first round");
        assert_eq!(sealing_state("old", "new old"), SealingState::OtherOnly, "before the second round");
        assert_eq!(sealing_state("old new", "new old"), SealingState::Both, "before rekey");
        assert_eq!(sealing_state("new", "new old"), SealingState::OtherUnused, "after it");
    }
}
