use super::*;

#[test]
fn a_time_that_is_no_number_is_refused() {
    let scene = CodecScene::new();
    for time in ["f97e00", "f97c00"] {
        let payload = hex(&format!("81 a3 00 662f332f302f39 02 01 06 {time}"));
        let error = scene.values("/3/0/9", format::SENML_CBOR, &payload).unwrap_err();
        assert!(error.contains("are not times"), "{error}");
    }
    let too_large = br#"[{"n":"/3/0/9","v":1,"bt":1e308,"t":1e308}]"#;
    assert!(scene.values("/3/0/9", format::SENML_JSON, too_large).is_err());
}

#[test]
fn json_elements_have_their_values_and_never_lose_them_to_a_time() {
    let scene = CodecScene::new();
    let payload = br#"{"bn":"/3/0/","bt":1500000000,"e":[
        {"n":"0","sv":"ACME"},{"n":"9","v":77,"t":-5},{"n":"11","v":1.5},{"n":"12","bv":true},
        {"n":"14","sv":"yv4="},{"n":"22/0","ov":"1:0"},{"n":"13","v":1735689600}]}"#;
    let entries = scene.decode("/3/0", format::LWM2M_JSON, payload).unwrap();
    let values: Vec<_> = entries.iter().map(|entry| (entry.path.to_string(), entry.value.clone())).collect();
    assert_eq!(
        values,
        [
            ("/3/0/0".to_owned(), Value::String("ACME".into())),
            ("/3/0/9".to_owned(), Value::Integer(77)),
            ("/3/0/11".to_owned(), Value::Float(1.5)),
            ("/3/0/12".to_owned(), Value::Boolean(true)),
            ("/3/0/14".to_owned(), Value::Opaque(vec![0xca, 0xfe])),
            ("/3/0/22/0".to_owned(), link(1, 0)),
            ("/3/0/13".to_owned(), Value::Time(1_735_689_600)),
        ]
    );
    assert_eq!(entries[0].time, Some(1_500_000_000.0));
    assert_eq!(entries[1].time, Some(1_499_999_995.0));
}

#[test]
fn json_names_are_joined_with_one_slash() {
    let scene = CodecScene::new();
    for payload in [
        r#"{"bn":"/3/0","e":[{"n":"9","v":1}]}"#,
        r#"{"bn":"/3/0/","e":[{"n":"/9","v":1}]}"#,
        r#"{"bn":"/","e":[{"n":"3/0/9","v":1}]}"#,
        r#"{"bn":"/3/0/9","e":[{"v":1}]}"#,
        r#"{"e":[{"n":"/3/0/9","v":1}]}"#,
        r#"{"e":[{"n":"9","v":1}]}"#,
    ] {
        let read = scene.values("/3/0", format::LEGACY_JSON, payload.as_bytes());
        assert_eq!(read, one("/3/0/9", Value::Integer(1)), "{payload}");
    }
}

#[test]
fn json_that_says_something_else_is_refused() {
    let scene = CodecScene::new();
    for (payload, reason) in [
        (r#"{"bn":"/3/0","e":[{"n":"9","sv":"77"}]}"#, "a text is not a valid Integer"),
        (r#"{"bn":"/3/0","e":[{"n":"9","v":7.5}]}"#, "7.5 is not a valid Integer"),
        (r#"{"bn":"/3/0","e":[{"n":"9","v":9223372036854775808}]}"#, "is not a valid Integer"),
        (r#"{"bn":"/3/0","e":[{"n":"12","v":1}]}"#, "1 is not a valid Boolean"),
        (r#"{"bn":"/3/0","e":[{"n":"9"}]}"#, "no value"),
        (r#"{"bn":"/3/0","e":[{"n":"9","v":1,"sv":"1"}]}"#, "more than one value"),
        (r#"{"bn":"/3/1","e":[{"n":"9","v":1}]}"#, "not at or below"),
        (r#"{"bn":"/3/0","e":[{"n":"x","v":1}]}"#, "is not a path"),
        (r#"{"bn":"/3/0","e":[{"v":1}]}"#, "is not a resource"),
        (r#"{"bn":"/3/0","e":[{"n":"4","v":1}]}"#, "executed"),
        (r#"{"bn":"/3/0","e":[{"n":"14","sv":"x"}]}"#, "base64"),
        (r#"{"bn":"/3/0"}"#, "missing field"),
        (r#"{"e":[]} x"#, "trailing"),
        ("{", "EOF"),
    ] {
        let error = scene.values("/3/0", format::LWM2M_JSON, payload.as_bytes()).unwrap_err();
        assert!(error.contains(reason), "{payload}: {error}");
    }
    let error = scene.values("/3/0", format::LWM2M_JSON, b"{\"bn\":\"\xff\",\"e\":[]}").unwrap_err();
    assert!(error.contains("JSON"), "{error}");
}
