//! The built program, started as a user starts it.

use std::ffi::OsString;
use std::fs::{self, OpenOptions};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

use lwm2m_core::coap::{Kind, Message};
use tempfile::TempDir;

use super::admin;
use super::broker::{TestAddresses, Upstream, is_emqx};
use super::device::{Device, PATIENCE, fresh_id};
use super::left_sessions::end_sessions;
use super::ports;
use super::program::send_signal;

pub(crate) struct Gateway {
    /// None once it has stopped.
    child: Option<Child>,
    /// Its UDP listeners.
    pub listeners: Vec<SocketAddr>,
    folder: TempDir,
    file_limit: Option<u32>,
    /// How often it was started: as often it says where its admin listener is.
    starts: usize,
    descriptor_limit: Option<u32>,
    variables: Vec<(String, OsString)>,
}

impl Gateway {
    /// Starts it with one listener at this broker.
    pub(crate) fn start(broker: &TestAddresses) -> Self {
        Self::start_with(broker, 1, "")
    }

    /// Starts it with so many listeners and these lines of configuration (`a.b = value`), and waits until it hears.
    pub(crate) fn start_with(broker: &TestAddresses, listeners: usize, lines: &str) -> Self {
        Self::start_at(&[broker], listeners, lines)
    }

    /// The same at several nodes, that all call the handler of the first one.
    pub(crate) fn start_at(nodes: &[&TestAddresses], listeners: usize, lines: &str) -> Self {
        let gateway = Self::start_listening(nodes, listeners, lines, Vec::new());
        gateway.wait_until_it_hears();
        gateway
    }

    /// Starts it with one listener and these variables in its environment, and does not wait.
    pub(crate) fn start_in(broker: &TestAddresses, variables: Vec<(String, OsString)>) -> Self {
        Self::start_listening(&[broker], 1, "", variables)
    }

    fn start_listening(
        nodes: &[&TestAddresses],
        listeners: usize,
        lines: &str,
        variables: Vec<(String, OsString)>,
    ) -> Self {
        let listeners: Vec<SocketAddr> = (0..listeners).map(|_| ports::free_address()).collect();
        let mut config = lines.to_owned();
        for (index, address) in listeners.iter().enumerate() {
            config += &format!("\nlisteners.udp.listener{index}.bind = \"{address}\"");
        }
        let mut gateway = Self::launch(nodes, &config, variables);
        gateway.listeners = listeners;
        gateway
    }

    /// Starts it with these lines of configuration, that name the listeners too.
    pub(crate) fn start_without_waiting(broker: &TestAddresses, lines: &str) -> Self {
        Self::launch(&[broker], lines, Vec::new())
    }

    fn launch(nodes: &[&TestAddresses], lines: &str, variables: Vec<(String, OsString)>) -> Self {
        let shipped = format!("xml_dir = \"{}/xml\"\n", env!("CARGO_MANIFEST_DIR"));
        let xml_dir = if lines.starts_with("xml_dir") { "" } else { &shipped };
        let config = format!(
            "{xml_dir}admin.bind = \"127.0.0.1:0\"\n{}\nupstream.exproto.handler_bind = \"{}\"\n{lines}",
            upstream(nodes),
            nodes[0].handler_bind,
        );
        let folder = TempDir::new().expect("a place for the configuration");
        // What both kinds have is named for the one that most tests run over.
        let config = match Upstream::of_this_test() {
            Upstream::ExProto => config,
            Upstream::Mqtt => config
                .replace("upstream.exproto.queue_per_device", "upstream.mqtt.queue_per_device")
                .replace("upstream.exproto.connect_timeout", "upstream.mqtt.connect_timeout"),
        };
        let own_store = format!("\nstore.file = {:?}", folder.path().join("store.redb"));
        let config = if config.contains("store.file") { config } else { config + &own_store };
        fs::write(folder.path().join("gateway.toml"), config).expect("a place for the configuration");
        let mut gateway = Self {
            child: None,
            listeners: Vec::new(),
            folder,
            file_limit: None,
            descriptor_limit: None,
            starts: 0,
            variables,
        };
        gateway.spawn();
        gateway
    }

    /// Kills it, in the middle of whatever it does.
    pub(crate) fn kill(&mut self) {
        let mut child = self.child.take().expect("it runs");
        child.kill().expect("a child of ours");
        child.wait().expect("a child of ours");
    }

    /// Starts it once more, as it was started before, and waits until it hears.
    pub(crate) fn start_again(&mut self) {
        self.spawn();
        self.wait_until_it_hears();
    }

    /// Starts it once more, and does not wait.
    pub(crate) fn start_without_waiting_again(&mut self) {
        self.spawn();
    }

    pub(crate) fn wait_until_it_hears(&self) {
        self.listeners.iter().for_each(|listener| self.wait_for(*listener));
    }

    /// Its store.
    pub(crate) fn store(&self) -> PathBuf {
        self.folder.path().join("store.redb")
    }

    /// A file that it writes may have so many KiB from the next start on: as on a disk that is full.
    pub(crate) fn limit_files(&mut self, kibibytes: u32) {
        self.file_limit = Some(kibibytes);
    }

    /// The program that runs may write files of any size again: as on a disk that has room again.
    pub(crate) fn unlimit_files(&mut self) {
        self.file_limit = None;
        let process = self.child.as_ref().expect("it runs").id();
        let process = process.try_into().expect("the system has given this number");
        let unlimited = Some((rlimit::INFINITY, rlimit::INFINITY));
        rlimit::prlimit(process, rlimit::Resource::FSIZE, unlimited, None).expect("a child of ours");
    }

