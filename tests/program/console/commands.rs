//! Commands in the console of the built program: their answers, what waits, and why a command is not given.

use std::thread::{self, JoinHandle};

use lwm2m_core::coap::{Code, Kind};
use serde_json::{Value, json};

use super::devices::TestConsole;
use super::{Answer, exchange_with};
use crate::common::application::{Application, answer, content, done};
use crate::common::device::{Device, PATIENCE};
use crate::over_both_upstreams;

/// The lines of a configuration in which a device in queue mode sleeps soon.
const SLEEPY: &str = "qmode_time_window = \"300ms\"";
const PLANTED: &str = "planted-value-of-a-write";

over_both_upstreams!(
    a_command_is_answered_within_its_wait_and_applications_see_it,
    a_pending_command_of_an_application_is_withdrawn_and_answered_4_00,
    after_a_restart_a_command_goes_on_and_its_answer_is_published,
);

impl TestConsole {
    /// Gives a command as a process of this machine.
    fn give(&self, target: &str, command: &Value) -> Answer {
        self.give_with(target, &[], &command.to_string())
    }

    fn give_with(&self, target: &str, headers: &[(&str, &str)], body: &str) -> Answer {
        let line = format!("POST /api/v1/devices/{target}");
        let length = body.len().to_string();
        let own = [("Content-Type", "application/json"), ("Content-Length", &length)];
        let headers: Vec<_> = headers.iter().copied().chain(own).collect();
        exchange_with(self.connect(), "localhost", &line, &headers, body.as_bytes())
    }

    /// Gives a command and waits for its answer, in a thread of its own.
    pub(crate) fn give_and_wait(&self, target: &str, command: &Value) -> JoinHandle<Answer> {
        let (stream, command) = (self.connect(), command.to_string());
        let line = format!("POST /api/v1/devices/{target}");
        thread::spawn(move || {
            let length = command.len().to_string();
            let headers = [("Content-Type", "application/json"), ("Content-Length", length.as_str())];
            exchange_with(stream, "localhost", &line, &headers, command.as_bytes())
        })
    }

    /// Registers a device in queue mode, and waits until it sleeps.
    fn sleeper(&self, endpoint: &str) -> Device {
        let device = self.register(endpoint, "&b=U&Q");
        self.wait_until(&format!("GET /api/v1/devices/{endpoint}"), |device| device["state"] == "asleep");
        device
    }

    fn wait_until(&self, line: &str, is_so: impl Fn(&Value) -> bool) -> Value {
        let answers = (0..1_000).map(|_| {
            thread::park_timeout(PATIENCE / 1_000);
            self.ask(line).json()
        });
        answers.into_iter().find(|answer| is_so(answer)).unwrap_or_else(|| panic!("{line}: {}", self.ask(line).body))
    }
}

fn read(path: &str) -> Value {
    json!({ "msgType": "read", "data": { "path": path } })
}

fn within(mut command: Value, ttl: u64) -> Value {
    command["mheaders"] = json!({ "ttl": ttl });
    command
}

/// Returns a command as applications see it.
fn marked(mut command: Value) -> Value {
    command["origin"] = json!("console");
    command
}

fn problem(status: u16, name: &str) -> (u16, String) {
    (status, name.to_owned())
}

/// Returns the header `Location` of an answer.
fn location(answer: &Answer) -> String {
    let line = answer.head.lines().find_map(|line| line.strip_prefix("location: "));
    line.unwrap_or_else(|| panic!("no Location in {}", answer.head)).trim().to_owned()
}

