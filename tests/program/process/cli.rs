//! The built binary from outside: what it prints, and its exit codes.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tempfile::TempDir;

const TEMPERATURE: &str = r#"<?xml version="1.0" encoding="utf-8"?>
    <LWM2M><Object ObjectType="MODefinition"><Name>Temperature</Name><ObjectID>3303</ObjectID>
    <MultipleInstances>Multiple</MultipleInstances><Mandatory>Optional</Mandatory><Resources>
    <Item ID="5700"><Name>Sensor Value</Name><Operations>R</Operations><MultipleInstances>Single</MultipleInstances>
    <Mandatory>Mandatory</Mandatory><Type>Float</Type><Units>Cel</Units></Item>
    <Item ID="5605"><Name>Reset Min and Max</Name><Operations>E</Operations>
<MultipleInstances>Single</MultipleInstances>
    <Mandatory>Optional</Mandatory><Type></Type></Item></Resources></Object></LWM2M>"#;

#[test]
fn check_is_content_with_a_good_configuration() {
    let place = CliFolder::new();
    let file = place.file("good.toml", "lifetime_max = \"2h\"\n[coap]\ntoken_length = 4\n");
    let output = place.run(&["check", "--config", &file], &[]);
    assert_eq!(text(&output.stderr), "");
    let here = fs::canonicalize(place.0.path()).unwrap();
    let expected = format!(
        "configuration: no mistakes
devices: CoAP over UDP at 0.0.0.0:5683
broker: EMQX by ExProto, listener 127.0.0.1:7993, adapter http://127.0.0.1:9100
broker: EMQX calls the handler at 127.0.0.1:9001
topics of a device ep1: lwm2m/ep1/dn/#, lwm2m/ep1/up/resp, lwm2m/ep1/up/notify, lwm2m/ep1/up/send
store: {}
metrics and health: http://127.0.0.1:8085
object definitions: 74, 73 of them built in, 1 of the folder xml
",
        here.join("lwm2m-gateway.redb").display()
    );
    assert_eq!(text(&output.stdout), expected);
    assert_eq!(output.status.code(), Some(0));
}

#[test]
fn check_needs_no_file() {
    assert_eq!(CliFolder::new().run(&["check"], &[]).status.code(), Some(0));
}

