//! The images that devices may fetch now, each by the key of its URI.

pub(in crate::gateway) mod deferral;
pub(in crate::gateway) mod serving;
pub mod uri;

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use lwm2m_base::id_map::IdMap;
use lwm2m_base::identity::Identity;

use crate::coap::{Block, RequestId, RequestMessage};

use super::image::{Image, ImageName};
use super::jobs::job_id::JobId;

use uri::PullKey;

/// Owns the offers. Each belongs to a job, which withdraws it at its end: there are no more of them than jobs.
#[derive(Debug, Default)]
pub(in crate::gateway) struct Pulls {
    by_key: HashMap<PullKey, Pull>,
    by_job: IdMap<JobId, PullKey>,
    /// The number of offers of each identity.
    by_identity: HashMap<Arc<Identity>, usize>,
}

/// An image that one device may fetch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::gateway) struct Pull {
    pub job: JobId,
    pub name: ImageName,
    pub image: Image,
    /// The identity that the device proved when it registered; `None` if it registered over plain UDP. With an
    /// identity, only a peer of that identity may fetch the image.
    pub identity: Option<Arc<Identity>>,
    pub progress: PullProgress,
}

/// The progress of a device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::gateway) struct PullProgress {
    /// Bytes from the beginning that were fetched without a gap.
    bytes: u64,
    /// The bytes behind a gap: ranges in their order, with a gap before each of them.
    beyond: Vec<Range<u64>>,
    /// The offset of the next block if the device has kept the bytes that it fetched before.
    resumes: Option<Resumption>,
}

/// The way in which a device continues that has fetched a part of the image already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::gateway) enum Resumption {
    /// At most behind so many bytes: those that it had fetched without a gap in an earlier attempt.
    UpTo(u64),
    /// Wherever it is: the gateway was restarted, and the last blocks before may have left no record.
    Anywhere,
}

/// The changes by a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::gateway) struct Fetched {
    /// Bytes from the beginning that were fetched without a gap.
    pub bytes: u64,
    /// Whether the device had not fetched all bytes of the block before.
    pub is_new: bool,
}

/// Limits the gaps that are remembered of a download. A block that would make another gap is not counted.
const MOST_GAPS: usize = 32;

/// A block that a device has asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::gateway) struct PendingBlock {
    pub request: RequestId,
    /// The message of the request.
    pub message: RequestMessage,
    pub job: JobId,
    pub block: Block,
    pub image: Image,
}

impl Pulls {
    /// Lets a device fetch an image. An earlier offer of the same job ends; what was fetched under the same key counts.
    pub(crate) fn offer(&mut self, key: PullKey, mut pull: Pull) {
        if let Some(former) = self.by_key.get_mut(&key).filter(|former| former.job == pull.job) {
            pull.progress = std::mem::take(&mut former.progress);
        }
        self.withdraw(pull.job);
        self.by_job.insert(pull.job, key.clone());
        if let Some(identity) = &pull.identity {
            *self.by_identity.entry(Arc::clone(identity)).or_default() += 1;
        }
        self.by_key.insert(key, pull);
    }

    /// Ends the offer of a job. Requests for its image are answered 4.04 from now on.
    pub(crate) fn withdraw(&mut self, job: JobId) {
        let Some(key) = self.by_job.remove(&job) else { return };
        let Some(identity) = self.by_key.remove(&key).and_then(|pull| pull.identity) else { return };
        if let Some(offers) = self.by_identity.get_mut(&identity) {
            *offers -= 1;
            if *offers == 0 {
                self.by_identity.remove(&identity);
            }
        }
    }
}

impl Pulls {
    /// Returns the offer with this key, if the peer may fetch it: the peer has the identity of the job, or no DTLS if
    /// the device of the job registered without.
    pub(crate) fn get(&self, key: &str, identity: Option<&Identity>) -> Option<&Pull> {
        let pull = self.by_key.get(&key.parse::<PullKey>().ok()?)?;
        (pull.identity.as_deref() == identity).then_some(pull)
    }

    /// Returns whether a device of this identity may fetch an image.
    pub(crate) fn has_offer_for(&self, identity: &Identity) -> bool {
        self.by_identity.contains_key(identity)
    }