async fn a_command_is_answered_within_its_wait_and_applications_see_it() {
    let console = TestConsole::start().await;
    let mut application = Application::connect(&console.broker.addresses.mqtt, &["b1"]);
    let device = console.register("b1", "");
    assert_eq!(application.receive().1["msgType"], "register");

    let command = json!({ "reqID": "mine", "msgType": "read", "data": { "path": "/3/0/0" } });
    let waiting = console.give_and_wait("b1/commands?wait=20", &command);
    let request = device.expect_request(Code::GET, "/3/0/0");
    let in_flight = &console.ask("GET /api/v1/devices/b1").json()["inFlight"];
    assert!(in_flight["by"].as_str().is_some_and(|by| by.starts_with("console:uid:")), "{in_flight}");
    device.answer_text(&request, "Acme");
    let given = waiting.join().expect("it is answered");
    assert_eq!(given.status, 200, "{}", given.body);
    let given = given.json();
    let expected = answer(&marked(command), content("/3/0/0", "Acme"));
    assert_eq!((&given["state"], &given["outcome"], &given["answer"]), (&json!("done"), &json!("answered"), &expected));
    assert!(given["took"].as_f64().is_some_and(|took| (0.0..20.0).contains(&took)), "{given}");
    application.expect("lwm2m/b1/up/resp", &expected);
    let id = given["id"].as_str().expect("an id");
    assert_eq!(console.ask(&format!("GET /api/v1/commands/{id}")).json(), given);

    // A code of the device is an answer.
    let waiting = console.give_and_wait("b1/commands?wait=20", &read("/3/0/1"));
    let request = device.expect_request(Code::GET, "/3/0/1");
    device.answer(&request, Code::METHOD_NOT_ALLOWED, None);
    let refused = waiting.join().expect("it is answered");
    assert_eq!((refused.status, refused.json()["answer"]["data"]["code"].as_str()), (200, Some("4.05")));
}

async fn a_pending_command_of_an_application_is_withdrawn_and_answered_4_00() {
    let console = TestConsole::start_with(SLEEPY).await;
    let mut application = Application::connect(&console.broker.addresses.mqtt, &["b1"]);
    let _device = console.sleeper("b1");
    assert_eq!(application.receive().1["msgType"], "register");
    let command = json!({ "reqID": 7, "msgType": "read", "data": { "path": "/3/0/0" } });
    application.send("b1", &command);
    let shown = console.wait_until("GET /api/v1/devices/b1", |device| device["waiting"] == 1);
    let (number, by) = (shown["queue"][0]["number"].as_u64().expect("a number"), &shown["queue"][0]["by"]);
    assert_eq!(by, "mqtt");

    let line = format!("DELETE /api/v1/devices/b1/queue/{number}");
    assert_eq!(console.ask_with(&console.viewer, &line).problem(), problem(403, "not-allowed"));
    assert_eq!(console.ask_with(&console.limited, &line).status, 204);
    let (topic, refused) = application.receive();
    assert_eq!((topic.as_str(), &refused["data"]["code"]), ("lwm2m/b1/up/resp", &json!("4.00")));
    assert_eq!((&refused["data"]["reason"], &refused["reqID"]), (&json!("withdrawn by an operator"), &json!(7)));
    assert_eq!(console.ask(&line).problem(), problem(404, "no-such-command"));
    let unknown = console.ask("DELETE /api/v1/devices/nobody/queue/1");
    assert_eq!(unknown.problem(), problem(404, "device-not-registered"));
    assert_eq!(console.ask("DELETE /api/v1/devices/b1/queue/first").problem(), problem(400, "invalid-request"));
    let entry = &console.ask("GET /api/v1/audit").json()["entries"][2];
    assert_eq!(
        (&entry["action"], &entry["by"], &entry["result"]),
        (&json!("withdraw"), &json!("limited"), &json!("done"))
    );
    let (_, metrics) = console.gateway.ask_admin("/metrics");
    assert!(metrics.contains("lwm2m_commands_total{type=\"read\",outcome=\"withdrawn\"} 1"), "{metrics}");
}