    /// Changes its configuration, which it does not read before it is told to.
    pub(crate) fn edit(&self, from: &str, to: &str) {
        let file = self.folder.path().join("gateway.toml");
        let before = fs::read_to_string(&file).expect("the configuration is text");
        assert!(before.contains(from), "{from} is not in\n{before}");
        fs::write(&file, before.replace(from, to)).expect("a place for the configuration");
    }

    /// It may have so many files open from the next start on.
    pub(crate) fn limit_descriptors(&mut self, descriptors: u32) {
        self.descriptor_limit = Some(descriptors);
    }

    fn spawn(&mut self) {
        let place = self.folder.path().join("output");
        let output = OpenOptions::new().create(true).append(true).open(place).expect("a place for the output");
        let limit = self.file_limit.map_or_else(|| "unlimited".to_owned(), |kibibytes| (kibibytes * 2).to_string());
        // POSIX counts blocks of 512 bytes. Who ignores the signal gets an error from the write.
        let descriptors = self.descriptor_limit.map(|limit| format!("ulimit -n {limit};")).unwrap_or_default();
        let limited = format!("trap '' XFSZ; ulimit -S -f {limit}; {descriptors} exec \"$0\" run --config \"$1\"");
        let child = Command::new("sh")
            .args(["-c", &limited, env!("CARGO_BIN_EXE_lwm2m-gateway")])
            .arg(self.folder.path().join("gateway.toml"))
            .envs(self.variables.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(output.try_clone().expect("an open file"))
            .stderr(output)
            .spawn()
            .expect("the program is built");
        self.child = Some(child);
        self.starts += 1;
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.listeners[0]
    }

    /// Asks its admin listener; gives the status and the body.
    pub(crate) fn ask_admin(&self, path: &str) -> (u16, String) {
        let printed = || self.output().matches("metrics and health").count() >= self.starts;
        // Its devices may be served already when it prints.
        let printed = (0..200).any(|_| {
            let there = printed();
            if !there {
                thread::park_timeout(Duration::from_millis(50));
            }
            there
        });
        assert!(printed, "it does not say where:\n{}", self.output());
        admin::ask(admin::address(&self.output()).expect("it prints where"), path)
    }

    /// Waits until so many devices are clients of the broker: before, commands for them are lost there.
    pub(crate) fn wait_for_clients(&self, count: f64) {
        let connected = || admin::sum(&self.ask_admin("/metrics").1, "lwm2m_broker_clients{state=\"connected\"}");
        let there = (0..200).any(|_| {
            let there = connected() == count;
            if !there {
                thread::park_timeout(Duration::from_millis(100));
            }
            there
        });
        assert!(there, "{} clients:\n{}", connected(), self.output());
    }

    /// What it has printed.
    pub(crate) fn output(&self) -> String {
        fs::read_to_string(self.folder.path().join("output")).expect("the output is text")
    }

    /// Sends a signal (`TERM`, `INT`) and waits for the end.
    pub(crate) fn stop(&mut self, signal: &str) -> ExitStatus {
        self.signal(signal);
        self.wait()
    }

    pub(crate) fn signal(&self, signal: &str) {
        send_signal(signal, self.child.as_ref().expect("it runs").id());
    }

    /// Returns whether it has ended by itself.
    pub(crate) fn has_ended(&mut self) -> bool {
        let has_ended = |child: &mut Child| child.try_wait().expect("a child of ours").is_some();
        if self.child.as_mut().is_some_and(has_ended) {
            self.child = None;
        }
        self.child.is_none()
    }

    /// Waits until it ends by itself.
    pub(crate) fn wait(&mut self) -> ExitStatus {
        let mut child = self.child.take().expect("it runs");
        let id = child.id();
        let (sender, ended) = channel();
        thread::spawn(move || sender.send(child.wait().expect("a child of ours")));
        ended.recv_timeout(PATIENCE).unwrap_or_else(|_| {
            send_signal("KILL", id);
            panic!("it does not end:\n{}", self.output());
        })
    }

    /// An empty confirmable message is answered with a reset (RFC 7252 section 4.3): it hears.
    fn wait_for(&self, listener: SocketAddr) {
        let device = Device::new(listener);
        let answered = (0..100).any(|_| {
            let ping = Message::empty(Kind::Confirmable, fresh_id());
            device.send(&ping);
            device.receive_within(Duration::from_millis(200)).is_some()
        });
        assert!(answered, "{listener} does not answer:\n{}", self.output());
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("a child of ours");
            child.wait().expect("a child of ours");
        }
        if is_emqx() && Upstream::of_this_test() == Upstream::Mqtt {
            end_sessions(&self.output());
        }
        if thread::panicking() {
            println!("--- what the gateway said:\n{}", self.output());
        }
    }
}

/// One node has its keys, several are a list. By MQTT, QoS 1 has the promise that ExProto makes for QoS 0.
fn upstream(nodes: &[&TestAddresses]) -> String {
    if Upstream::of_this_test() == Upstream::Mqtt {
        let brokers: Vec<&str> = nodes.iter().map(|node| node.devices.as_str()).collect();
        let acknowledged = ["command", "response", "notify", "register", "update"];
        let acknowledged = acknowledged.map(|translator| format!("translators.{translator}.qos = 1\n")).concat();
        return format!("upstream.kind = \"mqtt\"\nupstream.mqtt.brokers = {brokers:?}\n{acknowledged}");
    }
    if let [TestAddresses { listener, adapter, .. }] = nodes {
        return format!("upstream.exproto.listener = {listener:?}\nupstream.exproto.adapter = {adapter:?}");
    }
    let node = |TestAddresses { listener, adapter, .. }: &&TestAddresses| {
        format!("{{ listener = {listener:?}, adapter = {adapter:?} }}")
    };
    format!("upstream.exproto.nodes = [{}]", nodes.iter().map(node).collect::<Vec<_>>().join(", "))
}
