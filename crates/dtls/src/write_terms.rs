//! The terms in which a process numbers the records that it sends.
//!
//! A sequence number of ours must not protect two records, which would give the key away, whatever the store forgets.
//! Each number is made of a term and a counter ([`lwm2m_cluster::write_number`]). Terms follow a clock of 4 seconds:
//!
//! 1. The first term of a process is above that of the process before it, which the store has, and not below the tick
//!    of the clock. It is durable before a record is sent. Restored associations begin in it. A process that starts in
//!    the tick of the one before it waits for the next tick, so that terms do not run ahead of the clock.
//! 2. An association that has used the numbers of its term begins the next one, which may not be above the tick before
//!    the present one. So every term that a process has used is below the first one of the next process, also if an
//!    older copy of the store is brought back.
//! 3. A new association was never numbered before. It begins some terms earlier, so that it can send many records at
//!    once.
//!
//! In a cluster the terms are those of the shards: the node that has a shard gets them from the lease of the shard
//! ([`lwm2m_cluster::Floors`]). An association sends in the newest term of its shard, and restored ones begin after the
//! term that they were stored with. One that has used all numbers of its term is silent until the shard has a newer
//! one, which the server asks for when half of them are used.
//!
//! The time of a process is its wall clock time at the start plus the monotonic time since. If the wall clock of the
//! next process is behind that, the terms in the stored records keep the numbers apart.

use std::time::{Duration, Instant};

use lwm2m_base::Shard;
use lwm2m_cluster::{NodeNumber, Term, WallTime, WriteNumbers};

/// The terms that a new association has in reserve.
const RESERVE: u64 = 16;

/// More records than can be sent between two writes of a record without terms: 18 hours of 65,536 in a second.
const JUMP: u64 = 1 << 32;

/// The terms of a process.
#[derive(Clone, Debug)]
pub struct WriteTerms {
    node: NodeNumber,
    /// In a cluster, the newest term of each shard that the node has.
    of_shards: Option<Box<[Option<Term>; Shard::COUNT]>>,
    first: Term,
    /// The start of the process by both clocks; `None` if no association outlives it, so that it may use all terms.
    started: Option<(Instant, WallTime)>,
    /// The time from which another process may use the store; `None` if this process has it for good.
    leased_until: Option<Instant>,
}

/// The term in which an association may send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TermTurn {
    /// The association begins the next term itself when it needs one, up to this term.
    UpTo(Term),
    /// The association sends in the term of its shard; `None` if the shard has none.
    OfShard(Option<Term>),
}

/// The record numbers that an association has used, by its stored record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum UsedNumbers {
    /// The association was made in one term, and used numbers of another one.
    Terms { born: Term, term: Term },
    /// A stored record from before there were terms: the next number at the time of the record.
    Sequence(u64),
}

impl WriteTerms {
    /// Returns the terms of a process whose first term is durable. `unix_time` is the wall clock time at `now`.
    pub fn new(first: Term, now: Instant, unix_time: Duration) -> Self {
        let started = Some((now, wall_time(unix_time)));
        Self { node: NodeNumber::SINGLE, of_shards: None, first, started, leased_until: None }
    }

    /// Returns the terms of a node of a cluster, which has no shards yet.
    pub fn of_node(node: NodeNumber) -> Self {
        let of_shards = Some(Box::new([None; Shard::COUNT]));
        Self { node, of_shards, first: Term::NONE, started: None, leased_until: None }
    }

    /// Returns the terms of a process without a store: no association outlives it.
    pub(crate) fn of_single_process() -> Self {
        Self { node: NodeNumber::SINGLE, of_shards: None, first: Term::NONE, started: None, leased_until: None }
    }

    /// Numbers the records of a shard in this term from now on; `None` if the node does not have the shard any more.
    pub(crate) fn set_term(&mut self, shard: Shard, term: Option<Term>) {
        if let Some(of_shards) = &mut self.of_shards {
            of_shards[usize::from(shard)] = term;
        }
    }

    /// Returns the term in which an association of this shard may send. `latest` is the last term that it may begin by
    /// itself without a cluster.
    pub(crate) fn turn(&self, shard: Shard, latest: Term) -> TermTurn {
        match &self.of_shards {
            None => TermTurn::UpTo(latest),
            Some(of_shards) => TermTurn::OfShard(of_shards[usize::from(shard)]),
        }
    }

    /// Notes that no other process uses the store before this time. Until the next call no association begins a term of
    /// a later tick by itself.
    pub(crate) fn lease_until(&mut self, until: Instant) {
        self.leased_until = Some(until);
    }

    /// Returns the first term of a process that starts at this time, after one whose first term the store has. It has
    /// to be durable before the process sends a record.
    pub fn first_after(stored: Term, unix_time: Duration) -> Term {
        stored.next().max(Term::at(wall_time(unix_time)))
    }

