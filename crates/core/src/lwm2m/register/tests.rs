use crate::coap::options::number;

use super::query::MAX_OTHER_ITEMS;
use super::*;

fn request(query: &[&str], payload: &str) -> Request {
    let mut request = Request::new(Code::POST);
    query.iter().for_each(|item| request.options.add_text(number::URI_QUERY, item));
    if !payload.is_empty() {
        request.options.add_uint(number::CONTENT_FORMAT, 40);
        request.payload = payload.as_bytes().to_vec();
    }
    request
}

fn lifetimes() -> RangeInclusive<Duration> {
    Duration::from_secs(1)..=Duration::from_secs(86_400)
}

fn register(query: &[&str], payload: &str) -> Result<Registration, Rejection> {
    Registration::from_register(&request(query, payload), &lifetimes(), None)
}

fn registered() -> Registration {
    register(&["ep=dev-7", "lt=300", "lwm2m=1.0", "b=U", "imei=1"], "</1/0>,</3/0>").unwrap()
}

fn formats<const N: usize>(numbers: [u16; N]) -> FormatSet {
    FormatSet::from(numbers.to_vec())
}

fn object_list(registration: &Registration) -> Vec<&str> {
    registration.object_list().unwrap().collect()
}

#[test]
fn a_register_request_says_who_the_device_is() {
    let query = ["ep=dev-7", "lt=300", "lwm2m=1.1", "b=UQ", "imei=99", "password=pw1", "x=a=b", "sms="];
    let registration =
        register(&query, "</>;rt=\"oma.lwm2m\";ct=\"110 112 x\",</1>;ver=1.1,</1/0>,</3/0>;ct=11542,</x>").unwrap();
    assert_eq!(registration.endpoint, "dev-7");
    assert_eq!(registration.lifetime, Duration::from_secs(300));
    assert_eq!((registration.version(), registration.supports(Version::LWM2M_1_1)), ("1.1", true));
    assert_eq!((registration.binding(), registration.queue_mode()), (Some("UQ"), true));
    assert_eq!(registration.items().collect::<Vec<_>>(), [("imei", "99"), ("x", "a=b"), ("sms", "")]);
    assert_eq!(registration.password().map(Secret::reveal), Some("pw1"));
    assert_eq!(registration.item("password"), None);
    assert_eq!(object_list(&registration), ["/1", "/1/0", "/3/0", "/x"]);
    let paths: Vec<_> = registration.object_paths().map(|path| path.to_string()).collect();
    assert_eq!(paths, ["/1", "/1/0", "/3/0"]);
    assert_eq!(registration.formats(), formats([110, 112]));
    assert_eq!(registration.object_formats(3), formats([11542]));
    assert_eq!(registration.object_formats(1), formats([110, 112]));
    assert_eq!(registration.object_version(1), ObjectVersion::Announced(Version { major: 1, minor: 1 }));
    assert_eq!(registration.object_version(3), ObjectVersion::Implied(Version { major: 1, minor: 1 }));
    assert!(!format!("{registration:?}").contains("pw1"));
}

#[test]
fn what_is_missing_has_its_default() {
    let registration = register(&["ep=dev-7"], "").unwrap();
    assert_eq!(registration.lifetime, Duration::from_secs(86_400));
    assert_eq!((registration.version(), registration.supports(Version::LWM2M_1_1)), ("1.0", false));
    assert!(!registration.queue_mode());
    assert!(registration.object_list().is_none());
    assert_eq!(registration.alternate_path(), None);
    assert_eq!(registration.alternate_segments().count(), 0);
}

#[test]
fn links_lose_the_alternate_path_that_they_have() {
    let registration =
        register(&["ep=a"], "</m2m/v1>;rt=\"other oma.lwm2m\",</m2m/v1/1/0>,</m2m/v10/3/0>,</4/0>").unwrap();
    assert_eq!(registration.alternate_path(), Some("/m2m/v1"));
    assert_eq!(registration.alternate_segments().collect::<Vec<_>>(), ["m2m", "v1"]);
    assert_eq!(object_list(&registration), ["/1/0", "/m2m/v10/3/0", "/4/0"]);
}

