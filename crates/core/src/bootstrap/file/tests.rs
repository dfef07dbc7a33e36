use serde_json::{Value as Json, json};

use super::*;
use crate::lwm2m::model::{Object, Operations, Resource};

fn model() -> Model {
    let mut object = Object::new(2, Version::FIRST, "Access Control");
    for (id, multiple) in [(0, false), (2, true)] {
        let resource = Resource {
            id,
            name: String::new(),
            operations: Operations::default(),
            multiple,
            mandatory: true,
            resource_type: Some(ResourceType::Integer),
            range: None,
            units: String::new(),
        };
        object.insert(resource).unwrap();
    }
    let mut model = Model::default();
    model.insert(object).unwrap();
    model
}

fn read_file(file: &FilePath) -> Result<Vec<u8>, String> {
    match file.to_str() {
        Some("key.txt") => Ok(b"a key of a file\r\n".to_vec()),
        Some("key.pem") => Ok(b"-----BEGIN PRIVATE KEY-----\nAQID\nBA==\n-----END PRIVATE KEY-----\n".to_vec()),
        Some("sec1.pem") => Ok(b"-----BEGIN EC PRIVATE KEY-----\nAQID\n-----END EC PRIVATE KEY-----\n".to_vec()),
        _ => Err("no such file".to_owned()),
    }
}

fn read(account: Json) -> Result<PatternAccount, String> {
    let file: AccountFile =
        serde_json::from_value(json!({ "account": [account] })).map_err(|error| error.to_string())?;
    let accounts = file.read(AccountReading { model: &model(), read_file: Some(&read_file) });
    accounts.map(|mut accounts| accounts.remove(0)).map_err(|error| error.to_string())
}

/// Returns an account for `lab-*` with one server, of which these members are changed; null removes one.
fn server_with(changes: Json) -> Json {
    let mut server = json!({
        "short_server_id": 101,
        "uri": "coaps://gw.example.com:5684",
        "security": "psk",
        "identity": "${endpoint_name}",
        "secret": "hex:00ff",
    });
    for (name, value) in changes.as_object().unwrap() {
        server[name] = value.clone();
    }
    server.as_object_mut().unwrap().retain(|_, value| !value.is_null());
    json!({ "match": "lab-*", "server": [server] })
}

fn problem(changes: Json) -> String {
    read(server_with(changes)).unwrap_err()
}

#[test]
fn an_account_has_defaults_for_all_but_the_server() {
    let account = read(server_with(json!({}))).unwrap().account;
    assert!(account.discover && !account.verify && !account.rotate && !account.allow_plaintext);
    assert_eq!(account.delete, ["/0", "/1"].map(|path| path.parse().unwrap()));
    let [server] = account.servers.as_slice() else { panic!("{account:?}") };
    assert_eq!((server.lifetime, server.binding.as_str()), (Duration::from_secs(86_400), "U"));
    assert!(server.store_notifications && server.since_1_1.is_empty());
    let given = AccountSecret::Given(SecretBytes::new([0, 0xff]));
    let identity = IdentityTemplate::new("${endpoint_name}").unwrap();
    assert_eq!(server.security, ServerSecurity::Psk { identity, secret: given });
    assert!(!account.is_public() && !account.generates_keys());
}

#[test]
fn the_first_account_that_matches_is_that_of_an_endpoint_name_unless_it_has_its_own() {
    let pattern = |pattern: &str, id| PatternAccount {
        pattern: EndpointPattern::new(pattern),
        account: read(server_with(json!({ "short_server_id": id }))).unwrap().account,
    };
    let mut accounts = super::super::account::Accounts::default();
    accounts.set_patterns(vec![pattern("lab-1*", 1), pattern("lab-*", 2)]);
    let id = |accounts: &super::super::account::Accounts, endpoint| {
        accounts.of(endpoint).map(|account| account.servers[0].short_server_id)
    };
    assert_eq!(["lab-17", "lab-7", "x"].map(|endpoint| id(&accounts, endpoint)), [Some(1), Some(2), None]);

    let own: EndpointAccount = serde_json::from_value(json!({
        "server": [{ "short_server_id": 3, "uri": "coap://gw" }],
    }))
    .unwrap();
    let own = own.read("lab-17", AccountReading { model: &model(), read_file: None }).unwrap();
    accounts.set_endpoint("lab-17", Some(own));
    assert_eq!((id(&accounts, "lab-17"), id(&accounts, "lab-18")), (Some(3), Some(1)));
    accounts.set_endpoint("lab-17", None);
    assert_eq!((id(&accounts, "lab-17"), accounts.endpoints()), (Some(1), 0));
}

