//! The broker of these tests: a Mosquitto of its own, with a password file and an ACL file, or, with `EMQX_TEST=1`, the
//! EMQX at `EMQX_MQTT`.

use std::env;
use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use tempfile::TempDir;

use crate::common::broker::emqx_mqtt;
use crate::common::device::PATIENCE;
use crate::common::ports;
use crate::common::turn::Turn;
use lwm2m_dtls::test_client::credentials::Certified;

/// Everybody but these: devices may publish and subscribe below `lwm2m/CLIENTID/`, the application everything.
pub(super) const FORBIDDEN: &str = "elsewhere/forbidden";

pub(crate) enum BrokerKind {
    Mosquitto { child: Option<Child>, folder: TempDir, port: u16 },
    Emqx { _turn: Turn },
}

impl BrokerKind {
    /// None where there is no Mosquitto, outside of CI: says so.
    pub(crate) fn start() -> Option<Self> {
        Self::start_with(false, "")
    }

    /// The same with TLS, for clients that have a certificate of the authority in `ca.pem`.
    pub(super) fn start_secure() -> Option<Self> {
        if Self::is_emqx() {
            println!("skipped: EMQX is tested without TLS");
            return None;
        }
        Self::start_with(true, "")
    }

    /// With more lines of configuration.
    pub(super) fn start_with(secure: bool, lines: &str) -> Option<Self> {
        if Self::is_emqx() {
            return Some(Self::Emqx { _turn: Turn::take() });
        }
        let Some(program) = mosquitto() else {
            assert!(env::var_os("CI").is_none(), "there is no mosquitto");
            let test = thread::current();
            println!("{}: skipped, there is no mosquitto", test.name().unwrap_or("test"));
            return None;
        };
        let folder = TempDir::new().expect("a place");
        let port = ports::free_address().port();
        write_files(folder.path(), port, secure, lines);
        let mut broker = Self::Mosquitto { child: None, folder, port };
        broker.spawn(&program);
        Some(broker)
    }

    pub(crate) fn is_emqx() -> bool {
        crate::common::broker::is_emqx()
    }

    /// `host:port`.
    pub(crate) fn address(&self) -> String {
        match self {
            Self::Mosquitto { port, .. } => format!("localhost:{port}"),
            Self::Emqx { .. } => emqx_mqtt(),
        }
    }

    /// Where it keeps its files; none of an EMQX.
    pub(super) fn folder(&self) -> Option<&Path> {
        match self {
            Self::Mosquitto { folder, .. } => Some(folder.path()),
            Self::Emqx { .. } => None,
        }
    }

    /// It ends in order: what it has accepted is kept on disk.
    pub(super) fn stop(&mut self) {
        let Self::Mosquitto { child, .. } = self else { return };
        let mut child = child.take().expect("it runs");
        let told = Command::new("kill").args(["-TERM", &child.id().to_string()]).status();
        assert!(told.expect("there is a kill").success());
        child.wait().expect("a child of ours");
    }

    pub(super) fn start_again(&mut self) {
        self.spawn(&mosquitto().expect("it was there"));
    }

    fn spawn(&mut self, program: &str) {
        let Self::Mosquitto { child, folder, port, .. } = self else { return };
        let log = fs::File::create(folder.path().join("log")).expect("a place");
        let started = Command::new(program)
            .arg("-c")
            .arg(folder.path().join("mosquitto.conf"))
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a file"))
            .stderr(log)
            .spawn();
        *child = Some(started.expect("mosquitto starts"));
        let listens = (0..400).any(|_| {
            thread::sleep(PATIENCE / 400);
            std::net::TcpStream::connect(("127.0.0.1", *port)).is_ok()
        });
        let log = fs::read_to_string(folder.path().join("log")).unwrap_or_default();
        assert!(listens, "mosquitto does not listen:\n{log}");
    }
}

impl Drop for BrokerKind {
    fn drop(&mut self) {
        let Self::Mosquitto { child: Some(child), folder, .. } = self else { return };
        child.kill().expect("a child of ours");
        child.wait().expect("a child of ours");
        if thread::panicking() {
            println!("--- what mosquitto said:\n{}", fs::read_to_string(folder.path().join("log")).unwrap_or_default());
        }
    }
}

/// Debian has it beside the paths of users.
fn mosquitto() -> Option<String> {
    let known = ["mosquitto", "/usr/sbin/mosquitto"];
    let runs = |program: &&str| Command::new(program).arg("-h").stdout(Stdio::null()).stderr(Stdio::null()).status();
    known.into_iter().find(|program| runs(program).is_ok()).map(str::to_owned)
}

fn write_files(folder: &Path, port: u16, secure: bool, lines: &str) {
    let place = |name: &str| folder.join(name);
    let mut config = format!(
        "user root\nper_listener_settings false\nallow_anonymous false\npassword_file {}\nacl_file {}\n\
         persistence true\n\
         persistence_location {}/\nmax_queued_messages 0\nmax_inflight_messages 100\nlistener {port} 127.0.0.1\n\
         set_tcp_nodelay true\n{lines}\n",
        place("passwords").display(),
        place("acl").display(),
        folder.display(),
    );
    if secure {
        let authority = Certified::authority("an authority of a test");
        authority.write(folder, "ca");
        let (certificate, key) = authority.certify("localhost").write(folder, "server");
        authority.certify("gateway").write(folder, "client");
        let ca = place("ca.pem");
        config += &format!(
            "cafile {}\ncertfile {}\nkeyfile {}\nrequire_certificate true\n",
            ca.display(),
            certificate.display(),
            key.display()
        );
    }
    fs::write(place("mosquitto.conf"), config).expect("a place");
    let acl = "user application\ntopic readwrite #\n\npattern readwrite lwm2m/%c/#\npattern write reply/%c\n";
    fs::write(place("acl"), acl).expect("a place");
    fs::write(place("passwords"), "user:secret\napplication:secret\n").expect("a place");
    let hashed = Command::new("mosquitto_passwd").arg("-U").arg(place("passwords")).status();
    assert!(hashed.expect("mosquitto comes with it").success());
}

/// Longer than a packet takes from one side of a broker to the other.
pub(super) const A_MOMENT: Duration = Duration::from_millis(300);