#[test]
fn check_names_every_mistake_of_a_bad_configuration() {
    let place = CliFolder::new();
    let content = "lifetime_max = \"soon\"\nmountpiont = \"x\"\n[coap]\ntoken_length = 9\n[log]\nlevel = \"loud\"\n";
    let file = place.file("bad.toml", content);
    let output = place.run(&["check", "--config", &file], &[]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(text(&output.stdout), "");
    let complaint = text(&output.stderr);
    assert!(complaint.starts_with("lwm2m-gateway: the configuration has 4 mistakes\n"), "{complaint}");
    for part in [
        "coap.token_length = 9: expected a whole number from 1 to 8\n",
        "lifetime_max = \"soon\": expected a duration",
        "log.level = \"loud\": \"loud\" is not a level",
        "mountpiont: unknown key; did you mean mountpoint?\n",
    ] {
        assert!(complaint.contains(&format!("\n  {part}")), "{part} is not in {complaint}");
    }
}

#[test]
fn check_says_where_a_file_is_no_toml() {
    let place = CliFolder::new();
    let file = place.file("broken.toml", "lifetime_max = \n");
    let output = place.run(&["check", "--config", &file], &[]);
    assert_eq!(output.status.code(), Some(1));
    let complaint = text(&output.stderr);
    assert!(complaint.contains("broken.toml is not TOML: line 1, column 16: "), "{complaint}");
}

#[test]
fn check_says_what_to_do_with_a_file_of_another_format() {
    let place = CliFolder::new();
    for (content, format) in
        [("gateway.lwm2m {\n  xml_dir = \"x\"\n}\n", "HOCON"), ("upstream:\n  kind: mqtt\n", "YAML")]
    {
        let file = place.file("gateway.conf", content);
        let complaint = text(&place.run(&["check", "-c", &file], &[]).stderr);
        let hint = format!("(this looks like {format}; docs/migration.md has the keys of EMQX's gateway in TOML)\n");
        assert!(complaint.contains("is not TOML: line 1, column ") && complaint.ends_with(&hint), "{complaint}");
    }
}

#[test]
fn check_warns_of_what_is_hardly_meant_and_is_content() {
    let place = CliFolder::new();
    place.file("xml/again.xml", TEMPERATURE);
    place.file("keys.psk", "urn:imei:1:hunter2\n");
    let content = "
        mountpoint = \"lwm2m/\"
        [listeners.dtls.default]
        [dtls]
        psk_file = \"keys.psk\"
        [upstream.mqtt]
        brokers = [\"10.0.0.5:1883\"]
        [upstream.exproto]
        adapter = \"http://10.0.0.5:9100\"
    ";
    let file = place.file("gateway.toml", content);
    let output = place.run(&["check", "-c", &file], &[("LWM2M_GATEWAY_UPSTREAM_KIND", "mqtt")]);
    assert_eq!((output.status.code(), text(&output.stderr).as_str()), (Some(0), ""));
    let said = text(&output.stdout);
    let warnings: Vec<&str> = said.lines().filter_map(|line| line.strip_prefix("warning: ")).collect();
    let begins = [
        "LWM2M_GATEWAY_UPSTREAM_KIND: this environment variable has no effect; did you mean \
             LWM2M_GATEWAY__UPSTREAM__KIND?",
        "upstream.mqtt: this section has no effect",
        "mountpoint: all devices share the topic",
        "upstream.exproto.handler_bind = \"127.0.0.1:9001\": EMQX at 10.0.0.5:9100 cannot call",
        "xml_dir: xml/again.xml: object 3303 version 1.0 is defined in xml/3303.xml already",
        "dtls.psk_file = keys.psk, line 1: the identity is \"urn\"",
    ];
    assert_eq!(warnings.len(), begins.len(), "{said}");
    for (warning, begin) in warnings.iter().zip(begins) {
        assert!(warning.starts_with(begin), "{warning}\nis not\n{begin}");
    }
    assert!(!said.contains("hunter2"));
}

#[test]
fn the_program_runs_from_any_folder() {
    let place = CliFolder(tempfile::tempdir().unwrap());
    for variables in [&[][..], &[("LWM2M_GATEWAY__XML_DIR", "")]] {
        let output = place.run(&["check"], variables);
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
        assert!(text(&output.stdout).ends_with("object definitions: 73, all built in\n"), "{}", text(&output.stdout));
    }
}

#[test]
fn check_looks_at_the_files_of_dtls() {
    let place = CliFolder::new();
    place.file("keys.psk", "dev-7:hunter2\ndev-8:hunter3\n");
    place.file("bad.psk", "dev-7:hunter2\nhunter3\n");
    let checked = |lines: &str| {
        let file = place.file("gateway.toml", &format!("[listeners.dtls.default]\n[dtls]\n{lines}\n"));
        let output = place.run(&["check", "--config", &file], &[]);
        assert!(!text(&output.stdout).contains("hunter") && !text(&output.stderr).contains("hunter"));
        (output.status.code(), text(&output.stdout).lines().last().unwrap_or_default().to_owned())
    };
    assert_eq!(checked("psk_file = \"keys.psk\""), (Some(0), "dtls: 2 keys, OK".to_owned()));
    let bad = "dtls.psk_file = bad.psk, line 2: there is no separator between an identity and a secret";
    assert_eq!(checked("psk_file = \"bad.psk\""), (Some(1), bad.to_owned()));
    let (code, said) = checked("certfile = \"nowhere.pem\"\nkeyfile = \"nowhere.pem\"");
    assert!(code == Some(1) && said.starts_with("dtls.certfile = nowhere.pem: No such file"), "{said}");
    let (code, said) = checked("");
    assert!(code == Some(1) && said.starts_with("dtls: neither pre-shared keys nor a private key"), "{said}");
}

#[test]
fn no_complaint_shows_a_line_of_the_file() {
    let place = CliFolder::new();
    let file = place.file("broken.toml", "[dtls]\nmtu = 1200\npassword = \"hunter2\" \"\n");
    let complaint = text(&place.run(&["check", "--config", &file], &[]).stderr);
    assert!(
        complaint.contains("broken.toml is not TOML: line 3, column ") && !complaint.contains("hunter2"),
        "{complaint}"
    );
}

#[test]
fn check_says_that_a_file_is_not_there() {
    let output = CliFolder::new().run(&["check", "--config", "nowhere.toml"], &[]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).starts_with("lwm2m-gateway: nowhere.toml: "), "{}", text(&output.stderr));
}

#[test]
fn check_names_a_broken_definition_and_fails() {
    let place = CliFolder::new();
    place.file("xml/broken.xml", "<LWM2M>");
    let output = place.run(&["check"], &[]);
    assert_eq!(output.status.code(), Some(1));
    let said = text(&output.stdout);
    let broken = Path::new("xml").join("broken.xml").display().to_string();
    assert!(
        said.contains(&format!("\n{broken}: "))
            && said.ends_with("\nobject definitions: 74, 73 of them built in, 1 of the folder xml\n"),
        "{said}"
    );
}

#[test]
fn check_fails_without_the_folder_of_definitions() {
    let place = CliFolder::new();
    let output = place.run(&["check"], &[("LWM2M_GATEWAY__XML_DIR", "elsewhere")]);
    assert_eq!(output.status.code(), Some(1));
    let complaint = text(&output.stderr);
    let folder = fs::canonicalize(place.0.path()).unwrap().join("elsewhere");
    let expected = format!("lwm2m-gateway: xml_dir: cannot read the folder {}: ", folder.display());
    assert!(complaint.starts_with(&expected), "{complaint}");
}

#[test]
fn the_environment_goes_over_the_file() {
    let place = CliFolder::new();
    let file = place.file("bad.toml", "[coap]\ntoken_length = 9\n");
    let mended = place.run(&["check", "--config", &file], &[("LWM2M_GATEWAY__COAP__TOKEN_LENGTH", "8")]);
    assert_eq!(mended.status.code(), Some(0));

    let broken = place.run(&["check"], &[("LWM2M_GATEWAY__COAP__TOKEN_LENGTH", "0")]);
    assert_eq!(broken.status.code(), Some(1));
    let expected =
        "coap.token_length = 0 (from LWM2M_GATEWAY__COAP__TOKEN_LENGTH): expected a whole number from 1 to 8";
    assert!(text(&broken.stderr).contains(expected), "{}", text(&broken.stderr));
}

#[test]
fn emqx_config_of_the_defaults_is_the_file_for_emqx() {
    let output = CliFolder::new().run(&["emqx-config"], &[]);
    assert_eq!(output.status.code(), Some(0));
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/emqx/exproto.hocon");
    assert_eq!(text(&output.stdout), fs::read_to_string(file).unwrap());
}

#[test]
fn emqx_config_says_what_ours_says() {
    let place = CliFolder::new();
    let content = r#"
        limits.devices = 250_000
        limits.command_size = 1_500_000
        clientinfo.proto_name = "lwm2m"
        [upstream.exproto]
        listener = ["10.0.0.5:7993", "[fd00::5]:7994", "emqx.internal:7995", "localhost:7996"]
        adapter = "http://10.0.0.5:9200"
        handler_bind = "10.0.0.7:9101"
        connections_per_second = 4_000
    "#;
    let output = place.run(&["emqx-config", "--config", &place.file("gateway.toml", content)], &[]);
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(
        settings(&output),
        r#"gateway.exproto {
  enable = true
  mountpoint = ""
  idle_timeout = 30s
  server {
    bind = "10.0.0.5:9200"
  }
  handler {
    address = "http://10.0.0.7:9101"
    service_name = "ConnectionUnaryHandler"
    ssl_options.enable = false
  }
  listeners.tcp.lwm2m {
    bind = "10.0.0.5:7993"
    max_connections = 250001
    max_conn_rate = 6000
    proxy_protocol = false
  }
  listeners.tcp.lwm2m2 {
    bind = "[fd00::5]:7994"
    max_connections = 250001
    max_conn_rate = 6000
    proxy_protocol = false
  }
  listeners.tcp.lwm2m3 {
    bind = "0.0.0.0:7995"
    max_connections = 250001
    max_conn_rate = 6000
    proxy_protocol = false
  }
  listeners.tcp.lwm2m4 {
    bind = "127.0.0.1:7996"
    max_connections = 250001
    max_conn_rate = 6000
    proxy_protocol = false
  }
}
"#
    );
    assert!(text(&output.stdout).contains("gateway sends \"lwm2m\" (`clientinfo.proto_name`)"));
    assert!(text(&output.stdout).contains("mqtt.max_packet_size = 2MB"));
}

