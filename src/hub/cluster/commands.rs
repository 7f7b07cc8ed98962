//! Conversions between the values of the hub and those of the shared log.

use std::time::Duration;

use bytesize::ByteSize;
use fanfare_cluster::command::{self, EndState, Options};
use fanfare_cluster::log::LogTime;
use fanfare_cluster::state_machine::{self, KeyTotals, Refusal};
use fanfare_cluster::text::Text;

use crate::clock::{Clock, Moment};
use crate::event::{ChannelState, NewEvent};
use crate::hub::channel::Keyed;
use crate::hub::coalesce::Coalesce;
use crate::hub::config::{ChannelOptions, Signal, WhenUnwatched};
use crate::hub::control_events::Close;
use crate::hub::error::{LogError, SubmitError};
use crate::position::Offset;

/// [`Options::coalesce`] for a channel that merges nothing, and for one that adapts. The difference
/// of a greater number to the second is a window, in milliseconds.
const OFF: u64 = 0;
const ADAPTIVE: u64 = 1;

/// Maximum bytes of a reason in the shared log.
const MAX_LOGGED_REASON: usize = 4096;

pub(super) fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

pub(super) fn offset(offset: fanfare_cluster::offset::Offset) -> Offset {
    Offset(offset.0)
}

pub(super) fn log_offset(offset: Offset) -> fanfare_cluster::offset::Offset {
    fanfare_cluster::offset::Offset(offset.0)
}

/// Returns the moment of a time of the log on the clocks of this machine.
pub(super) fn moment(time: LogTime, clock: &Clock) -> Moment {
    Moment::of_wall(time.0 / 1000, clock.now().ahead())
}

pub(super) fn events_for_log(events: &[NewEvent]) -> Vec<command::NewEvent> {
    let event = |event: &NewEvent| command::NewEvent {
        event_type: event.event_type.as_ref().map(|name| name.as_str().into()),
        data: Text::new(event.data.to_bytes()).unwrap_or_default(),
    };
    events.iter().map(event).collect()
}

/// Returns the events as the hub has them. What is not valid, which no hub sends, is left out.
pub(super) fn events_of_log(events: Vec<command::NewEvent>) -> Vec<NewEvent> {
    let event = |event: command::NewEvent| NewEvent {
        event_type: event.event_type.and_then(|name| name.as_str().parse().ok()),
        data: crate::event::Payload::new(event.data.into_bytes()).unwrap_or_default(),
    };
    events.into_iter().map(event).collect()
}

/// Returns how an append ends its channel. Only a publisher's ends have a command.
pub(super) fn close_for_log(close: &Close, kept: Duration) -> Option<command::Close> {
    let state = match close.state {
        ChannelState::Complete => EndState::Complete,
        ChannelState::Error => EndState::Error,
        ChannelState::Cancelled => EndState::Cancelled,
        ChannelState::Abandoned => EndState::Abandoned,
        ChannelState::Open | ChannelState::Deleted => return None,
    };
    Some(command::Close {
        state,
        reason: reason_for_log(close.reason.as_deref()),
        kept: millis(kept),
    })
}

/// Returns a reason, which may be the text of a provider, in the length that the log takes.
pub(super) fn reason_for_log(reason: Option<&str>) -> Option<Text> {
    reason.map(|reason| Text::from(&reason[..reason.floor_char_boundary(MAX_LOGGED_REASON)]))
}

pub(super) fn reason_of_log(reason: Option<Text>) -> Option<Box<str>> {
    reason.map(|reason| reason.as_str().into())
}

/// Returns an end of the log, and whether it is a stop.
pub(super) fn close_of_log(end: state_machine::End) -> (Close, bool) {
    let reason = reason_of_log(end.reason);
    (Close { state: state_of_log(end.state), reason }, end.stopped)
}

