//! The output of the gateway: what its shell has to do.

use std::time::Instant;

use crate::coap::Transmit;
use lwm2m_dtls::credentials::KeyQuestion;

use super::broker::BrokerCommand;
use super::firmware::image::{Image, ImageName, ImageRequestId};
use super::moves::claims::ClaimQuestion;
use super::operators::console_commands::ConsoleAnswer;
use super::report::Report;

/// An obligation of the shell. Changes for the store are apart from it:
/// [`Gateway::take_changes`](super::Gateway::take_changes).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// The shell sends this datagram to a device. It may be lost: the core retransmits what matters.
    Transmit(Transmit),
    /// The shell passes this to the broker's side, in order for each registration. Every [`BrokerCommand::Connect`] is
    /// answered as its documentation says.
    Broker(BrokerCommand),
    /// A DTLS handshake needs the key of this identity. The shell answers by
    /// [`Gateway::handle_key`](super::Gateway::handle_key), now or later.
    FindKey(KeyQuestion),
    /// The shell finds out which gateway has a device. It answers by
    /// [`Gateway::handle_claim`](super::Gateway::handle_claim), each question once, now or later. A gateway that has
    /// all devices does not ask.
    Claim(ClaimQuestion),
    /// The gateway does not have this endpoint name any more: another one may claim it.
    Unclaim { endpoint: String },
    /// The shell describes an image. It answers by [`Gateway::image_described`](super::Gateway::image_described). At
    /// most [`MOST_DESCRIPTIONS`](super::firmware::image::MOST_DESCRIPTIONS) are open at once.
    DescribeImage { request: ImageRequestId, name: ImageName },
    /// The shell reads a part of an image, if its file is still the one that was described. It answers by
    /// [`Gateway::image_read`](super::Gateway::image_read). At most [`MOST_READS`](super::firmware::image::MOST_READS)
    /// are open at once.
    ReadImage {
        request: ImageRequestId,
        name: ImageName,
        image: Image,
        offset: u64,
        /// The number of bytes. All of them are before the end of the image.
        length: usize,
    },
    /// The shell passes the final answer to a command of the console to the console.
    Answer(ConsoleAnswer),
    /// The shell counts and logs the report.
    Report(Report),
    /// No output is left. The shell calls [`Gateway::handle_timeout`](super::Gateway::handle_timeout) at this time, if
    /// nothing comes before; `None` asks for no call.
    Idle(Option<Instant>),
}
