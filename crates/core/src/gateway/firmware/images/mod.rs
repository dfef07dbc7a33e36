//! Requests to the shell for parts of images, and the parts that it has read last.
//!
//! An image is read in parts of [`READ_LENGTH`] bytes, since many devices need the same part at about the same time. A
//! part that is being read is not asked for again: those who need it wait together. Beyond [`MOST_READS`] parts at
//! once, parts wait for their turn. Nobody else waits: a block of a part that was read lately is answered at once.

mod image_part;
mod part_cache;

use std::collections::{HashMap, HashSet, VecDeque};

use lwm2m_base::id_map::IdMap;

use crate::coap::{ExchangeId, RequestMessage};

use super::image::{Image, ImageError, ImageName, ImageRequestId, MOST_DESCRIPTIONS, MOST_READS, READ_LENGTH};
use super::pulls::PendingBlock;
use crate::gateway::output::Output;

use image_part::ImagePart;
use part_cache::PartCache;

/// Owns the requests to the shell that are not answered, those who wait for them, and the cache.
#[derive(Debug, Default)]
pub(in crate::gateway) struct Images {
    last_id: u64,
    descriptions: HashSet<ImageRequestId>,
    /// The parts that the shell reads.
    reads: IdMap<ImageRequestId, ImagePart>,
    /// Parts that are to be read when the shell has read others.
    queued: VecDeque<ImagePart>,
    /// The consumers that wait for the parts that are being read or queued.
    waiting: HashMap<ImagePart, Vec<(ImageConsumer, Span)>>,
    /// The number of all waiting consumers.
    readers: usize,
    /// The messages of the requests of devices that wait.
    messages: HashSet<RequestMessage>,
    cache: PartCache,
}

/// Bytes of a part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Span {
    begin: usize,
    end: usize,
}

/// Names what needs bytes of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::gateway) enum ImageConsumer {
    /// A block that a device fetches.
    Pull(PendingBlock),
    /// The push of a job.
    Push(PendingPart),
}

/// Bytes that a push waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::gateway) struct PendingPart {
    /// The push. Another attempt of the same job is another exchange.
    pub exchange: ExchangeId,
    /// The offset of the bytes in the image.
    pub offset: usize,
}

/// The bytes of an image that a consumer needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::gateway) struct Wanted {
    pub name: ImageName,
    pub image: Image,
    /// The first byte, before the end of the image.
    pub offset: u64,
    /// The number of bytes. Fewer are read at the end of the image, and at the next multiple of [`READ_LENGTH`].
    pub length: usize,
}

/// The result of a request for bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::gateway) enum ImageBytes {
    Here(Vec<u8>),
    /// The consumer gets them when the shell has read them.
    Later,
    /// Too many readers wait.
    Busy,
}

/// The bytes for one consumer after the shell has read, or the error.
pub(in crate::gateway) type ReadBytes = (ImageConsumer, Result<Vec<u8>, ImageError>);

impl Images {
    /// Asks for the description of an image; `None` if too many descriptions are open.
    pub(crate) fn describe(&mut self, name: ImageName) -> Option<(ImageRequestId, Output)> {
        if self.descriptions.len() >= MOST_DESCRIPTIONS {
            return None;
        }
        let request = self.new_id();
        self.descriptions.insert(request);
        Some((request, Output::DescribeImage { request, name }))
    }

    /// Notes that a description has come. Returns whether it was asked for.
    pub(crate) fn described(&mut self, request: ImageRequestId) -> bool {
        self.descriptions.remove(&request)
    }

    /// Returns bytes of an image, or lets the reader wait for them, unless `most_readers` wait already. The output is
    /// for the shell.
    pub(crate) fn read(
        &mut self,
        reader: ImageConsumer,
        wanted: Wanted,
        most_readers: usize,
    ) -> (ImageBytes, Option<Output>) {
        let (part, span) = wanted.located();
        if let Some(bytes) = self.cache.get(&part).and_then(|bytes| bytes.get(span.begin..span.end)) {
            return (ImageBytes::Here(bytes.to_vec()), None);
        }
        if self.readers >= most_readers {
            return (ImageBytes::Busy, None);
        }
        self.readers += 1;
        self.messages.extend(reader.message());
        let waiting = self.waiting.entry(part.clone()).or_default();
        waiting.push((reader, span));
        let is_asked_for = waiting.len() > 1;
        (ImageBytes::Later, if is_asked_for { None } else { self.ask(part) })
    }

    /// Takes what the shell has read. Returns what each reader gets, and the next request to the shell.
    pub(crate) fn have_read(
        &mut self,
        request: ImageRequestId,
        result: Result<Vec<u8>, ImageError>,
    ) -> (Vec<ReadBytes>, Option<Output>) {
        let Some(part) = self.reads.remove(&request) else { return (Vec::new(), None) };
        let next = self.queued.pop_front().and_then(|part| self.ask(part));
        // The shell compares the file with the image; a part of another length cannot be of the image.
        let result =
            result.and_then(|bytes| if bytes.len() == part.length() { Ok(bytes) } else { Err(ImageError::Changed) });
        let waiting = self.waiting.remove(&part).unwrap_or_default();
        self.readers -= waiting.len();
        for message in waiting.iter().filter_map(|(reader, _)| reader.message()) {
            self.messages.remove(&message);
        }
        let bytes_of = |span: Span| {
            let bytes = result.as_ref().map_err(|error| *error)?;
            bytes.get(span.begin..span.end).map(<[u8]>::to_vec).ok_or(ImageError::Changed)
        };
        let answers = waiting.into_iter().map(|(reader, span)| (reader, bytes_of(span))).collect();
        match result {
            Ok(bytes) => self.cache.insert(part, bytes),
            Err(_) => self.cache.forget(|other| other.name == part.name && other.image == part.image),
        }
        (answers, next)
    }

    /// Returns whether a request in the same message waits already.
    pub(crate) fn is_waited_for_by(&self, message: &RequestMessage) -> bool {
        self.messages.contains(message)
    }

    /// Returns how many readers wait for the shell, and how many descriptions are open.
    pub(crate) fn open_requests(&self) -> usize {
        self.readers + self.descriptions.len()
    }

    /// Asks the shell for a part, or queues the part if enough are read.
    fn ask(&mut self, part: ImagePart) -> Option<Output> {
        if self.reads.len() >= MOST_READS {
            self.queued.push_back(part);
            return None;
        }
        let request = self.new_id();
        let ImagePart { name, image, .. } = part.clone();
        let (offset, length) = (part.offset(), part.length());
        self.reads.insert(request, part);
        Some(Output::ReadImage { request, name, image, offset, length })
    }

    fn new_id(&mut self) -> ImageRequestId {
        self.last_id += 1;
        ImageRequestId(self.last_id)
    }
}

impl ImageConsumer {
    fn message(&self) -> Option<RequestMessage> {
        match self {
            Self::Pull(pending) => Some(pending.message),
            Self::Push(_) => None,
        }
    }
}

impl Wanted {
    /// Returns the part that the bytes are in, and their place in it.
    fn located(&self) -> (ImagePart, Span) {
        let part = ImagePart { name: self.name.clone(), image: self.image, number: self.offset / READ_LENGTH as u64 };
        let begin = (self.offset % READ_LENGTH as u64) as usize;
        let end = begin.saturating_add(self.length).min(part.length());
        (part, Span { begin: begin.min(end), end })
    }
}

#[cfg(test)]
mod tests;
