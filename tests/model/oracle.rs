//! The oracle: a plain list of everything that was ever published, in the hub's order, and the part
//! of it that is still retained by the settings.

use fanfare::internals::channel::ChannelName;
use fanfare::internals::event::{ChannelState, END};
use fanfare::internals::hub::{End, Hub};

use super::viewer::Unreported;

/// One entry of the hub's one order.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) offset: u64,
    pub(crate) life: usize,
    pub(crate) event_type: Option<String>,
    pub(crate) data: String,
    /// The bytes of its frame.
    pub(crate) bytes: u64,
    /// It is the end of its channel.
    pub(crate) end: Option<(ChannelState, Option<String>)>,
    /// The deletion of a channel that had ended: a subscriber that has seen the end need not see
    /// this too.
    pub(crate) optional: bool,
}

/// One life of a channel: from its creation to its eviction or deletion.
#[derive(Clone, Debug)]
pub(crate) struct Life {
    /// Its entries, as indexes in [`Oracle::history`] of the channel.
    pub(crate) from: usize,
    pub(crate) to: usize,
    /// The index of the earliest retained entry.
    pub(crate) kept_from: usize,
    pub(crate) ended: bool,
    pub(crate) dead: bool,
    pub(crate) max_events: u64,
    pub(crate) max_bytes: u64,
    /// The retention by age is zero: a sweep evicts all.
    pub(crate) ages: bool,
    /// The idle timeout is zero: a sweep evicts the channel if no reader holds it.
    pub(crate) idles: bool,
}

/// The history of one channel.
pub(crate) struct Past {
    pub(crate) name: ChannelName,
    pub(crate) history: Vec<Entry>,
    /// Its current life, if it has one.
    pub(crate) life: Option<usize>,
    /// A subscriber has waited for the channel since it was last deleted or evicted.
    pub(crate) awaited: bool,
}

/// The model of a hub: its channels, their entries and their lives.
pub(crate) struct Oracle {
    pub(crate) channels: Vec<Past>,
    pub(crate) lives: Vec<Life>,
    pub(crate) epoch: String,
    pub(crate) tail: u64,
    /// The memory budget is so small that anything but an end may be evicted at any time.
    pub(crate) cramped: bool,
    pub(crate) max_events: u64,
    pub(crate) max_bytes: u64,
}

/// An event to publish.
#[derive(Clone, Debug)]
pub(crate) struct Text {
    pub(crate) event_type: Option<&'static str>,
    pub(crate) data: String,
}

impl Oracle {
    /// Returns the channel's current life, which begins now if it has none.
    pub(crate) fn live(&mut self, channel: usize) -> usize {
        let past = &mut self.channels[channel];
        *past.life.get_or_insert_with(|| {
            let at = past.history.len();
            self.lives.push(Life {
                from: at,
                to: at,
                kept_from: at,
                ended: false,
                dead: false,
                max_events: self.max_events,
                max_bytes: self.max_bytes,
                ages: false,
                idles: false,
            });
            self.lives.len() - 1
        })
    }

    pub(crate) fn is_open(&self, channel: usize) -> bool {
        self.channels[channel].life.is_none_or(|life| !self.lives[life].ended)
    }

    pub(crate) fn append(&mut self, channel: usize, text: &Text) {
        self.push(channel, text.event_type, &text.data, None);
    }

    pub(crate) fn close(&mut self, channel: usize, state: ChannelState, reason: Option<&str>) {
        let end = End {
            channel: self.channels[channel].name.clone(),
            state,
            reason: reason.map(Into::into),
        };
        let data = end.data();
        let end = Some((state, reason.map(str::to_owned)));
        self.push(channel, Some(END), &data, end);
    }

    pub(crate) fn delete(&mut self, channel: usize) {
        self.close(channel, ChannelState::Deleted, None);
        self.bury(channel);
    }

    fn bury(&mut self, channel: usize) {
        let past = &mut self.channels[channel];
        past.awaited = false;
        if let Some(life) = past.life.take() {
            self.lives[life].dead = true;
        }
    }

    fn push(
        &mut self,
        channel: usize,
        event_type: Option<&str>,
        data: &str,
        end: Option<(ChannelState, Option<String>)>,
    ) {
        self.tail += 1;
        let life = self.live(channel);
        let data = data.replace("\r\n", "\n").replace('\r', "\n");
        let bytes = frame_bytes(&format!("{}-{}", self.epoch, self.tail), event_type, &data);
        let optional = self.lives[life].ended;
        self.lives[life].ended |= end.is_some();
        self.lives[life].to += 1;
        self.channels[channel].history.push(Entry {
            offset: self.tail,
            life,
            event_type: event_type.map(str::to_owned),
            data,
            bytes,
            end,
            optional,
        });
    }