#[test]
fn emqx_config_has_a_part_for_each_node() {
    let place = CliFolder::new();
    let content = r#"
        [upstream.exproto]
        nodes = [
            { listener = "10.0.0.5:7993", adapter = "http://10.0.0.5:9100" },
            { listener = "10.0.0.6:7993", adapter = "http://10.0.0.6:9100" },
        ]
        handler_bind = "0.0.0.0:9001"
    "#;
    let output = place.run(&["emqx-config", "--config", &place.file("gateway.toml", content)], &[]);
    let printed = settings(&output);
    assert_eq!(printed.matches("gateway.exproto {").count(), 2);
    for bound in ["10.0.0.5:7993", "10.0.0.5:9100", "10.0.0.6:7993", "10.0.0.6:9100"] {
        assert_eq!(printed.matches(&format!("bind = \"{bound}\"")).count(), 1, "{bound}");
    }
    // Nobody else knows it.
    assert_eq!(printed.matches("address = \"http://ADDRESS-OF-THE-GATEWAY:9001\"").count(), 2);
}

#[test]
fn emqx_config_asks_for_a_certificate_where_we_have_one() {
    let place = CliFolder::new();
    let content = r#"
        [upstream.exproto]
        listener = "ssl://emqx.internal:7994"
        [upstream.exproto.ssl]
        certfile = "client.pem"
        keyfile = "client-key.pem"
    "#;
    let printed = settings(&place.run(&["emqx-config", "--config", &place.file("gateway.toml", content)], &[]));
    for part in [
        "  listeners.ssl.lwm2m {\n    bind = \"0.0.0.0:7994\"\n",
        "      verify = verify_peer\n      fail_if_no_peer_cert = true\n",
    ] {
        assert!(printed.contains(part), "{part} is not in {printed}");
    }

    let without = place.file("gateway.toml", "upstream.exproto.listener = \"ssl://emqx.internal:7994\"");
    let printed = settings(&place.run(&["emqx-config", "--config", &without], &[]));
    assert!(printed.contains("      verify = verify_none\n      fail_if_no_peer_cert = false\n"), "{printed}");
}

