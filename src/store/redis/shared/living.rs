//! The nodes that run, as the store knows them, for commands that are no node.

use ::redis::{Pipeline, cmd};

use super::super::RedisError;
use super::super::connection::RedisConnection;
use super::report::NodeReport;

/// A node whose entry holds.
pub(crate) struct LivingNode {
    pub name: String,
    pub report: Option<NodeReport>,
}

/// Returns the nodes whose entries hold.
pub(crate) async fn living_nodes(
    connection: &mut RedisConnection,
    prefix: &str,
) -> Result<Vec<LivingNode>, RedisError> {
    let mut questions = Pipeline::new();
    questions.add_command(cmd("HVALS").arg(format!("{prefix}:nodes")).clone()).add_command(cmd("TIME"));
    let (entries, time): (Vec<String>, Vec<u64>) = connection.ask_all(&questions).await?;
    let now = time.first().copied().unwrap_or_default().saturating_mul(1_000);
    Ok(entries.iter().filter_map(|entry| living_node(entry, now)).collect())
}

/// Reads an entry: its end, incarnation, weight, whether the node takes shards, when it was seen, name, address, and the
/// report. `now` is the time of the server in milliseconds.
fn living_node(entry: &str, now: u64) -> Option<LivingNode> {
    let mut fields = entry.splitn(8, ' ');
    let ends: u64 = fields.next()?.parse().ok()?;
    let name = fields.nth(4)?.to_owned();
    let report = fields.nth(1).and_then(NodeReport::parse);
    (ends > now).then_some(LivingNode { name, report })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_lives_until_its_entry_ends() {
        let entry = r#"5000 1 2 1 400 gw-0 a:1 {"version":"1.2.3"}"#;
        let node = living_node(entry, 4_999).expect("it lives");
        assert_eq!((node.name.as_str(), node.report.map(|report| report.version).as_deref()), ("gw-0", Some("1.2.3")));
        assert!(living_node(entry, 5_000).is_none());
        assert!(living_node("5000 1 2 1 400 gw-0 a:1", 1).is_some_and(|node| node.report.is_none()));
        assert!(living_node("what", 0).is_none());
    }
}
