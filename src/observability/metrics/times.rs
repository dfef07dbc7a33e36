//! Times that are measured, each spread over the buckets of a histogram.

use prometheus_client::metrics::histogram::Histogram;

/// From a device on the same table to one that answers the last retransmission, in seconds.
const OF_DEVICES: [f64; 14] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0, 50.0, 100.0];
/// A broker answers within milliseconds, or is in trouble.
const OF_THE_BROKER: [f64; 12] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0];

/// One histogram, as a page of metrics shows it.
#[derive(Clone, Debug)]
pub struct Measured {
    pub name: &'static str,
    pub meaning: &'static str,
    pub labels: &'static str,
    pub histogram: Histogram,
}

/// Writes the histograms and their list from the same lines: name, meaning, buckets, and the histograms under that name.
macro_rules! times {
    ($($name:literal: $meaning:literal $buckets:ident [$($time:ident $labels:literal),+])*) => {
        /// In seconds. A clone of one of them is the same histogram.
        #[derive(Debug)]
        pub struct Times {
            $($(#[doc = $meaning] pub $time: Histogram,)+)*
        }

        impl Default for Times {
            fn default() -> Self {
                Self { $($($time: Histogram::new($buckets),)+)* }
            }
        }

        impl Times {
            /// All of them; those of one name stand together.
            pub fn list(&self) -> Vec<Measured> {
                vec![$($(Measured {
                    name: $name,
                    meaning: $meaning,
                    labels: $labels,
                    histogram: self.$time.clone(),
                }),+),*]
            }
        }
    };
}

times! {
    "lwm2m_exchange_seconds": "From the first datagram of a command to the device's answer." OF_DEVICES [exchange ""]
    "lwm2m_broker_call_seconds": "From a call to the broker to its answer, whatever it is." OF_THE_BROKER [
        authenticate r#"call="authenticate""#,
        subscribe r#"call="subscribe""#,
        publish r#"call="publish""#,
        probe r#"call="probe""#
    ]
}
