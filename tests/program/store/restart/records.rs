//! Whatever a device may be, its record is the same after the way through JSON.

use std::time::Duration;

use lwm2m_base::secret::Secret;
use lwm2m_base::{AssociationId, Peer};
use lwm2m_core::coap::options::{format, number};
use lwm2m_core::coap::{Code, Request, Token};
use lwm2m_core::command::{ConsoleOrigin, Echo, Origin};
use lwm2m_core::gateway::persistence::record::{
    AnswerRecord, CommandRecord, DeviceRecord, IdentityRecord, ObservationRecord, SentRequestRecord,
};
use lwm2m_core::lwm2m::formats::Formats;
use lwm2m_core::lwm2m::path::Path;
use lwm2m_core::lwm2m::register::Registration;
use lwm2m_core::registry::Grouping;
use proptest::collection::vec;
use proptest::prelude::*;
use serde_json::{Map, Value};

use super::core::peer;
use lwm2m_testkit::store::through_json;

proptest! {
    #[test]
    fn a_record_is_the_same_after_the_way_through_json(record in record()) {
        prop_assert_eq!(through_json(&record), record);
    }
}

#[test]
fn a_command_may_be_as_deep_as_json_is_read() {
    let deep = format!("{}{}", "[".repeat(120), "]".repeat(120));
    let command = Echo::try_from(format!("{{\"msgType\":\"observe\",\"x\":{deep}}}")).unwrap();
    let (token, at, origin) = (Token::EMPTY, Duration::ZERO, Origin::Application);
    let observation = ObservationRecord { token, command, formats: None, number: 0, at, origin };
    let json = serde_json::to_string(&observation).unwrap();
    assert_eq!(serde_json::from_str::<ObservationRecord>(&json).unwrap(), observation);
}

#[test]
fn what_is_no_token_is_no_record() {
    let json = |token: &str| format!("{{\"token\":{token:?},\"command\":\"{{}}\",\"number\":1,\"at\":1}}");
    assert!(serde_json::from_str::<ObservationRecord>(&json("0a1B")).is_ok());
    for token in ["0", "0g", "112233445566778899", "é"] {
        assert!(serde_json::from_str::<ObservationRecord>(&json(token)).is_err(), "{token}");
    }
}

fn origin() -> impl Strategy<Value = Origin> {
    let console = ("[a-z]{1,8}", any::<bool>(), any::<bool>())
        .prop_map(|(user, force, while_stream)| Origin::Console(Box::new(ConsoleOrigin { user, force, while_stream })));
    prop_oneof![Just(Origin::Application), Just(Origin::AutoObserve), Just(Origin::Firmware), console]
}

fn record() -> impl Strategy<Value = DeviceRecord> {
    let times = || (0_u64..10_000_000_000_000).prop_map(Duration::from_millis);
    let observation = (vec(any::<u8>(), 0..=8), echo(), 0_u32..1 << 24, times(), origin()).prop_map(
        |(token, command, number, at, origin)| {
            let (token, formats) = (Token::new(&token), Some(Formats::default()));
            ObservationRecord { token, command, formats, number, at, origin }
        },
    );
    let sent_as = proptest::option::of(
        (vec(any::<u8>(), 0..=8), any::<u16>())
            .prop_map(|(token, message_id)| SentRequestRecord { token: Token::new(&token), message_id }),
    );
    let command = (any::<u64>(), times(), echo(), origin(), sent_as);
    let command = command.prop_map(|(serial, expires, command, origin, sent_as)| CommandRecord {
        serial,
        expires,
        command,
        reply: None,
        retained: None,
        origin,
        sent_as,
    });
    let answer = (any::<u64>(), ".{0,20}", 0_u8..=1, proptest::option::of(vec(any::<u8>(), 0..9)), ".{0,20}");
    let answer = answer.prop_map(|(serial, topic, qos, correlation, payload)| AnswerRecord {
        serial,
        topic,
        qos,
        correlation,
        payload,
    });
    let path = vec(any::<u16>(), 1..=4).prop_map(|ids| Path::of(&ids).expect("no more than four"));
    (
        registration(),
        proptest::option::of(".{0,20}"),
        "[A-Za-z0-9_-]{16}",
        (any::<u8>(), peer_identity()),
        times(),
        vec(observation, 0..4),
        (vec(command, 0..4), vec(answer, 0..4)),
        vec(path, 0..4),
    )
        .prop_map(
            |(
                registration,
                password,
                location,
                (number, identity),
                last_heard,
                observations,
                (commands, answers),
                to_observe,
            )| {
                let association = identity.is_some().then_some(AssociationId(number.into()));
                DeviceRecord {
                    registration,
                    password: password.map(Secret::new),
                    location,
                    peer: Peer { association, ..peer(number) },
                    identity,
                    last_heard,
                    observations,
                    commands,
                    answers,
                    to_observe,
                    grouping: Grouping::default(),
                }
            },
        )
}

