//! EMQX's side of the link, written from ours, so that both sides agree.

use std::fmt;
use std::net::IpAddr;

use super::{ExProtoConfig, Node};
use lwm2m_core::gateway::config::Limits;

const GATEWAY: &str = include_str!("emqx/gateway.hocon");
const LISTENER: &str = include_str!("emqx/listener.hocon");
const SSL_OPTIONS: &str = include_str!("emqx/ssl_options.hocon");

const FOR_ONE_NODE: &str = "\
## EMQX's side of lwm2m-gateway, for EMQX 5.1 to 6.2, printed by `lwm2m-gateway emqx-config`. Save it as
## exproto.hocon, and load it into the running EMQX, without a restart:
##
## emqx ctl conf load --merge exproto.hocon
##
## Then `emqx ctl gateway list` shows exproto as running, and each LwM2M device is a client there: see
## `emqx ctl gateway-clients list exproto`. docs/emqx.md tells of the other ways: etc/emqx.conf, dashboard, environment.
";

const FOR_EACH_NODE: &str = "\
## EMQX's side of lwm2m-gateway, for EMQX 5.1 to 6.2, printed by `lwm2m-gateway emqx-config`. There is a part for each
## node: put it into etc/emqx.conf of that node, and restart the node. (`emqx ctl conf load` would give all nodes the
## same part.)
## Then `emqx ctl gateway list` shows exproto as running, and each LwM2M device is a client there: see
## `emqx ctl gateway-clients list exproto`.
";

const MIB: usize = 1024 * 1024;

/// The section `gateway.exproto` of each node of EMQX, in HOCON.
pub(crate) struct EmqxConfig<'a> {
    pub config: &'a ExProtoConfig,
    pub limits: &'a Limits,
}

impl fmt::Display for EmqxConfig<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.config.nodes.len() > 1 { FOR_EACH_NODE } else { FOR_ONE_NODE })?;
        for node in &self.config.nodes {
            writeln!(f)?;
            if self.config.nodes.len() > 1 {
                writeln!(f, "## The node whose ConnectionAdapter is {}:", node.adapter)?;
            }
            f.write_str(&self.gateway(node))?;
        }
        let size = self.limits.command_size.div_ceil(MIB);
        write!(
            f,
            "\n## The largest message that an application may publish. EMQX's default of 1MB is less than a firmware\n\
             ## image of 1 MiB in base64; the gateway accepts {size}MB (`limits.command_size`).\n\
             ##\n## mqtt.max_packet_size = {size}MB\n",
        )
    }
}

impl EmqxConfig<'_> {
    fn gateway(&self, node: &Node) -> String {
        let listeners = node.listeners.iter().zip(1..).map(|(listener, number)| self.listener(number, listener));
        let adapter = node.adapter.trim_start_matches("http://");
        GATEWAY
            .replace("@adapter@", &bind(adapter))
            .replace("@handler@", &format!("http://{}", self.handler()))
            .replace("@listeners@", &listeners.collect::<String>())
            .replace("@proto_name@", &self.config.proto_name.escape_default().to_string())
    }

    fn listener(&self, number: u32, listener: &str) -> String {
        let connections_per_second = self.config.link.connections_per_second;
        // The listener counts devices that register and those that are connected again.
        let rate = connections_per_second.saturating_add(self.limits.registers.total.per_second);
        let name = if number == 1 { "lwm2m".to_owned() } else { format!("lwm2m{number}") };
        let (kind, address, ssl_options) = match listener.strip_prefix("ssl://") {
            Some(address) => ("ssl", address, self.ssl_options()),
            None => ("tcp", listener, String::new()),
        };
        LISTENER
            .replace("@kind@", kind)
            .replace("@name@", &name)
            .replace("@listener@", &bind(address))
            // One more than devices, for the probe.
            .replace("@connections@", &self.limits.devices.saturating_add(1).to_string())
            .replace("@rate@", &rate.to_string())
            .replace("@ssl_options@", &ssl_options)
    }

    /// EMQX asks for a certificate where we have one.
    fn ssl_options(&self) -> String {
        let certificate = self.config.ssl.certfile.is_some();
        let verify = if certificate { "verify_peer" } else { "verify_none" };
        SSL_OPTIONS.replace("@verify@", verify).replace("@certificate@", &certificate.to_string())
    }

    /// Returns the address at which EMQX calls the gateway. If the gateway listens on every address of the machine,
    /// that address is known only when EMQX is on the same machine.
    fn handler(&self) -> String {
        let bound = self.config.handler_bind;
        if !bound.ip().is_unspecified() {
            return bound.to_string();
        }
        let here = self.config.nodes.iter().all(|node| is_here(node.adapter.trim_start_matches("http://")));
        format!("{}:{}", if here { "127.0.0.1" } else { "ADDRESS-OF-THE-GATEWAY" }, bound.port())
    }
}

/// Returns the address that EMQX has to bind to be reached at this `host:port`. EMQX accepts no host name there.
fn bind(address: &str) -> String {
    let (host, port) = host_and_port(address);
    match (host, ip_address(host)) {
        ("localhost", _) => format!("127.0.0.1:{port}"),
        (_, Some(_)) => address.to_owned(),
        (_, None) => format!("0.0.0.0:{port}"),
    }
}

fn is_here(address: &str) -> bool {
    let (host, _) = host_and_port(address);
    host == "localhost" || ip_address(host).is_some_and(|address| address.is_loopback())
}

fn ip_address(host: &str) -> Option<IpAddr> {
    host.trim_matches(['[', ']']).parse().ok()
}

/// The configuration has no other addresses.
fn host_and_port(address: &str) -> (&str, &str) {
    address.rsplit_once(':').expect("the configuration was checked to have host:port")
}
