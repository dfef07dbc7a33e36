//! Stores associations and restores them, so that they survive the process.
//!
//! No sequence number protects two records, however late the store was: [`super::write_terms`] tells why.
//!
//! What was received since the last change could be replayed once, after a crash: at most 64 records of each device.
//! How long a device was silent is not kept: that time begins anew.

use std::collections::VecDeque;
use std::time::Instant;

use lwm2m_base::AssociationId;

use super::DtlsServer;
use super::association::Association;
use super::report::DtlsReport;
use super::saved::{AssociationChange, SavedAssociation, load, save};
use super::write_terms::{UsedNumbers, WriteTerms};

/// Associations whose stored copy is out of date. Nothing is recorded before [`DtlsServer::restore`], since there is
/// no store then.
#[derive(Default)]
pub(crate) struct AssociationChanges {
    are_kept: bool,
    /// Each once.
    queue: VecDeque<AssociationId>,
}

impl AssociationChanges {
    pub(crate) fn push(&mut self, association: &mut Association) {
        if self.are_kept && !association.queue() {
            self.queue.push_back(association.id);
        }
    }

    /// Forgets the changes of these associations.
    pub(crate) fn forget(&mut self, is_forgotten: impl Fn(AssociationId) -> bool) {
        self.queue.retain(|id| !is_forgotten(*id));
    }

    /// Notes that a record is to be removed whose association does not exist.
    pub(crate) fn push_removed(&mut self, id: AssociationId) {
        self.queue.push_back(id);
    }
}

impl DtlsServer {
    /// Restores what an earlier process has stored, and keeps changes from now on. The first of these terms has to be
    /// in the store, durably.
    ///
    /// Returns the changes of records that cannot be restored, and of those of a format without terms. They have to be
    /// in the store, durably, before anything is sent: without them a later process would use the sequence numbers of
    /// the latter again.
    #[must_use = "they have to be in the store before anything is sent"]
    pub fn restore(
        &mut self,
        now: Instant,
        terms: WriteTerms,
        records: Vec<SavedAssociation>,
    ) -> Vec<AssociationChange> {
        self.changes.are_kept = true;
        self.latest_term = terms.latest(now);
        self.terms = terms;
        let most = self.config.associations;
        records.iter().filter_map(|record| self.restore_one(now, record, most)).collect()
    }

    /// Returns at most this many of the associations that changed since they were taken; the others are returned the
    /// next time.
    pub fn take_changes(&mut self, most: usize) -> Vec<AssociationChange> {
        let most = most.min(self.changes.queue.len());
        let taken: Vec<AssociationId> = self.changes.queue.drain(..most).collect();
        taken.into_iter().map(|id| self.change(id)).collect()
    }

    /// Returns the change of this association out of turn; `None` if it has none.
    pub fn take_change(&mut self, id: AssociationId) -> Option<AssociationChange> {
        self.associations.get(id).filter(|association| association.is_queued())?;
        Some(self.change(id))
    }

    /// Marks this association as changed.
    pub fn mark_changed(&mut self, id: AssociationId) {
        self.changed(id);
    }

    /// Notes that no other process uses the store before this time, for a store that is leased.
    pub fn lease_terms_until(&mut self, until: Instant) {
        self.terms.lease_until(until);
    }

    /// Marks every association as changed, because the store has lost its contents.
    pub fn change_all(&mut self) {
        for id in self.associations.ids().collect::<Vec<_>>() {
            self.changed(id);
        }
    }

    pub fn has_changes(&self) -> bool {
        !self.changes.queue.is_empty()
    }

    /// Restores an association if there are fewer than `most`. Returns the change to store.
    pub(super) fn restore_one(
        &mut self,
        now: Instant,
        record: &SavedAssociation,
        most: usize,
    ) -> Option<AssociationChange> {
        let room = self.associations.len() < most && self.associations.get(record.id).is_none();
        let loaded = load(record).filter(|_| room);
        let has_terms = loaded.as_ref().is_some_and(|loaded| matches!(loaded.used_numbers, UsedNumbers::Terms { .. }));
        let restored = loaded.and_then(|loaded| Association::restored(loaded, &self.terms, now));
        let Some(association) = restored else {
            self.report(DtlsReport::NotRestored { association: record.id });
            return Some(AssociationChange::Remove(record.id));
        };
        let peer = association.peer();
        self.associations.insert(association, self.config.idle);
        self.report(DtlsReport::Restored { peer });
        (!has_terms).then(|| self.change(record.id))
    }

    fn change(&mut self, id: AssociationId) -> AssociationChange {
        let Some(association) = self.associations.get_mut(id) else { return AssociationChange::Remove(id) };
        association.written();
        AssociationChange::Put(save(association))
    }
}
