//! TLS as a client: whom it trusts, and what it says when it does not. The other side is the SSL listener of the
//! embedded broker, as EMQX has it.

use std::path::{Path, PathBuf};

use lwm2m_broker::{BrokerConfig, EmbeddedBroker, SslListener};
use lwm2m_core::coap::Code;
use lwm2m_gateway::tls::{Connector, TlsConfig, TlsError, Verify};
use serde_json::json;
use tempfile::TempDir;
use tokio::net::TcpStream;

use crate::common::application::{Application, answer, content};
use crate::common::broker::TestBroker;
use crate::common::device::Device;
use crate::common::gateway::Gateway;
use crate::common::scene::LINKS;
use lwm2m_dtls::test_client::credentials::Certified;

struct CertificateFolder {
    folder: TempDir,
    authority: PathBuf,
    broker: EmbeddedBroker,
}

impl CertificateFolder {
    /// A broker whose listener shows a certificate of this name, and asks for one if it is told to.
    async fn new(server: &str, asks: bool) -> (Self, Certified) {
        let folder = TempDir::new().unwrap();
        let ca = Certified::authority("Test CA");
        let (authority, _) = ca.write(folder.path(), "ca");
        let (certfile, keyfile) = ca.certify(server).write(folder.path(), "server");
        let ssl = SslListener {
            bind: "127.0.0.1:0".parse().unwrap(),
            certfile,
            keyfile,
            cacertfile: asks.then(|| authority.clone()),
        };
        let settings = BrokerConfig { ssl: Some(ssl), ..BrokerConfig::on_free_ports("http://127.0.0.1:1") };
        let broker = EmbeddedBroker::start(settings).await.unwrap();
        (Self { folder, authority, broker }, ca)
    }

    fn settings(&self) -> TlsConfig {
        TlsConfig { cacertfile: Some(self.authority.clone()), ..TlsConfig::default() }
    }

    async fn connect(&self, settings: &TlsConfig) -> Result<(), String> {
        let connector = Connector::new(settings).unwrap();
        let stream = TcpStream::connect(self.broker.addresses().ssl.unwrap()).await.unwrap();
        connector.connect("localhost", stream).await.map(|_| ()).map_err(|error| error.to_string())
    }
}

#[tokio::test]
async fn who_shows_a_certificate_of_the_authority_for_its_name_is_trusted() {
    let (place, _) = CertificateFolder::new("localhost", false).await;
    assert_eq!(place.connect(&place.settings()).await, Ok(()));
}

#[tokio::test]
async fn a_certificate_of_another_authority_is_refused_by_name() {
    let (place, _) = CertificateFolder::new("localhost", false).await;
    let (other, _) = Certified::authority("Other CA").write(place.folder.path(), "other");
    let refused = place.connect(&TlsConfig { cacertfile: Some(other), ..TlsConfig::default() }).await;
    let error = refused.unwrap_err();
    assert!(error.starts_with("TLS: the certificate of localhost: "), "{error}");
    let of_the_system = place.connect(&TlsConfig::default()).await;
    assert!(of_the_system.is_err());
}

#[tokio::test]
async fn a_certificate_of_another_name_is_refused_unless_that_name_is_expected() {
    let (place, _) = CertificateFolder::new("emqx.example", false).await;
    let error = place.connect(&place.settings()).await.unwrap_err();
    assert!(error.contains("hostname mismatch"), "{error}");
    let expected = TlsConfig { server_name: Some("emqx.example".to_owned()), ..place.settings() };
    assert_eq!(place.connect(&expected).await, Ok(()));
}

#[tokio::test]
async fn who_verifies_nothing_takes_anybody() {
    let (place, _) = CertificateFolder::new("emqx.example", false).await;
    let careless = TlsConfig { verify: Verify::None, ..TlsConfig::default() };
    assert_eq!(place.connect(&careless).await, Ok(()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_becomes_a_client_of_the_broker_over_its_ssl_listener() {
    let folder = TempDir::new().unwrap();
    let ca = Certified::authority("Test CA");
    let (authority, _) = ca.write(folder.path(), "ca");
    let (certfile, keyfile) = ca.certify("localhost").write(folder.path(), "server");
    let (own, own_key) = ca.certify("gateway").write(folder.path(), "gateway");
    let bind = "127.0.0.1:0".parse().unwrap();
    let cacertfile = Some(authority.clone());
    let mut broker =
        TestBroker::start_with(|settings| settings.ssl = Some(SslListener { bind, certfile, keyfile, cacertfile }))
            .await;
    let Some(ssl) = broker.addresses.ssl.clone() else { return };
    broker.addresses.listener = format!("ssl://{ssl}");
    let lines = format!(
        "upstream.exproto.ssl.cacertfile = {authority:?}\nupstream.exproto.ssl.certfile = {own:?}\n\
         upstream.exproto.ssl.keyfile = {own_key:?}"
    );
    let gateway = Gateway::start_with(&broker.addresses, 1, &lines);
    let mut application = Application::connect(&broker.addresses.mqtt, &["secured"]);
    let mut device = Device::new(gateway.address());
    device.register("ep=secured&lt=300", LINKS);
    assert_eq!(application.receive().1["msgType"], "register");
    let command = json!({ "reqID": 1, "msgType": "read", "data": { "path": "/3/0/0" } });
    application.send("secured", &command);
    device.answer_text(&device.expect_request(Code::GET, "/3/0/0"), "Acme");
    application.expect("lwm2m/secured/up/resp", &answer(&command, content("/3/0/0", "Acme")));
    assert_eq!(device.deregister().code, Code::DELETED);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_whose_certificates_for_the_broker_are_missing_says_so_and_ends() {
    let mut broker = TestBroker::start().await;
    broker.addresses.listener = "ssl://127.0.0.1:7994".to_owned();
    let lines = "listeners.udp.x.bind = \"127.0.0.1:0\"\nupstream.exproto.ssl.cacertfile = \"nowhere.pem\"";
    let mut gateway = Gateway::start_without_waiting(&broker.addresses, lines);
    assert_eq!(gateway.wait().code(), Some(1));
    assert!(gateway.output().contains("upstream.exproto.ssl: nowhere.pem: No such file"), "{}", gateway.output());
}

#[test]
fn files_that_are_of_no_use_are_named_and_nothing_of_what_is_in_them() {
    let folder = TempDir::new().unwrap();
    let ca = Certified::authority("Test CA");
    let (certificate, key) = ca.certify("client").write(folder.path(), "client");
    let (_, other_key) = ca.certify("other").write(folder.path(), "other");
    let problem = |certfile: &Path, keyfile: &Path| {
        let settings = TlsConfig {
            certfile: Some(certfile.to_owned()),
            keyfile: Some(keyfile.to_owned()),
            ..TlsConfig::default()
        };
        match Connector::new(&settings) {
            Ok(_) => "fine".to_owned(),
            Err(error) => format!("{error} {error:?}"),
        }
    };
    assert_eq!(problem(&certificate, &key), "fine");
    let absent = folder.path().join("absent.pem");
    assert!(problem(&absent, &key).contains("absent.pem: No such file"));
    assert!(problem(&key, &key).contains("client-key.pem: no certificate in it"));
    assert!(problem(&certificate, &certificate).contains("client.pem: no private key in it"));
    let mismatch = problem(&certificate, &other_key);
    assert!(mismatch.contains("other-key.pem: not the key of the certificate in"), "{mismatch}");
    let half = Connector::new(&TlsConfig { certfile: Some(certificate), ..TlsConfig::default() });
    assert!(matches!(half, Err(TlsError::HalfPair)));
}