    /// Evicts entries beyond the channel's retention; an end stays.
    pub(crate) fn retain(&mut self, channel: usize) {
        let Some(life) = self.channels[channel].life else {
            return;
        };
        let history = &self.channels[channel].history;
        let life = &mut self.lives[life];
        let last = life.to - usize::from(life.ended);
        let by_events = life.to.saturating_sub(life.max_events as usize).min(last);
        life.kept_from = life.kept_from.max(by_events);
        let bytes = |from: usize| history[from..life.to].iter().map(|e| e.bytes).sum::<u64>();
        // Bytes alone never evict the newest event: live subscribers must get it.
        while life.kept_from + 1 < life.to && bytes(life.kept_from) > life.max_bytes {
            life.kept_from += 1;
        }
    }

    /// Compares the retained entries with those of the hub, and adopts what only the hub can know:
    /// evictions by the memory budget, and, after a sweep, evicted channels.
    pub(crate) fn observe(&mut self, hub: &Hub, swept: bool) {
        for channel in 0..self.channels.len() {
            let Some(life) = self.channels[channel].life else {
                let description = hub.describe(&self.channels[channel].name);
                assert_eq!(description, None, "the oracle knows of no such channel");
                continue;
            };
            let Some(there) = hub.describe(&self.channels[channel].name) else {
                let life = &mut self.lives[life];
                assert!(if life.ended { life.ages } else { life.idles }, "evicted too early");
                if swept && life.ages {
                    life.kept_from = life.to - usize::from(life.ended);
                }
                self.bury(channel);
                continue;
            };
            let past = &self.channels[channel];
            let life = &mut self.lives[life];
            let kept_from = match &there.earliest {
                Some(earliest) => {
                    past.history.partition_point(|entry| entry.offset < earliest.offset.0)
                }
                None => life.to,
            };
            let last = life.to - usize::from(life.ended);
            assert!(kept_from <= last, "{} lost its end", past.name);
            if swept && life.ages {
                life.kept_from = last;
            }
            if self.cramped {
                assert!(kept_from >= life.kept_from, "more is there than should be");
                life.kept_from = kept_from;
            }
            assert_eq!(kept_from, life.kept_from, "what {} retains", past.name);
            assert_eq!(there.events as usize, last - kept_from);
            let retained = past.history[kept_from..life.to].iter();
            assert_eq!(there.bytes, retained.map(|entry| entry.bytes).sum::<u64>());
            if let Some(last) = past.history.last() {
                assert_eq!(there.tail.offset.0, last.offset, "the tail of {}", past.name);
            }
            let ends = past.history[life.from..life.to].iter();
            let state = ends.filter_map(|entry| entry.end.as_ref()).next_back();
            let state = state.map_or(ChannelState::Open, |(state, _)| *state);
            assert_eq!(there.state, state);
        }
    }

    /// Returns the index of the channel's first entry after the offset.
    pub(crate) fn after(&self, channel: usize, offset: u64) -> usize {
        let history = &self.channels[channel].history;
        history.partition_point(|entry| entry.offset <= offset)
    }

    /// Returns the index of the earliest entry that a new subscriber can get.
    pub(crate) fn kept_from(&self, channel: usize) -> usize {
        let past = &self.channels[channel];
        past.life.map_or(past.history.len(), |life| self.lives[life].kept_from)
    }

    /// Returns the end of a channel's life, of which a subscriber must or may be informed.
    pub(crate) fn unreported(&self, channel: usize, life: usize, must: bool) -> Unreported {
        let past = &self.channels[channel];
        let life = &self.lives[life];
        let ends = past.history[life.from..life.to].iter();
        Unreported {
            channel: past.name.clone(),
            ends: ends.filter_map(|entry| entry.end.clone()).collect(),
            must,
        }
    }

    /// Returns whether the channel has ended, at or before this offset, and was not published to
    /// since.
    pub(crate) fn ended_by(&self, channel: usize, offset: u64) -> bool {
        let past = &self.channels[channel];
        let Some(last) = past.history.last().filter(|_| self.is_over(channel)) else {
            return false;
        };
        let life = &self.lives[last.life];
        let mut entries = past.history[life.from..life.to].iter();
        entries.any(|entry| entry.end.is_some() && entry.offset <= offset)
    }

    /// Returns whether the channel has ever ended, and is not open again.
    pub(crate) fn is_over(&self, channel: usize) -> bool {
        let past = &self.channels[channel];
        let open = past.life.is_some_and(|life| !self.lives[life].ended);
        !open && past.history.iter().any(|entry| entry.end.is_some())
    }
}

/// Returns the bytes of an event on the wire: its text, as one HTTP/1.1 chunk.
fn frame_bytes(id: &str, event_type: Option<&str>, data: &str) -> u64 {
    let event_type = event_type.map_or(String::new(), |text| format!("event: {text}\n"));
    let data: String = data.split('\n').map(|line| format!("data: {line}\n")).collect();
    let text = format!("{event_type}{data}id: {id}\n\n");
    format!("{:x}\r\n{text}\r\n", text.len()).len() as u64
}