    /// Returns how long a process has to wait before it takes its first term, so that the tick of the clock is above
    /// the term of the process before it. A clock that was set back is not waited for.
    pub fn wait_after(stored: Term, unix_time: Duration) -> Duration {
        let now = wall_time(unix_time);
        match stored.since(Term::at(now)) {
            Some(ahead @ 0..=Term::AHEAD) => {
                let tick = u64::try_from(Term::TICK.as_millis()).unwrap_or(u64::MAX);
                let into_tick = now.0.saturating_sub(Term::EPOCH.0) % tick;
                Duration::from_millis((ahead + 1) * tick - into_tick)
            }
            Some(_) | None => Duration::ZERO,
        }
    }

    /// Returns the last term that an association may begin by itself at this time.
    pub(crate) fn latest(&self, now: Instant) -> Term {
        let Some((started, wall_time)) = self.started else { return Term::new(u64::MAX) };
        // The first term of another process is above the tick at the end of the lease.
        let now = self.leased_until.map_or(now, |until| now.min(until));
        let tick = Term::at(wall_time.plus(now.saturating_duration_since(started)));
        Term::new(tick.number().saturating_sub(1))
    }

    /// Returns the numbers of an association of this shard whose handshake has ended now.
    pub(crate) fn numbers_of_new(&self, shard: Shard, now: Instant) -> WriteNumbers {
        if let Some(of_shards) = &self.of_shards {
            let term = of_shards[usize::from(shard)];
            return term
                .map_or(WriteNumbers::new(Term::NONE, self.node), |term| WriteNumbers::born_in(term, self.node));
        }
        let term = match self.started {
            Some(_) => Term::new(self.latest(now).number().saturating_sub(RESERVE)),
            None => self.first,
        };
        WriteNumbers::born_in(term, self.node)
    }

    /// Returns the numbers of a restored association of this shard; `None` if none are left.
    pub(crate) fn numbers_of_restored(&self, shard: Shard, used: UsedNumbers) -> Option<WriteNumbers> {
        if self.of_shards.is_some() {
            // The format of a cluster's store has always had terms.
            let UsedNumbers::Terms { born, term } = used else { return None };
            let mut numbers = WriteNumbers::used_up(born, term, self.node);
            return match self.turn(shard, Term::NONE) {
                TermTurn::OfShard(Some(newer)) if newer > term => numbers.begin(newer).ok().map(|()| numbers),
                TermTurn::OfShard(_) | TermTurn::UpTo(_) => Some(numbers),
            };
        }
        let (born, first) = match used {
            UsedNumbers::Terms { born, term } => (born, self.first.max(term.next())),
            UsedNumbers::Sequence(next) => {
                let distance = next.checked_add(JUMP)? / WriteNumbers::PER_TERM + 1;
                (Term::new(self.first.number().checked_sub(distance)?), self.first)
            }
        };
        let mut numbers = WriteNumbers::new(born, self.node);
        numbers.begin(first).ok()?;
        Some(numbers)
    }
}

