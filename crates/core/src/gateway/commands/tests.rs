use std::time::Duration;

use serde_json::{Value, json};

use super::*;
use crate::coap::Code;
use crate::coap::options::number;
use crate::command::ResponseTopic;
use crate::gateway::config::GatewayConfig;
use crate::gateway::fixtures::{Outputs, context, device, json};

/// The commands of one device, in a context whose time the test moves.
struct SchedulerScene {
    context: Context,
    device: Device,
    commands: CommandScheduler,
    start: Instant,
}

impl SchedulerScene {
    fn new(config: GatewayConfig) -> Self {
        let context = context(config);
        let start = context.now;
        Self { device: device(7, &["lt=86400"], start), commands: CommandScheduler::default(), context, start }
    }

    fn awake() -> Self {
        Self::new(GatewayConfig::default())
    }

    fn asleep(config: GatewayConfig) -> Self {
        let mut scene = Self::new(config);
        scene.device.set_awake_window(Some(Duration::from_secs(22)));
        scene.at(30.0);
        scene
    }

    /// Lets this many seconds pass since the start.
    fn at(&mut self, seconds: f64) {
        self.context.now = self.start + Duration::from_secs_f64(seconds);
    }

    /// Expires the commands of the devices that are due, as their owner does.
    fn handle_timeout(&mut self) -> Outputs {
        while let Some(id) = self.commands.pop_expired(self.context.now) {
            assert_eq!(id, self.device.id);
            self.commands.expire(&mut self.context, &mut self.device);
        }
        self.outputs()
    }

    fn handle(&mut self, command: &Value) -> Outputs {
        self.handle_with(command, MessageProperties::default())
    }

    fn handle_with(&mut self, command: &Value, properties: MessageProperties) -> Outputs {
        let payload = command.to_string().into_bytes();
        self.commands.handle(&mut self.context, &mut self.device, payload, properties);
        self.outputs()
    }

    /// Returns the exchange of the command in flight.
    fn exchange(&self) -> ExchangeId {
        self.device.in_flight().expect("a command is in flight").exchange
    }

    /// The device answers the command in flight 2.04.
    fn answer(&mut self) -> Outputs {
        let exchange = self.exchange();
        self.answer_as(exchange, Code::CHANGED, None)
    }

    fn answer_as(&mut self, exchange: ExchangeId, code: Code, observing: Option<u32>) -> Outputs {
        let response = Response::new(code);
        self.commands.answered(&mut self.context, &mut self.device, exchange, &response, observing);
        self.outputs()
    }

    /// The device speaks: it is awake now.
    fn wake(&mut self) -> Outputs {
        self.device.heard_from(self.context.now);
        self.commands.send_next(&mut self.context, &mut self.device);
        self.outputs()
    }

    fn outputs(&mut self) -> Outputs {
        Outputs::take(&mut self.context)
    }

    /// Returns the next expiry in seconds since the start.
    fn next_deadline(&self) -> Option<f64> {
        self.commands.next_deadline().map(|at| (at - self.start).as_secs_f64())
    }
}

/// The way in which an exchange ends without an answer.
type End = fn(&mut SchedulerScene, ExchangeId);

/// A command to execute a resource whose id is the number of the command.
fn execute(number: u64) -> Value {
    json!({ "reqID": number, "msgType": "execute", "data": { "path": format!("/3/0/{number}") } })
}

fn execute_within(number: u64, ttl: f64) -> Value {
    let mut command = execute(number);
    command["mheaders"] = json!({ "ttl": ttl });
    command
}

fn observe(number: u64) -> Value {
    json!({ "reqID": number, "msgType": "observe", "data": { "path": format!("/3303/{number}") } })
}

fn limited(change: impl FnOnce(&mut Limits)) -> GatewayConfig {
    let mut config = GatewayConfig::default();
    change(&mut config.limits);
    config
}

/// Returns the last segment of the path of each request that was sent.
fn requested(outputs: &Outputs) -> Vec<u64> {
    let segment = |texts: Vec<&str>| texts.last().expect("a path").parse().expect("a number");
    outputs.messages.iter().map(|(_, request)| segment(request.options.texts(number::URI_PATH).unwrap())).collect()
}

/// Returns the number, the `msgType` and the code of each answer that was published.
fn answered(outputs: &Outputs) -> Vec<(u64, String, Option<String>)> {
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let answers = outputs.publications().into_iter().map(|(_, publication)| {
        let answer = json(publication);
        let number = answer["reqID"].as_u64().expect("the number of a command");
        (number, text(&answer["msgType"]).expect("a type"), text(&answer["data"]["code"]))
    });
    answers.collect()
}