pub(super) fn state_of_log(state: EndState) -> ChannelState {
    match state {
        EndState::Complete => ChannelState::Complete,
        EndState::Error => ChannelState::Error,
        EndState::Cancelled => ChannelState::Cancelled,
        EndState::Abandoned => ChannelState::Abandoned,
    }
}

pub(super) fn keyed_of_log(totals: KeyTotals) -> Keyed {
    let KeyTotals { events, offsets, .. } = totals;
    let offsets = offsets.map(|(first, last)| (offset(first), offset(last)));
    Keyed { events, offsets }
}

pub(super) fn options_for_log(options: &ChannelOptions) -> Options {
    Options {
        max_events: options.max_events,
        max_bytes: options.max_bytes.map(|size| size.as_u64()),
        max_age: options.max_age.map(millis),
        idle_timeout: options.idle_timeout.map(millis),
        producer_grace: options.producer_grace.map(millis),
        coalesce: options.coalesce.map(|coalesce| match coalesce {
            Coalesce::Off => OFF,
            Coalesce::Adaptive => ADAPTIVE,
            Coalesce::Window(window) => ADAPTIVE.saturating_add(millis(window)),
        }),
        when_unwatched: options.when_unwatched.map(|when| millis(when.after)),
    }
}

pub(super) fn options_of_log(options: Options) -> ChannelOptions {
    ChannelOptions {
        max_events: options.max_events,
        max_bytes: options.max_bytes.map(ByteSize::b),
        max_age: options.max_age.map(Duration::from_millis),
        idle_timeout: options.idle_timeout.map(Duration::from_millis),
        producer_grace: options.producer_grace.map(Duration::from_millis),
        coalesce: options.coalesce.map(|coalesce| match coalesce {
            OFF => Coalesce::Off,
            ADAPTIVE => Coalesce::Adaptive,
            window => Coalesce::Window(Duration::from_millis(window - ADAPTIVE)),
        }),
        when_unwatched: options.when_unwatched.map(|after| WhenUnwatched {
            after: Duration::from_millis(after),
            signal: Signal::Stop,
        }),
    }
}

/// Returns the error of a publish that the log has refused.
pub(super) fn submit_error(
    refusal: Refusal,
    stop_reason: impl FnOnce() -> Option<Box<str>>,
) -> SubmitError {
    match refusal {
        Refusal::Ended(state) => SubmitError::Closed(state_of_log(state)),
        Refusal::Stopped => SubmitError::Stopped(stop_reason()),
        Refusal::Removed => SubmitError::Closed(ChannelState::Deleted),
        Refusal::Busy { .. } | Refusal::HoldLost => SubmitError::Busy,
        Refusal::KeyRunning => SubmitError::KeyRunning,
        Refusal::KeyScattered => LogError::KeyScattered.into(),
        Refusal::TooManyChannels => LogError::TooManyChannels.into(),
        Refusal::Outdated | Refusal::Left => LogError::NotJoined.into(),
    }
}

/// Returns the error of another operation that the log has refused.
pub(super) fn log_error(refusal: Refusal) -> LogError {
    match refusal {
        Refusal::TooManyChannels => LogError::TooManyChannels,
        _ => LogError::NotJoined,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_the_same_after_the_log() {
        for coalesce in
            [Coalesce::Off, Coalesce::Adaptive, Coalesce::Window(Duration::from_millis(1))]
        {
            let options = ChannelOptions {
                max_events: Some(3),
                max_bytes: Some(ByteSize::b(4)),
                max_age: Some(Duration::from_millis(5)),
                idle_timeout: Some(Duration::from_secs(6)),
                producer_grace: Some(Duration::ZERO),
                coalesce: Some(coalesce),
                when_unwatched: Some(WhenUnwatched {
                    after: Duration::from_secs(7),
                    signal: Signal::Stop,
                }),
            };
            assert_eq!(options_of_log(options_for_log(&options)), options);
        }
        assert_eq!(options_of_log(Options::default()), ChannelOptions::default());
    }
}
