//! The topics of a device. [`crate::mqtt::topics`] makes them from templates.

use std::sync::Arc;

/// A topic of one device, or the end of one, with its quality of service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Topic {
    pub name: String,
    pub qos: u8,
}

/// The topics of one device. They begin with the same text; their ends are kept once for all devices that have the
/// same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topics {
    mountpoint: Box<str>,
    ends: Arc<TopicEnds>,
}

/// The ends of the topics of a device, behind the mountpoint.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TopicEnds {
    pub command: Topic,
    pub response: Topic,
    pub notify: Topic,
    /// `None` if Send is disabled.
    pub send: Option<Topic>,
    pub register: Topic,
    pub update: Topic,
    pub firmware: Topic,
    /// `None` if presence is not published.
    pub status: Option<Topic>,
}

impl Topics {
    pub fn new(mountpoint: String, ends: TopicEnds) -> Self {
        Self { mountpoint: mountpoint.into(), ends: Arc::new(ends) }
    }

    /// Replaces its ends by `common` if they are equal. Otherwise they become the common ones.
    pub(crate) fn share_ends(&mut self, common: &mut Arc<TopicEnds>) {
        if self.ends == *common {
            self.ends = Arc::clone(common);
        } else {
            *common = Arc::clone(&self.ends);
        }
    }

    pub fn command(&self) -> Topic {
        self.whole(&self.ends.command)
    }

    pub fn response(&self) -> Topic {
        self.whole(&self.ends.response)
    }

    pub fn notify(&self) -> Topic {
        self.whole(&self.ends.notify)
    }

    /// Returns the topic of Sends; `None` if Send is disabled.
    pub fn send(&self) -> Option<Topic> {
        self.ends.send.as_ref().map(|end| self.whole(end))
    }

    pub fn register(&self) -> Topic {
        self.whole(&self.ends.register)
    }

    pub fn update(&self) -> Topic {
        self.whole(&self.ends.update)
    }

    /// Returns the topic of the events of firmware updates.
    pub fn firmware(&self) -> Topic {
        self.whole(&self.ends.firmware)
    }

    /// Returns the topic of the presence; `None` if presence is not published.
    pub fn status(&self) -> Option<Topic> {
        self.ends.status.as_ref().map(|end| self.whole(end))
    }

    /// Returns whether the presence of the device is published.
    pub(crate) fn has_status(&self) -> bool {
        self.ends.status.is_some()
    }

    fn whole(&self, end: &Topic) -> Topic {
        Topic { name: [&*self.mountpoint, &end.name].concat(), qos: end.qos }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topics(mountpoint: &str, notify: &str) -> Topics {
        let notify = Topic { name: notify.to_owned(), qos: 1 };
        Topics::new(mountpoint.to_owned(), TopicEnds { notify, ..TopicEnds::default() })
    }

    #[test]
    fn devices_whose_topics_end_alike_share_the_ends_and_keep_their_topics() {
        let mut common = Arc::default();
        let mut devices = [topics("a/", "up"), topics("b/", "up"), topics("c/", "c7"), topics("d/", "c7")];
        devices.iter_mut().for_each(|topics| topics.share_ends(&mut common));
        assert!(Arc::ptr_eq(&devices[0].ends, &devices[1].ends));
        assert!(Arc::ptr_eq(&devices[2].ends, &devices[3].ends));
        let names = devices.map(|topics| topics.notify());
        assert_eq!(names.each_ref().map(|topic| topic.name.as_str()), ["a/up", "b/up", "c/c7", "d/c7"]);
        assert!(names.iter().all(|topic| topic.qos == 1));
    }
}