fn answer(number: u64, msg_type: &str, code: &str) -> (u64, String, Option<String>) {
    (number, msg_type.to_owned(), Some(code.to_owned()))
}

/// Returns an `ack`, or the command that the device did not answer with its own `data`: neither has a code.
fn unanswered(number: u64, msg_type: &str) -> (u64, String, Option<String>) {
    (number, msg_type.to_owned(), None)
}

fn refused(number: u64) -> (u64, String, Option<String>) {
    answer(number, "execute", "4.00")
}

fn reason(outputs: &Outputs) -> String {
    let publication = outputs.publications().last().expect("an answer").1;
    json(publication).to_string()
}

fn outcomes(outputs: &Outputs) -> Vec<CommandOutcome> {
    let outcome = |report: &Report| match report {
        Report::Command { outcome, .. } => Some(*outcome),
        _ => None,
    };
    outputs.reports.iter().filter_map(outcome).collect()
}

fn is_quiet(outputs: &Outputs) -> bool {
    outputs.messages.is_empty() && outputs.broker.is_empty() && outputs.reports.is_empty()
}

fn retained() -> MessageProperties {
    MessageProperties { retained: true, ..MessageProperties::default() }
}

// --- Order, and one in flight ----------------------------------------------------------------------------------------

#[test]
fn commands_are_sent_one_after_the_other_in_their_order() {
    let mut scene = SchedulerScene::awake();
    assert_eq!(requested(&scene.handle(&execute(1))), [1]);
    assert!(is_quiet(&scene.handle(&execute(2))));
    assert!(is_quiet(&scene.handle(&execute(3))));
    for (number, next) in [(1, vec![2]), (2, vec![3]), (3, vec![])] {
        let outputs = scene.answer();
        assert_eq!(answered(&outputs), [answer(number, "execute", "2.04")]);
        assert_eq!(requested(&outputs), next);
        assert_eq!(outcomes(&outputs), [CommandOutcome::Answered]);
    }
    assert_eq!((scene.commands.exchanges(), scene.commands.bytes()), (0, 0));
    scene.at(24.0 * 3600.0);
    assert!(is_quiet(&scene.handle_timeout()), "the deadline of commands that were sent has no effect");
    assert_eq!(scene.commands.deadlines(), 0);
}

#[test]
fn a_reset_a_timeout_and_a_failure_are_final_answers_and_the_next_command_follows() {
    let mut scene = SchedulerScene::awake();
    (1..=4).for_each(|number| drop(scene.handle(&execute(number))));
    let ends: [(End, _, _); 3] = [
        (
            |scene, exchange| scene.commands.reset(&mut scene.context, &mut scene.device, exchange),
            unanswered(1, "coap_reset"),
            CommandOutcome::Reset,
        ),
        (
            |scene, exchange| scene.commands.timed_out(&mut scene.context, &mut scene.device, exchange),
            unanswered(2, "coap_timeout"),
            CommandOutcome::TimedOut,
        ),
        (
            |scene, exchange| {
                let error = ExchangeError::CriticalOption(2049);
                scene.commands.failed(&mut scene.context, &mut scene.device, exchange, error);
            },
            refused(3),
            CommandOutcome::MalformedAnswer,
        ),
    ];
    for (next, (end, expected, outcome)) in (2..).zip(ends) {
        let exchange = scene.exchange();
        end(&mut scene, exchange);
        let outputs = scene.outputs();
        assert_eq!((answered(&outputs), outcomes(&outputs)), (vec![expected], vec![outcome]));
        assert_eq!(requested(&outputs), [next]);
    }
}

#[test]
fn an_exchange_that_has_ended_answers_no_later_command() {
    let mut scene = SchedulerScene::awake();
    scene.handle(&execute(1));
    scene.handle(&execute(2));
    let ended = scene.exchange();
    scene.answer();
    assert!(is_quiet(&scene.answer_as(ended, Code::CHANGED, None)));
    scene.commands.reset(&mut scene.context, &mut scene.device, ended);
    scene.commands.timed_out(&mut scene.context, &mut scene.device, ended);
    assert!(is_quiet(&scene.outputs()));
    assert_eq!(answered(&scene.answer()), [answer(2, "execute", "2.04")]);
}

