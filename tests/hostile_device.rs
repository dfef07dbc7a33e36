//! One registered device does its worst: what it costs, and what the gateway keeps of it, has bounds.
#![expect(unsafe_code, reason = "an allocator that counts has to be one")]

#[path = "common/virtual_scene.rs"]
mod virtual_scene;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use lwm2m_gateway::coap::Code;
use lwm2m_gateway::gateway::report::Report;
use lwm2m_gateway::gateway::settings::Limits;
use virtual_scene::{QUERY, Scene};

/// Counts the bytes that each thread allocates: a cost that is the same on every machine.
struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

thread_local! {
    static ALLOCATED: Cell<usize> = const { Cell::new(0) };
}

// SAFETY: the system's allocator does all of it.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATED.set(ALLOCATED.get() + layout.size());
        // SAFETY: the layout is the caller's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: pointer and layout are the caller's.
        unsafe { System.dealloc(pointer, layout) }
    }
}

/// Gives the bytes that this allocates.
fn allocated(work: impl FnOnce()) -> usize {
    let before = ALLOCATED.get();
    work();
    ALLOCATED.get() - before
}

// --- The cost of an Update ------------------------------------------------------------------------------------------------

#[test]
fn an_update_that_changes_nothing_costs_the_same_however_long_the_list_is() {
    let [short, long] = [3, 2_900].map(cost_of_an_update);
    assert!(long < short + 512, "{long} bytes with 2,900 links, {short} bytes with 3");
}

/// Gives the bytes that one empty Update of a registration with so many links allocates, its record for the store included.
fn cost_of_an_update(links: usize) -> usize {
    const UPDATES: usize = 200;
    let mut scene = Scene::with(|settings| settings.limits.registration_size = 1_000_000);
    scene.gateway.restore(scene.now, Vec::new());
    register(&mut scene, &list(links));
    drop(scene.gateway.take_changes(scene.now, usize::MAX));
    let updates: Vec<_> = (0..UPDATES).map(|_| scene.update("")).collect();
    let cost = allocated(|| {
        for update in &updates {
            scene.ask(update, Code::CHANGED);
            drop(scene.gateway.take_changes(scene.now, usize::MAX));
        }
    });
    cost / UPDATES
}

#[test]
fn an_update_that_says_what_is_known_already_makes_no_record() {
    let mut scene = Scene::with(|_| {});
    scene.gateway.restore(scene.now, Vec::new());
    scene.register(QUERY);
    assert_eq!(scene.gateway.take_changes(scene.now, 10).len(), 1);
    for query in ["", "lt=300", "lwm2m=1.0"] {
        let update = scene.update(query);
        scene.ask(&update, Code::CHANGED);
        assert_eq!(scene.gateway.take_changes(scene.now, 10), [], "{query}");
    }
    let update = scene.update("lt=301");
    scene.ask(&update, Code::CHANGED);
    assert_eq!(scene.gateway.take_changes(scene.now, 10).len(), 1);
}

// --- The bytes of a registration ------------------------------------------------------------------------------------------

#[test]
fn a_register_that_is_too_large_is_answered_4_13_and_the_broker_is_not_asked() {
    for (query, links) in [
        (QUERY.to_owned(), list(2_900)),
        (QUERY.to_owned(), versions(400)),
        (QUERY.to_owned() + &items(0..64, 250), String::new()),
    ] {
        let mut scene = Scene::new();
        let mut register = scene.register_message(&query);
        register.payload = links.into_bytes();
        scene.device_sends(&register);
        let peer = scene.peer;
        let answer = scene.expect_reply(peer, &register, Code::REQUEST_ENTITY_TOO_LARGE);
        let reason = String::from_utf8(answer.payload).expect("text");
        assert!(reason.ends_with("limits.registration_size is 16384"), "{reason}");
        scene.expect_nothing_more();
        let reports = scene.reports();
        let [Report::RegisterRejected { endpoint, code, .. }] = reports.as_slice() else { panic!("{reports:?}") };
        assert_eq!((endpoint.as_deref(), *code), (Some("dev-7"), Code::REQUEST_ENTITY_TOO_LARGE));
    }
}

#[test]
fn no_update_makes_a_registration_grow_beyond_its_bound_and_a_refused_one_changes_nothing() {
    let mut scene = Scene::registered();
    let kept = |scene: &Scene| scene.gateway.occupancy().registration_bytes;
    let before = kept(&scene);
    let update = scene.update_with_links(&list(2_900));
    scene.ask(&update, Code::REQUEST_ENTITY_TOO_LARGE);
    assert_eq!(kept(&scene), before);

    // Item by item.
    let codes: Vec<Code> = (0..64)
        .map(|number| {
            let update = scene.update(&items(number..number + 1, 400));
            scene.device_sends(&update);
            scene.expect_sent().1.code
        })
        .collect();
    let first = codes.iter().position(|code| *code == Code::REQUEST_ENTITY_TOO_LARGE).expect("a bound");
    assert!(first > 30 && codes[..first].iter().all(|code| *code == Code::CHANGED), "{codes:?}");
    assert!((15_000..=16_384).contains(&kept(&scene)), "{}", kept(&scene));

    // It may shrink, and say that it is there.
    let update = scene.update("");
    scene.ask(&update, Code::CHANGED);
    let update = scene.update("k0=short");
    scene.ask(&update, Code::CHANGED);
    assert!(kept(&scene) < 16_384 - 350, "{}", kept(&scene));
}

#[test]
fn a_bound_that_has_become_narrower_lets_a_device_shrink_and_live_on() {
    let mut scene = Scene::new();
    register(&mut scene, &list(500));
    scene.gateway.set_limits(Limits { registration_size: 1024, ..Limits::default() });
    let update = scene.update("lt=900");
    scene.ask(&update, Code::CHANGED);
    let update = scene.update_with_links(&list(501));
    scene.ask(&update, Code::REQUEST_ENTITY_TOO_LARGE);
    let update = scene.update_with_links(&list(400));
    scene.ask(&update, Code::CHANGED);
}

fn register(scene: &mut Scene, links: &str) {
    let mut register = scene.register_message(QUERY);
    register.payload = links.as_bytes().to_vec();
    scene.device_sends(&register);
    scene.expect_connect();
    scene.broker_takes_it();
    scene.expect_created(&register);
    scene.expect_reported("register");
}

/// Links of one byte each, and what belongs to it.
fn list(links: usize) -> String {
    (0..links).map(|instance| format!("</9/{instance}>")).collect::<Vec<_>>().join(",")
}

/// Objects with a version each.
fn versions(objects: usize) -> String {
    (0..objects).map(|object| format!("</{object}>;ver=1")).collect::<Vec<_>>().join(",")
}

/// Query items `k0`, `k1` ... of so many bytes each.
fn items(numbers: std::ops::Range<u32>, length: usize) -> String {
    let value = "v".repeat(length);
    numbers.map(|number| format!("&k{number}={value}")).collect()
}
