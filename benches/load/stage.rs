//! The result of one offered rate.

/// A rate with less of it received, or with more of it lost, is not held.
const SUSTAINED: f64 = 0.97;
const LOST: f64 = 0.01;

/// The result of one offered rate.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stage {
    /// Publications in a second that were offered.
    pub wanted: u32,
    /// Publications in a second that reached the application.
    pub received: f64,
    /// The share that never reached it.
    pub lost: f64,
    /// Processor time of the publisher for each publication, in microseconds.
    pub cpu: f64,
    /// Processor time of the broker for each publication, in microseconds.
    pub broker: f64,
}

impl Stage {
    /// Returns whether hardly anything was lost.
    pub(crate) fn has_arrived(&self) -> bool {
        self.lost <= LOST
    }

    /// Returns whether the rate was held: hardly anything came late or was lost.
    pub(crate) fn is_sustained(&self) -> bool {
        self.received >= f64::from(self.wanted) * SUSTAINED && self.has_arrived()
    }

    pub(crate) fn print(&self, name: &str) {
        println!(
            "{:>7}/s wanted: {:>7.0}/s received, {:>5.2} % lost; cpu each: {name} {:>5.1} us, broker {:>4.0} us",
            self.wanted,
            self.received,
            self.lost * 100.0,
            self.cpu,
            self.broker,
        );
    }
}
