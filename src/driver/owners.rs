//! The table of endpoint names that all driver threads share.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lwm2m_router::Claims;

/// The table of the driver threads that have the endpoint names. Clones share it; a program with one thread has no
/// table.
#[derive(Clone, Debug, Default)]
pub struct EndpointOwners(Option<Arc<Mutex<Claims>>>);

impl EndpointOwners {
    /// Makes the table of several threads.
    pub fn new(claims: Claims) -> Self {
        Self(Some(Arc::new(Mutex::new(claims))))
    }

    /// Returns the thread that has an endpoint name.
    pub fn find(&self, endpoint: &str) -> Option<u8> {
        self.lock()?.find(endpoint)
    }

    /// Sets the maximum number of names.
    pub fn set_most(&self, most: usize) {
        if let Some(mut claims) = self.lock() {
            claims.set_most(most);
        }
    }

    /// Returns the maximum number of names; `None` without a table.
    pub fn most(&self) -> Option<usize> {
        self.lock().map(|claims| claims.most())
    }

    /// Gives the name of a restored device to its thread.
    pub fn place(&self, endpoint: &str, location: &str, thread: u8) {
        if let Some(mut claims) = self.lock() {
            claims.place(endpoint, location, thread);
        }
    }

    /// Locks the table, for one call.
    // A panic while the table is locked cannot leave it half changed.
    pub(super) fn lock(&self) -> Option<MutexGuard<'_, Claims>> {
        Some(self.0.as_ref()?.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
