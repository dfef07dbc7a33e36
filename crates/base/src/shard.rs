//! Shards: the fixed parts into which devices are divided, among threads or among the nodes of a cluster.

use std::fmt::{self, Display};
use std::num::NonZero;

use serde::{Deserialize, Serialize};

/// Identifies one of the 256 shards. The number of shards never changes, because every id that the gateway gives to a
/// device (connection ID, location, token) contains the number of its shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Shard(u8);

impl Shard {
    /// The number of shards.
    pub const COUNT: usize = 256;

    /// Returns the shard of this number.
    pub const fn new(number: u8) -> Self {
        Self(number)
    }

    /// Iterates over all shards, in the order of their numbers.
    pub fn all() -> impl DoubleEndedIterator<Item = Self> {
        (0..=u8::MAX).map(Self)
    }

    /// Returns the shard that a URL-safe text of the gateway names (a location, or the key of an image's URI): by six
    /// bits of its first character and two of its second one. The characters stand for six bits each, as in Base64url
    /// (RFC 4648 section 5). Returns `None` if the gateway gives out no such text.
    pub fn of_text(text: &[u8]) -> Option<Self> {
        let (first, second) = (sextet(*text.first()?)?, sextet(*text.get(1)?)?);
        Some(Self(first << 2 | second >> 4))
    }

    /// Returns the number of the shard: the byte that stands for it in ids, messages and records.
    pub const fn number(self) -> u8 {
        self.0
    }
}

/// The index of a shard in a table of [`Shard::COUNT`] entries.
impl From<Shard> for usize {
    fn from(shard: Shard) -> Self {
        usize::from(shard.0)
    }
}

impl Display for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Display::fmt(&self.0, f)
    }
}

/// The shards of one thread: with `threads` threads those whose number modulo `threads` is the number of the thread.
/// Together the threads have every shard once. The only thread has all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ThreadShards {
    thread: u8,
    threads: NonZero<u8>,
}

impl ThreadShards {
    /// The shards of a program with one thread: all of them.
    pub const ALL: Self = Self { thread: 0, threads: NonZero::<u8>::MIN };
    /// The maximum number of threads. Each of them then has two shards.
    pub(crate) const MAX_THREADS: u8 = 128;

    /// Returns the shards of a thread, whose number counts from 0. Returns `None` if there is no such thread or if
    /// there are more than `Self::MAX_THREADS`.
    pub fn new(thread: u8, threads: u8) -> Option<Self> {
        let threads = NonZero::new(threads)?;
        let is_valid = thread < threads.get() && threads.get() <= Self::MAX_THREADS;
        is_valid.then_some(Self { thread, threads })
    }

    /// Returns the number of the thread that has a shard, among `threads` threads.
    pub fn thread_of(shard: Shard, threads: NonZero<u8>) -> u8 {
        shard.number() % threads
    }

    /// Returns whether the thread has this shard.
    pub fn contains(self, shard: Shard) -> bool {
        Self::thread_of(shard, self.threads) == self.thread
    }

    /// Returns the number of the thread, counted from 0.
    pub fn thread(self) -> u8 {
        self.thread
    }

    /// Returns the number of threads.
    pub fn threads(self) -> NonZero<u8> {
        self.threads
    }
}

impl Default for ThreadShards {
    fn default() -> Self {
        Self::ALL
    }
}

/// A set of shards: those whose ids one gateway gives out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShardSet([u64; Self::WORDS]);

impl ShardSet {
    const WORDS: usize = Shard::COUNT / u64::BITS as usize;
    /// No shard.
    pub const EMPTY: Self = Self([0; Self::WORDS]);
    /// All shards.
    pub const ALL: Self = Self([u64::MAX; Self::WORDS]);

    /// Adds a shard. Returns whether it was missing.
    pub fn insert(&mut self, shard: Shard) -> bool {
        let was_missing = !self.contains(shard);
        let (word, bit) = Self::place(shard);
        self.0[word] |= bit;
        was_missing
    }

    /// Removes a shard. Returns whether it was there.
    pub fn remove(&mut self, shard: Shard) -> bool {
        let was_there = self.contains(shard);
        let (word, bit) = Self::place(shard);
        self.0[word] &= !bit;
        was_there
    }

    /// Returns whether the set has this shard.
    pub fn contains(&self, shard: Shard) -> bool {
        let (word, bit) = Self::place(shard);
        self.0[word] & bit != 0
    }

    /// Returns the number of shards.
    pub fn len(&self) -> usize {
        self.0.iter().map(|word| word.count_ones() as usize).sum()
    }

    pub fn is_empty(&self) -> bool {
        *self == Self::EMPTY
    }

    /// Iterates over the shards, in the order of their numbers.
    pub fn iter(&self) -> impl Iterator<Item = Shard> {
        let set = *self;
        Shard::all().filter(move |shard| set.contains(*shard))
    }

    /// Chooses a shard of the set by a random byte. Each shard is about equally likely. If the set has all shards, or
    /// none, the number of the shard is the byte itself.
    pub fn choose(&self, random: u8) -> Shard {
        if *self == Self::ALL {
            return Shard(random);
        }
        let nth = usize::from(random) * self.len() / Shard::COUNT;
        self.iter().nth(nth).unwrap_or(Shard(random))
    }

