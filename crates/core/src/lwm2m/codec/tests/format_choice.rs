use super::*;

#[test]
fn a_device_is_asked_for_the_best_format_that_it_announced() {
    for (request, announced, best) in [
        ("/3/0", &[][..], None),
        ("/3/0", &[11542, 110, 112], Some(112)),
        ("/3/0", &[11543, 11542], Some(11542)),
        ("/3/0", &[0, 42, 60], None),
        ("/3/0/9", &[0, 42, 60], Some(60)),
        ("/3/0/9", &[0], Some(0)),
    ] {
        assert_eq!(best_to_read(path(request), announced), best, "{request} {announced:?}");
    }
}

#[test]
fn a_write_is_tlv_unless_the_device_announced_others_only() {
    let integer = |path: &str| Assignment { path: super::tests::path(path), value: Value::Integer(60) };
    let single = [integer("/3/0/9")];
    let encode = |target: &str, values: &[Assignment], announced: &[u16]| {
        let chosen = best_to_write(super::tests::path(target), values, announced);
        (chosen, encode(super::tests::path(target), values, chosen))
    };
    let written = |announced: &[u16]| encode("/3/0/9", &single, announced);
    assert_eq!(written(&[]), (format::TLV, hex("c1 09 3c")));
    assert_eq!(written(&[110, 11542]), (format::TLV, hex("c1 09 3c")));
    assert_eq!(written(&[110, 0]), (format::SENML_JSON, br#"[{"bn":"/3/0/9","v":60}]"#.to_vec()));
    assert_eq!(written(&[112]), (format::SENML_CBOR, hex("81 a2 21 662f332f302f39 02 183c")));
    assert_eq!(written(&[11543]), (format::LWM2M_JSON, br#"{"bn":"/3/0/9","e":[{"v":60}]}"#.to_vec()));
    assert_eq!(written(&[0]), (format::TEXT, b"60".to_vec()));
    assert_eq!(encode("/3/0", &single, &[0]), (format::TLV, hex("c1 09 3c")));
    let opaque = [Assignment { path: path("/3/0/14"), value: Value::Opaque(vec![1]) }];
    assert!(is_single_opaque(path("/3/0/14"), &opaque) && !is_single_opaque(path("/3/0"), &opaque));
    assert!(!is_single_opaque(path("/3/0/9"), &single));
    let both = [integer("/3/0/6/0"), integer("/3/0/9")];
    let json = br#"[{"bn":"/3/0/","n":"6/0","v":60},{"n":"9","v":60}]"#.to_vec();
    assert_eq!(encode("/3/0", &both, &[110]), (format::SENML_JSON, json));
}
