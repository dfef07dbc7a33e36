//! What a device costs by MQTT: the link alone, with so many devices connected to a broker that runs beside it.
//!
//! `cargo bench --bench mqtt_link -- --broker 127.0.0.1:1883 --devices 19900` (each device is a descriptor on both
//! sides).

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Parser;
use lwm2m_base::secret::Secret;
use lwm2m_core::gateway::broker::{BrokerCommand, BrokerEvent, ClientInfo, RegistrationId};
use lwm2m_gateway::conditions::Conditions;
use lwm2m_gateway::tls;
use lwm2m_gateway::upstream::LinkConfig;
use lwm2m_gateway::upstream::mqtt::{MqttConfig, MqttLink, ProtocolVersion};

/// Connects that are under way at once: Mosquitto's backlog is 100.
const AT_ONCE: u64 = 64;

#[derive(Parser)]
struct Arguments {
    /// host:port; nobody is asked for a password there.
    #[arg(long, default_value = "127.0.0.1:1883")]
    broker: String,
    #[arg(long, default_value_t = 19_900)]
    devices: u64,
    /// `cargo bench` says so.
    #[arg(long, hide = true)]
    bench: bool,
}

#[tokio::main]
#[expect(clippy::disallowed_methods, reason = "it measures time")]
async fn main() {
    let Arguments { broker, devices, .. } = Arguments::parse();
    if std::net::TcpStream::connect(&broker).is_err() {
        return println!("skipped: no broker at {broker}");
    }
    rlimit::increase_nofile_limit(u64::MAX).expect("the limit is known");
    let before = resident();
    let mut link =
        MqttLink::start(config(broker), Arc::default(), Conditions::default().add("broker")).expect("a link");
    let begun = Instant::now();
    let (mut asked, mut connected) = (0, 0);
    while connected < devices {
        while asked < devices && asked < connected + AT_ONCE {
            link.submit(BrokerCommand::Connect { registration: RegistrationId(asked), client: client(asked) });
            asked += 1;
        }
        match link.event().await {
            BrokerEvent::Connected { .. } => connected += 1,
            other => panic!("{other:?}"),
        }
    }
    let took = begun.elapsed();
    let each = (resident() - before) as f64 / devices as f64;
    println!("{devices} devices connected in {took:.1?}: {:.0} in a second", devices as f64 / took.as_secs_f64());
    println!("{each:.0} bytes of memory for each (resident, of this process, the link alone)");
    link.shut_down(Duration::from_secs(60)).await;
}

fn config(broker: String) -> MqttConfig {
    MqttConfig {
        will_delay: None,
        brokers: vec![broker],
        ssl: tls::TlsConfig::default(),
        version: ProtocolVersion::V5,
        keep_alive: Duration::from_secs(600),
        window: 8,
        max_packet_size: 1 << 20,
        link: LinkConfig {
            source_addresses: Vec::new(),
            connect_timeout: Duration::from_secs(60),
            connections_per_second: 10_000,
            queue_per_device: 100,
            queue_total: 100_000,
            event_queue: 65_536,
        },
    }
}

fn client(number: u64) -> ClientInfo {
    let clientid = format!("urn:imei:{number:015}");
    ClientInfo {
        endpoint: clientid.clone(),
        username: clientid.clone(),
        password: Some(Secret::new("a password of a device")),
        proto_ver: "1.1".to_owned(),
        peerhost: IpAddr::V4(Ipv4Addr::LOCALHOST),
        command_filter: format!("lwm2m/{clientid}/dn/#"),
        command_qos: 1,
        lifetime: Duration::from_secs(300),
        will: None,
        clientid,
    }
}

/// Bytes of this process that are in memory.
fn resident() -> u64 {
    let status = fs::read_to_string("/proc/self/status").expect("this is Linux");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("it is there");
    line.trim().trim_end_matches(" kB").trim().parse::<u64>().expect("a number") * 1024
}
