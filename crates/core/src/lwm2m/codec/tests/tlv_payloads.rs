use super::*;

#[test]
fn a_tlv_tree_is_flat_in_the_order_of_the_payload() {
    let scene = CodecScene::new();
    let payload = hex("08 00 11  c4 00 41434d45  86 06 41 00 01 41 01 05  c1 09 64");
    let expected = Ok(vec![
        ("/3/0/0".to_owned(), Value::String("ACME".into())),
        ("/3/0/6/0".to_owned(), Value::Integer(1)),
        ("/3/0/6/1".to_owned(), Value::Integer(5)),
        ("/3/0/9".to_owned(), Value::Integer(100)),
    ]);
    assert_eq!(scene.values("/3", format::TLV, &payload), expected);
    assert_eq!(scene.values("/3/0", format::LEGACY_TLV, &payload), expected);
    assert_eq!(scene.values("/3/0", format::TLV, &payload[3..]), expected);
}

/// Zephyr and Leshan wrote so for some years.
#[test]
fn the_level_of_instances_may_be_missing_where_the_object_has_one() {
    let scene = CodecScene::new();
    for format in [format::TLV, format::LEGACY_TLV] {
        assert_eq!(
            scene.values("/3", format, &hex("c4 00 41434d45  86 06 41 00 01 41 01 05  c1 09 34")),
            Ok(vec![
                ("/3/0/0".to_owned(), Value::String("ACME".into())),
                ("/3/0/6/0".to_owned(), Value::Integer(1)),
                ("/3/0/6/1".to_owned(), Value::Integer(5)),
                ("/3/0/9".to_owned(), Value::Integer(52)),
            ])
        );
    }
    assert_eq!(scene.values("/3", format::TLV, &hex("03 00 c1 09 34")), one("/3/0/9", Value::Integer(52)));
}

/// LwM2M 1.0 section 6.4.3.3, the answer to a read of `/3/0`.
#[test]
fn the_example_of_the_specification_is_a_tree_and_the_same_bytes_again() {
    let bytes =
        hex("c80014 4f70656e204d6f62696c6520416c6c69616e6365 c80116 4c69676874776569676874204d324d20436c69656e74 \
         c80209 333435303030313233 c303 312e30 8606 410001 410105 880708 42000ed8 42011388 8708 41007d 42010384 \
         c10964 c10a0f 830b 410000 c40d 5182428f c60e 2b30323a3030 c110 55");
    assert_eq!(bytes.len(), 121);
    let tree = tlv::parse(&bytes).unwrap();
    let ids: Vec<_> = tree.iter().map(tlv::Tlv::id).collect();
    assert_eq!(ids, [0, 1, 2, 3, 6, 7, 8, 9, 10, 11, 13, 14, 16]);
    assert_eq!(tree[7], tlv::Tlv::Resource { id: 9, value: [100][..].into() });
    assert_eq!(tlv::encode(&tree), bytes);
}

#[test]
fn tlv_values_are_read_by_their_type() {
    let scene = CodecScene::new();
    for (resource, payload, value) in [
        ("/3/0/9", "c1 09 c8", Value::Integer(-56)),
        ("/3/0/9", "c2 09 00c8", Value::Integer(200)),
        ("/3/0/9", "c8 09 08 8000000000000000", Value::Integer(i64::MIN)),
        ("/3/0/9", "c3 09 000034", Value::Integer(52)),
        ("/3/0/9", "c3 09 ffffcc", Value::Integer(-52)),
        ("/3/0/9", "c5 09 0100000000", Value::Integer(4_294_967_296)),
        ("/3/0/9", "c6 09 800000000000", Value::Integer(-140_737_488_355_328)),
        ("/3/0/9", "c7 09 7fffffffffffff", Value::Integer(36_028_797_018_963_967)),
        ("/3/0/10", "c3 0a ffffff", Value::UnsignedInteger(0xff_ffff)),
        ("/3/0/10", "c7 0a ffffffffffffff", Value::UnsignedInteger(0xff_ffff_ffff_ffff)),
        ("/3/0/13", "c5 0d 0067748580", Value::Time(1_735_689_600)),
        ("/3/0/10", "c1 0a c8", Value::UnsignedInteger(200)),
        ("/3/0/10", "c8 0a 08 ffffffffffffffff", Value::UnsignedInteger(u64::MAX)),
        ("/3/0/11", "c4 0b c0300000", Value::Float(-2.75)),
        ("/3/0/12", "c1 0c 01", Value::Boolean(true)),
        ("/3/0/13", "c4 0d 67748580", Value::Time(1_735_689_600)),
        ("/3/0/14", "c0 0e", Value::Opaque(vec![])),
        ("/3/0/22/3", "44 03 00010000", link(1, 0)),
        ("/3/0/22/300", "64 012c ffffffff", link(65535, 65535)),
    ] {
        assert_eq!(scene.values(resource, format::TLV, &hex(payload)), one(resource, value), "{payload}");
    }
}

#[test]
fn tlv_that_is_cut_misplaced_or_of_another_type_is_refused() {
    let scene = CodecScene::new();
    for (request, payload, reason) in [
        ("/3/0", "c8 00 14 414243", "cut short"),
        ("/3/0", "c8", "cut short"),
        ("/3/0", "d8 01 0100", "cut short"),
        ("/3/0", "08 00 02 41 00", "can hold"),
        ("/3/0", "08 00 02 08 00", "can hold"),
        ("/3/0", "82 06 c0 00", "can hold"),
        ("/3/0", "41 00 01", "does not name"),
        ("/3", "41 00 01", "does not name"),
        ("/4", "c1 09 64", "does not name"),
        ("/4321", "c1 09 64", "does not name"),
        ("/3/0/9", "c0 00", "not at or below"),
        ("/3/0", "03 01 c1 09 64", "not at or below"),
        ("/3/0", "00 01", "not at or below"),
        ("/3/0/9", "", "empty"),
        ("/3/0/9", "c0 09", "0 bytes are not a valid Integer"),
        ("/3/0/10", "c0 0a", "0 bytes are not a valid Unsigned Integer"),
        ("/3/0/9", "c8 09 09 000000000000000001", "9 bytes are not a valid Integer"),
        ("/3/0/12", "c1 0c 02", "2 is not a valid Boolean"),
        ("/3/0/11", "c2 0b 0000", "2 bytes are not a valid Float"),
        ("/3/0/11", "c4 0b 7fc00000", "NaN"),
        ("/3/0/0", "c1 00 ff", "UTF-8"),
        ("/3/0/22/0", "43 00 000100", "3 bytes"),
        ("/3/0", "c1 04 00", "executed"),
        ("/3/0", "c1 63 00", "no definition"),
    ] {
        let error = scene.values(request, format::TLV, &hex(payload)).unwrap_err();
        assert!(error.contains(reason), "{request} {payload}: {error}");
    }
}

#[test]
fn tlv_integers_are_the_shortest_of_1_2_4_or_8_bytes() {
    for (value, bytes) in [
        (0, "00"),
        (127, "7f"),
        (128, "0080"),
        (-128, "80"),
        (-129, "ff7f"),
        (32768, "00008000"),
        (-32769, "ffff7fff"),
        (i64::MAX, "7fffffffffffffff"),
        (2_147_483_648, "0000000080000000"),
    ] {
        assert_eq!(*tlv::encode_value(&Value::Integer(value)), *hex(bytes), "{value}");
    }
    assert_eq!(*tlv::encode_value(&Value::UnsignedInteger(u64::MAX)), [0xff; 8]);
    assert_eq!(*tlv::encode_value(&Value::UnsignedInteger(200)), *hex("00c8"));
}