#[test]
fn an_acknowledgement_is_published_once_and_the_command_stays_in_flight() {
    let mut scene = SchedulerScene::awake();
    scene.handle(&execute(1));
    scene.handle(&execute(2));
    let exchange = scene.exchange();
    scene.commands.acknowledged(&mut scene.context, &mut scene.device, exchange);
    let outputs = scene.outputs();
    assert_eq!((answered(&outputs), requested(&outputs)), (vec![unanswered(1, "ack")], vec![]));
    scene.commands.acknowledged(&mut scene.context, &mut scene.device, exchange);
    assert!(is_quiet(&scene.outputs()));
    assert_eq!(answered(&scene.answer()), [answer(1, "execute", "2.04")]);
}

#[test]
fn the_final_answer_goes_to_the_response_topic_of_the_command_too() {
    let mut scene = SchedulerScene::awake();
    let reply = ResponseTopic { topic: "app/answers".to_owned(), correlation: Some(vec![1, 2]) };
    scene.handle_with(&execute(1), MessageProperties { reply: Some(reply), ..MessageProperties::default() });
    let outputs = scene.answer();
    let published: Vec<_> = outputs.publications().into_iter().map(|(_, answer)| answer).collect();
    let topics: Vec<_> = published.iter().map(|answer| (answer.topic.as_str(), answer.correlation.clone())).collect();
    assert_eq!(topics, [("app/answers", Some(vec![1, 2])), ("response", None)]);
    assert_eq!(published[0].payload, published[1].payload);
}

#[test]
fn no_answer_goes_to_a_response_topic_with_wildcards_also_not_that_to_an_invalid_command() {
    let mut scene = SchedulerScene::new(limited(|limits| limits.command_size = 200));
    let mut long = execute(1);
    long["note"] = json!("x".repeat(200));
    for command in [long, json!("no command")] {
        for (topic, expected) in [("app/#", vec!["response"]), ("app/answers", vec!["app/answers", "response"])] {
            let reply = Some(ResponseTopic { topic: topic.to_owned(), correlation: None });
            let outputs = scene.handle_with(&command, MessageProperties { reply, ..MessageProperties::default() });
            let topics: Vec<_> = outputs.publications().iter().map(|(_, answer)| answer.topic.clone()).collect();
            assert_eq!(topics, expected, "{command}");
        }
    }
}

// --- Devices that sleep ----------------------------------------------------------------------------------------------

#[test]
fn commands_wait_for_a_device_that_is_asleep_and_follow_in_order_when_it_wakes() {
    let mut scene = SchedulerScene::asleep(GatewayConfig::default());
    assert!(is_quiet(&scene.handle(&execute(1))) && is_quiet(&scene.handle(&execute(2))));
    assert_eq!(requested(&scene.wake()), [1]);
    scene.at(60.0);
    assert!(requested(&scene.answer()).is_empty(), "it fell asleep before it answered");
    assert_eq!(requested(&scene.wake()), [2]);
}

#[test]
fn nothing_is_sent_while_the_gateway_shuts_down() {
    let mut scene = SchedulerScene::awake();
    scene.handle(&execute(1));
    scene.context.draining = true;
    assert!(is_quiet(&scene.handle(&execute(2))), "it waits");
    let outputs = scene.handle(&execute_within(3, 0.0));
    assert_eq!((answered(&outputs), outcomes(&outputs)), (vec![refused(3)], vec![CommandOutcome::Expired]));
    let outputs = scene.answer();
    assert_eq!((answered(&outputs), requested(&outputs)), (vec![answer(1, "execute", "2.04")], vec![]));
    assert!(is_quiet(&scene.handle(&execute(4))), "the device is free, but the command waits");
    assert_eq!(scene.device.waiting.len(), 2);
}

// --- Expiry ----------------------------------------------------------------------------------------------------------

#[test]
fn a_command_that_waits_expires_after_its_ttl_and_the_others_keep_their_order() {
    let mut scene = SchedulerScene::awake();
    scene.handle(&execute(1));
    scene.handle(&execute_within(2, 20.0));
    scene.handle(&execute_within(3, 10.0));
    scene.handle(&execute(4));
    assert_eq!(scene.next_deadline(), Some(10.0));
    scene.at(9.999);
    assert!(is_quiet(&scene.handle_timeout()));
    scene.at(10.0);
    let outputs = scene.handle_timeout();
    assert_eq!((answered(&outputs), outcomes(&outputs)), (vec![refused(3)], vec![CommandOutcome::Expired]));
    assert_eq!(scene.next_deadline(), Some(20.0));
    assert_eq!(requested(&scene.answer()), [2]);
    assert_eq!(requested(&scene.answer()), [4]);
}