#[test]
fn what_a_client_would_refuse_at_the_end_of_bootstrap_is_refused_when_the_account_is_read() {
    for (changes, expected) in [
        (json!({ "short_server_id": 0 }), "server 1, short_server_id: expected a number from 1 to 65534"),
        (json!({ "short_server_id": 65535 }), "short_server_id: expected a number from 1 to 65534"),
        (json!({ "short_server_id": null }), "short_server_id: is missing"),
        (json!({ "uri": null }), "uri: is missing"),
        (json!({ "uri": "gw.example.com" }), "uri: expected a URI"),
        (json!({ "uri": "coaps://" }), "uri: expected a URI"),
        (json!({ "uri": "coaps://gw:0" }), "uri: expected a URI"),
        (json!({ "uri": "coaps://gw:x" }), "uri: expected a URI"),
        (json!({ "uri": "coap://gw" }), "the scheme \"coap\" does not fit security \"psk\""),
        (json!({ "uri": "coaps+tcp://gw" }), "\"U\" does not name the transport of the URI (T)"),
        (json!({ "binding": "X" }), "binding: expected letters"),
        (json!({ "lifetime": 0 }), "lifetime: expected at least one second"),
        (json!({ "lifetime": "1500ms" }), "no number of whole seconds"),
        (json!({ "security": "tls" }), "security: expected \"none\""),
        (json!({ "security": "none" }), "identity: is only for"),
        (json!({ "identity": null }), "identity: is missing"),
        (json!({ "identity": "${imei}" }), "no other placeholder"),
        (json!({ "secret": null }), "secret: is missing"),
        (json!({ "secret": "file:missing" }), "secret: no such file"),
        (json!({ "secret": "hex:" }), "secret: expected at least one byte"),
        (json!({ "secret": "file:sec1.pem" }), "secret: expected a private key in PKCS #8"),
        (json!({ "secret": "generate", "identity": "all" }), "a generated key needs an identity with ${endpoint_name}"),
    ] {
        let problem = problem(changes.clone());
        assert!(problem.starts_with("account 1 (lab-*), ") || problem.contains("whole"), "{problem}");
        assert!(problem.contains(expected), "{changes}: {problem}");
    }
}

#[test]
fn neither_an_error_nor_a_debug_print_shows_a_value_that_may_be_a_secret() {
    assert!(!problem(json!({ "lifetime": "planted-key" })).contains("planted-key"));
    let mut account = server_with(json!({ "secret": "planted-key" }));
    account["object"] = json!([{ "path": "/9/0", "resources": { "1": "planted-key" } }]);
    let file: AccountFile = serde_json::from_value(json!({ "account": [account] })).unwrap();
    assert!(!format!("{file:?}").contains("planted-key"), "{file:?}");
}

#[test]
fn accounts_whose_parts_do_not_fit_together_are_refused() {
    let with = |name: &str, value: Json| {
        let mut account = server_with(json!({}));
        account[name] = value;
        read(account).unwrap_err()
    };
    assert!(with("server", json!([])).contains("server: is missing"));
    let twice = json!({ "short_server_id": 1, "uri": "coap://gw" });
    assert!(with("server", json!([twice, twice])).contains("the short server ID of another server"));
    assert!(with("match", json!("")).contains("match: is missing"));
    assert!(with("format", json!("text")).contains("not text"));
    assert!(with("delete", json!(["/3"])).contains("delete: cannot be deleted"));
    assert!(with("delete", json!(["/0/0/1"])).contains("delete: expected the root"));
    assert!(with("server", json!(vec![twice; 65])).contains("more than 64"));
    assert!(with("secret", json!(1)).contains("unknown field `secret`"));
}

