//! Makes one page of devices of the pages of all driver threads.

use lwm2m_core::gateway::operators::view::{DevicePage, DeviceRow, PAGE_ROWS, PageQuery};

/// Returns the query for each thread. A thread does not know how many devices of the other threads are to be skipped.
pub(super) fn query_of_thread(query: &PageQuery) -> PageQuery {
    let limit = if query.skip > 0 { PAGE_ROWS } else { query.limit };
    PageQuery { skip: 0, limit, ..query.clone() }
}

/// Merges the pages of all threads, which answer the query of [`query_of_thread`].
pub(super) fn merged(query: &PageQuery, pages: Vec<DevicePage>) -> DevicePage {
    // Each thread has examined its devices up to its `next`, so all devices before the first of these are known.
    let mut next = pages.iter().filter_map(|page| page.next.clone()).min();
    let (examined, total) =
        pages.iter().fold((0, 0), |(examined, total), page| (examined + page.examined, total + page.total));
    let mut rows: Vec<DeviceRow> = pages.into_iter().flat_map(|page| page.rows).collect();
    rows.retain(|row| next.as_ref().is_none_or(|next| row.endpoint <= *next));
    rows.sort_by(|one, other| one.endpoint.cmp(&other.endpoint));
    let skipped = query.skip.min(rows.len());
    rows.drain(..skipped);
    let most = query.limit.clamp(1, PAGE_ROWS);
    if rows.len() > most {
        rows.truncate(most);
        next = rows.last().map(|row| row.endpoint.clone());
    }
    DevicePage { rows, next, skipped, examined, total }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::time::Duration;

    use lwm2m_core::gateway::operators::view::{DeviceTransport, WakeState};

    use super::*;

    fn row(endpoint: &str) -> DeviceRow {
        DeviceRow {
            endpoint: endpoint.to_owned(),
            names: None,
            state: WakeState::Awake,
            awake_until: None,
            transport: DeviceTransport::Udp,
            address: SocketAddr::from(([192, 0, 2, 1], 5683)),
            identity: None,
            lwm2m: "1.1".to_owned(),
            binding: None,
            lifetime: Duration::ZERO,
            expires: Duration::ZERO,
            registered: Duration::ZERO,
            last_heard: Duration::ZERO,
            waiting: 0,
            in_flight: false,
            observations: 0,
        }
    }

    fn page(names: &[&str], next: Option<&str>) -> DevicePage {
        let rows = names.iter().map(|name| row(name)).collect();
        DevicePage { rows, next: next.map(str::to_owned), skipped: 0, examined: names.len(), total: 10 }
    }

    fn names(page: &DevicePage) -> Vec<&str> {
        page.rows.iter().map(|row| row.endpoint.as_str()).collect()
    }

    #[test]
    fn a_page_has_the_devices_of_all_threads_in_order_as_far_as_all_threads_have_looked() {
        let query = PageQuery { limit: 4, ..PageQuery::default() };
        let merged = merged(&query, vec![page(&["a", "d"], Some("d")), page(&["b", "c", "e"], None)]);
        assert_eq!((names(&merged), merged.next.as_deref()), (vec!["a", "b", "c", "d"], Some("d")));
        assert_eq!((merged.examined, merged.total, merged.skipped), (5, 20, 0));
    }

    #[test]
    fn a_page_goes_on_after_its_last_row_if_the_threads_have_more_rows_than_are_wanted() {
        let query = PageQuery { limit: 2, ..PageQuery::default() };
        let first = merged(&query, vec![page(&["a", "d"], Some("d")), page(&["b", "c"], Some("c"))]);
        assert_eq!((names(&first), first.next.as_deref()), (vec!["a", "b"], Some("b")));
        let last = merged(&query, vec![page(&["d"], None), page(&["c"], None)]);
        assert_eq!((names(&last), last.next.as_deref()), (vec!["c", "d"], None));
    }

    #[test]
    fn devices_of_all_threads_are_passed_over_together() {
        let query = PageQuery { skip: 3, limit: 1, ..PageQuery::default() };
        assert_eq!((query_of_thread(&query).skip, query_of_thread(&query).limit), (0, PAGE_ROWS));
        let pages = vec![page(&["a", "c"], None), page(&["b", "d", "e"], None)];
        let first = merged(&query, pages);
        assert_eq!((names(&first), first.skipped, first.next.as_deref()), (vec!["d"], 3, Some("d")));
        let beyond = merged(&query, vec![page(&["a"], Some("b")), page(&[], Some("f"))]);
        assert_eq!((names(&beyond), beyond.skipped, beyond.next.as_deref()), (vec![], 1, Some("b")));
    }
}
