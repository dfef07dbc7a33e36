//! The section `cluster`.

use std::net::SocketAddr;
use std::num::NonZero;
use std::path::PathBuf;
use std::time::Duration;

use toml::Value;

use crate::cluster::config::ClusterConfig;
use crate::store::{StoreConfig, StoreKind};
use crate::tls::TlsConfig;
use crate::upstream::UpstreamConfig;
use lwm2m_cluster::engine::Timing;
use lwm2m_cluster::{Isolated, NodeNumber};
use lwm2m_core::gateway::config::GatewayConfig;

use super::reader::ConfigReader;
use super::value_parsers::{
    HOUR, MILLISECOND, SECOND, SOCKET_ADDRESS, choice, duration, host_and_port, parsed, switch, text_with_content,
    whole,
};

/// Minimum length of tokens that name a shard, in bytes.
const SHORTEST_TOKEN: usize = 4;
/// The number of renewals in the time of a lease that a node may miss.
const RENEWALS: u32 = 5;
/// The time for which a node forwards datagrams after it has given up its shards, unless another one is set.
const LINGER: Duration = Duration::from_secs(15);
/// The port at which nodes connect to each other, unless another one is set.
const PORT: u16 = 5690;
/// The keys of the certificates, and what they name.
const CERTIFICATES: [(&str, &str); 3] = [
    ("cluster.cacertfile", "the certificate of the authority that issues those of the nodes, and no others"),
    ("cluster.certfile", "the certificate of the node, which has the name of the node as a DNS name"),
    ("cluster.keyfile", "the key of cluster.certfile"),
];
/// Maximum length of the name of a node.
const LONGEST_NAME: usize = 63;

/// The parts of the configuration that a cluster restricts.
pub(crate) struct ClusterSurroundings<'a> {
    pub gateway: &'a GatewayConfig,
    pub store: &'a StoreConfig,
    pub upstream: &'a UpstreamConfig,
    pub threads: NonZero<u8>,
}

/// Reads the section; `None` if it is not enabled. Features that a cluster does not have are refused.
pub(crate) fn read(reader: &mut ConfigReader, surroundings: &ClusterSurroundings) -> Option<ClusterConfig> {
    let is_enabled = reader.read("cluster.enable", false, switch);
    let node = reader.read("cluster.node", String::new(), name);
    let number = reader.read("cluster.number", None, |value| whole(0..=127)(value).map(Some));
    let timing = timing(reader);
    let isolated = [("serve", Isolated::Serve), ("suspend", Isolated::Suspend)];
    let isolated = reader.read("cluster.isolated", Isolated::Serve, choice(isolated));
    let weight = reader.read("cluster.weight", 1, whole(0..=1_000));
    let moves_at_once = reader.read("cluster.moves_at_once", 2, whole(1..=256));
    let linger = reader.read("cluster.linger", LINGER, duration(Duration::ZERO..=HOUR));
    let bind = reader.read("cluster.bind", SocketAddr::from(([0, 0, 0, 0], PORT)), parsed(SOCKET_ADDRESS));
    let advertise = reader.read("cluster.advertise", None, |value| host_and_port(value).map(Some));
    let tls = certificates(reader);
    let is_direct = reader.read("cluster.direct", false, switch);
    if !is_enabled {
        return None;
    }
    if node.is_empty() {
        reader.refuse("cluster.node", "required: a name that no other node of the cluster has, such as \"gw-0\"");
    }
    let number = number.or_else(|| number_in(&node));
    let number = number.and_then(|number: u8| NodeNumber::try_from(u64::from(number)).ok());
    if number.is_none() && !node.is_empty() {
        let problem = "required: a number from 0 to 127 that no other node has, since cluster.node does not end in one";
        reader.refuse("cluster.number", problem);
    }
    refuse_combinations(reader, surroundings);
    require_certificates(reader);
    let advertise = advertise.unwrap_or_else(|| format!("{node}:{}", bind.port()));
    let number = number.unwrap_or(NodeNumber::SINGLE);
    Some(ClusterConfig {
        node,
        number,
        weight,
        timing,
        isolated,
        moves_at_once,
        linger,
        bind,
        advertise,
        tls,
        is_direct,
    })
}