#[test]
fn no_error_and_no_debug_output_shows_a_secret() {
    for secret in [json!("planted"), json!("hex:planted"), json!(70_001), json!("hex:7AB"), json!(true)] {
        let problem = problem(json!({ "secret": secret }));
        assert!(!problem.contains("planted") && !problem.contains("7000") && !problem.contains("7AB"), "{problem}");
    }
    let account = read(server_with(json!({ "secret": "hex:706c616e746564" }))).unwrap();
    let shown = format!("{account:?}");
    assert!(!shown.contains("706c") && !shown.contains("112, 108") && shown.contains("SecretBytes(..)"), "{shown}");
}

#[test]
fn keys_are_read_from_text_files_and_from_pem() {
    let secret =
        |secret: &str| match &read(server_with(json!({ "secret": secret }))).unwrap().account.servers[0].security {
            ServerSecurity::Psk { secret: AccountSecret::Given(secret), .. } => secret.clone(),
            other => panic!("{other:?}"),
        };
    assert_eq!(secret("file:key.txt").reveal(), b"a key of a file");
    assert_eq!(secret("file:key.pem").reveal(), [1, 2, 3, 4]);
    let certificates = json!({
        "security": "x509", "identity": null, "certificate": "hex:01", "server_certificate": "hex:02",
        "secret": "file:key.pem",
    });
    let account = read(server_with(certificates)).unwrap().account;
    let pair = KeyPair { own: vec![1], server: vec![2], private_key: SecretBytes::new([1, 2, 3, 4]) };
    assert_eq!(account.servers[0].security, ServerSecurity::X509(pair));
}

#[test]
fn an_application_names_no_files_of_the_gateway() {
    let own: EndpointAccount = serde_json::from_value(json!({ "server": [{
        "short_server_id": 1, "uri": "coaps://gw", "security": "psk", "identity": "a", "secret": "file:key.txt",
    }] }))
    .unwrap();
    let error = own.read("lab-7", AccountReading { model: &model(), read_file: None }).unwrap_err();
    assert_eq!(error.problem, AccountProblem::NoFiles);
}

#[test]
fn an_object_is_written_by_its_definition() {
    let mut account = server_with(json!({}));
    account["object"] = json!([{ "path": "/2/0", "resources": { "0": 3, "2": { "101": 15 } } }]);
    let object = &read(account.clone()).unwrap().account.objects[0];
    let value = |path: &str, value| Assignment { path: path.parse().unwrap(), value: Value::Integer(value) };
    assert_eq!(object.values, [value("/2/0/0", 3), value("/2/0/2/101", 15)]);

    for (path, resources, expected) in [
        ("/1/0", json!({}), "another object than 0 and 1"),
        ("/2", json!({}), "the path of an instance"),
        ("/2/0", json!({ "9": 1 }), "/2/0/9 has no definition"),
        ("/7/0", json!({ "0": 1 }), "/7/0/0 has no definition"),
        ("/2/0", json!({ "0": "planted" }), "/2/0/0: the value is not a valid Integer"),
        ("/2/0", json!({ "x": 1 }), "a number from 0 to 65535 as key"),
    ] {
        account["object"] = json!([{ "path": path, "resources": resources }]);
        let problem = read(account.clone()).unwrap_err();
        assert!(problem.contains(expected) && !problem.contains("planted"), "{problem}");
    }
}

#[test]
fn an_account_knows_the_identities_that_it_gives() {
    let gives = |identity: &str, changes| {
        let identity = lwm2m_base::identity::PskIdentity::new(identity.as_bytes()).unwrap();
        read(server_with(changes)).unwrap().gives(&identity)
    };
    assert!(gives("lab-7", json!({})) && !gives("lib-7", json!({})));
    assert!(gives("dev-lab-7", json!({ "identity": "dev-${endpoint_name}" })));
    assert!(!gives("lab-7", json!({ "identity": "dev-${endpoint_name}" })));
    assert!(gives("all", json!({ "identity": "all" })) && !gives("lab-7", json!({ "identity": "all" })));
}
