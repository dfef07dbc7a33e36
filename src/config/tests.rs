use std::collections::BTreeSet;

use super::*;
use crate::credentials::{Encoding, OnError};
use crate::tls;
use crate::transport::Security;
use crate::upstream::{UpstreamConfig, exproto, mqtt};
use lwm2m_core::gateway::config::{AutoObserve, PasswordSource, SocketRole, UpdatePublish};
use lwm2m_core::gateway::identity::IdentityRule;
use lwm2m_dtls::handshake::VerifyMode;

pub(crate) const DOCUMENTED: &str = include_str!("../../deploy/lwm2m-gateway.toml");

#[test]
fn the_documented_file_sets_exactly_the_defaults() {
    let config = Config::from_table(DOCUMENTED.parse().unwrap(), []).unwrap();
    assert_eq!(format!("{config:#?}"), format!("{:#?}", Config::default()));
    assert_eq!(config.warnings, [""; 0]);
}

#[cfg(feature = "embedded")]
#[test]
fn the_documented_file_has_every_key_and_no_other() {
    // Of listeners there are those that are named.
    let listeners = "[listeners.udp.default]\n[listeners.dtls.default]";
    let mut reader = ConfigReader::new(listeners.parse().unwrap());
    sections::config(&mut reader);
    assert_eq!(keys(&with_examples(DOCUMENTED)), *reader.asked());
}

#[test]
fn the_examples_of_the_documented_file_are_taken() {
    let mut table = with_examples(DOCUMENTED);
    // The nodes stand in place of these.
    let exproto = table["upstream"]["exproto"].as_table_mut().unwrap();
    exproto.remove("listener").unwrap();
    exproto.remove("adapter").unwrap();
    Config::from_table(table, []).unwrap();
}

#[test]
fn several_threads_are_refused_with_the_reason_where_they_cannot_work() {
    let with = |lines: &str| format!("upstream.kind = \"mqtt\"\ndriver.threads = 2\n{lines}");
    assert_eq!(Config::from_table("driver.threads = 64".parse().unwrap(), []).unwrap().threads.get(), 64);
    let several = Config::from_table(with("").parse().unwrap(), []).unwrap();
    assert_eq!(several.threads.get(), 2);
    let refused = |lines: &str, reason: &str| {
        let found = mistakes(lines);
        let begin = format!("driver.threads = 2: more than one thread requires {reason}");
        assert!(found.len() == 1 && found[0].starts_with(&begin), "{found:?}");
    };
    refused(&with("coap.token_length = 3"), "coap.token_length = 4 or more");
    refused(&with("firmware.mqtt = true"), "firmware.mqtt = false");
    refused(&with("bootstrap.enable = true\nbootstrap.accounts = \"accounts.toml\""), "bootstrap.enable = false");
    assert_eq!(mistakes("driver.threads = 65"), ["driver.threads = 65: expected a whole number from 1 to 64"]);
}

#[test]
fn a_bootstrap_server_needs_accounts_and_its_listeners_need_a_bootstrap_server() {
    let refused = |lines: &str, reason: &str| {
        let found = mistakes(lines);
        assert!(found.len() == 1 && found[0].contains(reason), "{lines}: {found:?}");
    };
    let enabled = "bootstrap.enable = true\nbootstrap.accounts = \"accounts.toml\"\n";
    let only = "listeners.udp.default.role = \"bootstrap\"";
    for lines in [enabled, &format!("{enabled}{only}")] {
        assert!(Config::from_table(lines.parse().unwrap(), []).is_ok(), "{lines}");
    }
    refused("bootstrap.enable = true", "bootstrap.enable requires a file of accounts, or bootstrap.mqtt");
    refused(&format!("{enabled}bootstrap.mqtt = true"), "requires upstream.kind = \"mqtt\"");
    refused(only, "requires bootstrap.enable = true");
}

#[test]
fn every_mistake_is_reported_at_once() {
    let mistakes = mistakes(
        r#"
        lifetime_max = "tomorrow"
        auto_observe = ["/3/0", "temperature"]
        update_msg_publish_condition = "never"
        mountpiont = "lwm2m/"
        [coap]
        token_length = 9
        ack_random_factor = 0.5
        [translators.response]
        topic = "up/${serial}"
        qos = 3
        "#,
    );
    let expected = [
        "coap.ack_random_factor = 0.5: expected a number from 1.0 to 10.0",
        "coap.token_length = 9: expected a whole number from 1 to 8",
        "lifetime_max = \"tomorrow\": expected a duration (\"90s\", \"1h 30m\") or whole seconds, \
         from 1s to 100years",
        "translators.response.topic = \"up/${serial}\": unknown placeholder \"${serial}\"; \
         expected one of ${endpoint_name}, ${clientid}, ${username}, ${imei}, ${peerhost}, %e, %a",
        "translators.response.qos = 3: expected a whole number from 0 to 2",
        "auto_observe = [\"/3/0\", \"temperature\"]: \"temperature\" has a segment that is not a whole number from 0 to \
         65535",
        "update_msg_publish_condition = \"never\": expected \"object_list_changed\" or \"contains_object_list\" or \
         \"always\"",
        "mountpiont: unknown key; did you mean mountpoint?",
    ];
    assert_eq!(mistakes, expected);
}