#[test]
fn a_bad_query_item_is_answered_with_its_code() {
    for (query, code) in [
        (&["lt=300"][..], Code::BAD_REQUEST),
        (&["ep="], Code::BAD_REQUEST),
        (&["ep=a", "ep=a"], Code::BAD_REQUEST),
        (&["ep=a", "Q=1"], Code::BAD_REQUEST),
        (&["ep=a", "Q", "Q"], Code::BAD_REQUEST),
        (&["ep=a", "imei=1", "imei=1"], Code::BAD_REQUEST),
        (&["ep=a", "password=1", "password=2"], Code::BAD_REQUEST),
        (&["ep=a", "lt="], Code::BAD_REQUEST),
        (&["ep=a", "lt=-1"], Code::BAD_REQUEST),
        (&["ep=a", "lt=soon"], Code::BAD_REQUEST),
        (&["ep=a", "lt=1.5"], Code::BAD_REQUEST),
        (&["ep=a", "lt=86401"], Code::BAD_REQUEST),
        (&["ep=a", "lt=99999999999999999999"], Code::BAD_REQUEST),
        (&["ep=a", "lwm2m=2.0"], Code::PRECONDITION_FAILED),
        (&["ep=a", "lwm2m="], Code::PRECONDITION_FAILED),
        (&["ep=a", "lwm2m=1.10"], Code::PRECONDITION_FAILED),
    ] {
        assert_eq!(register(query, "").map_err(|rejection| rejection.code), Err(code), "{query:?}");
    }
    for known in [&b"ep=\xff"[..], b"lt=\xff", b"imei=\xff"] {
        let mut not_text = request(&["ep=a"], "");
        not_text.options.add(number::URI_QUERY, known);
        assert!(Registration::from_register(&not_text, &lifetimes(), None).is_err(), "{known:?}");
    }
}

#[test]
fn a_query_item_that_says_nothing_is_passed_over() {
    let mut register = request(&["", "ep=dev-7", "bogus", "=x", "=", "lt=300", "Q"], "</3/0>");
    register.options.add(number::URI_QUERY, b"x=\xff");
    register.options.add(number::URI_QUERY, b"\xff");
    let registration = Registration::from_register(&register, &lifetimes(), None).unwrap();
    assert_eq!((registration.endpoint.as_str(), registration.lifetime), ("dev-7", Duration::from_secs(300)));
    assert_eq!((registration.queue_item(), registration.items().count()), (true, 0));
    let mut registration = registered();
    assert_eq!(registration.update(&request(&["", "bogus"], ""), &lifetimes()), Ok(ObjectListChange::Absent));
    assert_eq!(registration, registered());
}

#[test]
fn a_lifetime_has_the_forms_of_a_number_and_zero_is_the_longest() {
    for (text, seconds) in
        [("300", 300), ("+300", 300), ("300.0", 300), (" 300", 300), ("86400", 86_400), ("0", 86_400)]
    {
        let registration = register(&["ep=a", &format!("lt={text}")], "").unwrap();
        assert_eq!(registration.lifetime, Duration::from_secs(seconds), "{text}");
    }
    let mut registration = registered();
    registration.update(&request(&["lt=0"], ""), &lifetimes()).unwrap();
    assert_eq!(registration.lifetime, Duration::from_secs(86_400));
}

#[test]
fn a_lifetime_out_of_bounds_is_refused_with_the_key_that_sets_them() {
    let lifetimes = Duration::from_secs(60)..=Duration::from_secs(86_400);
    for (lt, reason) in [
        ("lt=86401", "lt is 86401 s, more than lifetime_max, which is 86400 s"),
        ("lt=1", "lt is 1 s, less than lifetime_min, which is 60 s"),
        ("lt=99999999999999999999", "lt is 18446744073709551615 s, more than lifetime_max, which is 86400 s"),
    ] {
        let rejection = Registration::from_register(&request(&["ep=a", lt], ""), &lifetimes, None).unwrap_err();
        assert_eq!((rejection.code, rejection.diagnostic.as_str()), (Code::BAD_REQUEST, reason));
        let mut registration = registered();
        assert_eq!(registration.update(&request(&[lt], ""), &lifetimes), Err(rejection));
    }
}

