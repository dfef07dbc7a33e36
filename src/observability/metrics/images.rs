//! The counters of firmware images.

use lwm2m_core::gateway::firmware::image::ImageError;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Registry;

use crate::meters::{ResultLabel, counter, counters};

/// Counts the work of the threads that read images.
#[derive(Debug)]
pub struct ImageMetrics {
    /// Images whose size and digest were determined.
    pub described: Counter,
    /// Parts of images that were read.
    pub parts_read: Counter,
    not_found: Counter,
    not_regular: Counter,
    empty: Counter,
    too_large: Counter,
    changed: Counter,
    unreadable: Counter,
}

impl ImageMetrics {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let errors = counters(registry, "lwm2m_image_errors", "Firmware images that could not be read, by reason");
        let error = |result| errors(ResultLabel { result });
        Self {
            described: counter(registry, "lwm2m_image_descriptions", "Firmware images whose digest was determined"),
            parts_read: counter(registry, "lwm2m_image_reads", "Parts of firmware images read from the disk"),
            not_found: error("not_found"),
            not_regular: error("not_regular"),
            empty: error("empty"),
            too_large: error("too_large"),
            changed: error("changed"),
            unreadable: error("unreadable"),
        }
    }

    pub fn failed(&self, error: ImageError) -> &Counter {
        match error {
            ImageError::NotFound => &self.not_found,
            ImageError::NotRegular => &self.not_regular,
            ImageError::Empty => &self.empty,
            ImageError::TooLarge => &self.too_large,
            ImageError::Changed => &self.changed,
            ImageError::Unreadable => &self.unreadable,
        }
    }
}
