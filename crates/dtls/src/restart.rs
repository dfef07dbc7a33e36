//! Associations outlive the process: what changed about them goes to the store, and comes back from there.
//!
//! A sequence number of ours must not protect two records, which would give the key away. So an association is a change
//! at least every 65,536 records that it sends, and a process that takes it up goes on 2^32 ahead of what was saved:
//! more than can have been sent in between, however late the store was.
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

/// Associations whose stored copy is out of date. Nothing is recorded before [`DtlsServer::restore`], since there is
/// no store then.
#[derive(Default)]
pub struct AssociationChanges {
    are_kept: bool,
    /// Each once.
    queue: VecDeque<AssociationId>,
}

impl AssociationChanges {
    pub fn push(&mut self, association: &mut Association) {
        if self.are_kept && !association.queue() {
            self.queue.push_back(association.id);
        }
    }
}

impl DtlsServer {
    /// Takes up what was kept by a process of before, and keeps changes from now on.
    ///
    /// The changes that it returns have to be in the store, durably, before anything else is asked of this: the
    /// sequence numbers jump ahead of all that can have been sent since the records were made, and a process after this
    /// one has to jump ahead of those.
    #[must_use = "they have to be in the store before anything is sent"]
    pub fn restore(&mut self, now: Instant, records: Vec<SavedAssociation>) -> Vec<AssociationChange> {
        self.changes.are_kept = true;
        records.iter().map(|record| self.restore_one(now, record)).collect()
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

    /// Marks every association as changed, because the store has lost its contents.
    pub fn change_all(&mut self) {
        for id in self.associations.ids().collect::<Vec<_>>() {
            self.changed(id);
        }
    }

    pub fn has_changes(&self) -> bool {
        !self.changes.queue.is_empty()
    }

    fn restore_one(&mut self, now: Instant, record: &SavedAssociation) -> AssociationChange {
        let room = self.associations.len() < self.settings.associations && self.associations.get(record.id).is_none();
        let loaded = load(record).filter(|_| room).and_then(|restored| Association::restored(restored, now));
        let Some(association) = loaded else {
            self.report(DtlsReport::NotRestored { association: record.id });
            return AssociationChange::Remove(record.id);
        };
        let peer = association.peer();
        self.associations.insert(association, self.settings.idle);
        self.report(DtlsReport::Restored { peer });
        self.change(record.id)
    }

    fn change(&mut self, id: AssociationId) -> AssociationChange {
        let Some(association) = self.associations.get_mut(id) else { return AssociationChange::Remove(id) };
        association.written();
        AssociationChange::Put(save(association))
    }
}