    /// Returns whether an image is offered under this key.
    pub(crate) fn has(&self, key: &[u8]) -> bool {
        let key = std::str::from_utf8(key).ok().and_then(|key| key.parse::<PullKey>().ok());
        key.is_some_and(|key| self.by_key.contains_key(&key))
    }

    /// Notes that a device gets these bytes. Returns `None` if the job has no offer any more.
    pub(crate) fn fetched(&mut self, job: JobId, begin: u64, length: u64) -> Option<Fetched> {
        let pull = self.by_key.get_mut(self.by_job.get(&job)?)?;
        Some(pull.progress.fetched(begin, length))
    }

    pub(crate) fn len(&self) -> usize {
        self.by_key.len()
    }
}

impl PullProgress {
    /// Begins behind so many bytes, which the device has fetched without a gap.
    pub(crate) fn new(bytes: u64, resumes: Option<Resumption>) -> Self {
        Self { bytes, beyond: Vec::new(), resumes }
    }

    /// Notes that a block was fetched.
    pub(crate) fn fetched(&mut self, begin: u64, length: u64) -> Fetched {
        let resumes = match self.resumes.take() {
            Some(Resumption::Anywhere) => true,
            Some(Resumption::UpTo(most)) => begin <= most,
            None => false,
        };
        if resumes {
            self.bytes = self.bytes.max(begin);
        }
        let block = begin..begin.saturating_add(length);
        let is_new = if block.start <= self.bytes { self.append(block) } else { self.insert(block) };
        Fetched { bytes: self.bytes, is_new }
    }

    /// Takes a block without a gap before it. Returns whether a byte of it is new.
    fn append(&mut self, block: Range<u64>) -> bool {
        if block.end <= self.bytes {
            return false;
        }
        self.bytes = block.end;
        while let Some(next) = self.beyond.first().filter(|next| next.start <= self.bytes) {
            self.bytes = self.bytes.max(next.end);
            self.beyond.remove(0);
        }
        true
    }

