//! The processes that use a store: the gateway without a cluster that has the lease, and the nodes that have announced
//! themselves.

use ::redis::{Cmd, Pipeline, cmd};

use super::RedisError;
use super::connection::RedisConnection;
use super::shared::NodeReport;

/// A process that uses the store, or has used it in the last day.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct StoreUser {
    /// The name of the node, or that of the gateway without a cluster.
    pub name: String,
    pub is_node: bool,
    /// Whether its lease or its entry is valid.
    pub lives: bool,
    /// The keys of the process; `None` for a version that does not report them.
    pub keys: Option<UserKeys>,
}

/// The fingerprints of the keys that a process knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct UserKeys {
    pub seals_with: String,
    pub opens_with: Vec<String>,
}

impl UserKeys {
    /// Reads fingerprints with spaces between them, that of the sealing key first.
    fn parse(fingerprints: &str) -> Option<Self> {
        let opens_with: Vec<String> = fingerprints.split_whitespace().map(str::to_owned).collect();
        let seals_with = opens_with.first()?.clone();
        Some(Self { seals_with, opens_with })
    }
}

/// Returns the processes that use the store, and the time of the server in milliseconds since 1970.
pub(crate) async fn users(connection: &mut RedisConnection, prefix: &str) -> Result<(Vec<StoreUser>, u64), RedisError> {
    let mut questions = Pipeline::new();
    questions.add_command(lease(prefix));
    questions.add_command(cmd("HVALS").arg(format!("{prefix}:nodes")).clone());
    questions.add_command(cmd("TIME"));
    let (lease, entries, time): (Vec<Option<String>>, Vec<String>, Vec<u64>) = connection.ask_all(&questions).await?;
    let now = milliseconds(&time);
    let mut nodes: Vec<StoreUser> = entries.iter().filter_map(|entry| node(entry, now)).collect();
    nodes.sort_by(|one, next| one.name.cmp(&next.name));
    Ok((gateway(lease, now).into_iter().chain(nodes).collect(), now))
}

/// Checks the key with which a node is to seal records. If none is sealed with it yet, all other nodes that run have to
/// know it. `noted` are the fingerprints of the keys of the records, and `known` those of the node, that of the sealing
/// one first.
pub(crate) fn check_new_key(
    users: &[StoreUser],
    (noted, known): (Option<&str>, &str),
    me: &str,
) -> Result<(), RedisError> {
    let sealing = known.split(' ').next().unwrap_or_default();
    if noted.is_none_or(|noted| noted.split(' ').any(|key| key == sealing)) {
        return Ok(());
    }
    let knows =
        |user: &StoreUser| user.keys.as_ref().is_some_and(|keys| keys.opens_with.iter().any(|key| key == sealing));
    match users.iter().find(|user| user.lives && user.is_node && user.name != me && !knows(user)) {
        Some(user) => Err(RedisError::NewSealKey(user.name.clone())),
        None => Ok(()),
    }
}

fn lease(prefix: &str) -> Cmd {
    let mut command = cmd("HMGET");
    command.arg(format!("{prefix}:lease")).arg("owner").arg("until").arg("keys");
    command
}

/// Reads the seconds since 1970 and the microseconds that the server tells.
fn milliseconds(time: &[u64]) -> u64 {
    let [seconds, microseconds] = *time else { return 0 };
    seconds.saturating_mul(1_000).saturating_add(microseconds / 1_000)
}

/// Reads the lease: its owner, its end, and the owner with the keys that it knows. Versions that did not report keys
/// leave the last one out of date.
fn gateway(lease: Vec<Option<String>>, now: u64) -> Option<StoreUser> {
    let [owner, until, keys]: [Option<String>; 3] = lease.try_into().ok()?;
    let name = owner.filter(|owner| !owner.is_empty())?;
    let lives = until?.parse::<u64>().ok()? > now;
    let keys = keys.as_deref().and_then(|keys| UserKeys::parse(keys.strip_prefix(&name)?.strip_prefix(' ')?));
    Some(StoreUser { name, is_node: false, lives, keys })
}

