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

/// The formats that hold several values.
const SEVERAL_VALUES: [ContentFormat; 5] = [
    ContentFormat::Tlv,
    ContentFormat::SenmlJson,
    ContentFormat::SenmlCbor,
    ContentFormat::Lwm2mJson,
    ContentFormat::Lwm2mCbor,
];

/// TLV has no sign for an Unsigned Integer; JSON has one zero.
fn as_read(value: &Value) -> Value {
    match value {
        Value::Float(zero) if *zero == 0.0 => Value::Float(0.0),
        other => other.clone(),
    }
}

proptest! {
    #[test]
    fn what_was_written_is_read_again(
        values in proptest::collection::vec(any_value(), 1..6),
        instance in any::<u16>(),
    ) {
        let scene = CodecScene::new();
        let mut seen = std::collections::BTreeSet::new();
        let assignments: Vec<_> = values
            .into_iter()
            .filter(|(id, _)| seen.insert(*id))
            .map(|(id, value)| Assignment { path: Path::of(&[3, instance, id]).unwrap(), value })
            .collect();
        let expected: Vec<_> = assignments.iter().map(|one| (one.path.to_string(), as_read(&one.value))).collect();
        for target in [Path::of(&[3]).unwrap(), Path::of(&[3, instance]).unwrap()] {
            for chosen in SEVERAL_VALUES {
                let payload = encode(chosen, "", target, &assignments);
                let read = scene.values(&target.to_string(), chosen.number(), &payload).map(|values| {
                    values.into_iter().map(|(path, value)| (path, as_read(&value))).collect::<Vec<_>>()
                });
                prop_assert_eq!(read, Ok(expected.clone()), "format {}", chosen);
            }
        }
    }

    #[test]
    fn a_single_value_that_was_written_is_read_again((id, value) in any_value()) {
        let target = Path::of(&[3, 0, id]).unwrap();
        let values = [Assignment { path: target, value: value.clone() }];
        for chosen in SEVERAL_VALUES.into_iter().chain([ContentFormat::Cbor]) {
            let payload = encode(chosen, "", target, &values);
            let read = CodecScene::new().values(&target.to_string(), chosen.number(), &payload);
            let read = read.map(|values| values.into_iter().map(|(_, value)| as_read(&value)).collect::<Vec<_>>());
            prop_assert_eq!(read, Ok(vec![as_read(&value)]), "format {}", chosen);
        }
    }

    #[test]
    fn patches_that_were_written_are_read_again(
        values in proptest::collection::vec(any_value(), 1..6),
        instance in any::<u16>(),
    ) {
        let scene = CodecScene::with_object_list("</m2m>;rt=\"oma.lwm2m\",</m2m/3/0>");
        let mut seen = std::collections::BTreeSet::new();
        let patches: Vec<_> = values
            .into_iter()
            .filter(|(id, _)| seen.insert(*id))
            .map(|(id, value)| Patch { path: Path::of(&[3, instance, id]).unwrap(), value: Some(value) })
            .collect();
        let expected: Vec<_> =
            patches.iter().map(|patch| (patch.path.to_string(), patch.value.clone().unwrap())).collect();
        for chosen in [ContentFormat::SenmlJson, ContentFormat::SenmlCbor, ContentFormat::Lwm2mCbor] {
            let payload = encode_patches(chosen, "/m2m", &patches);
            let read = scene.decode_of(Requested::Paths(&[Path::ROOT]), chosen.number(), &payload);
            let read = read.map(|entries| {
                entries.into_iter().map(|entry| (entry.path.to_string(), as_read(&entry.value))).collect::<Vec<_>>()
            });
            let expected: Vec<_> = expected.iter().map(|(path, value)| (path.clone(), as_read(value))).collect();
            prop_assert_eq!(read, Ok(expected), "format {}", chosen);
        }
    }

    #[test]
    fn integers_of_64_bits_survive_every_format_with_types(signed in any::<i64>(), unsigned in any::<u64>()) {
        for (id, value) in [(1, Value::Integer(signed)), (2, Value::UnsignedInteger(unsigned | 1 << 63))] {
            let target = Path::of(&[4321, 0, id]).unwrap();
            let values = [Assignment { path: target, value: value.clone() }];
            let formats =
                [
                ContentFormat::SenmlJson,
                ContentFormat::SenmlCbor,
                ContentFormat::Lwm2mJson,
                ContentFormat::Lwm2mCbor,
                ContentFormat::Cbor,
            ];
            for chosen in formats {
                let payload = encode(chosen, "", target, &values);
                let read = CodecScene::new().values(&target.to_string(), chosen.number(), &payload);
                prop_assert_eq!(read, one(&target.to_string(), value.clone()), "format {}", chosen);
            }
        }
    }

    #[test]
    fn integers_of_64_bits_survive_every_format_with_a_definition(signed in any::<i64>(), unsigned in any::<u64>()) {
        for (id, value) in [
            (9, Value::Integer(signed)),
            (13, Value::Time(signed)),
            (10, Value::UnsignedInteger(unsigned)),
            (10, Value::UnsignedInteger(unsigned | 1 << 63)),
        ] {
            let target = Path::of(&[3, 0, id]).unwrap();
            let values = [Assignment { path: target, value: value.clone() }];
            for chosen in SEVERAL_VALUES.into_iter().chain([ContentFormat::Cbor, ContentFormat::Text]) {
                let payload = encode(chosen, "", target, &values);
                let read = CodecScene::new().values(&target.to_string(), chosen.number(), &payload);
                prop_assert_eq!(read, one(&target.to_string(), value.clone()), "format {}", chosen);
            }
        }
    }

    #[test]
    fn the_bytes_of_an_opaque_value_are_read_again(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let target = path("/3/0/14");
        let values = [Assignment { path: target, value: Value::Opaque(bytes.clone()) }];
        let payload = encode(ContentFormat::Opaque, "", target, &values);
        prop_assert_eq!(&payload, &bytes);
        let read = CodecScene::new().values("/3/0/14", format::OCTET_STREAM, &payload);
        prop_assert_eq!(read, one("/3/0/14", Value::Opaque(bytes)));
    }

    #[test]
    fn a_single_value_that_is_changed_is_one_entry_for_the_request_or_an_error(
        (id, value) in any_value(),
        (at, byte) in (any::<prop::sample::Index>(), any::<u8>()),
    ) {
        let target = Path::of(&[3, 0, id]).unwrap();
        let values = [Assignment { path: target, value }];
        for chosen in [ContentFormat::Text, ContentFormat::Opaque, ContentFormat::Cbor] {
            let mut payload = encode(chosen, "", target, &values);
            if !payload.is_empty() {
                let at = at.index(payload.len());
                payload[at] = byte;
            }
            if let Ok(entries) = CodecScene::new().decode(&target.to_string(), chosen.number(), &payload) {
                let paths: Vec<_> = entries.iter().map(|entry| entry.path).collect();
                // An empty payload says that a multiple resource has no instances.
                prop_assert!(paths == [target] || (payload.is_empty() && paths.is_empty()), "{:?}", paths);
            }
        }
    }

    #[test]
    fn a_composite_answer_that_is_changed_is_entries_at_or_below_the_paths_or_an_error(
        values in proptest::collection::vec(any_value(), 1..6),
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        cut in any::<prop::sample::Index>(),
    ) {
        let scene = CodecScene::new();
        let paths = [path("/3/0/9"), path("/3/0/22"), path("/3/1")];
        let patches: Vec<_> = values
            .into_iter()
            .map(|(id, value)| Patch { path: Path::of(&[3, 0, id]).unwrap(), value: Some(value) })
            .collect();
        for chosen in [ContentFormat::SenmlJson, ContentFormat::SenmlCbor, ContentFormat::Lwm2mCbor] {
            let mut payload = encode_patches(chosen, "", &patches);
            for (at, byte) in &changes {
                let at = at.index(payload.len());
                payload[at] = *byte;
            }
            let cut = cut.index(payload.len());
            for payload in [&payload[..], &payload[..cut]] {
                for requested in [&paths[..], &[Path::ROOT]] {
                    let read = scene.decode_of(Requested::Paths(requested), chosen.number(), payload);
                    for entry in read.unwrap_or_default() {
                        prop_assert!(requested.iter().any(|path| entry.path.is_at_or_below(path)));
                        prop_assert!(entry.path.len() >= 3 && entry.time.is_none_or(f64::is_finite));
                    }
                }
            }
        }
    }

    #[test]
    fn a_payload_that_is_changed_is_entries_at_or_below_the_request_or_an_error(
        values in proptest::collection::vec(any_value(), 1..6),
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let scene = CodecScene::new();
        let assignments: Vec<_> =
            values.into_iter().map(|(id, value)| Assignment { path: Path::of(&[3, 0, id]).unwrap(), value }).collect();
        let target = path("/3/0");
        for chosen in SEVERAL_VALUES {
            let mut payload = encode(chosen, "", target, &assignments);
            for (at, byte) in &changes {
                let at = at.index(payload.len());
                payload[at] = *byte;
            }
            for entry in scene.decode("/3/0", chosen.number(), &payload).unwrap_or_default() {
                prop_assert!(entry.path.is_at_or_below(&target) && entry.path.len() >= 3);
            }
        }
    }

    #[test]
    fn the_text_of_a_value_is_read_again((id, value) in any_value()) {
        let request = format!("/3/0/{id}");
        let read = CodecScene::new().values(&request, format::TEXT, &text::encode(&value));
        prop_assert_eq!(read, one(&request, value));
    }

    #[test]
    fn any_bytes_are_entries_at_or_below_the_request_or_an_error(
        payload in proptest::collection::vec(any::<u8>(), 0..120),
        format in prop::sample::select(vec![0, 42, 60, 110, 112, 1541, 1542, 1543, 1544, 11542, 11543, 11544]),
        request in prop::sample::select(vec!["/3", "/3/0", "/3/0/6", "/3/0/6/1", "/9/0/1"]),
    ) {
        for entry in CodecScene::new().decode(request, format, &payload).unwrap_or_default() {
            prop_assert!(entry.path.is_at_or_below(&path(request)));
        }
    }

    #[test]
    fn any_tlv_that_is_read_is_written_as_a_tree_that_is_the_same(
        payload in proptest::collection::vec(any::<u8>(), 0..120),
    ) {
        if let Ok(tree) = tlv::parse(&payload) {
            let written = tlv::encode(&tree);
            prop_assert_eq!(tlv::parse(&written), Ok(tree));
        }
    }
}
