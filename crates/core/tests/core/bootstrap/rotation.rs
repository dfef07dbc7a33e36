//! Keys that are replaced: which of two keys a handshake uses, and what ends with the former one.

use super::secured::{APART, BOOTSTRAP_KEY, Client, Left, Secured};
use super::*;

const REGISTER: &str = "ep=dev-7&lt=300&lwm2m=1.1";

/// A device whose key was rotated, with its bootstrap client, the former key and the next one.
struct Rotated {
    secured: Secured,
    bootstrap: Client,
    former: Vec<u8>,
    next: Vec<u8>,
}

impl Rotated {
    fn new() -> Self {
        let mut secured = Secured::new(&APART, generating(json!({ "rotate": true }))).with_bootstrap_identity("dev-7");
        let mut bootstrap = secured.connect(0, "dev-7", BOOTSTRAP_KEY).expect("its bootstrap account");
        let former = secured.bootstrap(&mut bootstrap, "ep=dev-7");
        secured.connect(1, "dev-7", &former).expect("the first key");
        let next = secured.bootstrap(&mut bootstrap, "ep=dev-7");
        assert_ne!(former, next);
        Self { secured, bootstrap, former, next }
    }

    /// Connects with a key. A full handshake tries one of the two keys, and the next one the other.
    fn connect(&mut self, key: &[u8]) -> Option<Client> {
        let connect = |_| self.secured.connect(1, "dev-7", key);
        (0..2).find_map(connect)
    }

    fn register(&mut self, client: &mut Client) -> Code {
        self.secured.post(client, "rd", REGISTER)
    }

    fn associations(&self) -> usize {
        self.secured.gateway.associations().associations
    }
}

#[test]
fn a_rotated_key_holds_beside_the_former_one_until_the_device_uses_it() {
    let mut secured = Secured::new(&APART, generating(json!({ "rotate": true }))).with_bootstrap_identity("dev-7");
    let mut client = secured.connect(0, "dev-7", BOOTSTRAP_KEY).expect("its bootstrap account");
    let former = secured.bootstrap(&mut client, "ep=dev-7");
    assert!(secured.connect(1, "dev-7", &former).is_some());
    let next = secured.bootstrap(&mut client, "ep=dev-7");
    assert_ne!(former, next);
    // A handshake tries one of the two.
    let tries = |secured: &mut Secured, key: &[u8]| (0..2).any(|_| secured.connect(1, "dev-7", key).is_some());
    assert!(tries(&mut secured, &former));
    assert!(tries(&mut secured, &next));
    assert!(tries(&mut secured, &former), "the device has not registered with the next one");
    let mut registered = secured.connect(1, "dev-7", &next).or_else(|| secured.connect(1, "dev-7", &next));
    let registered = registered.as_mut().expect("the next key");
    assert_eq!(secured.post(registered, "rd", "ep=dev-7&lt=300&lwm2m=1.1"), Code::CREATED);
    assert!(!tries(&mut secured, &former), "the device has registered with the next one");
    assert!(secured.connect(1, "dev-7", &next).is_some());
}

#[test]
fn a_handshake_with_a_ticket_uses_the_key_of_the_ticket_whoever_asks_for_the_key_meanwhile() {
    let mut rotated = Rotated::new();
    let (former, next) = (rotated.former.clone(), rotated.next.clone());
    let by_former = rotated.connect(&former).expect("it holds still");
    let by_next = rotated.connect(&next).expect("it holds already");
    for _ in 0..5 {
        assert!(rotated.secured.resume(&by_former).is_some(), "the ticket of the former key");
        // A stranger changes the turn of the two keys.
        assert!(rotated.secured.connect(1, "dev-7", b"guessed").is_none());
        assert!(rotated.secured.resume(&by_next).is_some(), "the ticket of the next key");
    }
    let mut by_next = rotated.secured.resume(&by_next).expect("the ticket of the next key");
    assert_eq!(rotated.register(&mut by_next), Code::CREATED);
    assert!(rotated.secured.resume(&by_former).is_none(), "the former key has ended");
    assert!(rotated.secured.resume(&by_next).is_some());
}

#[test]
fn the_registration_with_the_next_key_ends_the_sessions_of_the_former_one() {
    let mut rotated = Rotated::new();
    let (former, next) = (rotated.former.clone(), rotated.next.clone());
    let mut by_former = rotated.connect(&former).expect("the former key");
    assert_eq!(rotated.register(&mut by_former), Code::CREATED);
    let mut by_next = rotated.connect(&next).expect("the next key");
    let before = rotated.associations();
    assert_eq!(rotated.register(&mut by_next), Code::CREATED);
    assert_eq!(rotated.associations(), before - 2, "both sessions of the former key");
    assert_eq!(rotated.register(&mut by_next), Code::CREATED);
    let mut bootstrap = rotated.bootstrap;
    assert_eq!(rotated.secured.post(&mut bootstrap, "bs", "ep=dev-7"), Code::CHANGED, "its key is another one");
}

#[test]
fn a_restart_restores_the_sessions_of_generated_keys_that_hold() {
    let mut rotated = Rotated::new();
    let (former, next) = (rotated.former.clone(), rotated.next.clone());
    let mut by_next = rotated.connect(&next).expect("the next key");
    let both = Left::by(&mut rotated.secured);
    assert_eq!(both.associations.len(), 3, "that for bootstrap, that of the former key and that of the next one");
    assert_eq!(rotated.register(&mut by_next), Code::CREATED);
    let replaced = Left::by(&mut rotated.secured).keys;
    let replaced = Left { keys: replaced, ..both.clone() };
    let none = Left { keys: Vec::new(), ..both.clone() };
    for (left, restored) in [(both.clone(), 3), (replaced, 2), (none, 1)] {
        let account = generating(json!({ "rotate": true }));
        let secured = Secured::begin(rotated.secured.now, &APART, account, left);
        assert_eq!(secured.gateway.associations().associations, restored);
    }

    // The process was killed before the device registered with the next key: the registration ends the former one.
    let account = generating(json!({ "rotate": true }));
    let mut restarted = Secured::begin(rotated.secured.now, &APART, account, both);
    assert_eq!(restarted.post(&mut by_next, "rd", REGISTER), Code::CREATED);
    assert_eq!(restarted.gateway.associations().associations, 2);
    assert!((0..2).all(|_| restarted.connect(1, "dev-7", &former).is_none()));
}