#[cfg(feature = "console")]
#[test]
fn a_console_that_others_reach_needs_tls_or_says_that_a_proxy_has_it() {
    let exposed = "[console]\ntokens = \"tokens\"\nbind = \"0.0.0.0:8086\"\n";
    let refused = mistakes(exposed);
    assert!(refused[0].starts_with("console.bind = \"0.0.0.0:8086\": an address that is not loopback"), "{refused:?}");
    let is_taken = |text: &str| Config::from_table(text.parse().unwrap(), []).is_ok();
    assert!(is_taken(&format!("{exposed}certfile = \"a\"\nkeyfile = \"b\"")));
    assert!(is_taken(&format!("{exposed}plaintext = true")));
    assert!(is_taken("[console]\nsocket = \"a\"\nbind = \"0.0.0.0:8086\""));
    let half = ["console.certfile = \"a\": requires console.keyfile as well"];
    assert_eq!(mistakes("[console]\ncertfile = \"a\""), half);
    let mode = ["console.socket_mode = \"rw\": expected permissions in octal digits, such as \"0660\""];
    assert_eq!(mistakes("[console]\nsocket_mode = \"rw\""), mode);
}

#[test]
fn the_uris_of_images_are_one_for_each_protocol_and_of_a_listener() {
    let section = |uris: &str| format!("[firmware]\npublic_uri = {uris}\n");
    let expected = [
        "firmware.public_uri = [\"coap://a\", \"coap://b\"]: coap://b is a second URI with coap://; expected at most \
             one of each",
    ];
    assert_eq!(mistakes(&section(r#"["coap://a", "coap://b"]"#)), expected);
    let expected =
        ["firmware.public_uri = \"http://a\": \"http://a\": expected coap://HOST:PORT or coaps://HOST:PORT, such as \
             \"coap://gw.example.com:5683\""];
    assert_eq!(mistakes(&section(r#""http://a""#)), expected);
    let both = section(r#"["coap://a:5683", "coaps://a:5684"]"#);
    let warned = config(&both).warnings;
    assert_eq!(warned, ["firmware.public_uri: coaps://a:5684 has no effect without a listener for DTLS"]);
    let listeners = "[listeners.udp.default]\n[listeners.dtls.default]\n";
    let uris = config(&format!("{both}{listeners}")).gateway.firmware.public_uris;
    assert!(uris.coap.is_some() && uris.coaps.is_some());
}

#[test]
fn a_key_of_another_section_is_pointed_out() {
    assert_eq!(mistakes("token_length = 4"), ["token_length: unknown key; did you mean coap.token_length?"]);
}

#[test]
fn a_key_below_the_first_section_that_belongs_above_it_is_pointed_out() {
    let expected = "limits.lifetime_max: unknown key; did you mean lifetime_max? It stands above the first [section]";
    assert_eq!(mistakes("[limits]\nlifetime_max = 600"), [expected]);
}

#[test]
fn a_key_of_emqx_has_its_successor_named() {
    let found = mistakes("enable_stats = true\n[listeners.udp.default]\nmax_connections = 1024");
    assert_eq!(
        found[0],
        "enable_stats: unknown key; instead: metrics are at admin.bind, under /metrics (docs/migration.md)"
    );
    assert!(
        found[1].starts_with("listeners.udp.default.max_connections: unknown key; instead: limits.devices"),
        "{found:?}"
    );
}

#[test]
fn a_section_of_the_other_upstream_is_a_warning() {
    let warned = |text: &str| config(text).warnings.iter().filter(|warning| warning.contains("upstream.")).count();
    let mqtt = "[upstream.mqtt]\nbrokers = [\"10.0.0.5:1883\"]";
    assert_eq!(warned(mqtt), 1);
    assert_eq!(warned(&format!("[upstream]\nkind = \"exproto\"\n{mqtt}")), 1);
    assert_eq!(warned(&format!("[upstream]\nkind = \"mqtt\"\n{mqtt}")), 0);
    assert_eq!(warned("[upstream]\nkind = \"mqtt\"\n[upstream.exproto]\nlistener = \"10.0.0.5:7993\""), 1);
    // As in the image, which fits both.
    assert_eq!(warned("[upstream]\nkind = \"mqtt\"\n[upstream.exproto]\nhandler_bind = \"0.0.0.0:9001\""), 0);
}

#[test]
fn variables_that_are_not_understood_are_warnings_but_for_those_of_kubernetes() {
    let warned = |variable: &str| {
        Config::from_table(Table::new(), environment(&[(variable, "mqtt")])).unwrap().warnings.concat()
    };
    for variable in ["LWM2M_GATEWAY_UPSTREAM_KIND", "LWM2M_GATEWAY_UPSTREAM__KIND"] {
        let expected = "this environment variable has no effect; did you mean LWM2M_GATEWAY__UPSTREAM__KIND?";
        assert_eq!(warned(variable), format!("{variable}: {expected}"));
    }
    assert!(warned("LWM2M_GATEWAY_FILE").contains("with two underscores for each dot"));
    for variable in [
        "LWM2M_GATEWAY_SERVICE_HOST",
        "LWM2M_GATEWAY_SERVICE_PORT_COAP",
        "LWM2M_GATEWAY_PORT",
        "LWM2M_GATEWAY_AT",
        "LWM2M_GATEWAY_TOKEN",
        "LWM2M_GATEWAY_PORT_5683_UDP_ADDR",
        "LWM2M_GATEWAY_HANDLER_PORT_9001_TCP",
        "LWM2M_GATEWAYS",
    ] {
        assert_eq!(warned(variable), "", "{variable}");
    }
}

#[test]
fn credentials_without_a_listener_for_dtls_are_a_warning() {
    let warnings = |text: &str| config(text).warnings;
    let expected = "dtls.psk_file: it has no effect without a listener for DTLS; [listeners.dtls.default] adds one on \
                    port 5684";
    assert_eq!(warnings("[dtls]\npsk_file = \"keys.psk\""), [expected]);
    assert_eq!(warnings("[listeners.dtls.default]\n[dtls]\npsk_file = \"keys.psk\""), [""; 0]);
    assert_eq!(warnings("[dtls]\nmtu = 1200"), [""; 0]);
    assert_eq!(warnings("[dtls.psk_http]\nauthorization = \"hunter2\"").len(), 1);
    assert_eq!(warnings("[dtls]\npassword = \"hunter2\"").len(), 1);
}

#[test]
fn tls_without_an_address_that_has_it_is_a_warning() {
    let warnings = |text: &str| config(text).warnings;
    let expected = "upstream.exproto.ssl.cacertfile: it has no effect, since no address in upstream.exproto.listener \
                    begins with ssl://";
    assert_eq!(warnings("[upstream.exproto.ssl]\ncacertfile = \"ca.pem\""), [expected]);
    let secure =
        "[upstream.exproto]\nlistener = \"ssl://127.0.0.1:7994\"\n[upstream.exproto.ssl]\ncacertfile = \"ca.pem\"";
    assert_eq!(warnings(secure), [""; 0]);
}

#[test]
fn topics_that_are_hardly_meant_are_warnings() {
    let warned = |text: &str| config(text).warnings.join("\n");
    assert!(warned("mountpoint = \"lwm2m/\"").contains("all devices share the topic \"lwm2m/dn/#\""));
    let unfinished = warned("mountpoint = \"lwm2m\"");
    assert!(unfinished.contains("all devices share") && unfinished.contains("does not end with \"/\""), "{unfinished}");
    assert!(warned("mountpoint = \"/lwm2m/${endpoint_name}/\"").contains("first level of each topic is empty"));
    let empty_level = "translators.command.topic: the topic \"lwm2m/ep1//dn/#\" has an empty level";
    assert_eq!(warned("[translators.command]\ntopic = \"/dn/#\""), empty_level);
    for begins in ["${endpoint_name}/", "%e/", "${imei}/lwm2m/"] {
        let warned = warned(&format!("mountpoint = {begins:?}"));
        assert!(warned.contains("it begins with a placeholder"), "{begins}: {warned}");
    }
    assert_eq!(
        warned(
            "mountpoint = \"lwm2m/\"\n[translators]\ncommand.topic = \"%e/dn\"\nresponse.topic = \"%e/up\"\n\
        send.topic = \"%e/up\"\nnotify.topic = \"%e/up\"\nregister.topic = \"%e/up\"\nupdate.topic = \"%e/up\"\n\
        firmware.topic = \"%e/up\""
        ),
        ""
    );
}

#[test]
fn a_client_id_that_a_device_can_choose_is_a_warning_over_mqtt() {
    let warned = |text: &str| config(text).warnings.iter().any(|warning| warning.starts_with("clientinfo.clientid"));
    assert!(!warned(""));
    let mqtt = "upstream.kind = \"mqtt\"\n";
    assert!(warned(mqtt));
    assert!(!warned(&format!("{mqtt}clientinfo.clientid = \"lwm2m-${{endpoint_name}}\"")));
    assert!(!warned(&format!("{mqtt}clientinfo.clientid = \"%e.lwm2m\"")));
    // There the identity is proven.
    assert!(!warned(&format!("{mqtt}[listeners.dtls.default]")));
    assert!(warned(&format!("{mqtt}dtls.identity = \"none\"\n[listeners.dtls.default]")));
    assert!(warned("clientinfo.clientid = \"gateway\""));
}

#[test]
fn a_protocol_name_without_authenticators_is_a_warning() {
    let warnings = config("clientinfo.proto_name = \"lwm2m\"").warnings;
    assert!(warnings[0].starts_with("clientinfo.proto_name = \"lwm2m\": EMQX asks the authenticators of this name"));
    assert_eq!(
        config("upstream.kind = \"mqtt\"\nclientinfo = { proto_name = \"lwm2m\", clientid = \"l-%e\" }").warnings,
        [""; 0]
    );
}

#[test]
fn a_handler_that_a_remote_emqx_cannot_call_is_a_warning() {
    let warnings = |text: &str| config(&format!("[upstream.exproto]\n{text}")).warnings;
    let expected = "upstream.exproto.handler_bind = \"127.0.0.1:9001\": EMQX at 10.0.0.5:9100 cannot call a loopback \
                    address of this machine; give an address that EMQX reaches, or 0.0.0.0:9001";
    assert_eq!(warnings("adapter = \"http://10.0.0.5:9100\""), [expected]);
    assert_eq!(warnings("adapter = \"http://10.0.0.5:9100\"\nhandler_bind = \"0.0.0.0:9001\""), [""; 0]);
    for here in ["127.0.0.2", "[::1]", "localhost"] {
        assert_eq!(warnings(&format!("adapter = \"http://{here}:9100\"")), [""; 0]);
    }
}

#[test]
fn an_unknown_section_is_one_mistake() {
    let text = "[caop]\nack_timeout = 2\ntoken_length = 4\n[bridge]\nuser = 1";
    let expected = ["bridge: unknown key", "caop: unknown key; did you mean coap?"];
    assert_eq!(mistakes(text), expected);
}

#[test]
fn a_value_in_the_place_of_a_section_is_a_mistake() {
    assert_eq!(
        mistakes("coap = 3"),
        ["coap = 3: expected a section: [coap] with ack_random_factor, ack_timeout, block_size, block_transfer_bytes \
             ..."]
    );
    assert_eq!(
        mistakes("[listeners]\nudp = 5683"),
        ["listeners.udp = 5683: expected a section, such as [listeners.udp.default]"]
    );
    assert_eq!(
        mistakes("translators.command = \"dn/#\""),
        ["translators.command = \"dn/#\": expected a section: [translators.command] with qos, topic"]
    );
}

#[test]
fn a_section_in_the_place_of_a_value_is_a_mistake() {
    assert_eq!(mistakes("[xml_dir]\npath = 1"), ["xml_dir = { path = 1 }: expected a string"]);
}

#[test]
fn the_bounds_of_the_lifetime_must_fit_together() {
    let crossed = mistakes("lifetime_min = \"2h\"\nlifetime_max = 3600");
    assert_eq!(crossed, ["lifetime_min = \"2h\": expected at most lifetime_max, which is 1h"]);
}

#[test]
fn a_value_that_is_wrong_by_itself_is_not_compared() {
    assert_eq!(mistakes("lifetime_min = \"2days\"\nlifetime_max = true").len(), 1);
}

#[test]
fn durations_are_text_or_whole_seconds() {
    let config = config("lifetime_max = 600\nqmode_time_window = \"1m 30s\"");
    assert_eq!(*config.gateway.lifetimes.end(), Duration::from_secs(600));
    assert_eq!(config.gateway.awake_window, Duration::from_secs(90));
}

#[test]
fn auto_observe_is_a_switch_or_a_list_of_paths() {
    for off in ["false", "\"off\""] {
        assert_eq!(config(&format!("auto_observe = {off}")).gateway.auto_observe, AutoObserve::Off);
    }
    for on in ["true", "\"on\""] {
        assert_eq!(config(&format!("auto_observe = {on}")).gateway.auto_observe, AutoObserve::On);
    }
    let paths = vec!["/3303/0".parse().unwrap(), "/3/0/9".parse().unwrap()];
    assert_eq!(config(r#"auto_observe = ["/3303/0", "3/0/9"]"#).gateway.auto_observe, AutoObserve::Paths(paths));
    assert_eq!(mistakes(r#"auto_observe = ["/"]"#).len(), 1);
    assert_eq!(mistakes("auto_observe = 1").len(), 1);
}

#[test]
fn composite_observations_without_auto_observe_are_a_warning() {
    assert!(!config("").gateway.auto_observe_composite);
    assert!(config("auto_observe_composite = true").gateway.auto_observe_composite);
    let expected = "auto_observe_composite: it has no effect without auto_observe";
    assert_eq!(config("auto_observe_composite = true").warnings, [expected]);
    assert_eq!(config("auto_observe_composite = true\nauto_observe = true").warnings, [""; 0]);
    assert_eq!(mistakes("auto_observe_composite = 1").len(), 1);
}

#[test]
fn several_listeners_bind_several_addresses() {
    let config = config(
        r#"
        [listeners.udp.v4]
        bind = "127.0.0.1:5683"
        [listeners.udp.v6]
        bind = "[::1]:5683"
        recbuf = 65536
        "#,
    );
    let expected = [
        listener(Security::None, "v4", "127.0.0.1:5683", 4_194_304),
        listener(Security::None, "v6", "[::1]:5683", 65_536),
    ];
    assert_eq!(config.listeners, expected);
}

#[test]
fn the_listeners_for_dtls_stand_behind_those_for_plain_udp() {
    let config = config("[listeners.dtls.default]\n[listeners.udp.other]\nbind = \"127.0.0.1:5685\"");
    let expected = [
        listener(Security::None, "other", "127.0.0.1:5685", 4_194_304),
        listener(Security::Dtls, "default", "0.0.0.0:5684", 4_194_304),
    ];
    assert_eq!(config.listeners, expected);
}

#[test]
fn whoever_names_a_listener_gets_no_other_one() {
    let config = config("[listeners.dtls.only]\nbind = \"127.0.0.1:5684\"");
    assert_eq!(config.listeners, [listener(Security::Dtls, "only", "127.0.0.1:5684", 4_194_304)]);
}

#[test]
fn two_listeners_cannot_share_an_address() {
    let text = "[listeners.udp]\na = { bind = \"0.0.0.0:5683\" }\nb = { bind = \"0.0.0.0:5683\" }";
    let expected = ["listeners.udp.b.bind = \"0.0.0.0:5683\": 0.0.0.0:5683 is the address of listeners.udp.a too"];
    assert_eq!(mistakes(text), expected);
    let text = "[listeners]\nudp.a = { bind = \"127.0.0.1:5683\" }\ndtls.a = { bind = \"127.0.0.1:5683\" }";
    let expected = ["listeners.dtls.a.bind = \"127.0.0.1:5683\": 127.0.0.1:5683 is the address of listeners.udp.a too"];
    assert_eq!(mistakes(text), expected);
}

#[test]
fn ports_that_the_system_chooses_are_no_shared_address() {
    let text = "[listeners.udp]\na = { bind = \"127.0.0.1:0\" }\nb = { bind = \"127.0.0.1:0\" }";
    assert_eq!(config(text).listeners.len(), 2);
}

#[test]
fn a_program_without_listeners_is_refused() {
    assert_eq!(mistakes("[listeners.udp]"), ["listeners.udp = {}: at least one listener is needed"]);
}

#[test]
fn wildcards_are_for_the_command_topic_only() {
    assert_eq!(config("[translators.command]\ntopic = \"+/dn/#\"").gateway.translators.command.qos, 0);
    assert_eq!(mistakes("[translators.command]\ntopic = \"dn#\"").len(), 1);
    assert_eq!(mistakes("[translators.command]\ntopic = \"#/dn\"").len(), 1);
    assert_eq!(mistakes("[translators.notify]\ntopic = \"up/+\"").len(), 1);
    assert_eq!(mistakes("mountpoint = \"lwm2m/#/\"").len(), 1);
    assert_eq!(mistakes("[translators.notify]\ntopic = \"\"").len(), 1);
}

#[test]
fn a_device_has_a_password_or_none() {
    assert_eq!(config("").gateway.client.password, PasswordSource::QueryItem);
    assert_eq!(config("[clientinfo]\npassword = \"\"").gateway.client.password, PasswordSource::None);
    assert_eq!(mistakes("[clientinfo]\npassword = \"secret\"").len(), 1);
}

#[test]
fn the_addresses_of_the_upstream_are_checked() {
    let several =
        exproto_of("[upstream.exproto]\nlistener = [\"10.0.0.1:7993\", \"emqx-1.example:7993\", \"[::1]:7993\"]");
    assert_eq!(several.nodes.len(), 1);
    assert_eq!(several.nodes[0].listeners, ["10.0.0.1:7993", "emqx-1.example:7993", "[::1]:7993"]);
    for wrong in ["listener = \"127.0.0.1\"", "listener = []", "listener = \"::1:7993\"", "listener = \"h:0\""] {
        assert_eq!(mistakes(&format!("[upstream.exproto]\n{wrong}")).len(), 1, "{wrong}");
    }
    for wrong in ["adapter = \"127.0.0.1:9100\"", "adapter = \"https://h:9100\"", "adapter = \"http://h:9100/\""] {
        assert_eq!(mistakes(&format!("[upstream.exproto]\n{wrong}")).len(), 1, "{wrong}");
    }
    for wrong in ["handler_bind = \"127.0.0.1:0\"", "handler_bind = 9001", "source_addresses = [\"here\"]"] {
        assert_eq!(mistakes(&format!("[upstream.exproto]\n{wrong}")).len(), 1, "{wrong}");
    }
}

fn exproto_of(text: &str) -> exproto::ExProtoConfig {
    let UpstreamConfig::ExProto(upstream) = config(text).upstream else { panic!("another kind") };
    upstream
}

fn mqtt_of(text: &str) -> mqtt::MqttConfig {
    let UpstreamConfig::Mqtt(upstream) = config(&format!("upstream.kind = \"mqtt\"\n{text}")).upstream else {
        panic!("another kind")
    };
    upstream
}

#[test]
fn a_broker_of_mqtt_has_addresses_and_perhaps_tls() {
    let plain = mqtt_of("upstream.mqtt.brokers = [\"a.example:1883\", \"ssl://[::1]:8883\"]");
    assert_eq!(plain.brokers, ["a.example:1883", "ssl://[::1]:8883"]);
    let secure = mqtt_of("[upstream.mqtt.ssl]\nverify = \"verify_none\"");
    assert_eq!(secure.ssl.verify, tls::Verify::None);
    for wrong in [
        "brokers = []",
        "brokers = \"a\"",
        "version = \"4\"",
        "window = 0",
        "keep_alive = 65536",
        "ssl.certfile = \"c.pem\"",
        "queue_total = 1",
    ] {
        assert_eq!(mistakes(&format!("[upstream.mqtt]\n{wrong}")).len(), 1, "{wrong}");
    }
}

#[test]
fn send_is_taken_unless_it_is_disabled() {
    assert_eq!(config("").gateway.translators.send.map(|send| send.qos), Some(0));
    assert_eq!(config("[translators.send]\nqos = 1").gateway.translators.send.map(|send| send.qos), Some(1));
    assert_eq!(config("[translators.send]\nenable = false").gateway.translators.send, None);
}

#[test]
fn presence_is_told_where_it_is_wanted_and_can_be() {
    assert_eq!(config("").gateway.translators.status, None);
    let config = config("upstream.kind = \"mqtt\"\n[translators.status]\nenable = true\nqos = 1");
    assert_eq!(config.gateway.translators.status.unwrap().qos, 1);
    assert_eq!(mistakes("[translators.status]\nenable = true").len(), 1);
}

#[test]
fn a_listener_may_speak_tls() {
    let text = "[upstream.exproto]\nlistener = \"ssl://emqx.example:7994\"\n[upstream.exproto.ssl]\n\
                cacertfile = \"ca.pem\"\nserver_name_indication = \"emqx\"\nverify = \"verify_none\"";
    let upstream = exproto_of(text);
    assert_eq!(upstream.nodes[0].listeners, ["ssl://emqx.example:7994"]);
    assert_eq!(upstream.ssl.cacertfile, Some(PathBuf::from("ca.pem")));
    assert_eq!((upstream.ssl.verify, upstream.ssl.server_name.as_deref()), (tls::Verify::None, Some("emqx")));
    assert_eq!(mistakes("[upstream.exproto]\nlistener = \"tls://h:7994\"").len(), 1);
    assert_eq!(
        mistakes("[upstream.exproto.ssl]\nkeyfile = \"key.pem\""),
        ["upstream.exproto.ssl.keyfile = \"key.pem\": requires upstream.exproto.ssl.certfile as well"]
    );
}

#[test]
fn the_words_of_emqx_choose_the_credentials() {
    let text = r#"
        [dtls]
        certfile = "server.pem"
        keyfile = "server-key.pem"
        verify = "verify_peer"
        fail_if_no_peer_cert = false
        ciphers = "ECDHE-ECDSA-AES128-CCM8,ECDHE-ECDSA-AES128-GCM-SHA256"
        psk_ciphers = ["PSK-AES128-CCM8"]
        psk_file = "keys.psk"
        psk_separator = ","
        psk_encoding = "hex"
        on_error = "exit"
    "#;
    let credentials = config(text).credentials;
    assert_eq!(credentials.certfile, Some(PathBuf::from("server.pem")));
    assert_eq!(credentials.verify, VerifyMode::Peer { required: false });
    let suites = ["ECDHE-ECDSA-AES128-CCM8", "ECDHE-ECDSA-AES128-GCM-SHA256", "PSK-AES128-CCM8"];
    assert_eq!(credentials.cipher_suites, suites);
    assert_eq!(credentials.on_error, OnError::Exit);
    let psk_file = credentials.psk_file.unwrap();
    assert_eq!((psk_file.separator.as_str(), psk_file.encoding), (",", Encoding::Hex));
    assert_eq!(config("[dtls]\nverify = \"verify_none\"").credentials.verify, VerifyMode::None);
}

#[test]
fn the_identity_is_nothing_the_name_or_a_text_around_it() {
    let rule = |text: &str| config(&format!("[dtls]\nidentity = {text:?}")).gateway.identity;
    assert_eq!(config("").gateway.identity, IdentityRule::Equals);
    assert_eq!(rule("none"), IdentityRule::None);
    assert_eq!(rule("dev-${endpoint_name}"), IdentityRule::Pattern("dev-${endpoint_name}".parse().unwrap()));
    let wrong = mistakes("[dtls]\nidentity = \"dev\"");
    assert!(
        wrong[0].starts_with("dtls.identity = \"dev\": expected \"none\", \"equals\" or a string such as"),
        "{wrong:?}"
    );
}

#[test]
fn a_service_of_keys_needs_the_identity_in_its_url() {
    let written = |url: &str| format!("[dtls.psk_http]\nurl = {url:?}");
    let good = config(&written("https://keys.example:8443/psk?id=${psk_identity}")).credentials.psk_http.unwrap();
    assert_eq!((good.requests, good.negative_cache_ttl), (100, Duration::from_secs(60)));
    assert_eq!(config("[dtls.psk_http]\ntimeout = \"1s\"").credentials.psk_http, None);
    for wrong in [
        "https://keys.example/psk",
        "ftp://keys/${psk_identity}",
        "http://${psk_identity}.example",
        "http:///${psk_identity}",
    ] {
        assert_eq!(mistakes(&written(wrong)).len(), 1, "{wrong}");
    }
}

#[test]
fn the_share_of_one_address_is_2_percent_of_the_handshakes_unless_the_file_names_it() {
    let share = |text: &str| config(&format!("[dtls]\n{text}")).dtls.handshakes_per_address;
    assert_eq!(share(""), 40);
    assert_eq!(share("handshakes = 10_000"), 200);
    assert_eq!(share("handshakes = 10"), 1);
    assert_eq!(share("handshakes = 10\nhandshakes_per_address = 1000"), 1000);
}

#[test]
fn no_mistake_and_no_print_shows_a_secret() {
    let text = "[dtls]\npassword = 20251125\npasswort = \"20251125\"\n[dtls.psk_http]\nauthorization = [\"20251125\"]";
    let mistakes = mistakes(text);
    assert_eq!(mistakes.len(), 3, "{mistakes:?}");
    assert!(mistakes.iter().all(|mistake| !mistake.contains("20251125")), "{mistakes:?}");
    let text = "[dtls]\npassword = \"20251125\"\n[dtls.psk_http]\nauthorization = \"20251125\"\n\
                url = \"http://h/${psk_identity}\"";
    let shown = format!("{:?}", config(text));
    assert!(shown.contains("Secret(..)") && !shown.contains("20251125"));
}

#[test]
fn several_nodes_are_listed_each_with_its_listeners_and_its_adapter() {
    let text = r#"
        [upstream.exproto]
        nodes = [
            { listener = "10.0.0.1:7993", adapter = "http://10.0.0.1:9100" },
            { listener = ["10.0.0.2:7993", "10.0.0.3:7993"], adapter = "http://10.0.0.2:9100" },
        ]
    "#;
    let node = |listeners: &[&str], adapter: &str| exproto::Node {
        listeners: listeners.iter().map(|listener| (*listener).to_owned()).collect(),
        adapter: adapter.to_owned(),
    };
    let first = node(&["10.0.0.1:7993"], "http://10.0.0.1:9100");
    let second = node(&["10.0.0.2:7993", "10.0.0.3:7993"], "http://10.0.0.2:9100");
    assert_eq!(exproto_of(text).nodes, [first, second]);
    for wrong in [
        "[]",
        "\"10.0.0.1:7993\"",
        "[{ listener = \"h:7993\" }]",
        "[{ listener = \"h\", adapter = \"http://h:9100\" }]",
        "[{ listener = \"h:7993\", adapter = \"h:9100\" }]",
        "[{ listener = \"h:7993\", adapter = \"http://h:9100\", weight = 2 }]",
    ] {
        assert_eq!(mistakes(&format!("[upstream.exproto]\nnodes = {wrong}")).len(), 1, "{wrong}");
    }
}

#[test]
fn nodes_stand_in_place_of_listener_and_adapter() {
    let node = "nodes = [{ listener = \"h:7993\", adapter = \"http://h:9100\" }]";
    let text = format!("[upstream.exproto]\nlistener = \"h:7993\"\nadapter = \"http://h:9100\"\n{node}");
    let expected = [
        "upstream.exproto.listener = \"h:7993\": set this key or upstream.exproto.nodes, not both",
        "upstream.exproto.adapter = \"http://h:9100\": set this key or upstream.exproto.nodes, not both",
    ];
    assert_eq!(mistakes(&text), expected);
}

#[test]
fn a_queue_of_one_device_fits_into_that_of_all() {
    let text = "[upstream.exproto]\nqueue_per_device = 10\nqueue_total = 5";
    let expected = ["upstream.exproto.queue_per_device = 10: expected at most queue_total, which is 5"];
    assert_eq!(mistakes(text), expected);
}

#[test]
fn the_environment_goes_over_the_file() {
    let config = Config::from_table(
        "update_msg_publish_condition = \"always\"\n[coap]\ntoken_length = 4".parse().unwrap(),
        environment(&[
            ("LWM2M_GATEWAY__COAP__TOKEN_LENGTH", "6"),
            ("LWM2M_GATEWAY__COAP__ACK_TIMEOUT", "3s"),
            ("LWM2M_GATEWAY__LISTENERS__UDP__DEFAULT__BIND", "127.0.0.1:5684"),
            ("LWM2M_GATEWAY__QMODE_APN", "[\"sleepy\"]"),
            ("LWM2M_GATEWAY_LOG", "debug"),
            ("LWM2M_GATEWAY", "of no meaning"),
        ]),
    )
    .unwrap();
    assert_eq!(config.gateway.coap.token_length, 6);
    assert_eq!(config.gateway.coap.ack_timeout, Duration::from_secs(3));
    assert_eq!(config.gateway.update_msg_publish_condition, UpdatePublish::Always);
    assert_eq!(config.gateway.qmode_apn, ["sleepy"]);
    assert_eq!(config.listeners[0].bind, "127.0.0.1:5684".parse().unwrap());
    assert_eq!(config.log.filter, crate::observability::logging::filter("debug").unwrap());
}

#[test]
fn a_mistake_of_the_environment_names_the_variable() {
    let variables = [("LWM2M_GATEWAY__COAP__TOKEN_LENGTH", "many"), ("LWM2M_GATEWAY__COAP__NOTHING", "1")];
    let mistakes = Config::from_table(Table::new(), environment(&variables)).unwrap_err();
    let expected = "the configuration has 2 mistakes
  coap.token_length = \"many\" (from LWM2M_GATEWAY__COAP__TOKEN_LENGTH): expected a whole number from 1 to 8
  coap.nothing (from LWM2M_GATEWAY__COAP__NOTHING): unknown key";
    assert_eq!(mistakes.to_string(), expected);
}

#[test]
fn a_variable_below_a_value_is_a_mistake() {
    let variables = environment(&[("LWM2M_GATEWAY__XML_DIR__NAME", "x")]);
    let mistakes = Config::from_table("xml_dir = \"xml\"".parse().unwrap(), variables).unwrap_err();
    assert_eq!(mistakes.0.len(), 1);
    assert_eq!(mistakes.0[0].variable.as_deref(), Some("LWM2M_GATEWAY__XML_DIR__NAME"));
}

#[cfg(feature = "embedded")]
#[test]
fn the_embedded_broker_finds_the_handler_where_it_is() {
    let config = config("[upstream.exproto]\nhandler_bind = \"0.0.0.0:19001\"");
    assert_eq!(config.embedded.handler, "http://127.0.0.1:19001");
}

#[test]
fn fewer_registers_wait_than_requests_may_so_that_registered_devices_have_room() {
    assert_eq!(
        mistakes("[coap]\npending_requests = 100\n[limits]\npending_registrations = 100"),
        ["limits.pending_registrations = 100: expected less than coap.pending_requests, which is 100"]
    );
    assert_eq!(
        config("[coap]\npending_requests = 100\n[limits]\npending_registrations = 99")
            .gateway
            .limits
            .pending_registrations,
        99
    );
}

fn listener(security: Security, name: &str, bind: &str, recbuf: usize) -> UdpListener {
    let role = SocketRole::All;
    UdpListener { name: name.to_owned(), security, role, bind: bind.parse().unwrap(), recbuf }
}

fn config(text: &str) -> Config {
    Config::from_table(text.parse().unwrap(), []).unwrap_or_else(|mistakes| panic!("{mistakes}"))
}

pub(crate) fn mistakes(text: &str) -> Vec<String> {
    let mistakes = Config::from_table(text.parse().unwrap(), []).unwrap_err();
    mistakes.0.iter().map(ToString::to_string).collect()
}

fn environment(variables: &[(&str, &str)]) -> Vec<(OsString, OsString)> {
    variables.iter().map(|(name, value)| (OsString::from(name), OsString::from(value))).collect()
}

/// Returns the file with its example lines (`#key = value`, `#[section]`) in force: the keys without a default.
pub(crate) fn with_examples(text: &str) -> Table {
    let is_example = |line: &str| {
        line.strip_prefix('#').is_some_and(|rest| rest.starts_with(|c: char| c.is_lowercase() || c == '['))
    };
    let examples: BTreeSet<&str> = text.lines().filter(|line| is_example(line)).collect();
    let lines = text.lines().map(|line| if examples.contains(line) { &line[1..] } else { line });
    lines.collect::<Vec<_>>().join("\n").parse().unwrap()
}

/// Returns the dotted keys of all values.
#[cfg(feature = "embedded")]
fn keys(table: &Table) -> BTreeSet<String> {
    let below = |(name, value): (&String, &toml::Value)| match value.as_table() {
        Some(table) => keys(table).into_iter().map(|key| format!("{name}.{key}")).collect(),
        None => vec![name.clone()],
    };
    table.iter().flat_map(below).collect()
}