    /// Makes a URL-safe text that names a shard of the set from six bits of each byte ([`Shard::of_text`]). With all
    /// shards each character follows from its own byte.
    pub fn text<const LENGTH: usize>(&self, mut random: [u8; LENGTH]) -> [u8; LENGTH] {
        if let [first, second, ..] = random.as_mut_slice() {
            let shard = self.choose(*first << 2 | *second >> 4 & 0x3).number();
            (*first, *second) = (shard >> 2, shard << 4 | *second & 0xf);
        }
        random.map(|byte| ALPHABET[usize::from(byte & 0x3f)])
    }

    fn place(shard: Shard) -> (usize, u64) {
        let number = usize::from(shard);
        (number / u64::BITS as usize, 1 << (number % u64::BITS as usize))
    }
}

impl Default for ShardSet {
    fn default() -> Self {
        Self::ALL
    }
}

impl From<ThreadShards> for ShardSet {
    fn from(shards: ThreadShards) -> Self {
        Shard::all().filter(|shard| shards.contains(*shard)).collect()
    }
}

impl FromIterator<Shard> for ShardSet {
    fn from_iter<I: IntoIterator<Item = Shard>>(shards: I) -> Self {
        let mut set = Self::EMPTY;
        for shard in shards {
            set.insert(shard);
        }
        set
    }
}

/// The characters that stand for 0 to 63 (RFC 4648 section 5).
const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

fn sextet(character: u8) -> Option<u8> {
    match character {
        b'A'..=b'Z' => Some(character - b'A'),
        b'a'..=b'z' => Some(character - b'a' + 26),
        b'0'..=b'9' => Some(character - b'0' + 52),
        b'-' => Some(62),
        b'_' => Some(63),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all_thread_shards() -> impl Iterator<Item = ThreadShards> {
        let of_threads = |threads| (0..threads).filter_map(move |thread| ThreadShards::new(thread, threads));
        (1..=ThreadShards::MAX_THREADS).flat_map(of_threads)
    }

    #[test]
    fn each_shard_belongs_to_exactly_one_thread() {
        for threads in 1..=ThreadShards::MAX_THREADS {
            let of_threads: Vec<_> = (0..threads).filter_map(|thread| ThreadShards::new(thread, threads)).collect();
            assert_eq!(of_threads.len(), usize::from(threads));
            for shard in Shard::all() {
                assert_eq!(
                    of_threads.iter().filter(|shards| shards.contains(shard)).count(),
                    1,
                    "{shard} of {threads}"
                );
            }
        }
    }

    #[test]
    fn a_thread_chooses_all_of_its_shards_and_no_other_one() {
        for shards in all_thread_shards() {
            let set = ShardSet::from(shards);
            let mut chosen: Vec<_> = (0..=255).map(|random| set.choose(random)).collect();
            chosen.sort();
            chosen.dedup();
            let own: Vec<_> = Shard::all().filter(|shard| shards.contains(*shard)).collect();
            assert_eq!(chosen, own, "{shards:?}");
        }
    }

    #[test]
    fn a_set_of_all_shards_has_the_shard_of_each_random_byte() {
        assert_eq!(ShardSet::from(ThreadShards::ALL), ShardSet::ALL);
        for random in 0..=255 {
            assert_eq!(ShardSet::ALL.choose(random), Shard::new(random));
        }
    }

    #[test]
    fn a_text_names_a_shard_of_the_thread_that_made_it() {
        for shards in all_thread_shards() {
            let set = ShardSet::from(shards);
            for first in (0..=255).step_by(15) {
                let text = set.text([first, first.rotate_left(3), 77]);
                let shard = Shard::of_text(&text).expect("it is a text of the gateway");
                assert!(shards.contains(shard), "{shard} in {text:?} of {shards:?}");
            }
        }
    }

    #[test]
    fn a_set_of_all_shards_makes_a_text_of_the_characters_of_its_bytes() {
        assert_eq!(&ShardSet::ALL.text([0, 25, 26, 51, 52, 61, 62, 63, 64, 255]), b"AZaz09-_A_");
        let of = |text: &str| Shard::of_text(text.as_bytes()).map(Shard::number);
        assert_eq!([of("AAxx"), of("AQ"), of("BA"), of("_w"), of("__")], [0, 1, 4, 255, 255].map(Some));
        assert_eq!([of(""), of("A"), of("A="), of("/A")], [None; 4]);
    }

    #[test]
    fn a_set_has_what_was_added_and_not_removed() {
        let mut set = ShardSet::EMPTY;
        for number in [0, 63, 64, 200, 255] {
            assert!(set.insert(Shard::new(number)) && !set.insert(Shard::new(number)));
        }
        assert!(set.remove(Shard::new(64)) && !set.remove(Shard::new(64)));
        assert_eq!(set.iter().map(Shard::number).collect::<Vec<_>>(), [0, 63, 200, 255]);
        assert_eq!((set.len(), ShardSet::ALL.len(), ShardSet::EMPTY.is_empty()), (4, 256, true));
        assert_eq!([0, 64, 255].map(|random| set.choose(random).number()), [0, 63, 255]);
    }

    #[test]
    fn there_is_no_thread_beyond_the_last_one() {
        assert_eq!(ThreadShards::new(0, 0), None);
        assert_eq!(ThreadShards::new(2, 2), None);
        assert_eq!(ThreadShards::new(0, ThreadShards::MAX_THREADS + 1), None);
    }

    #[test]
    fn there_are_as_many_shards_as_a_byte_has_values() {
        let numbers: Vec<_> = Shard::all().map(Shard::number).collect();

        assert_eq!(numbers, (0..=255).collect::<Vec<u8>>());
        assert_eq!(numbers.len(), Shard::COUNT);
    }
}