#[test]
fn an_endpoint_name_has_255_bytes_at_most() {
    assert!(register(&[&format!("ep={}", "x".repeat(255))], "").is_ok());
    assert!(register(&[&format!("ep={}", "x".repeat(256))], "").is_err());
}

#[test]
fn an_object_list_is_taken_whatever_its_format_is_called() {
    for content_format in [&[0][..], &[50], &[40], &[], &[0xff; 5]] {
        for (payload, objects) in [("</1/0>,</3/0>", Some(2)), ("", None)] {
            let mut register = request(&["ep=a"], "");
            register.options.add(number::CONTENT_FORMAT, content_format);
            register.payload = payload.as_bytes().to_vec();
            let registration = Registration::from_register(&register, &lifetimes(), None).unwrap();
            assert_eq!(registration.object_list().map(Iterator::count), objects, "{content_format:?}");
        }
    }
}

#[test]
fn a_payload_that_is_no_list_at_all_is_refused() {
    assert_eq!(register(&["ep=a"], "</1").map_err(|rejection| rejection.code), Err(Code::BAD_REQUEST));
    assert_eq!(registered().update(&request(&[], "x"), &lifetimes()).unwrap_err().code, Code::BAD_REQUEST);
    let mut json = request(&["ep=a"], "");
    json.options.add_uint(number::CONTENT_FORMAT, 50);
    json.payload = b"{}".to_vec();
    let rejection = Registration::from_register(&json, &lifetimes(), None).unwrap_err();
    assert_eq!(rejection.code, Code::UNSUPPORTED_CONTENT_FORMAT);
}

#[test]
fn what_makes_no_sense_in_a_list_is_left_out_and_told_once() {
    let list = "</>;ct=60 110;rt=\"oma.lwm2m\",</1>;ver= \"1.1\",/2,</3/0>;=,<>,</5,";
    let mut registration = register(&["ep=a"], list).unwrap();
    assert_eq!(object_list(&registration), ["/1", "/3/0"]);
    assert_eq!(registration.object_version(1), ObjectVersion::Announced(Version { major: 1, minor: 1 }));
    assert_eq!(registration.object_formats(3), formats([60, 110]));
    assert_eq!(registration.take_left_out().map(|left_out| left_out.count), Some(3));
    assert_eq!(registration.take_left_out(), None);

    assert_eq!(registration.update(&request(&[], list), &lifetimes()), Ok(ObjectListChange::Same));
    assert_eq!(registration.take_left_out(), None, "the same list again");
    assert_eq!(registration.update(&request(&[], "</1>,/2"), &lifetimes()), Ok(ObjectListChange::Changed));
    assert_eq!(registration.take_left_out().map(|left_out| left_out.count), Some(1));
}

#[test]
fn a_root_link_to_nowhere_is_the_root() {
    let registration = register(&["ep=a"], "<>;rt=\"oma.lwm2m\";ct=112,</3/0>").unwrap();
    assert_eq!((registration.alternate_path(), registration.formats()), (Some("/"), formats([112])));
    assert_eq!(object_list(&registration), ["/3/0"]);
}

/// With the JSON of LwM2M 1.0 built in, Zephyr announces that format alone, behind the type of the root. Its newer
/// releases announce SenML CBOR, without a type.
#[test]
fn the_lists_of_zephyr_announce_one_format_of_the_root_and_versions_of_objects() {
    for (root, announced) in [
        ("</>;rt=\"oma.lwm2m\";ct=11543,", formats([11543])),
        ("</>;ct=112,", formats([112])),
        ("</>;ct=110,", formats([110])),
        ("", formats([])),
    ] {
        let list =
            format!("{root}</1>;ver=1.1,</1/0>,</3/0>,</5/0>,</3303>;ver=1.1,</3303/0>,</3303/1>,</3347>;ver=1.0");
        let registration = register(&["lwm2m=1.1", "ep=zephyr", "b=U", "lt=60"], &list).unwrap();
        assert_eq!(registration.formats(), announced, "{root}");
        let listed = ["/1", "/1/0", "/3/0", "/5/0", "/3303", "/3303/0", "/3303/1", "/3347"];
        assert_eq!(object_list(&registration), listed, "{root}");
        for (object, minor) in [(1, 1), (3303, 1), (3347, 0)] {
            let version = ObjectVersion::Announced(Version { major: 1, minor });
            assert_eq!(registration.object_version(object), version, "{root}");
        }
        assert!([1, 3, 3303].iter().all(|object| registration.object_formats(*object) == announced), "{root}");
    }
}

