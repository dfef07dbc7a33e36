//! Firmware images on the disk. Disks block, so they are read by threads of their own; the event loop hands over
//! requests, and takes the answers when they are there.
//!
//! One thread computes digests, which may take seconds, and another one reads parts, so that no device waits for a
//! digest. Neither holds more than a part of an image.

mod folder;

use std::collections::VecDeque;
use std::future::pending;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread;

use tokio::sync::mpsc;

use crate::observability::metrics::Metrics;
use lwm2m_core::gateway::firmware::image::{
    Image, ImageError, ImageName, ImageRequestId, MOST_DESCRIPTIONS, MOST_READS,
};

use folder::ImageFolder;

/// The folder of the images, and their largest size.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImagesConfig {
    /// The folder; a relative one counts from the working directory. It need not exist.
    pub dir: PathBuf,
    /// Bytes of an image, at the most.
    pub max_size: u64,
}

/// A request of the core, and its number.
#[derive(Debug)]
pub(crate) enum ImageRequest {
    Describe { request: ImageRequestId, name: ImageName },
    Read { request: ImageRequestId, name: ImageName, image: Image, offset: u64, length: usize },
}

/// The answer to a request of the core.
#[derive(Debug)]
pub(crate) enum ImageAnswer {
    Described(ImageRequestId, Result<Image, ImageError>),
    Read(ImageRequestId, Result<Vec<u8>, ImageError>),
}

impl ImageRequest {
    /// Returns the answer that there is no such image.
    pub(crate) fn not_found(&self) -> ImageAnswer {
        self.failed(ImageError::NotFound)
    }

    fn failed(&self, error: ImageError) -> ImageAnswer {
        match self {
            Self::Describe { request, .. } => ImageAnswer::Described(*request, Err(error)),
            Self::Read { request, .. } => ImageAnswer::Read(*request, Err(error)),
        }
    }
}

/// Hands requests to the threads, and takes their answers.
pub(crate) struct ImageReader {
    descriptions: SyncSender<ImageRequest>,
    reads: SyncSender<ImageRequest>,
    answers: mpsc::Receiver<ImageAnswer>,
    /// Answers to requests that no thread took.
    refused: VecDeque<ImageAnswer>,
    metrics: Arc<Metrics>,
}

impl ImageReader {
    /// Starts the threads.
    pub(crate) fn start(config: ImagesConfig, metrics: Arc<Metrics>) -> io::Result<Self> {
        let (answered, answers) = mpsc::channel(MOST_DESCRIPTIONS + MOST_READS);
        let start = |name: &str, most| {
            let (requests, receiver) = sync_channel(most);
            let (folder, answered) = (ImageFolder::new(config.clone()), answered.clone());
            thread::Builder::new().name(name.to_owned()).spawn(move || work(folder, &receiver, &answered))?;
            Ok::<_, io::Error>(requests)
        };
        Ok(Self {
            descriptions: start("image-digests", MOST_DESCRIPTIONS)?,
            reads: start("image-reads", MOST_READS)?,
            answers,
            refused: VecDeque::new(),
            metrics,
        })
    }

    /// Hands over a request. Never blocks: the core asks for no more at once than the channels hold.
    pub(crate) fn submit(&mut self, request: ImageRequest) {
        let thread = match request {
            ImageRequest::Describe { .. } => &self.descriptions,
            ImageRequest::Read { .. } => &self.reads,
        };
        if let Err(TrySendError::Full(request) | TrySendError::Disconnected(request)) = thread.try_send(request) {
            self.refused.push_back(request.failed(ImageError::Unreadable));
        }
    }

    /// Waits for the next answer. Cancel-safe.
    pub(crate) async fn answer(&mut self) -> ImageAnswer {
        let answer = match self.refused.pop_front() {
            Some(answer) => answer,
            None => match self.answers.recv().await {
                Some(answer) => answer,
                None => pending().await,
            },
        };
        self.count(&answer);
        answer
    }

    fn count(&self, answer: &ImageAnswer) {
        let counters = &self.metrics.images;
        match answer {
            ImageAnswer::Described(_, Ok(_)) => counters.described.inc(),
            ImageAnswer::Read(_, Ok(_)) => counters.parts_read.inc(),
            ImageAnswer::Described(_, Err(error)) | ImageAnswer::Read(_, Err(error)) => counters.failed(*error).inc(),
        };
    }
}

/// Works on requests until nobody sends any more.
fn work(mut folder: ImageFolder, requests: &Receiver<ImageRequest>, answered: &mpsc::Sender<ImageAnswer>) {
    while let Ok(request) = requests.recv() {
        let answer = match request {
            ImageRequest::Describe { request, name } => ImageAnswer::Described(request, folder.describe(&name)),
            ImageRequest::Read { request, name, image, offset, length } => {
                ImageAnswer::Read(request, folder.read(&name, &image, offset, length))
            }
        };
        if answered.blocking_send(answer).is_err() {
            return;
        }
    }
}
