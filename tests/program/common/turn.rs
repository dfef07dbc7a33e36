//! There is one EMQX, and it knows one handler: the tests that use it take turns, also those of different test
//! programs.

use std::env;
use std::fs::File;

/// The turn ends when this is dropped.
pub struct Turn {
    _file: File,
}

impl Turn {
    /// Waits for it. A test that has the turn must not ask for it once more.
    pub fn take() -> Self {
        let place = env::temp_dir().join("lwm2m-gateway-emqx-test.lock");
        let file = File::create(&place).expect("a place for the file of the turns");
        file.lock().expect("the file can be locked");
        Self { _file: file }
    }
}