#[test]
fn the_formats_of_an_objects_own_link_hold_for_this_object_only() {
    for (own, of_device) in [
        ("</3>;ct=11542,</3/0>", vec![11542]),
        ("</3>;ver=1.1;ct=\"60 110\",</3/0>", vec![60, 110]),
        ("</3>;ct=60 110 ;ver=1.1,</3/0>", vec![60, 110]),
        ("</3>,</3/0>;ct=110", vec![110]),
        ("</3>;ct=110,</3/0>;ct=60", vec![110]),
        // Without a known number nothing is announced, so that the link of the root counts.
        ("</3>;ct=9999,</3/0>", vec![112]),
        ("</3>;ct=\"\",</3/0>", vec![112]),
    ] {
        let list = format!("</>;rt=\"oma.lwm2m\";ct=112,</1/0>,{own},</3303/0>");
        let registration = register(&["ep=a", "lwm2m=1.1"], &list).unwrap();
        assert_eq!(registration.object_formats(3), FormatSet::from(of_device), "{own}");
        assert_eq!(
            (registration.object_formats(1), registration.object_formats(3303)),
            (formats([112]), formats([112]))
        );
        assert_eq!(registration.formats(), formats([112]), "{own}");
        assert_eq!(object_list(&registration), ["/1/0", "/3", "/3/0", "/3303/0"], "{own}");
    }
    let registration = register(&["ep=a"], "</m2m>;rt=\"oma.lwm2m\",</m2m/3>;ct=11542,</m2m/3/0>").unwrap();
    let all = [registration.formats(), registration.object_formats(3), registration.object_formats(1)];
    assert_eq!(all, [formats([]), formats([11542]), formats([])]);
}

#[test]
fn an_update_with_a_list_replaces_the_formats_of_every_object() {
    let mut registration = register(&["ep=a"], "</>;ct=112,</3>;ct=11542,</3/0>,</5/0>").unwrap();
    let list = request(&[], "</>;ct=110,</3/0>,</5>;ct=60");
    assert_eq!(registration.update(&list, &lifetimes()), Ok(ObjectListChange::Changed));
    assert_eq!((registration.object_formats(3), registration.object_formats(5)), (formats([110]), formats([60])));
}

#[test]
fn an_update_is_merged() {
    let mut registration = registered();
    let change = registration.update(&request(&["lt=900", "b=UQ", "imei=2", "color=red"], ""), &lifetimes());
    assert_eq!(change, Ok(ObjectListChange::Absent));
    assert_eq!(registration.lifetime, Duration::from_secs(900));
    assert!(registration.queue_mode());
    assert_eq!(registration.items().collect::<Vec<_>>(), [("imei", "2"), ("color", "red")]);
    assert_eq!(object_list(&registration), ["/1/0", "/3/0"]);
}

#[test]
fn an_update_says_whether_the_object_list_is_another() {
    let mut registration = registered();
    let mut update = |payload| registration.update(&request(&["ep=dev-7", "lwm2m=1.0"], payload), &lifetimes());
    assert_eq!(update("</1/0>, </3/0>"), Ok(ObjectListChange::Same));
    assert_eq!(update("</1/0>,</3/0>,</6/0>"), Ok(ObjectListChange::Changed));
    assert_eq!(update("</1/0>,</3/0>,</6/0>"), Ok(ObjectListChange::Same));
    assert_eq!(update(""), Ok(ObjectListChange::Absent));
    assert_eq!(object_list(&registration), ["/1/0", "/3/0", "/6/0"]);
}

