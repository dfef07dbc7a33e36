//! Sums over many owners. Each owner adds its own contributions, so that reading a sum does not look at the owners.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A sum of what its owners contribute. A clone is the same sum.
#[derive(Clone, Debug, Default)]
pub struct Total(Arc<AtomicUsize>);

/// The contribution of one owner to a [`Total`], until it is dropped. It may be made before its total is known.
#[derive(Debug, Default)]
pub struct Contribution {
    amount: usize,
    total: Option<Total>,
}

impl Total {
    /// Contributes this amount until the result is dropped.
    pub fn add(&self, amount: usize) -> Contribution {
        let mut contribution = Contribution { amount, total: None };
        contribution.count_in(self);
        contribution
    }

    pub fn sum(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

impl Contribution {
    /// Counts in this total from now on, and no longer in the one before.
    pub fn count_in(&mut self, total: &Total) {
        self.withdraw();
        total.0.fetch_add(self.amount, Ordering::Relaxed);
        self.total = Some(total.clone());
    }

    pub fn set(&mut self, amount: usize) {
        self.withdraw();
        self.amount = amount;
        if let Some(Total(sum)) = &self.total {
            sum.fetch_add(amount, Ordering::Relaxed);
        }
    }

    pub fn amount(&self) -> usize {
        self.amount
    }

    /// Returns the sum that it is counted in, its own amount included.
    pub fn sum_of_all(&self) -> usize {
        self.total.as_ref().map_or(self.amount, Total::sum)
    }

    fn withdraw(&self) {
        if let Some(Total(sum)) = &self.total {
            sum.fetch_sub(self.amount, Ordering::Relaxed);
        }
    }
}

impl Drop for Contribution {
    fn drop(&mut self) {
        self.withdraw();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_total_is_the_sum_of_the_contributions_that_were_not_dropped() {
        let total = Total::default();
        let mut first = total.add(3);
        let second = total.clone().add(4);
        assert_eq!((total.sum(), first.amount(), first.sum_of_all()), (7, 3, 7));
        first.set(10);
        assert_eq!(total.sum(), 14);
        drop(second);
        first.set(0);
        assert_eq!(total.sum(), 0);
    }

    #[test]
    fn a_contribution_counts_from_the_moment_that_it_has_a_total_and_in_one_at_a_time() {
        let (former, later) = (Total::default(), Total::default());
        let mut contribution = Contribution::default();
        contribution.set(5);
        assert_eq!(contribution.sum_of_all(), 5);
        contribution.count_in(&former);
        assert_eq!((former.sum(), later.sum()), (5, 0));
        contribution.count_in(&later);
        assert_eq!((former.sum(), later.sum()), (0, 5));
        drop(contribution);
        assert_eq!((former.sum(), later.sum()), (0, 0));
    }
}