fn peer_identity() -> impl Strategy<Value = Option<IdentityRecord>> {
    let certificate = (proptest::option::of(".{0,20}"), vec(".{0,20}", 0..3));
    prop_oneof![
        Just(None),
        ".{1,20}".prop_map(|identity| Some(IdentityRecord::Psk(identity))),
        certificate.prop_map(|(common_name, alternative_names)| {
            Some(IdentityRecord::Certificate { common_name, alternative_names })
        }),
        ".{1,20}".prop_map(|name| Some(IdentityRecord::RawPublicKey { name })),
        Just(Some(IdentityRecord::Unknown)),
    ]
}

fn registration() -> impl Strategy<Value = Registration> {
    let item = ("[a-z]{3,6}x", ".{0,12}").prop_map(|(name, value)| format!("{name}={value}"));
    let fixed = proptest::sample::subsequence(vec!["lwm2m=1.1", "b=UQ", "Q", "imei=990000862471854"], 0..=4);
    let link = prop_oneof![
        Just("</>;rt=\"oma.lwm2m\";ct=\"110 112\"".to_owned()),
        (any::<u16>(), any::<u16>()).prop_map(|(object, instance)| format!("</{object}/{instance}>")),
        any::<u16>().prop_map(|object| format!("</{object}>;ver=1.1;ct=11542")),
        Just("</strange/ä>;title=\"a,b\\\"c\"".to_owned()),
    ];
    (".{1,60}", 1_u64..86_400, vec(item, 0..5), fixed, vec(link, 0..6)).prop_filter_map(
        "a Register of these",
        |(endpoint, lifetime, items, fixed, links)| {
            let mut request = Request::new(Code::POST);
            let mut add = |item: &str| request.options.add_text(number::URI_QUERY, item);
            add(&format!("ep={endpoint}"));
            add(&format!("lt={lifetime}"));
            items.iter().map(String::as_str).chain(fixed).for_each(&mut add);
            request.options.add_uint(number::CONTENT_FORMAT, format::LINK_FORMAT.into());
            request.payload = links.join(",").into_bytes();
            let lifetimes = Duration::from_secs(1)..=Duration::from_secs(86_400);
            Registration::from_register(&request, &lifetimes, None).ok()
        },
    )
}

fn echo() -> impl Strategy<Value = Echo> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".{0,20}".prop_map(Value::from),
    ];
    let value = leaf.prop_recursive(4, 32, 6, |inner| {
        let members = vec((".{0,8}", inner.clone()), 0..6);
        prop_oneof![
            vec(inner, 0..6).prop_map(Value::from),
            members.prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    });
    vec((".{0,8}", value), 0..5).prop_map(|members| {
        let members: Map<String, Value> = members.into_iter().collect();
        Value::Object(members).to_string().try_into().expect("an object is a command's JSON")
    })
}