#[test]
fn a_bad_update_changes_nothing() {
    for (query, payload) in [
        (&["lt=900", "Q=1"][..], ""),
        (&["lt=-1", "color=red"], ""),
        (&["lt=900", "ep=other"], ""),
        (&["lt=900", "lwm2m=1.1"], ""),
        (&["lt=900", "color=red"], "x"),
    ] {
        let mut registration = registered();
        assert!(registration.update(&request(query, payload), &lifetimes()).is_err(), "{query:?}");
        assert_eq!(registration, registered(), "{query:?}");
    }
}

#[test]
fn an_update_that_brings_nothing_new_is_empty() {
    let registration = registered();
    let read = |query: &[&str], payload| registration.read_update(&request(query, payload), &lifetimes()).unwrap();
    for (query, payload) in
        [(&[][..], ""), (&["lt=300", "b=U", "imei=1", "ep=dev-7", "lwm2m=1.0"], ""), (&[], "</1/0>,</3/0>")]
    {
        assert!(read(query, payload).is_empty(), "{query:?} {payload}");
    }
    for (query, payload) in [
        (&["lt=301"][..], ""),
        (&["b=UQ"], ""),
        (&["Q"], ""),
        (&["imei=2"], ""),
        (&["color=red"], ""),
        (&["password=p"], ""),
        (&[], "</1/0>"),
    ] {
        assert!(!read(query, payload).is_empty(), "{query:?} {payload}");
    }
}

#[test]
fn the_size_of_a_registration_counts_all_that_is_kept_of_it() {
    let size = |query: &[&str], payload: &str| {
        let request = request(query, payload);
        Registration::from_register(&request, &lifetimes(), None).unwrap().size()
    };
    let empty = size(&["ep=a"], "");
    for (query, payload, least) in [
        (&["ep=aaaaaaaaaa"][..], "", 9),
        (&["ep=a", "x=0123456789"], "", 11),
        (&["ep=a", "password=0123456789"], "", 10),
        (&["ep=a", "b=UQSTU"], "", 5),
        (&["ep=a"], "</1/0>,</3/0>", 8),
        (&["ep=a"], "</1>;ver=1.10000", 9),
        (&["ep=a"], "</1>;ct=\"0 60 110 112\"", 10),
        (&["ep=a"], "</long/alternate/path>;rt=\"oma.lwm2m\";ct=\"0 60\"", 19),
    ] {
        assert!(size(query, payload) >= empty + least, "{query:?} {payload}");
    }
    // A list costs hardly more than its bytes.
    let links: String = (0..2000).map(|instance| format!(",</3303/{instance}>")).collect();
    let kept = size(&["ep=a"], &links[1..]);
    assert!((links.len() / 2..=links.len() * 5 / 4).contains(&kept), "{kept} of {}", links.len());
}

#[test]
fn the_size_after_an_update_is_the_size_once_it_is_merged() {
    for (query, payload) in [
        (&["lt=900", "b=UQ", "imei=22", "color=red", "password=pw"][..], "</1/0>;ver=1.1,</3/0>,</3303/0>;ct=60"),
        (&[], "</1/0>"),
        (&[], ""),
    ] {
        let mut registration = registered();
        let update = registration.read_update(&request(query, payload), &lifetimes()).unwrap();
        let expected = registration.size_after(&update);
        registration.apply(update);
        assert_eq!(registration.size(), expected);
    }
}

#[test]
fn updates_cannot_make_a_registration_grow_without_end() {
    let mut registration = registered();
    let grown = (0..100).all(|at| registration.update(&request(&[&format!("k{at}=v")], ""), &lifetimes()).is_ok());
    assert!(!grown);
    assert_eq!(registration.items().count(), MAX_OTHER_ITEMS);
}

