use super::*;

fn any_value() -> impl Strategy<Value = (u16, Value)> {
    prop_oneof![
        ".{0,40}".prop_map(|text| (0, Value::String(text))),
        any::<i64>().prop_map(|value| (9, Value::Integer(value))),
        any::<u64>().prop_map(|value| (10, Value::UnsignedInteger(value))),
        any::<f64>().prop_filter("finite", |value| value.is_finite()).prop_map(|value| (11, Value::Float(value))),
        any::<bool>().prop_map(|value| (12, Value::Boolean(value))),
        any::<i64>().prop_map(|value| (13, Value::Time(value))),
        proptest::collection::vec(any::<u8>(), 0..300).prop_map(|bytes| (14, Value::Opaque(bytes))),
        (any::<u16>(), any::<u16>()).prop_map(|(object, instance)| (22, link(object, instance))),
        ".{0,40}".prop_map(|text| (23, Value::CoreLink(text))),
    ]
}

/// TLV has no sign for an Unsigned Integer; JSON has one zero.
fn as_read(value: &Value) -> Value {
    match value {
        Value::Float(zero) if *zero == 0.0 => Value::Float(0.0),
        other => other.clone(),
    }
}

proptest! {
    #[test]
    fn what_was_written_is_read_again(values in proptest::collection::vec(any_value(), 1..6), instance in any::<u16>()) {
        let scene = Scene::new();
        let mut seen = std::collections::BTreeSet::new();
        let assignments: Vec<_> = values
            .into_iter()
            .filter(|(id, _)| seen.insert(*id))
            .map(|(id, value)| Assignment { path: Path::of(&[3, instance, id]).unwrap(), value })
            .collect();
        let expected: Vec<_> = assignments.iter().map(|one| (one.path.to_string(), as_read(&one.value))).collect();
        for target in [Path::of(&[3]).unwrap(), Path::of(&[3, instance]).unwrap()] {
            for chosen in [format::TLV, format::SENML_JSON, format::SENML_CBOR, format::LWM2M_JSON] {
                let payload = encode(target, &assignments, chosen);
                let read = scene.values(&target.to_string(), chosen, &payload).map(|values| {
                    values.into_iter().map(|(path, value)| (path, as_read(&value))).collect::<Vec<_>>()
                });
                prop_assert_eq!(read, Ok(expected.clone()), "format {}", chosen);
            }
        }
    }

    #[test]
    fn the_text_of_a_value_is_read_again((id, value) in any_value()) {
        let request = format!("/3/0/{id}");
        let read = Scene::new().values(&request, format::TEXT, &text::encode(&value));
        prop_assert_eq!(read, one(&request, value));
    }

    #[test]
    fn any_bytes_are_entries_at_or_below_the_request_or_an_error(
        payload in proptest::collection::vec(any::<u8>(), 0..120),
        format in prop::sample::select(vec![0, 42, 60, 110, 112, 1541, 1542, 1543, 1544, 11542, 11543, 11544]),
        request in prop::sample::select(vec!["/3", "/3/0", "/3/0/6", "/3/0/6/1", "/9/0/1"]),
    ) {
        for entry in Scene::new().decode(request, format, &payload).unwrap_or_default() {
            prop_assert!(entry.path.is_at_or_below(&path(request)));
        }
    }

    #[test]
    fn any_tlv_that_is_read_is_written_as_a_tree_that_is_the_same(payload in proptest::collection::vec(any::<u8>(), 0..120)) {
        if let Ok(tree) = tlv::parse(&payload) {
            let written = tlv::encode(&tree);
            prop_assert_eq!(tlv::parse(&written), Ok(tree));
        }
    }
}