fn wall_time(unix_time: Duration) -> WallTime {
    WallTime(u64::try_from(unix_time.as_millis()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    const A_DAY: Duration = Duration::from_secs(86_400);
    /// 2026-01-01.
    const UNIX_TIME: Duration = Duration::from_secs(1_767_225_600);

    fn tick(unix_time: Duration) -> Term {
        Term::at(wall_time(unix_time))
    }

    #[test]
    fn the_first_term_is_above_the_stored_one_and_not_below_the_clock() {
        assert_eq!(WriteTerms::first_after(Term::NONE, UNIX_TIME), tick(UNIX_TIME));
        let ahead = Term::new(tick(UNIX_TIME).number() + 10);
        assert_eq!(WriteTerms::first_after(ahead, UNIX_TIME), ahead.next());
        assert_eq!(WriteTerms::first_after(Term::new(7), Duration::ZERO), Term::new(8), "a clock that is not set");
    }

    #[test]
    fn a_process_waits_for_a_tick_above_the_stored_term() {
        let millis = Duration::from_millis;
        let start_of_tick = UNIX_TIME - millis(u64::try_from(UNIX_TIME.as_millis()).unwrap() % 4_000);
        let now = start_of_tick + millis(1_500);
        let stored = |ahead: u64| Term::new(tick(now).number() + ahead);
        assert_eq!(WriteTerms::wait_after(Term::new(tick(now).number() - 1), now), Duration::ZERO);
        assert_eq!(WriteTerms::wait_after(stored(0), now), millis(2_500));
        assert_eq!(WriteTerms::wait_after(stored(4), now), millis(18_500));
        assert_eq!(WriteTerms::wait_after(stored(5), now), Duration::ZERO, "a clock that was set back");
        for ahead in 0..=4 {
            let later = now + WriteTerms::wait_after(stored(ahead), now);
            assert_eq!(WriteTerms::first_after(stored(ahead), later), tick(later), "terms do not run ahead");
        }
    }

    #[test]
    fn a_later_process_is_above_all_that_an_association_could_begin_by_itself() {
        let now = Instant::now();
        let terms = WriteTerms::new(tick(UNIX_TIME), now, UNIX_TIME);
        for seconds in [0, 1, 3, 4, 5, 3_600] {
            let later = Duration::from_secs(seconds);
            let next = WriteTerms::first_after(Term::NONE, UNIX_TIME + later);
            assert!(terms.latest(now + later) < next, "{seconds} s, with a store that has lost everything");
        }
    }

    #[test]
    fn a_new_association_has_terms_in_reserve_and_gets_one_in_4_seconds() {
        let now = Instant::now();
        let terms = WriteTerms::new(tick(UNIX_TIME), now, UNIX_TIME);
        let mut numbers = terms.numbers_of_new(Shard::new(0), now + A_DAY);
        assert_eq!(numbers.next_number(), Ok(1), "a fresh one counts from near 0");
        let begun = (0..).take_while(|_| {
            let next = numbers.term().unwrap().next();
            next <= terms.latest(now + A_DAY) && numbers.begin(next).is_ok()
        });
        assert_eq!(begun.count(), 16);
        assert_eq!(terms.latest(now + A_DAY + Term::TICK), numbers.term().unwrap().next());
    }

    #[test]
    fn nobody_begins_a_term_after_the_end_of_the_lease() {
        let now = Instant::now();
        let mut terms = WriteTerms::new(tick(UNIX_TIME), now, UNIX_TIME);
        let until = now + 5 * Term::TICK;
        terms.lease_until(until);
        assert!(terms.latest(now) < terms.latest(until));
        assert_eq!(terms.latest(now + A_DAY), terms.latest(until));
        assert!(WriteTerms::first_after(Term::NONE, UNIX_TIME + 5 * Term::TICK) > terms.latest(now + A_DAY));
        terms.lease_until(now + A_DAY);
        assert!(terms.latest(now + A_DAY) > terms.latest(until));
    }

    #[test]
    fn a_record_without_terms_goes_on_2_to_the_32_ahead() {
        let terms = WriteTerms::new(tick(UNIX_TIME), Instant::now(), UNIX_TIME);
        for next in [1, 65_536, 1 << 40] {
            let number =
                terms.numbers_of_restored(Shard::new(0), UsedNumbers::Sequence(next)).unwrap().next_number().unwrap();
            assert!(number >= next + JUMP && number <= next + JUMP + 2 * WriteNumbers::PER_TERM, "{next}: {number}");
        }
        assert_eq!(terms.numbers_of_restored(Shard::new(0), UsedNumbers::Sequence(1 << 48)), None);
        assert_eq!(terms.numbers_of_restored(Shard::new(0), UsedNumbers::Sequence(u64::MAX)), None);
    }

    #[test]
    fn a_clock_that_was_set_back_repeats_no_term_of_a_stored_record() {
        let terms = WriteTerms::new(tick(UNIX_TIME), Instant::now(), UNIX_TIME);
        let (born, term) = (tick(UNIX_TIME), tick(UNIX_TIME + A_DAY));
        let numbers = terms.numbers_of_restored(Shard::new(0), UsedNumbers::Terms { born, term }).unwrap();
        assert_eq!(numbers.term(), Some(term.next()));
    }

    #[test]
    fn in_a_cluster_an_association_sends_in_the_term_of_its_shard() {
        let (shard, term) = (Shard::new(7), Term::new(100));
        let mut terms = WriteTerms::of_node(NodeNumber::try_from(3).unwrap());
        assert_eq!(terms.turn(shard, term), TermTurn::OfShard(None));
        terms.set_term(shard, Some(term));
        assert_eq!(terms.turn(shard, Term::NONE), TermTurn::OfShard(Some(term)));
        assert_eq!(terms.numbers_of_new(shard, Instant::now()).next_number(), Ok(3 << 14 | 1));
        let born = Term::new(90);
        let restored = |used| terms.numbers_of_restored(shard, UsedNumbers::Terms { born, term: Term::new(used) });
        assert_eq!(restored(99).unwrap().term(), Some(term));
        for not_older in [100, 105] {
            let mut numbers = restored(not_older).unwrap();
            assert!(numbers.next_number().is_err(), "silent until the shard has a later term");
        }
        assert_eq!(terms.numbers_of_restored(shard, UsedNumbers::Sequence(7)), None);
        terms.set_term(shard, None);
        assert_eq!(terms.turn(shard, term), TermTurn::OfShard(None));
    }
}