#[test]
fn the_root_link_needs_no_type() {
    let registration = register(&["ep=a", "lwm2m=1.1"], "</>;ct=112,</1/0>,</3/0>").unwrap();
    assert_eq!((registration.alternate_path(), registration.formats()), (Some("/"), formats([112])));
    assert_eq!(object_list(&registration), ["/1/0", "/3/0"]);
    let registration = register(&["ep=a"], "</>;ct=60,</m2m>;rt=\"oma.lwm2m\";ct=110,</m2m/3/0>").unwrap();
    assert_eq!((registration.alternate_path(), registration.formats()), (Some("/m2m"), formats([110])), "a type wins");
    assert_eq!(object_list(&registration), ["/", "/3/0"]);
}

#[test]
fn the_version_of_an_object_may_be_on_any_of_its_links_and_the_first_counts() {
    let version = |list: &str, object| register(&["ep=a"], list).unwrap().object_version(object);
    let of = |major, minor| ObjectVersion::Announced(Version { major, minor });
    assert_eq!(version("</19/0>;ver=1.1,</19/1>;ver=2.0", 19), of(1, 1));
    assert_eq!(version("</3>;ver=\"1.1\",</3/0>;ver=1.2", 3), of(1, 1));
    assert_eq!(version("</19>;ver=x,</19/0>;ver=2.0", 19), of(2, 0), "x is no version");
    assert_eq!(version("</19>;ver=x", 19), ObjectVersion::Implied(Version::FIRST));
}

#[test]
fn a_list_with_another_version_is_another_list() {
    let mut registration = register(&["ep=a"], "</3>;ver=1.0,</3/0>").unwrap();
    let change = registration.update(&request(&[], "</3>;ver=1.1,</3/0>"), &lifetimes());
    assert_eq!(change, Ok(ObjectListChange::Changed));
    assert_eq!(registration.object_version(3), ObjectVersion::Announced(Version { major: 1, minor: 1 }));
}

#[test]
fn a_profile_id_and_the_bindings_of_1_2_are_taken_as_they_are() {
    let query = ["ep=dev-7", "lt=300", "lwm2m=1.2", "b=UMHTSN", "Q", "pid=a1b2c3d4", "sms=4911"];
    let mut registration = register(&query, "").unwrap();
    assert_eq!((registration.binding(), registration.queue_mode()), (Some("UMHTSN"), true));
    assert_eq!(registration.items().collect::<Vec<_>>(), [("pid", "a1b2c3d4"), ("sms", "4911")]);
    assert!(registration.object_list().is_none());
    registration.update(&request(&["b=U", "sms=4912"], ""), &lifetimes()).unwrap();
    assert_eq!((registration.binding(), registration.queue_item()), (Some("U"), true), "Q stays");
    assert_eq!(registration.item("sms"), Some("4912"));
    assert_eq!(register(&["ep=a", "pid=1", "pid=2"], "").unwrap_err().code, Code::BAD_REQUEST);
    for lwm2m in ["lwm2m=1.3", "lwm2m=2.0"] {
        assert_eq!(register(&["ep=a", lwm2m], "</3/0>").unwrap_err().code, Code::PRECONDITION_FAILED);
    }
}

#[test]
fn the_attributes_of_links_are_kept_where_reports_need_them() {
    let list = "</m2m>;rt=\"oma.lwm2m\";ct=\"60 112\",\
                </m2m/19>;ver=1.1;obs;ver=2.0,</m2m/3/0>,</m2m/19>;title=\"a \\\"b\\\"\"";
    let lifetimes = lifetimes();
    let rules = RegistrationRules { lifetimes: &lifetimes, keep_attributes: true };
    let registration = Registration::from_register(&request(&["ep=a"], list), rules, None).unwrap();
    let kept = serde_json::to_value(registration.object_attributes()).unwrap();
    let expected = serde_json::json!({
        "/": { "rt": "oma.lwm2m", "ct": "60 112" },
        "/19": { "ver": "1.1", "obs": "", "title": "a \"b\"" },
    });
    assert_eq!(kept, expected);
    let without = Registration::from_register(&request(&["ep=a"], list), &lifetimes, None).unwrap();
    assert!(without.object_attributes().is_empty());
    assert!(registration.size() >= without.size() + "oma.lwm2m60 1121.1".len());
    let stored: Registration = serde_json::from_str(&serde_json::to_string(&registration).unwrap()).unwrap();
    assert_eq!(stored, registration);
}