/// Reads the entry of a node: its end, incarnation, weight, whether the node takes shards, when it was seen, name,
/// address, and the report.
fn node(entry: &str, now: u64) -> Option<StoreUser> {
    let mut fields = entry.splitn(8, ' ');
    let lives = fields.next()?.parse::<u64>().ok()? > now;
    let name = fields.nth(4)?.to_owned();
    let report = fields.nth(1).and_then(NodeReport::parse);
    let keys = report.filter(|report| !report.seals_with.is_empty());
    let keys = keys.map(|NodeReport { seals_with, opens_with, .. }| UserKeys { seals_with, opens_with });
    Some(StoreUser { name, is_node: true, lives, keys })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(fingerprints: &str) -> Option<UserKeys> {
        UserKeys::parse(fingerprints)
    }

    #[test]
    fn a_node_lives_until_its_entry_ends_and_tells_its_keys() {
        let entry = r#"5000 1 2 1 400 gw-0 a:1 {"version":"9","seals_with":"n","opens_with":["n","o"]}"#;
        let read = node(entry, 4_999).expect("an entry");
        assert_eq!(read, StoreUser { name: "gw-0".to_owned(), is_node: true, lives: true, keys: keys("n o") });
        assert!(!node(entry, 5_000).expect("an entry").lives);
        for older in ["5000 1 2 1 400 gw-0 a:1", r#"5000 1 2 1 400 gw-0 a:1 {"version":"1.2.3"}"#] {
            assert!(node(older, 1).is_some_and(|node| node.lives && node.keys.is_none()), "{older}");
        }
        assert_eq!(node("what", 0), None);
    }

    #[test]
    fn the_keys_of_a_lease_are_those_of_its_owner() {
        let lease = |owner: &str, until: &str, keys: &str| {
            gateway([owner, until, keys].map(|text| Some(text.to_owned())).into(), 100_000)
        };
        let gateway_of = |lives, keys| StoreUser { name: "gw:1".to_owned(), is_node: false, lives, keys };
        assert_eq!(lease("gw:1", "100001", "gw:1 n o"), Some(gateway_of(true, keys("n o"))));
        assert_eq!(lease("gw:1", "100000", "gw:1 n"), Some(gateway_of(false, keys("n"))), "it has expired");
        assert_eq!(lease("gw:1", "100001", "gw:12 n"), Some(gateway_of(true, None)), "an older version took it after");
        assert_eq!(lease("", "100001", "gw:1 n"), None, "it was given up");
        assert_eq!(gateway(vec![None, None, None], 0), None);
        let without_keys = gateway(vec![Some("gw:1".to_owned()), Some("100001".to_owned()), None], 100_000);
        assert_eq!(without_keys, Some(gateway_of(true, None)));
    }

    #[test]
    fn a_new_key_is_used_when_all_nodes_that_run_know_it() {
        let node = |name: &str, lives, fingerprints| StoreUser {
            name: name.to_owned(),
            is_node: true,
            lives,
            keys: keys(fingerprints),
        };
        let check = |users: &[StoreUser], noted| {
            let checked = check_new_key(users, (noted, "new old"), "gw-0");
            checked.map_err(|error| error.to_string())
        };
        let knows = [node("gw-0", true, "old"), node("gw-1", true, "old new"), node("gw-2", false, "old")];
        assert_eq!(check(&knows, Some("old")), Ok(()), "the own name is that of the process before");
        for unaware in [node("gw-3", true, "old"), StoreUser { keys: None, ..node("gw-3", true, "old") }] {
            let users = [knows[1].clone(), unaware];
            assert!(check(&users, Some("old")).is_err_and(|error| error.contains("the node gw-3 does not know")));
            assert_eq!(check(&users, Some("old new")), Ok(()), "the key is in use");
            assert_eq!(check(&users, None), Ok(()), "there are no records");
        }
    }

    #[test]
    fn the_time_of_the_server_is_read() {
        assert_eq!((milliseconds(&[100, 5_999]), milliseconds(&[])), (100_005, 0));
    }
}
