use proptest::prelude::*;

use super::*;

fn targets(text: &str) -> Result<Vec<String>, LinkError> {
    Ok(parse(text.as_bytes())?.links.into_iter().map(|link| link.target.to_owned()).collect())
}

fn texts(text: &str) -> Vec<String> {
    parse(text.as_bytes()).unwrap().links.into_iter().map(|link| link.text.into_owned()).collect()
}

/// What was left out of a list, of which something stays.
fn left_out(text: &str) -> (usize, LinkError) {
    let LeftOut { count, first } = parse(text.as_bytes()).unwrap().left_out.expect("something is left out");
    (count, first)
}

#[test]
fn links_stand_between_commas_with_or_without_blanks() {
    assert_eq!(targets("</1/0>, </3/0>,</5>"), Ok(vec!["/1/0".into(), "/3/0".into(), "/5".into()]));
    assert_eq!(targets(""), Ok(vec![]));
    assert_eq!(targets(" "), Ok(vec![]));
}

#[test]
fn a_quoted_text_may_hold_commas_semicolons_and_escapes() {
    let text = r#"</>;rt="oma.lwm2m";title="a,b;c \"d\\ é";obs,</1>;ver=1.1"#;
    let Links { links, left_out } = parse(text.as_bytes()).unwrap();
    assert_eq!((links.len(), left_out), (2, None));
    assert_eq!(links[0].attribute("RT"), Some("oma.lwm2m"));
    assert_eq!(links[0].attribute("title"), Some(r#"a,b;c "d\ é"#));
    assert_eq!(links[0].attribute("obs"), None);
    assert_eq!(links[0].attributes.len(), 3);
    assert_eq!(links[1].attribute("ver"), Some("1.1"));
}

#[test]
fn links_have_their_text_as_it_is_written() {
    let text = r#"</3/0/9>;pmin=5;pmax=90 ,</3/0/10> , </3/0/11>;dim=1;title="a,b",</3/0/12>;ct=60 110 ;"#;
    assert_eq!(
        texts(text),
        ["</3/0/9>;pmin=5;pmax=90", "</3/0/10>", r#"</3/0/11>;dim=1;title="a,b""#, "</3/0/12>;ct=60 110"]
    );
}

/// Each of these is clear, whatever RFC 6690 says of it: nothing is left out.
#[test]
fn a_deviation_that_is_clear_costs_nothing() {
    for (text, expected) in [
        ("</1>,", &["/1"][..]),
        (",</1>", &["/1"]),
        ("</1>,,</2>", &["/1", "/2"]),
        ("</1></2>", &["/1", "/2"]),
        ("</1> </2>;obs</3>", &["/1", "/2", "/3"]),
        ("</1>;</2>", &["/1", "/2"]),
        ("</1>;", &["/1"]),
        ("</1>;,</2>;;obs", &["/1", "/2"]),
        ("</1>;ver=", &["/1"]),
        ("</1>;ver= ,</2>", &["/1", "/2"]),
        ("</1>;ver= </2>", &["/1", "/2"]),
        ("</1>,</2>\0", &["/1", "/2"]),
        ("\r\n</1>,\n</2>\n\0\0", &["/1", "/2"]),
        ("<>,</2>", &["", "/2"]),
        (",", &[]),
        ("\0", &[]),
    ] {
        let Links { links, left_out } = parse(text.as_bytes()).unwrap();
        let targets: Vec<_> = links.iter().map(|link| link.target).collect();
        assert_eq!((targets.as_slice(), left_out), (expected, None), "{text:?}");
    }
}

#[test]
fn a_value_may_have_blanks_in_it_and_around_its_equals_sign() {
    for (text, name, value) in [
        ("</>;ct=60 110 112 11542;rt=\"oma.lwm2m\"", "ct", Some("60 110 112 11542")),
        ("</>;ct=60 110 ,</1>", "ct", Some("60 110")),
        ("</44>;ver= \"2.2\"", "ver", Some("2.2")),
        ("</44>;ver =2.2", "ver", Some("2.2")),
        ("</44>;ver =\t\"2.2\" ;obs", "ver", Some("2.2")),
        ("</44>;ver=;ver=2.2", "ver", Some("2.2")),
        ("</44>;ver=\"\"", "ver", None),
        ("</44>;title=a<b>c", "title", Some("a<b>c")),
    ] {
        let Links { links, left_out } = parse(text.as_bytes()).unwrap();
        assert_eq!((links[0].attribute(name), left_out), (value, None), "{text}");
    }
}

#[test]
fn an_attribute_that_makes_no_sense_is_left_out_of_its_link() {
    for (text, kept, count, first) in [
        ("</1>;=1,</2>", &["</1>", "</2>"][..], 1, LinkError::NoName(5)),
        ("</1>;\"x\";obs", &["</1>;obs"], 2, LinkError::NoName(5)),
        ("</1>;ver=\"1,</2>", &["</1>", "</2>"], 1, LinkError::OpenQuote(9)),
        ("</1>;ver=\"1\\", &["</1>"], 1, LinkError::OpenQuote(9)),
        ("</1>;ver=\"1\"x;obs,</2>", &["</1>;obs", "</2>"], 1, LinkError::NoSeparator(12)),
        ("</1>;a=\"b,</2>;ct=\"60\",</3>", &["</1>", "</2>;ct=\"60\"", "</3>"], 1, LinkError::NoSeparator(19)),
        ("</1>x;obs,</2>", &["</1>;obs", "</2>"], 1, LinkError::NoSeparator(4)),
        ("</1>;obs foo,</2>", &["</1>;obs", "</2>"], 1, LinkError::NoSeparator(9)),
    ] {
        assert_eq!(
            (texts(text).as_slice(), left_out(text)),
            (kept.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>().as_slice(), (count, first)),
            "{text}"
        );
    }
    let bytes = b"</1>;title=\"\xff\";obs,</2>;\xff=1";
    let Links { links, left_out } = parse(bytes).unwrap();
    assert_eq!((&*links[0].text, &*links[1].text), ("</1>;obs", "</2>"));
    assert_eq!(left_out, Some(LeftOut { count: 2, first: LinkError::NotText(11) }));
}

#[test]
fn a_link_that_makes_no_sense_is_left_out_and_the_others_count() {
    for (text, kept, count, first) in [
        ("x,</2>", &["/2"][..], 1, LinkError::NoTarget(0)),
        ("x</2>", &["/2"], 1, LinkError::NoTarget(0)),
        ("</1,</2>", &["/2"], 1, LinkError::OpenTarget(0)),
        ("</1>,/2,</3>,</4", &["/1", "/3"], 2, LinkError::NoTarget(5)),
        ("\"</1>,</2>\"", &["/1", "/2"], 2, LinkError::NoTarget(0)),
        ("\u{feff}</1>,</2>", &["/1", "/2"], 1, LinkError::NoTarget(0)),
    ] {
        assert_eq!(targets(text).unwrap(), kept, "{text}");
        assert_eq!(left_out(text), (count, first), "{text}");
    }
    let Links { links, left_out } = parse(b"</\xff>,</2>").unwrap();
    assert_eq!((links.len(), links[0].target), (1, "/2"));
    assert_eq!(left_out, Some(LeftOut { count: 1, first: LinkError::NotText(0) }));
}

#[test]
fn a_list_of_which_nothing_makes_sense_is_refused_with_the_place() {
    for (text, error) in [
        (&b"x"[..], LinkError::NoTarget(0)),
        (b"</1", LinkError::OpenTarget(0)),
        (b"{\"a\":1,\"b\":2}", LinkError::NoTarget(0)),
        (b"</\xff>", LinkError::NotText(0)),
        (b" ;", LinkError::NoTarget(1)),
    ] {
        assert_eq!(parse(text), Err(error), "{text:?}");
    }
}

#[test]
fn a_list_has_an_end() {
    let many = vec!["</1>"; MAX_LINKS + 1].join(",");
    assert_eq!(targets(&many), Err(LinkError::TooManyLinks));
    let attributes = format!("</1>{}", ";a".repeat(MAX_ATTRIBUTES + 2));
    let Links { links, left_out } = parse(attributes.as_bytes()).unwrap();
    assert_eq!((links[0].attributes.len(), left_out.map(|left_out| left_out.count)), (MAX_ATTRIBUTES, Some(2)));
}

/// A link as RFC 6690 has it, with its parts.
fn well_formed() -> impl Strategy<Value = String> {
    r#"<[/a-zé0-9]{0,6}>(;[a-zé]{1,4}(=("[a-zé,;<> ]{0,5}"|[0-9<>]{1,3}))?){0,3}"#
}

/// What is no link and cannot be the beginning of one, nor of a quoted text.
fn junk() -> impl Strategy<Value = Vec<u8>> {
    let byte = any::<u8>().prop_filter("means something", |byte| !matches!(byte, b'<' | b'"'));
    proptest::collection::vec(byte, 0..12)
}

proptest! {
    #[test]
    fn any_bytes_are_a_list_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        what_was_read_is_read_again(&bytes)?;
    }

    #[test]
    fn any_text_of_a_list_s_characters_is_a_list_or_an_error(text in r#"[<>/;,="\\ 1a\x00é]{0,60}"#) {
        what_was_read_is_read_again(text.as_bytes())?;
    }

    #[test]
    fn a_well_formed_list_is_taken_as_it_is(links in proptest::collection::vec(well_formed(), 0..6)) {
        let list = links.join(", ");
        prop_assert_eq!(texts(&list), links);
        prop_assert_eq!(parse(list.as_bytes()).unwrap().left_out, None);
    }

    #[test]
    fn well_formed_links_survive_whatever_stands_around_them(
        parts in proptest::collection::vec((junk(), well_formed(), junk()), 1..5),
    ) {
        let mut list = Vec::new();
        for (before, link, behind) in &parts {
            list.extend([before, &b","[..], link.as_bytes(), b",", behind, b","].concat());
        }
        let read = parse(&list).unwrap();
        let read: Vec<_> = read.links.iter().map(|link| &*link.text).collect();
        let links: Vec<_> = parts.iter().map(|(_, link, _)| link.as_str()).collect();
        prop_assert_eq!(read, links);
    }
}

/// What was taken of any list is a list of which nothing is left out.
fn what_was_read_is_read_again(bytes: &[u8]) -> Result<(), TestCaseError> {
    let Ok(Links { links, .. }) = parse(bytes) else { return Ok(()) };
    let joined = links.iter().map(|link| &*link.text).collect::<Vec<_>>().join(",");
    let again = parse(joined.as_bytes());
    let parts = |links: &[Link<'_>]| -> Vec<_> {
        links.iter().map(|link| (link.target.to_owned(), format!("{:?}", link.attributes))).collect()
    };
    prop_assert_eq!(again.as_ref().map(|again| parts(&again.links)), Ok(parts(&links)));
    prop_assert_eq!(again.unwrap().left_out, None);
    Ok(())
}