fn timing(reader: &mut ConfigReader) -> Timing {
    let default = Timing::default();
    let timing = Timing {
        lease: reader.read("cluster.lease", default.lease, duration(SECOND..=60 * SECOND)),
        renew: reader.read("cluster.renew", default.renew, duration(100 * MILLISECOND..=12 * SECOND)),
        grace: reader.read("cluster.grace", default.grace, duration(SECOND..=HOUR)),
    };
    if reader.all_valid(&["cluster.lease", "cluster.renew", "cluster.grace"]) {
        if timing.renew * RENEWALS > timing.lease {
            reader.refuse("cluster.renew", format!("expected at most a fifth of cluster.lease, {:?}", timing.lease));
        }
        if timing.grace < timing.lease {
            reader.refuse("cluster.grace", format!("expected at least cluster.lease, {:?}", timing.lease));
        }
    }
    timing
}

/// Reads the certificates by which the nodes know each other. Other names and authorities than these are not accepted.
fn certificates(reader: &mut ConfigReader) -> TlsConfig {
    let file = |value: &Value| text_with_content(value).map(|file| Some(PathBuf::from(file)));
    let [cacertfile, certfile, keyfile] = CERTIFICATES.map(|(key, _)| reader.read(key, None, file));
    TlsConfig { cacertfile, certfile, keyfile, ..TlsConfig::default() }
}

fn require_certificates(reader: &mut ConfigReader) {
    for (key, what) in CERTIFICATES {
        if !reader.has(key) {
            reader.refuse(key, format!("required: {what}"));
        }
    }
}

/// Refuses features that a cluster does not have.
fn refuse_combinations(reader: &mut ConfigReader, surroundings: &ClusterSurroundings) {
    let ClusterSurroundings { gateway, store, upstream, threads } = surroundings;
    let is_kept = store.kind == StoreKind::Redis && store.enable != Some(false);
    let refusals = [
        (!is_kept, "store.kind = \"redis\" with the store enabled: it has the leases and the records of all nodes"),
        (
            matches!(upstream, UpstreamConfig::ExProto(_)),
            "upstream.kind = \"mqtt\": the exproto gateway of EMQX calls one handler, and so one node",
        ),
        (threads.get() > 1, "driver.threads = 1: devices are divided among threads or among nodes, not both"),
        (
            gateway.coap.token_length < SHORTEST_TOKEN,
            "coap.token_length = 4 or more: the first byte of a token names the shard, and the others have to be hard \
             to guess",
        ),
        (gateway.bootstrap.is_some(), "bootstrap.enable = false: the nodes do not share the keys that bootstrap makes"),
        (gateway.firmware.login.is_some(), "firmware.mqtt = false: a campaign knows the devices of one node"),
        (
            gateway.status_login.is_some(),
            "translators.status.own_client = false: the nodes would take the client from each other",
        ),
    ];
    for (is_refused, reason) in refusals {
        if is_refused {
            reader.refuse("cluster.enable", format!("a cluster requires {reason}"));
        }
    }
}

/// Returns the number at the end of a name, such as that of a pod of a StatefulSet.
fn number_in(node: &str) -> Option<u8> {
    let digits = node.len() - node.trim_end_matches(|character: char| character.is_ascii_digit()).len();
    node[node.len() - digits..].parse().ok()
}

