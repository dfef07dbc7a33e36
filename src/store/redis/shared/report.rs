//! What the nodes of a cluster tell of themselves, for people. It decides nothing.

use std::time::Duration;

use lwm2m_cluster::engine::NodeEntry;
use lwm2m_cluster::{EngineContact, NodeAddress};
use serde::{Deserialize, Serialize};

/// A node that announced itself in the last day.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AnnouncedNode {
    pub entry: NodeEntry,
    /// Whether the entry holds: the node has renewed it in time.
    pub is_alive: bool,
    /// The time since the node announced itself last.
    pub age: Duration,
    pub address: NodeAddress,
    /// `None` for a node of a version that reports nothing.
    pub report: Option<NodeReport>,
}

/// The report of a node, as JSON without spaces. A version leaves out what it does not know, and ignores members that
/// it does not know.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct NodeReport {
    pub version: String,
    /// The registered devices.
    pub devices: usize,
    /// The state of the node towards the store, when it last knew.
    pub engine: StoreContact,
    /// The numbers of the nodes that answer this one.
    pub peers: Vec<u8>,
    /// Whether the node gives its shards to the others.
    pub draining: bool,
    /// The fingerprint of the key with which the node seals records; empty in the report of an older version.
    pub seals_with: String,
    /// The fingerprints of the keys with which the node opens records.
    pub opens_with: Vec<String>,
    /// The URL of the console, if other machines may reach it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub console: Option<String>,
}

/// The state of a node towards the store.
#[cfg_attr(feature = "console", derive(utoipa::ToSchema))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StoreContact {
    /// The leases hold.
    Sure,
    /// No node reaches the store: the node serves from memory.
    AllWithout,
    /// The node reaches neither the store nor all other nodes.
    Alone,
    /// The leases may be lost: the shards are suspended.
    #[default]
    #[serde(other)]
    Unsure,
}

impl NodeReport {
    /// Adds the fingerprints of the keys, which have spaces between them, that of the sealing one first.
    pub(super) fn with_keys(self, fingerprints: &str) -> Self {
        let opens_with: Vec<String> = fingerprints.split(' ').map(str::to_owned).collect();
        Self { seals_with: opens_with.first().cloned().unwrap_or_default(), opens_with, ..self }
    }

    /// Returns the report as the store keeps it.
    pub(super) fn text(&self) -> String {
        let text = serde_json::to_string(self).expect("all members are texts, numbers and truth values");
        // A space would end it there. None of the members has one.
        text.replace(' ', "")
    }

    pub(crate) fn parse(text: &str) -> Option<Self> {
        serde_json::from_str(text).ok()
    }
}

impl From<EngineContact> for StoreContact {
    fn from(contact: EngineContact) -> Self {
        match contact {
            EngineContact::Sure => Self::Sure,
            EngineContact::AllWithout => Self::AllWithout,
            EngineContact::Alone => Self::Alone,
            EngineContact::Unsure => Self::Unsure,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_one_word_and_a_newer_one_is_read() {
        let report =
            NodeReport { version: "1.2.3".to_owned(), devices: 9, peers: vec![0, 127], ..NodeReport::default() };
        assert!(!report.text().contains(' '));
        assert_eq!(NodeReport::parse(&report.text()), Some(report));
        let newer = r#"{"version":"9","engine":"what","of":{"later":true}}"#;
        let read = NodeReport::parse(newer).unwrap();
        assert_eq!((read.version.as_str(), read.devices, read.engine), ("9", 0, StoreContact::Unsure));
        assert_eq!(NodeReport::parse("no report"), None);
    }
}
