use std::time::{Duration, Instant};

use super::super::association::tests::{BORN, Making, association};
use super::super::credentials::{KeyRealm, PskKey};
use super::super::write_terms::WriteTerms;
use super::*;

fn identities() -> Vec<Identity> {
    vec![
        Identity::Psk(PskIdentity::new("urn:dev:é".as_bytes()).unwrap()),
        Identity::Certificate { common_name: Some("device 1".into()), alternative_names: vec!["a".into(), "".into()] },
        Identity::Certificate { common_name: None, alternative_names: vec!["urn:dev:1".into()] },
        Identity::Certificate { common_name: None, alternative_names: vec![] },
        Identity::RawPublicKey { name: "factory".into() },
        Identity::Unknown,
    ]
}

#[test]
fn what_is_saved_is_loaded() {
    let places = ["192.0.2.1:5000", "[2001:db8::1]:5001", "[fe80::1%3]:5002"];
    for (number, suite) in Suite::ALL.into_iter().enumerate() {
        for identity in identities() {
            let mut original = association(Making { suite, identity, ..Making::default() });
            original.place = (number as u16, places[number % 3].parse().unwrap());
            original.window.mark(100);
            original.failed_tags = 9;
            let saved = save(&original);
            assert_eq!((saved.made_at, saved.reached_by), (original.made_at.0, original.place.0));

            let loaded = load(&saved).unwrap();
            assert_eq!((loaded.id, loaded.made_at, loaded.place), (original.id, original.made_at, original.place));
            assert_eq!((loaded.keys, loaded.window), (original.keys.clone(), original.window));
            assert_eq!((loaded.has_own_cid, &loaded.peer_cid), (original.has_own_cid, &original.peer_cid));
            let used = UsedNumbers::Terms { born: BORN, term: BORN };
            assert_eq!((loaded.used_numbers, loaded.failed_tags), (used, 9));
            assert_eq!(loaded.key, original.key);
            assert_eq!((&loaded.identity, loaded.last_flight), (&*original.identity, original.last_flight.to_vec()));
        }
    }
}

#[test]
fn what_was_not_saved_here_is_not_loaded() {
    let saved = save(&association(Making::default()));
    for length in 0..saved.bytes.len() {
        let cut = SavedAssociation { bytes: saved.bytes[..length].to_vec().into(), ..saved.clone() };
        assert!(load(&cut).is_none(), "{length} bytes");
    }
    let longer = SavedAssociation { bytes: [&saved.bytes[..], &[0]].concat().into(), ..saved.clone() };
    assert!(load(&longer).is_none());
    for (at, byte) in [(0, FORMAT + 1), (1, 0), (1, 9)] {
        let mut other = saved.clone();
        other.bytes[at] = byte;
        assert!(load(&other).is_none());
    }
}

#[test]
fn a_key_of_the_former_format_is_for_registrations() {
    for identity in identities() {
        let is_psk = matches!(identity, Identity::Psk(_));
        let mut saved = save(&association(Making { identity, ..Making::default() }));
        to_format_without_terms(&mut saved, 70_000);
        saved.bytes[0] = FORMAT_WITHOUT_KIND;
        saved.bytes.drain(3..if is_psk { 14 } else { 6 });
        let of_registrations = KeyMark { kind: KeyKind::Registration, tag: None };
        assert_eq!(load(&saved).unwrap().key, is_psk.then_some(of_registrations));
    }
}

#[test]
fn an_association_knows_the_key_that_made_it_unless_a_former_version_saved_it() {
    let [own, other] = [b"0123456789abcdef", b"fedcba9876543210"].map(|key| PskKey::new(*key).unwrap());
    let mut saved = save(&association(Making::default()));
    let terms = WriteTerms::new(Term::new(1 << 27), Instant::now(), Duration::ZERO);
    let is_of = |saved: &SavedAssociation, key| {
        let restored = Association::restored(load(saved).unwrap(), &terms, Instant::now()).unwrap();
        restored.key_use(|_| KeyRealm::default()).unwrap().is_of(key)
    };
    assert_eq!((is_of(&saved, &own), is_of(&saved, &other)), (Some(true), Some(false)));
    to_format_without_terms(&mut saved, 1);
    saved.bytes[0] = FORMAT_WITHOUT_TAG;
    saved.bytes.drain(4..14);
    assert_eq!((is_of(&saved, &own), is_of(&saved, &other)), (None, None));
}

#[test]
fn an_association_takes_little_room() {
    let mut small = association(Making::default());
    small.last_flight = Box::default();
    assert_eq!(save(&small).bytes.len(), 129, "AES-128 with connection ids, a PSK identity of 10 bytes");
}

#[test]
fn one_of_a_format_without_terms_goes_on_2_to_the_32_ahead_and_one_without_numbers_is_not_restored() {
    let first = Term::new(1 << 28);
    let terms = WriteTerms::new(first, Instant::now(), Duration::ZERO);
    for (next_write, is_restored) in [(1, true), (1 << 40, true), ((1 << 48) - (1 << 32), false), (1 << 48, false)] {
        let mut saved = save(&association(Making::default()));
        to_format_without_terms(&mut saved, next_write);
        let restored = Association::restored(load(&saved).unwrap(), &terms, Instant::now());
        assert_eq!(restored.is_some(), is_restored, "{next_write}");
        if let Some(mut association) = restored {
            assert_eq!(association.numbers.term(), Some(first));
            assert!(association.numbers.next_number().unwrap() > next_write + (1 << 32));
        }
    }
}

#[test]
fn a_record_tells_the_newest_term_of_its_numbers() {
    let mut association = association(Making::default());
    assert_eq!(save(&association).numbers(), SavedNumbers::UpTo(BORN));
    association.numbers.begin(BORN.next()).unwrap();
    let mut saved = save(&association);
    assert_eq!(saved.numbers(), SavedNumbers::UpTo(BORN.next()));
    let cut = SavedAssociation { bytes: saved.bytes[..20].to_vec().into(), ..saved.clone() };
    assert_eq!(cut.numbers(), SavedNumbers::Unreadable);
    to_format_without_terms(&mut saved, 7);
    assert_eq!(saved.numbers(), SavedNumbers::BeforeTerms);
}

/// Rewrites a record as a program without terms wrote it.
fn to_format_without_terms(saved: &mut SavedAssociation, next_write: u64) {
    saved.bytes[0] = FORMAT_WITHOUT_TERMS;
    let behind_tag = 6 + usize::from(saved.bytes[5]);
    saved.bytes[behind_tag..behind_tag + 8].copy_from_slice(&u64::to_be_bytes(next_write));
    saved.bytes.drain(behind_tag + 8..behind_tag + 16);
}

#[test]
fn keys_are_not_in_a_debug_print() {
    let saved = save(&association(Making::default()));
    assert_eq!(format!("{:?}", AssociationChange::Put(saved)), "Put(SavedAssociation(AssociationId(7), ..))");
}