#[test]
fn a_command_that_was_sent_does_not_expire() {
    let mut scene = SchedulerScene::awake();
    assert_eq!(requested(&scene.handle(&execute_within(1, 10.0))), [1]);
    assert_eq!(scene.next_deadline(), None);
    scene.at(30.0);
    assert!(is_quiet(&scene.handle_timeout()));
    assert_eq!(answered(&scene.answer()), [answer(1, "execute", "2.04")]);
}

#[test]
fn a_command_without_ttl_waits_for_the_configured_time() {
    let mut scene = SchedulerScene::asleep(limited(|limits| limits.command_expiry = Duration::from_secs(600)));
    scene.handle(&execute(1));
    assert_eq!(scene.next_deadline(), Some(630.0));
}

#[test]
fn the_message_expiry_interval_limits_a_longer_ttl() {
    let mut scene = SchedulerScene::asleep(GatewayConfig::default());
    let within = |seconds| MessageProperties { expiry: Some(Duration::from_secs(seconds)), ..Default::default() };
    scene.handle_with(&execute_within(1, 100.0), within(50));
    assert_eq!(scene.next_deadline(), Some(80.0));
    scene.handle_with(&execute_within(2, 20.0), within(500));
    assert_eq!(scene.next_deadline(), Some(50.0));
}

#[test]
fn an_expired_command_is_refused_and_not_sent_when_its_device_wakes_at_that_moment() {
    let mut scene = SchedulerScene::asleep(GatewayConfig::default());
    scene.handle(&execute_within(1, 10.0));
    scene.handle(&execute(2));
    scene.at(40.0);
    let outputs = scene.wake();
    assert_eq!((answered(&outputs), requested(&outputs)), (vec![refused(1)], vec![2]));
}

#[test]
fn a_ttl_of_zero_means_now_or_never() {
    let mut scene = SchedulerScene::awake();
    assert_eq!(requested(&scene.handle(&execute_within(1, 0.0))), [1]);
    let outputs = scene.handle(&execute_within(2, 0.0));
    assert_eq!((answered(&outputs), outcomes(&outputs)), (vec![refused(2)], vec![CommandOutcome::Expired]));
    assert_eq!(answered(&scene.answer()), [answer(1, "execute", "2.04")]);

    let mut scene = SchedulerScene::asleep(GatewayConfig::default());
    let outputs = scene.handle(&execute_within(3, 0.0));
    assert_eq!((answered(&outputs), requested(&outputs)), (vec![refused(3)], vec![]));
    assert_eq!((scene.commands.bytes(), scene.commands.deadlines()), (0, 0));
}

// --- Bounds ----------------------------------------------------------------------------------------------------------

#[test]
fn a_full_queue_refuses_the_newest_command_and_keeps_the_others() {
    let mut scene = SchedulerScene::new(limited(|limits| limits.pending_commands = 2));
    (1..=3).for_each(|number| assert_eq!(answered(&scene.handle(&execute(number))), []));
    let outputs = scene.handle(&execute(4));
    assert_eq!((answered(&outputs), outcomes(&outputs)), (vec![refused(4)], vec![CommandOutcome::QueueFull]));
    assert!(reason(&outputs).contains("limits.pending_commands"), "{}", reason(&outputs));
    assert_eq!(requested(&scene.answer()), [2]);
    assert!(is_quiet(&scene.handle(&execute(5))), "there is room again");
    assert_eq!(requested(&scene.answer()), [3]);
    assert_eq!(requested(&scene.answer()), [5]);
}

#[test]
fn the_bytes_that_wait_for_a_device_are_bounded_and_one_command_always_has_room() {
    let mut scene = SchedulerScene::asleep(limited(|limits| limits.pending_command_bytes = 10));
    assert!(is_quiet(&scene.handle(&execute(1))));
    let outputs = scene.handle(&execute(2));
    assert_eq!(outcomes(&outputs), [CommandOutcome::QueueFull]);
    assert!(reason(&outputs).contains("(limits.pending_command_bytes)"), "{}", reason(&outputs));
}