#[test]
fn emqx_config_says_that_nothing_is_needed_for_mqtt() {
    let output = CliFolder::new().run(&["emqx-config"], &[("LWM2M_GATEWAY__UPSTREAM__KIND", "mqtt")]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(text(&output.stdout), "");
    assert!(text(&output.stderr).contains("it needs nothing else"), "{}", text(&output.stderr));
}

#[test]
fn objects_lists_what_is_defined() {
    let output = CliFolder::new().run(&["objects"], &[]);
    assert_eq!(output.status.code(), Some(0));
    let said = text(&output.stdout);
    assert_eq!(said.lines().count(), 75);
    for line in [
        "ID    VERSION  RESOURCES  FROM          NAME",
        "3     1.2      23         built in      Device",
        "3     1.1      23         built in      Device",
        "3     1.0      23         built in      Device",
        "4     1.3      14         built in      Connectivity Monitoring",
        "4     1.0      11         built in      Connectivity Monitoring",
        "3303  1.0      2          xml/3303.xml  Temperature",
    ] {
        assert!(said.lines().any(|there| there == line), "{line} is not in\n{said}");
    }
}

#[test]
fn objects_are_found_by_a_part_of_their_name() {
    let place = CliFolder::new();
    let output = place.run(&["objects", "temp"], &[]);
    let expected = "ID    VERSION  RESOURCES  FROM          NAME
3303  1.1      12         built in      Temperature
3303  1.0      2          xml/3303.xml  Temperature
";
    assert_eq!(text(&output.stdout), expected);
    let output = place.run(&["objects", "connectivity", "mon"], &[]);
    assert!(text(&output.stdout).ends_with("built in  Connectivity Monitoring\n"), "{}", text(&output.stdout));
    let output = place.run(&["objects", "submarine"], &[]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("has \"submarine\" in its name"), "{}", text(&output.stderr));
}

#[test]
fn objects_shows_the_resources_of_one() {
    let output = CliFolder::new().run(&["objects", "3303"], &[]);
    assert_eq!(output.status.code(), Some(0));
    let expected = "3303 Temperature, version 1.0, several instances, xml/3303.xml
ID    OPERATIONS  TYPE   INSTANCES  RANGE  UNITS  NAME
5605  E                  single                   Reset Min and Max
5700  R           Float  single            Cel    Sensor Value
";
    // Behind the built-in definition of version 1.1.
    assert!(text(&output.stdout).ends_with(expected), "{}", text(&output.stdout));
}

#[test]
fn an_object_without_definition_is_a_failure() {
    let output = CliFolder::new().run(&["objects", "33040"], &[]);
    assert_eq!(output.status.code(), Some(1));
    let said = text(&output.stderr);
    assert!(said.starts_with("lwm2m-gateway: object 33040 has no definition: ") && said.contains("xml_dir"), "{said}");
}

#[test]
fn the_version_is_that_of_the_package() {
    let output = CliFolder::new().run(&["--version"], &[]);
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(text(&output.stdout), format!("lwm2m-gateway {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn wrong_usage_has_its_own_exit_code() {
    let place = CliFolder::new();
    assert_eq!(place.run(&[], &[]).status.code(), Some(2));
    assert_eq!(place.run(&["serve"], &[]).status.code(), Some(2));
    let mistyped = place.run(&["rnu"], &[]);
    assert_eq!(mistyped.status.code(), Some(2));
    assert!(text(&mistyped.stderr).contains("tip: did you mean 'lwm2m-gateway run'?"), "{}", text(&mistyped.stderr));
}

#[test]
fn the_help_has_examples_the_environment_and_the_exit_codes() {
    let output = CliFolder::new().run(&["--help"], &[]);
    assert_eq!(output.status.code(), Some(0));
    for part in ["lwm2m-gateway demo", "LWM2M_GATEWAY__SECTION__KEY", "LWM2M_GATEWAY_LOG", "Exit codes: 0 success"] {
        assert!(text(&output.stdout).contains(part), "{part}");
    }
}

#[test]
fn there_is_a_manual_page_for_each_command() {
    let place = CliFolder::new();
    fs::create_dir(place.0.path().join("man")).unwrap();
    assert_eq!(place.run(&["man", "man"], &[]).status.code(), Some(0));
    let page = |name: &str| fs::read_to_string(place.0.path().join("man").join(name)).unwrap();
    let main = page("lwm2m-gateway.1");
    assert!(main.contains("lwm2m\\-gateway\\-emqx\\-config(1)") && main.contains("Exit codes: 0 success"), "{main}");
    assert!(main.contains(".SH EXAMPLES AND ENVIRONMENT\n.nf\nExamples:\n"), "{main}");
    assert!(page("lwm2m-gateway-run.1").contains("exit\\-with\\-parent"), "{}", page("lwm2m-gateway-run.1"));
    assert!(!place.0.path().join("man/lwm2m-gateway-man.1").exists());

    let nowhere = place.run(&["man", "elsewhere"], &[]);
    assert_eq!(nowhere.status.code(), Some(1));
    assert!(text(&nowhere.stderr).starts_with("lwm2m-gateway: elsewhere: cannot write the manual pages: "));
}

#[test]
fn a_token_replaces_that_of_the_same_name_in_its_file() {
    let place = CliFolder::new();
    let tokens = place.0.path().join("tokens");
    let store = |name: &str, role: &str| {
        let output = place.run(&["token", name, "--role", role, "--file", "tokens"], &[]);
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
        let printed = text(&output.stdout);
        assert!(printed.starts_with("token, which is shown only now:\n  lgw_") && printed.lines().count() == 2);
    };
    store("ann", "operator");
    assert_eq!(fs::metadata(&tokens).unwrap().permissions().mode() & 0o777, 0o600);
    let first = fs::read_to_string(&tokens).unwrap();
    fs::write(&tokens, format!("# people\n{first}")).unwrap();
    fs::set_permissions(&tokens, Permissions::from_mode(0o640)).unwrap();

    store("bob", "viewer");
    store("ann", "viewer");
    let content = fs::read_to_string(&tokens).unwrap();
    let lines: Vec<&str> = content.lines().collect();
    assert_eq!(lines.len(), 3, "{content}");
    assert!(lines[0] == "# people" && lines[1].starts_with("bob viewer ") && lines[2].starts_with("ann viewer "));
    assert_eq!(fs::metadata(&tokens).unwrap().permissions().mode() & 0o777, 0o640);
    // The program accepts the file.
    let used = place.run(&["check"], &[("LWM2M_GATEWAY__CONSOLE__TOKENS", "tokens")]);
    assert_eq!(used.status.code(), Some(0), "{}", text(&used.stderr));
}

#[test]
fn emqx_config_says_how_to_load_it() {
    let said = text(&CliFolder::new().run(&["emqx-config"], &[]).stdout);
    assert!(said.contains("## emqx ctl conf load --merge exproto.hocon\n"), "{said}");
}

/// A working directory with one object definition in `xml`.
struct CliFolder(TempDir);

impl CliFolder {
    fn new() -> Self {
        let place = Self(tempfile::tempdir().unwrap());
        fs::create_dir(place.0.path().join("xml")).unwrap();
        place.file("xml/3303.xml", TEMPERATURE);
        place
    }

    fn file(&self, name: &str, content: &str) -> String {
        let path: PathBuf = self.0.path().join(name);
        fs::write(&path, content).unwrap();
        path.display().to_string()
    }

    /// Runs the binary here; of the environment it sees only these variables.
    fn run(&self, arguments: &[&str], variables: &[(&str, &str)]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_lwm2m-gateway"))
            .args(arguments)
            .current_dir(self.0.path())
            .env_clear()
            .envs(variables.iter().copied())
            .output()
            .unwrap()
    }
}

/// What was printed, without comments and empty lines.
fn settings(output: &Output) -> String {
    let printed = text(&output.stdout);
    let lines = printed.lines().filter(|line| !line.trim().is_empty() && !line.trim().starts_with('#'));
    lines.map(|line| format!("{line}\n")).collect()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}
