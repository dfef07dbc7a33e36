//! There is one EMQX, and it knows one handler: the tests that use it take turns, also those of different test
//! programs.

use std::cell::RefCell;
use std::env;
use std::fs::File;
use std::sync::{Arc, Weak};

thread_local! {
    /// Lives as long as the turn of this thread's test.
    static TURN_OF_THIS_TEST: RefCell<Weak<()>> = const { RefCell::new(Weak::new()) };
}

/// The turn ends when this is dropped.
pub(crate) struct Turn {
    _file: File,
    _held: Arc<()>,
}

impl Turn {
    /// Waits for it. Panics if the test has the turn already: it would wait for itself without end.
    pub(crate) fn take() -> Self {
        let is_held = TURN_OF_THIS_TEST.with_borrow(|turn| turn.strong_count() > 0);
        assert!(
            !is_held,
            "this test uses the EMQX already, and there is no second one: skip what needs another broker"
        );
        let place = env::temp_dir().join("lwm2m-gateway-emqx-test.lock");
        let file = File::create(&place).expect("a place for the file of the turns");
        file.lock().expect("the file can be locked");
        let held = Arc::new(());
        TURN_OF_THIS_TEST.set(Arc::downgrade(&held));
        Self { _file: file, _held: held }
    }
}
