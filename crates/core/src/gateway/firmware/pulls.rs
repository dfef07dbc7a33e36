//! The images that devices may fetch now, each by the key of its URI.

use std::collections::HashMap;
use std::sync::Arc;

use lwm2m_base::id_map::IdMap;
use lwm2m_base::identity::Identity;

use crate::coap::{Block, RequestId};

use super::JobId;
use super::image::{Image, ImageName};
use super::pull_uri::PullKey;

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
    /// The identity that the device proved when it registered; `None` if it registered over plain UDP. Over DTLS nobody
    /// else may fetch the image.
    pub identity: Option<Arc<Identity>>,
    pub progress: PullProgress,
}

/// How far a device has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::gateway) struct PullProgress {
    /// Bytes from the beginning that were fetched without a gap.
    pub fetched: u64,
    /// The gateway was restarted since the last block, and the last blocks before it may have left no record: the device
    /// continues where it is.
    pub is_resumed: bool,
}

/// A block that a device has asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::gateway) struct PendingBlock {
    pub request: RequestId,
    pub job: JobId,
    pub block: Block,
    pub image: Image,
}

impl Pulls {
    /// Lets a device fetch an image. An earlier offer of the same job ends.
    pub fn offer(&mut self, key: PullKey, pull: Pull) {
        self.withdraw(pull.job);
        self.by_job.insert(pull.job, key.clone());
        if let Some(identity) = &pull.identity {
            *self.by_identity.entry(Arc::clone(identity)).or_default() += 1;
        }
        self.by_key.insert(key, pull);
    }

    /// Ends the offer of a job. Requests for its image are answered 4.04 from now on.
    pub fn withdraw(&mut self, job: JobId) {
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
    /// Returns the offer with this key, if the peer that asks may fetch it: one with the identity of the job, or one
    /// without DTLS if the device of the job has registered so.
    pub fn get(&self, key: &str, identity: Option<&Identity>) -> Option<&Pull> {
        let pull = self.by_key.get(&key.parse::<PullKey>().ok()?)?;
        (pull.identity.as_deref() == identity).then_some(pull)
    }

    /// Returns whether a device of this identity may fetch an image.
    pub fn has_offer_for(&self, identity: &Identity) -> bool {
        self.by_identity.contains_key(identity)
    }

    /// Returns whether an image is offered under this key.
    pub fn has(&self, key: &[u8]) -> bool {
        let key = std::str::from_utf8(key).ok().and_then(|key| key.parse::<PullKey>().ok());
        key.is_some_and(|key| self.by_key.contains_key(&key))
    }

    /// Takes note that a device gets these bytes. Returns how many bytes it has fetched without a gap; `None` if the job
    /// offers nothing any more.
    pub fn fetched(&mut self, job: JobId, begin: u64, length: u64) -> Option<u64> {
        let pull = self.by_key.get_mut(self.by_job.get(&job)?)?;
        Some(pull.progress.fetched(begin, length))
    }

    pub fn len(&self) -> usize {
        self.by_key.len()
    }
}

impl PullProgress {
    /// Takes note of a block that was fetched. Returns the bytes that were fetched without a gap.
    pub fn fetched(&mut self, begin: u64, length: u64) -> u64 {
        if std::mem::take(&mut self.is_resumed) {
            self.fetched = self.fetched.max(begin);
        }
        if begin <= self.fetched {
            self.fetched = self.fetched.max(begin.saturating_add(length));
        }
        self.fetched
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gateway::firmware::image::{FileIdentity, ImageDigest};
    use crate::gateway::fixtures::psk;

    const KEY: &str = "ABCDEFGHIJKLMNOP";

    fn pull(job: u64, identity: Option<Identity>) -> Pull {
        let file = FileIdentity { device: 1, inode: 1, modified: (0, 0) };
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
        assert_eq!(progress.fetched(0, 1024), 1024);
        assert_eq!(progress.fetched(2048, 1024), 1024);
        assert_eq!(progress.fetched(0, 512), 1024);
        assert_eq!(progress.fetched(512, 1024), 1536);
        assert_eq!(progress.fetched(1536, 300), 1836);
    }

    #[test]
    fn after_a_restart_the_first_block_tells_where_the_device_is() {
        let mut progress = PullProgress { fetched: 1024, is_resumed: true };
        assert_eq!(progress.fetched(8192, 1024), 9216);
        assert_eq!(progress.fetched(20480, 1024), 9216);
    }
}
