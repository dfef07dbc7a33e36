//! Topic filters (MQTT 5.0 section 4.7): matching one, and finding all that match among many.

use std::collections::HashMap;

use super::subscribers::Subscribers;

/// EMQX's `max_topic_levels`; it bounds the depth of the tree too.
const MAX_LEVELS: usize = 128;

pub(super) fn matches(filter: &str, topic: &str) -> bool {
    if topic.starts_with('$') && filter.starts_with(['+', '#']) {
        return false;
    }
    let mut levels = topic.split('/');
    for wanted in filter.split('/') {
        match (wanted, levels.next()) {
            ("#", _) => return true,
            ("+", Some(_)) => {}
            (exact, Some(level)) if exact == level => {}
            _ => return false,
        }
    }
    levels.next().is_none()
}

/// Returns whether `#` stands alone and last, and `+` alone in its level.
pub(super) fn is_valid(filter: &str) -> bool {
    let mut rest = filter.split('/');
    let last = rest.next_back().unwrap_or_default();
    let plain = |level: &str| level == "+" || !has_wildcard(level);
    !filter.is_empty() && filter.split('/').count() <= MAX_LEVELS && rest.all(plain) && (last == "#" || plain(last))
}

pub(super) fn has_wildcard(text: &str) -> bool {
    text.contains(['+', '#'])
}

/// Splits `$share/group/filter` and `$queue/filter` into the group, if any, and the filter.
pub(super) fn split_group(filter: &str) -> (Option<&str>, &str) {
    if let Some(shared) = filter.strip_prefix("$share/").and_then(|rest| rest.split_once('/')) {
        return (Some(shared.0), shared.1);
    }
    match filter.strip_prefix("$queue/") {
        Some(rest) => (Some("$queue"), rest),
        None => (None, filter),
    }
}

/// Maps filters to their subscribers. A topic is matched in the time of its levels, however many filters there are.
#[derive(Default)]
pub(super) struct FilterTree {
    children: HashMap<String, FilterTree>,
    subscribers: Subscribers,
}

impl FilterTree {
    /// Returns the subscribers of a valid filter, created if need be.
    pub(super) fn entry(&mut self, filter: &str) -> &mut Subscribers {
        let mut node = self;
        for level in filter.split('/') {
            node = node.children.entry(level.to_owned()).or_default();
        }
        &mut node.subscribers
    }

    /// Changes the subscribers of a filter, if it has any.
    pub(super) fn remove(&mut self, filter: &str, change: impl FnOnce(&mut Subscribers)) {
        self.remove_below(&mut filter.split('/'), change);
    }

    /// Visits the subscribers of the filters that match a topic, which has no wildcards.
    pub(super) fn matching(&self, topic: &str, mut visit: impl FnMut(&Subscribers)) {
        let mut nodes = vec![self];
        for (depth, level) in topic.split('/').enumerate() {
            let mut next = Vec::new();
            for node in nodes {
                next.extend(node.children.get(level));
                // Section 4.7.2: a filter that begins with a wildcard does not match `$SYS/...`.
                if depth > 0 || !topic.starts_with('$') {
                    next.extend(node.children.get("+"));
                    node.children.get("#").into_iter().for_each(|rest| visit(&rest.subscribers));
                }
            }
            nodes = next;
        }
        for node in nodes {
            visit(&node.subscribers);
            // `sport/#` is for `sport`, too.
            node.children.get("#").into_iter().for_each(|rest| visit(&rest.subscribers));
        }
    }

    /// Changes the entry of a filter, and returns whether it can be removed. The recursion is as deep as the filter has
    /// levels: at most [`MAX_LEVELS`].
    fn remove_below<'a>(
        &mut self,
        levels: &mut impl Iterator<Item = &'a str>,
        change: impl FnOnce(&mut Subscribers),
    ) -> bool {
        match levels.next() {
            None => change(&mut self.subscribers),
            Some(level) => {
                if self.children.get_mut(level).is_some_and(|child| child.remove_below(levels, change)) {
                    self.children.remove(level);
                }
            }
        }
        self.children.is_empty() && self.subscribers.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::subscribers::{MemberId, SubscriptionOptions};

    const FILTERS: [&str; 11] = ["a", "a/b", "a/+", "a/#", "#", "+", "+/b", "/a", "$SYS/#", "$SYS/+", "a/+/c"];
    const TOPICS: [&str; 8] = ["a", "a/b", "a/b/c", "/a", "b", "$SYS/x", "a/", ""];

    #[test]
    fn the_tree_finds_what_matches_one_by_one() {
        let mut tree = FilterTree::default();
        for (number, filter) in (0..).zip(FILTERS) {
            tree.entry(filter).each.insert(MemberId(number), SubscriptionOptions::default());
        }
        for topic in TOPICS {
            let mut found = Vec::new();
            tree.matching(topic, |subscribers| found.extend(subscribers.each.keys().map(|id| FILTERS[id.0 as usize])));
            found.sort_unstable();
            let mut expected: Vec<&str> = FILTERS.into_iter().filter(|filter| matches(filter, topic)).collect();
            expected.sort_unstable();
            assert_eq!(found, expected, "{topic:?}");
        }
    }

    #[test]
    fn wildcards_match_as_mqtt_says() {
        assert!(matches("lwm2m/+/dn/#", "lwm2m/ep/dn"));
        assert!(matches("lwm2m/+/dn/#", "lwm2m/ep/dn/1/2"));
        assert!(!matches("lwm2m/+/dn", "lwm2m/ep/dn/1"));
        assert!(!matches("#", "$SYS/brokers"));
        assert!(matches("+/", "a/"));
    }

    #[test]
    fn what_is_removed_leaves_no_place_behind() {
        let mut tree = FilterTree::default();
        for filter in ["a/b/c", "a/b"] {
            tree.entry(filter).each.insert(MemberId(1), SubscriptionOptions::default());
        }
        tree.remove("a/b/c", |subscribers| subscribers.each.clear());
        assert_eq!(tree.children["a"].children["b"].children.len(), 0);
        tree.remove("a/b", |subscribers| subscribers.each.clear());
        tree.remove("never/there", |subscribers| subscribers.each.clear());
        assert_eq!(tree.children.len(), 0);
    }

    #[test]
    fn a_wildcard_within_a_level_or_before_the_end_is_invalid() {
        for valid in ["a", "+", "#", "a/+/b", "a/#", "/", "$share"] {
            assert!(is_valid(valid), "{valid}");
        }
        let deep = "a/".repeat(200);
        for invalid in ["", "a#", "a/#/b", "a+/b", "##", deep.as_str()] {
            assert!(!is_valid(invalid), "{invalid}");
        }
    }

    #[test]
    fn a_shared_subscription_names_its_group() {
        assert_eq!(split_group("$share/g/a/b"), (Some("g"), "a/b"));
        assert_eq!(split_group("$queue/a/b"), (Some("$queue"), "a/b"));
        assert_eq!(split_group("a/b"), (None, "a/b"));
    }
}