async fn after_a_restart_a_command_goes_on_and_its_answer_is_published() {
    let mut console = TestConsole::start_with(SLEEPY).await;
    let device = console.sleeper("b1");
    let pending = console.give("b1/commands", &read("/3/0/0"));
    let path = location(&pending);
    assert!(console.gateway.stop("TERM").success());
    console.gateway.start_again();
    let mut application = Application::connect(&console.broker.addresses.mqtt, &["b1"]);
    assert_eq!(console.ask(&format!("GET {path}")).problem(), problem(404, "no-such-command"));
    let shown = console.ask("GET /api/v1/devices/b1").json();
    assert!(shown["queue"][0]["by"].as_str().is_some_and(|by| by.starts_with("console:uid:")), "{shown}");
    assert_eq!(device.update(&[], None).code, Code::CHANGED);
    let request = device.expect_request(Code::GET, "/3/0/0");
    device.answer_text(&request, "Acme");
    application.expect("lwm2m/b1/up/resp", &answer(&marked(read("/3/0/0")), content("/3/0/0", "Acme")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_for_a_sleeping_device_waits_at_its_place_and_its_answer_is_asked_for_later() {
    let console = TestConsole::start_with(SLEEPY).await;
    let device = console.sleeper("b1");
    let first = console.give("b1/commands?wait=0.1", &read("/3/0/0"));
    assert_eq!(first.status, 202, "{}", first.body);
    let shown = first.json();
    let expected = json!({ "state": "pending", "place": 1, "device": "asleep", "endpoint": "b1" });
    for (member, value) in expected.as_object().expect("members") {
        assert_eq!(&shown[member], value, "{member} of {shown}");
    }
    assert!(shown["expires"].as_str().is_some_and(|time| time.ends_with('Z')), "{shown}");
    assert!(shown.get("outcome").is_none() && shown.get("answer").is_none(), "{shown}");
    assert_eq!(location(&first), format!("/api/v1/commands/{}", shown["id"].as_str().expect("an id")));
    let second = console.give("b1/commands", &within(read("/3/0/1"), 600));
    assert_eq!(second.json()["place"], 2);
    let queue = console.ask("GET /api/v1/devices/b1").json()["queue"].clone();
    assert_eq!((&queue[0]["number"], &queue[1]["path"]), (&shown["number"], &json!("/3/0/1")));

    assert_eq!(console.ask(&format!("DELETE {}", location(&second))).status, 204);
    let withdrawn = console.wait_until(&format!("GET {}", location(&second)), |command| command["state"] == "done");
    assert_eq!(
        (&withdrawn["outcome"], &withdrawn["answer"]["data"]["reason"]),
        (&json!("withdrawn"), &json!("withdrawn by an operator"))
    );

    assert_eq!(device.update(&[], None).code, Code::CHANGED);
    let request = device.expect_request(Code::GET, "/3/0/0");
    assert_eq!(console.ask(&format!("GET {}", location(&first))).json()["place"], 0);
    let sent = console.ask(&format!("DELETE {}", location(&first)));
    assert_eq!(sent.problem(), problem(409, "not-pending"));
    device.answer_text(&request, "Acme");
    let done = console.wait_until(&format!("GET {}", location(&first)), |command| command["state"] == "done");
    assert_eq!((&done["outcome"], &done["answer"]["data"]), (&json!("answered"), &content("/3/0/0", "Acme")));
    // A viewer looks, and does not withdraw.
    assert_eq!(console.ask_with(&console.viewer, &format!("GET {}", location(&first))).json(), done);
    let refused = console.ask_with(&console.viewer, &format!("DELETE {}", location(&first)));
    assert_eq!(refused.problem(), problem(403, "not-allowed"));
    for id in ["1", "zz", &"0".repeat(32)] {
        assert_eq!(console.ask(&format!("GET /api/v1/commands/{id}")).problem(), problem(404, "no-such-command"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_is_not_given_for_a_reason_that_the_problem_names() {
    let console = TestConsole::start_with(&format!("{SLEEPY}\nlimits.command_size = 100_000")).await;
    let (_awake, _sleeper) = (console.register("a1", ""), console.sleeper("b1"));
    let valid = read("/3/0/0").to_string();
    let give = |target: &str, headers: &[(&str, &str)], body: &str| console.give_with(target, headers, body).problem();
    let viewer = [("Authorization", format!("Bearer {}", console.viewer))];
    let limited = [("Authorization", format!("Bearer {}", console.limited))];
    let as_viewer: Vec<_> = viewer.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let as_limited: Vec<_> = limited.iter().map(|(name, value)| (*name, value.as_str())).collect();
    assert_eq!(give("b1/commands", &as_viewer, &valid), problem(403, "not-allowed"));
    assert_eq!(give("a1/commands", &as_limited, &valid), problem(403, "not-allowed"));
    assert_eq!(give("b9/commands", &as_limited, &valid), problem(404, "device-not-registered"));
    for query in ["wait=61", "wait=-1", "wait=soon", "force=maybe", "while=ever", "until=now"] {
        assert_eq!(give(&format!("b1/commands?{query}"), &[], &valid), problem(400, "invalid-request"), "{query}");
    }
    let misspelt = console.give("b1/commands", &json!({ "msgType": "raed", "data": { "path": "/3/0/0" } }));
    assert_eq!(misspelt.problem(), problem(400, "command-invalid"));
    assert!(misspelt.json()["detail"].as_str().is_some_and(|text| text.contains("did you mean")), "{}", misspelt.body);
    assert_eq!(give("b1/commands", &[], "no command"), problem(400, "command-invalid"));
    let hasty = console.give("b1/commands", &within(read("/3/0/0"), 0));
    assert_eq!(hasty.problem(), problem(409, "device-asleep"));
    let large = json!({ "msgType": "write", "data": { "path": "/3/0/14", "value": "x".repeat(100_000) } });
    assert_eq!(give("b1/commands", &[], &large.to_string()), problem(413, "body-too-large"));
    for number in 0..8 {
        let command = console.give_with("b1/commands", &as_limited, &valid);
        assert_eq!((command.status, &command.json()["place"]), (202, &json!(number + 1)));
    }
    assert_eq!(give("b1/commands", &as_limited, &valid), problem(409, "queue-full"));
    let form = console.send("POST /api/v1/devices/b1/commands", &[("Content-Type", "text/plain")]);
    assert_eq!(form.problem(), problem(415, "not-json"));
    let image = [("Content-Type", "application/json"), ("Content-Length", "8388609")];
    let image = console.send("POST /api/v1/devices/b1/commands", &image);
    assert_eq!(image.problem(), problem(413, "body-too-large"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_firmware_image_fits_into_a_command() {
    let console = TestConsole::start_with(SLEEPY).await;
    let _device = console.sleeper("b1");
    let image = |bytes: usize| {
        let value = "A".repeat(bytes);
        json!({ "msgType": "write", "data": { "path": "/5/0/0", "type": "Opaque", "value": value } })
    };
    let large = image(3 * 1024 * 1024);
    assert_eq!(console.give("b1/commands", &large).status, 202);
    let queue = &console.ask("GET /api/v1/devices/b1").json()["queue"];
    assert_eq!(queue[0]["bytes"], large.to_string().len());
    // More than limits.command_size, which is 6 MiB.
    assert_eq!(console.give("b1/commands", &image(7 * 1024 * 1024)).problem(), problem(413, "body-too-large"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_gives_20_commands_at_once_and_no_more() {
    let console = TestConsole::start().await;
    let answers: Vec<Answer> = thread::scope(|scope| {
        let give = || console.give("nobody/commands", &read("/3/0/0"));
        let given: Vec<_> = (0..40).map(|_| scope.spawn(give)).collect();
        given.into_iter().map(|answer| answer.join().expect("an answer")).collect()
    });
    let (refused, given): (Vec<&Answer>, Vec<&Answer>) = answers.iter().partition(|answer| answer.status == 429);
    let unknown = problem(404, "device-not-registered");
    assert!(given.len() >= 20 && given.iter().all(|answer| answer.problem() == unknown));
    let refused = refused.first().expect("40 at once are too many");
    assert_eq!(refused.problem(), problem(429, "too-many"));
    assert!(refused.head.contains("retry-after: 1"), "{}", refused.head);
    let (_, metrics) = console.gateway.ask_admin("/metrics");
    assert!(!metrics.contains("lwm2m_console_commands_total{result=\"rate_limited\"} 0"), "{metrics}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_observation_of_an_application_is_replaced_only_by_force() {
    let console = TestConsole::start().await;
    let mut application = Application::connect(&console.broker.addresses.mqtt, &["b1"]);
    let device = console.register("b1", "");
    assert_eq!(application.receive().1["msgType"], "register");
    let path = "/3303/0/5700";
    let observe = json!({ "reqID": 1, "msgType": "observe", "data": { "path": path } });
    application.send("b1", &observe);
    device.answer_observe(&device.expect_request(Code::GET, path), "20.5");
    application.expect("lwm2m/b1/up/resp", &answer(&observe, content(path, 20.5)));

    let own = json!({ "msgType": "observe", "data": { "path": path } });
    for msg_type in ["observe", "cancel-observe"] {
        let refused = console.give("b1/commands", &json!({ "msgType": msg_type, "data": { "path": path } }));
        assert_eq!(refused.problem(), problem(409, "observed-already"));
    }
    let waiting = console.give_and_wait("b1/commands?wait=20&force&while=stream", &own);
    let request = device.expect_request(Code::GET, path);
    device.answer_observe(&request, "21.5");
    assert_eq!(waiting.join().expect("it is answered").status, 200);
    application.expect("lwm2m/b1/up/resp", &answer(&marked(own), content(path, 21.5)));
    device.notify(&request, Kind::NonConfirmable, 3, "22.5");
    let (topic, notified) = application.receive();
    assert_eq!(
        (topic.as_str(), &notified["origin"], notified.get("reqID")),
        ("lwm2m/b1/up/notify", &json!("console"), None)
    );
    let observed = &console.ask("GET /api/v1/devices/b1").json()["observed"];
    assert!(observed[0]["by"].as_str().is_some_and(|by| by.starts_with("console:uid:")), "{observed}");
    let entries = console.ask("GET /api/v1/audit").json();
    assert_eq!((&entries["entries"][0]["msgType"], &entries["entries"][0]["force"]), (&json!("observe"), &json!(true)));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_audit_log_has_each_command_before_it_is_given_and_never_a_value() {
    let console = TestConsole::start_with("console.publish_answers = false").await;
    let mut application = Application::connect(&console.broker.addresses.mqtt, &["b1"]);
    let device = console.register("b1", "");
    assert_eq!(application.receive().1["msgType"], "register");
    let write = json!({ "msgType": "write", "data": { "path": "/3/0/14", "value": PLANTED } });
    let waiting = console.give_and_wait("b1/commands?wait=20", &write);
    let request = device.expect_request(Code::PUT, "/3/0/14");
    let entries = console.ask("GET /api/v1/audit").json();
    let entry = &entries["entries"][0];
    let expected = json!({ "action": "command", "endpoint": "b1", "msgType": "write", "path": "/3/0/14",
        "from": "socket", "result": "given", "bytes": write.to_string().len() });
    for (member, value) in expected.as_object().expect("members") {
        assert_eq!(&entry[member], value, "{member} of {entry}");
    }
    device.answer(&request, Code::CHANGED, None);
    let document = waiting.join().expect("it is answered").json();
    assert_eq!(document["answer"]["data"], done("/3/0/14", "2.04", "changed"));
    assert_eq!(entry["id"], document["id"]);
    let refused = console.give("nobody/commands", &write);
    assert_eq!(refused.problem(), problem(404, "device-not-registered"));
    let entries = console.ask("GET /api/v1/audit");
    let (refusal, given) = (&entries.json()["entries"][0], &entries.json()["entries"][1]);
    assert_eq!(refusal["result"], "device-not-registered");
    assert_eq!(refusal["id"], given["id"]);
    assert_ne!(refusal["id"], entry["id"]);
    let log = console.gateway.output();
    let told = [format!("bytes={}", write.to_string().len()), "/3/0/14".to_owned(), entry["id"].to_string()];
    let told = told.map(|text| text.trim_matches('"').to_owned());
    assert!(log.lines().any(|line| line.contains("audit") && told.iter().all(|text| line.contains(text))), "{log}");
    assert!(!log.contains(PLANTED) && !entries.body.contains(PLANTED), "{log}");
    // Nothing was published: the next one is the answer to an application's command.
    let command = json!({ "reqID": 2, "msgType": "read", "data": { "path": "/3/0/0" } });
    application.send("b1", &command);
    device.answer_text(&device.expect_request(Code::GET, "/3/0/0"), "Acme");
    application.expect("lwm2m/b1/up/resp", &answer(&command, content("/3/0/0", "Acme")));
}

#[tokio::test(flavor = "multi_thread")]
async fn values_of_hidden_paths_are_covered_in_answers() {
    let console = TestConsole::start_with("console.hide = [\"/3/0/0\"]").await;
    let device = console.register("b1", "");
    let waiting = console.give_and_wait("b1/commands?wait=20", &read("/3/0/0"));
    device.answer_text(&device.expect_request(Code::GET, "/3/0/0"), PLANTED);
    let given = waiting.join().expect("it is answered");
    assert_eq!(given.json()["answer"]["data"]["content"][0]["value"], "***", "{}", given.body);
    assert!(!given.body.contains(PLANTED));
}

#[tokio::test(flavor = "multi_thread")]
async fn no_command_is_given_while_the_gateway_shuts_down() {
    let console = TestConsole::start().await;
    let device = console.register("b1", "");
    let in_flight = console.give_and_wait("b1/commands?wait=20", &read("/3/0/0"));
    let request = device.expect_request(Code::GET, "/3/0/0");
    console.gateway.signal("TERM");
    let refused = (0..10).map(|_| {
        thread::park_timeout(PATIENCE / 1_000);
        console.give("b1/commands", &within(read("/3/0/1"), 0)).problem()
    });
    // Until the signal has come the device is busy.
    let mut refused = refused.skip_while(|refused| *refused == problem(409, "device-asleep"));
    assert_eq!(refused.next(), Some(problem(503, "ending")));
    device.answer_text(&request, "Acme");
    assert_eq!(in_flight.join().expect("it is answered").json()["outcome"], "answered");
}