#[test]
fn the_bytes_of_all_devices_are_bounded_and_count_until_a_command_is_answered() {
    let size = execute(1).to_string().len();
    let mut scene = SchedulerScene::new(limited(|limits| limits.pending_command_bytes_total = 2 * size));
    let mut other = device(8, &[], scene.start);
    scene.handle(&execute(1));
    let payload = || execute(2).to_string().into_bytes();
    scene.commands.handle(&mut scene.context, &mut other, payload(), MessageProperties::default());
    assert_eq!((requested(&scene.outputs()), scene.commands.bytes()), (vec![2], 2 * size));
    let outputs = scene.handle(&execute(3));
    assert_eq!((answered(&outputs), outcomes(&outputs)), (vec![refused(3)], vec![CommandOutcome::QueueFull]));
    assert!(reason(&outputs).contains("limits.pending_command_bytes_total"), "{}", reason(&outputs));
    assert_eq!(scene.commands.bytes(), 2 * size, "what was refused does not count");
    let exchange = other.in_flight().expect("it was sent").exchange;
    let response = Response::new(Code::CHANGED);
    scene.commands.answered(&mut scene.context, &mut other, exchange, &response, None);
    scene.outputs();
    assert!(is_quiet(&scene.handle(&execute(4))), "there is room again");
    assert_eq!(scene.commands.bytes(), 2 * size);
}

#[test]
fn what_is_no_command_or_too_long_is_refused_at_once() {
    let mut scene = SchedulerScene::new(limited(|limits| (limits.command_size, limits.sent_body_size) = (200, 8)));
    let mut long = execute(1);
    long["note"] = json!("x".repeat(200));
    let outputs = scene.handle(&long);
    assert_eq!(outcomes(&outputs), [CommandOutcome::Refused]);
    assert!(reason(&outputs).contains("longer than 200 bytes"), "{}", reason(&outputs));

    assert_eq!(outcomes(&scene.handle(&json!("no command"))), [CommandOutcome::Refused]);
    let outputs = scene.handle(&json!({ "reqID": 2, "msgType": "execute", "data": { "path": "/3" } }));
    assert_eq!((answered(&outputs), outcomes(&outputs)), (vec![refused(2)], vec![CommandOutcome::Refused]));

    let mut body = execute(3);
    body["data"]["args"] = json!("0='123456789'");
    let outputs = scene.handle(&body);
    assert_eq!((answered(&outputs), requested(&outputs)), (vec![refused(3)], vec![]));
    assert_eq!(outcomes(&outputs), [CommandOutcome::Refused]);
    assert_eq!((scene.commands.bytes(), scene.commands.exchanges()), (0, 0));
}

#[test]
fn the_observations_of_a_device_are_bounded_and_a_known_one_is_replaced() {
    let mut scene = SchedulerScene::new(limited(|limits| limits.observations = 1));
    assert_eq!(requested(&scene.handle(&observe(1))), [1]);
    let first = scene.exchange();
    scene.answer_as(first, Code::CONTENT, Some(0));
    assert_eq!(scene.commands.registration_of(first), Some(scene.device.id), "it lives on as an observation");

    let outputs = scene.handle(&observe(2));
    assert_eq!((answered(&outputs), requested(&outputs)), (vec![answer(2, "observe", "4.00")], vec![]));
    assert_eq!(outcomes(&outputs), [CommandOutcome::Refused]);

    assert_eq!(requested(&scene.handle(&observe(1))), [1], "the same path needs no more room");
    let second = scene.exchange();
    scene.answer_as(second, Code::CONTENT, Some(0));
    assert_eq!((scene.commands.registration_of(first), scene.commands.exchanges()), (None, 1));
}

// --- Retained commands -----------------------------------------------------------------------------------------------

#[test]
fn a_retained_command_is_sent_once_however_often_it_is_delivered() {
    let mut scene = SchedulerScene::asleep(GatewayConfig::default());
    let duplicate = [CommandOutcome::DuplicateRetained];
    scene.handle_with(&execute(1), retained());
    let outputs = scene.handle_with(&execute(1), retained());
    assert_eq!((outcomes(&outputs).as_slice(), answered(&outputs)), (duplicate.as_slice(), vec![]), "it waits");
    assert_eq!(requested(&scene.wake()), [1]);
    assert_eq!(outcomes(&scene.handle_with(&execute(1), retained())), duplicate, "it is in flight");
    scene.answer();
    assert_eq!(outcomes(&scene.handle_with(&execute(1), retained())), duplicate, "it was sent");
    assert_eq!(requested(&scene.handle_with(&execute(2), retained())), [2], "it is another one");
    scene.answer();
    assert_eq!(requested(&scene.handle(&execute(1))), [1], "it is not retained");
}

