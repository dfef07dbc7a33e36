//! The section `upstream.exproto`.

use std::net::SocketAddr;

use toml::Value;

use crate::upstream::exproto::{ExProtoConfig, Node};

use super::groups::{link, tls};
use super::reader::ConfigReader;
use super::value_parsers::{
    broker_address, http_address, list, not_empty, reachable_address, text_with_content, whole,
};

/// Address of EMQX's exproto listener on this machine.
const LISTENER: &str = "127.0.0.1:7993";

pub(super) fn read(reader: &mut ConfigReader) -> ExProtoConfig {
    let key = |last: &str| format!("upstream.exproto.{last}");
    let nodes = nodes(reader);
    let handler_bind = SocketAddr::from(([127, 0, 0, 1], 9001));
    ExProtoConfig {
        nodes,
        ssl: tls(reader, "upstream.exproto.ssl"),
        adapter_connections: reader.read(&key("adapter_connections"), 2, whole(1..=64)),
        handler_bind: reader.read(&key("handler_bind"), handler_bind, reachable_address),
        proto_name: reader.read("clientinfo.proto_name", "exproto".to_owned(), text_with_content),
        link: link(reader, "upstream.exproto"),
    }
}

/// Reads the nodes: `listener` and `adapter` for a single node, or a list of several.
fn nodes(reader: &mut ConfigReader) -> Vec<Node> {
    let [listener, adapter, several] = ["listener", "adapter", "nodes"].map(|last| format!("upstream.exproto.{last}"));
    let one = Node {
        listeners: reader.read(&listener, vec![LISTENER.to_owned()], not_empty(list(broker_address(LISTENER)))),
        adapter: reader.read(&adapter, "http://127.0.0.1:9100".to_owned(), http_address),
    };
    let nodes = reader.read(&several, None, |value| not_empty(list(node))(value).map(Some));
    for key in [listener, adapter] {
        if reader.has(&several) && reader.has(&key) {
            reader.refuse(&key, "set this key or upstream.exproto.nodes, not both");
        }
    }
    nodes.unwrap_or_else(|| vec![one])
}

fn node(value: &Value) -> Result<Node, String> {
    const ALLOWED: &str = "expected { listener = \"host:port\", adapter = \"http://host:port\" }";
    let table =
        value.as_table().filter(|table| table.keys().all(|key| ["listener", "adapter"].contains(&key.as_str())));
    let entries = table.and_then(|table| table.get("listener").zip(table.get("adapter")));
    let (listener, adapter) = entries.ok_or(ALLOWED)?;
    Ok(Node { listeners: not_empty(list(broker_address(LISTENER)))(listener)?, adapter: http_address(adapter)? })
}