    /// Takes a block behind a gap. Returns whether a byte of it is new.
    fn insert(&mut self, block: Range<u64>) -> bool {
        // The ranges from `first` to before `behind` overlap the block, or touch it.
        let first = self.beyond.partition_point(|range| range.end < block.start);
        let behind = self.beyond.partition_point(|range| range.start <= block.end);
        let Some(touched) = self.beyond.get(first..behind) else { return false };
        let (Some(left), Some(right)) = (touched.first(), touched.last()) else {
            let has_room = self.beyond.len() < MOST_GAPS;
            if has_room {
                self.beyond.insert(first, block);
            }
            return has_room;
        };
        if left.start <= block.start && block.end <= left.end {
            return false;
        }
        let joined = left.start.min(block.start)..right.end.max(block.end);
        self.beyond.splice(first..behind, [joined]);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gateway::firmware::image::{FileIdentity, ImageDigest};
    use crate::gateway::fixtures::psk;

    const KEY: &str = "ABCDEFGHIJKLMNOP";

    fn pull(job: u64, identity: Option<Identity>) -> Pull {
        let file = FileIdentity { inode: 1, modified: (0, 0), changed: (0, 0) };
        let image = Image { size: 1, sha256: ImageDigest::new([0; 32]), file };
        let (name, identity) = ("a.bin".parse().unwrap(), identity.map(Arc::new));
        Pull { job: JobId(job), name, image, identity, progress: PullProgress::default() }
    }

    #[test]
    fn over_dtls_only_the_identity_of_the_job_fetches_its_image() {
        let mut pulls = Pulls::default();
        pulls.offer(KEY.parse().unwrap(), pull(1, Some(psk("dev-1"))));
        assert!(pulls.get(KEY, Some(&psk("dev-1"))).is_some());
        assert!(pulls.get(KEY, Some(&psk("dev-2"))).is_none());
        assert!(pulls.get(KEY, None).is_none(), "nor does a peer without DTLS, whatever it knows");
        assert!(pulls.has_offer_for(&psk("dev-1")) && !pulls.has_offer_for(&psk("dev-2")));
        pulls.offer(KEY.parse().unwrap(), pull(1, None));
        assert!(pulls.get(KEY, Some(&psk("dev-1"))).is_none() && pulls.get(KEY, None).is_some());
        assert!(!pulls.has_offer_for(&psk("dev-1")));
    }

    #[test]
    fn a_job_offers_one_image_until_it_withdraws_it() {
        let mut pulls = Pulls::default();
        pulls.offer(KEY.parse().unwrap(), pull(1, None));
        let other = KEY.replace('A', "_");
        pulls.offer(other.parse().unwrap(), pull(1, None));
        assert_eq!((pulls.len(), pulls.has(KEY.as_bytes()), pulls.has(other.as_bytes())), (1, false, true));
        pulls.withdraw(JobId(1));
        assert_eq!((pulls.len(), pulls.fetched(JobId(1), 0, 1)), (0, None));
    }

    #[test]
    fn progress_is_the_furthest_byte_without_a_gap() {
        let mut progress = PullProgress::default();
        assert_eq!(progress.fetched(0, 1024).bytes, 1024);
        assert_eq!(progress.fetched(2048, 1024).bytes, 1024);
        assert_eq!(progress.fetched(0, 512).bytes, 1024);
        assert_eq!(progress.fetched(512, 1024).bytes, 1536);
        assert_eq!(progress.fetched(1536, 300).bytes, 1836);
        assert_eq!(progress.fetched(1836, 212).bytes, 3072, "with what was fetched behind the gap");
    }

    #[test]
    fn a_block_is_new_wherever_it_is_until_it_was_fetched() {
        let mut progress = PullProgress::default();
        let blocks = [(3, true), (3, false), (1, true), (4, true), (4, false), (3, false), (2, true), (2, false)];
        for (number, is_new) in blocks {
            assert_eq!(progress.fetched(number * 1024, 1024), Fetched { bytes: 0, is_new }, "block {number}");
        }
        assert_eq!(progress.beyond.first(), Some(&(1024..5 * 1024)));
        assert_eq!(progress.fetched(0, 1024), Fetched { bytes: 5 * 1024, is_new: true });
        assert_eq!(progress.fetched(2048, 1024), Fetched { bytes: 5 * 1024, is_new: false });
        assert_eq!(progress.beyond, []);
    }

    #[test]
    fn the_gaps_of_a_download_have_a_bound_and_what_closes_one_counts() {
        let mut progress = PullProgress::default();
        let most = MOST_GAPS as u64;
        assert!((1..=most).all(|number| progress.fetched(number * 2048, 1024).is_new));
        assert!(!progress.fetched((most + 1) * 2048, 1024).is_new);
        assert!(progress.fetched(2048 + 1024, 1024).is_new);
        assert!(progress.fetched((most + 1) * 2048, 1024).is_new);
    }

    #[test]
    fn after_a_restart_the_first_block_tells_where_the_device_is() {
        let mut progress = PullProgress::new(1024, Some(Resumption::Anywhere));
        assert_eq!(progress.fetched(8192, 1024).bytes, 9216);
        assert_eq!(progress.fetched(20480, 1024).bytes, 9216);
    }

    #[test]
    fn in_another_attempt_a_device_goes_on_at_most_where_it_was() {
        let resumed = |block: u64| PullProgress::new(0, Some(Resumption::UpTo(8192))).fetched(block * 1024, 1024).bytes;
        assert_eq!([0, 4, 8, 9].map(resumed), [1024, 5 * 1024, 9 * 1024, 0]);
    }

    #[test]
    fn an_image_that_is_offered_again_under_the_same_key_keeps_its_progress() {
        let mut pulls = Pulls::default();
        pulls.offer(KEY.parse().unwrap(), pull(1, None));
        pulls.fetched(JobId(1), 0, 1024);
        pulls.fetched(JobId(1), 2048, 1024);
        pulls.offer(KEY.parse().unwrap(), pull(1, None));
        assert_eq!(pulls.fetched(JobId(1), 1024, 1024), Some(Fetched { bytes: 3072, is_new: true }));
    }
}