#[test]
fn a_retained_command_that_expired_may_be_delivered_again() {
    let mut scene = SchedulerScene::asleep(GatewayConfig::default());
    scene.handle_with(&execute_within(1, 10.0), retained());
    scene.at(40.0);
    assert_eq!(outcomes(&scene.handle_timeout()), [CommandOutcome::Expired]);
    assert!(is_quiet(&scene.handle_with(&execute_within(1, 10.0), retained())), "it waits again");
    assert_eq!(requested(&scene.wake()), [1]);
}

// --- Devices that leave ----------------------------------------------------------------------------------------------

#[test]
fn a_command_in_flight_that_is_given_up_is_a_timeout_and_is_not_repeated() {
    let mut scene = SchedulerScene::awake();
    scene.handle(&execute(1));
    scene.handle(&execute(2));
    scene.commands.give_up_in_flight(&mut scene.context, &mut scene.device);
    let outputs = scene.outputs();
    assert_eq!((answered(&outputs), requested(&outputs)), (vec![unanswered(1, "coap_timeout")], vec![]));
    assert_eq!((scene.commands.exchanges(), scene.context.coap.next_deadline()), (0, None));
    assert_eq!(scene.device.waiting.len(), 1);
}

#[test]
fn a_new_registration_inherits_what_waits_and_gives_up_what_was_in_flight() {
    let mut scene = SchedulerScene::awake();
    (1..=3).for_each(|number| drop(scene.handle(&execute(number))));
    let mut device = device(7, &["lt=86400"], scene.start);
    device.id = RegistrationId(70);
    device.publishes_as = device.id;
    let former = std::mem::replace(&mut scene.device, device);
    scene.commands.forget(&mut scene.context, &former);
    assert_eq!((scene.commands.exchanges(), scene.commands.deadlines()), (0, 0));
    scene.commands.inherit(&mut scene.context, &mut scene.device, former);
    let outputs = scene.outputs();
    assert_eq!(answered(&outputs), [unanswered(1, "coap_timeout")]);
    assert!(outputs.publications().iter().all(|(session, _)| *session == RegistrationId(70)));
    assert_eq!(requested(&scene.wake()), [2]);
    assert_eq!(requested(&scene.answer()), [3]);
}

// --- Records ---------------------------------------------------------------------------------------------------------

#[test]
fn commands_are_restored_in_their_order_with_their_expiry_and_their_serials() {
    let mut scene = SchedulerScene::awake();
    (1..=3).for_each(|number| drop(scene.handle(&execute_within(number, 100.0 * number as f64))));
    let records = scene.commands.records(&scene.context, &mut scene.device);
    assert_eq!(records.iter().map(|record| record.serial).collect::<Vec<_>>(), [1, 2, 3]);
    assert_eq!(scene.commands.records(&scene.context, &mut scene.device), records, "a serial is for ever");

    let mut restored = SchedulerScene::asleep(GatewayConfig::default());
    restored.commands.reserve_serials(&records);
    let refused = restored.commands.restore_commands(&mut restored.context, &mut restored.device, records);
    assert!(refused.is_empty());
    restored.handle(&execute(4));
    let records = restored.commands.records(&restored.context, &mut restored.device);
    assert_eq!(records.iter().map(|record| record.serial).collect::<Vec<_>>(), [1, 2, 3, 4]);
    for (wake, number) in [(true, 1), (false, 2), (false, 3), (false, 4)] {
        let outputs = if wake { restored.wake() } else { restored.answer() };
        assert_eq!(requested(&outputs), [number]);
    }
}

#[test]
fn restored_commands_beyond_the_present_limits_come_back() {
    let mut scene = SchedulerScene::awake();
    (1..=4).for_each(|number| drop(scene.handle(&execute(number))));
    let records = scene.commands.records(&scene.context, &mut scene.device);
    let mut restored = SchedulerScene::asleep(limited(|limits| limits.pending_commands = 2));
    let not_taken = restored.commands.restore_commands(&mut restored.context, &mut restored.device, records);
    assert_eq!(restored.device.waiting.len(), 3, "the first one was in flight");
    assert_eq!(not_taken.iter().map(|refused| refused.outcome).collect::<Vec<_>>(), [CommandOutcome::QueueFull]);
}