fn name(value: &Value) -> Result<String, String> {
    let known = |byte: u8| byte.is_ascii_alphanumeric() || b"-.".contains(&byte);
    let fits = |text: &&str| (1..=LONGEST_NAME).contains(&text.len()) && text.bytes().all(known);
    let given = value.as_str().filter(fits);
    given.map(str::to_owned).ok_or_else(|| "expected 1 to 63 letters, digits, \"-\" and \".\"".to_owned())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::config::Config;
    use crate::config::tests::mistakes;

    const CLUSTER: &str = "upstream.kind = \"mqtt\"\nstore.kind = \"redis\"\nstore.redis.seal_keyfile = \"seal\"\n\
                           cluster.enable = true\n";
    const CERTIFIED: &str = "cluster.cacertfile = \"ca\"\ncluster.certfile = \"node\"\ncluster.keyfile = \"key\"\n";

    fn cluster(lines: &str) -> ClusterConfig {
        let config = Config::from_table(format!("{CLUSTER}{CERTIFIED}{lines}").parse().unwrap(), []).unwrap();
        config.cluster.expect("a cluster")
    }

    #[test]
    fn the_number_of_a_node_is_at_the_end_of_its_name_or_given() {
        assert_eq!(cluster("cluster.node = \"gw-12\"").number.number(), 12);
        assert_eq!(cluster("cluster.node = \"gw\"\ncluster.number = 7").number.number(), 7);
        assert_eq!(cluster("cluster.node = \"gw-1\"\ncluster.number = 7").number.number(), 7);
        for (lines, key) in [
            ("cluster.node = \"gw\"", "cluster.number: required"),
            ("cluster.node = \"gw-128\"", "cluster.number: required"),
            ("", "cluster.node: required"),
        ] {
            let found = mistakes(&format!("{CLUSTER}{CERTIFIED}{lines}"));
            assert!(found.len() == 1 && found[0].starts_with(key), "{found:?}");
        }
    }

    #[test]
    fn what_the_nodes_cannot_share_is_refused_with_the_reason() {
        let refused = |lines: &str, reason: &str| {
            let found = mistakes(&format!("{lines}\n{CERTIFIED}cluster.node = \"gw-0\""));
            let begin = format!("cluster.enable = true: a cluster requires {reason}");
            assert!(found.len() == 1 && found[0].starts_with(&begin), "{found:?}");
        };
        refused("upstream.kind = \"mqtt\"\ncluster.enable = true", "store.kind = \"redis\"");
        refused(&CLUSTER.replace("mqtt", "exproto"), "upstream.kind = \"mqtt\"");
        refused(&format!("{CLUSTER}driver.threads = 2"), "driver.threads = 1");
        refused(&format!("{CLUSTER}firmware.mqtt = true"), "firmware.mqtt = false");
        refused(&format!("{CLUSTER}coap.token_length = 3"), "coap.token_length = 4 or more");
    }

    #[test]
    fn other_nodes_are_known_by_certificates_and_reach_the_node_by_its_name_unless_an_address_is_given() {
        let found = mistakes(&format!("{CLUSTER}cluster.node = \"gw-0\""));
        let keys = ["cluster.cacertfile: required", "cluster.certfile: required", "cluster.keyfile: required"];
        assert!(found.len() == 3 && keys.iter().zip(&found).all(|(key, found)| found.starts_with(key)), "{found:?}");
        let advertised = |lines: &str| cluster(&format!("cluster.node = \"gw-0\"\n{lines}")).advertise;
        assert_eq!(advertised(""), "gw-0:5690");
        assert_eq!(advertised("cluster.bind = \"10.0.0.1:700\""), "gw-0:700");
        assert_eq!(advertised("cluster.advertise = \"gw-0.gw:1\""), "gw-0.gw:1");
    }

    #[test]
    fn a_lease_has_time_for_five_renewals() {
        let lines =
            "cluster.node = \"gw-0\"\ncluster.lease = \"1s\"\ncluster.renew = \"200ms\"\ncluster.grace = \"2s\"";
        assert_eq!(cluster(lines).timing.renew, Duration::from_millis(200));
        let found = mistakes(&format!("{CLUSTER}{CERTIFIED}{}", lines.replace("200ms", "201ms")));
        assert!(found.len() == 1 && found[0].contains("at most a fifth of cluster.lease"), "{found:?}");
        let found = mistakes(&format!("{CLUSTER}{CERTIFIED}{}", lines.replace("lease = \"1s\"", "lease = \"3s\"")));
        assert!(found.len() == 1 && found[0].contains("at least cluster.lease"), "{found:?}");
    }
}
