//! Tests of reports, of what is sent and of what is received.

use std::time::Duration;

use bytes::{Bytes, BytesMut};

use super::{RemoteViewers, Report, ReportError, Totals, ViewerReports};
use crate::batch::{BatchError, Codec, Header, WireError, write_command};
use crate::command::{Command, SessionId};
use crate::log::{LogTime, MAX_BROADCAST, Sequence};

const OTHER: SessionId = SessionId(Sequence(7));

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn log_time(ms: u64) -> LogTime {
    LogTime(ms * 1_000_000)
}

fn report(number: u64, counts: &[(&str, u64)]) -> Report {
    let counts = counts.iter().map(|(channel, viewers)| ((*channel).into(), *viewers)).collect();
    let time = log_time(0);
    Report { session: OTHER, number, time, epoch: "e".into(), counts, ..Report::default() }
}

/// Returns a report that is a whole round.
fn round(number: u64, counts: &[(&str, u64)]) -> Report {
    Report { begins: true, ends: true, ..report(number, counts) }
}

fn remote_viewers() -> RemoteViewers {
    RemoteViewers::new(Codec::default(), "e".into())
}

/// Receives a report at a time.
fn receive(viewers: &mut RemoteViewers, report: &Report, at: u64) -> Vec<(String, u64)> {
    let received = viewers.receive(&report.encode(&Codec::default()), |_| true, ms(at));
    named(received.expect("a report"))
}

fn named(totals: Totals) -> Vec<(String, u64)> {
    totals.into_iter().map(|(channel, total)| (channel.as_str().to_owned(), total)).collect()
}

fn changed(totals: &[(&str, u64)]) -> Vec<(String, u64)> {
    totals.iter().map(|(channel, total)| ((*channel).to_owned(), *total)).collect()
}

fn age(viewers: &RemoteViewers, at: u64) -> Duration {
    viewers.oldest_report([OTHER], ms(at), log_time(0))
}

fn reports_of(hub: &mut ViewerReports, at: u64) -> Vec<Report> {
    let broadcasts = hub.poll(ms(at), log_time(at));
    assert!(broadcasts.iter().all(|broadcast| broadcast.len() <= MAX_BROADCAST));
    let decode = |it: &Bytes| Report::decode(&Codec::default(), it).expect("a report");
    broadcasts.iter().map(decode).collect()
}

fn counts(reports: &[Report]) -> Vec<(&str, u64)> {
    let all = reports.iter().flat_map(|report| &report.counts);
    all.map(|(channel, viewers)| (channel.as_str(), *viewers)).collect()
}

fn local_viewers() -> ViewerReports {
    let mut hub = ViewerReports::new(Codec::default(), "e".into());
    hub.begin(OTHER);
    hub
}

#[test]
fn a_report_is_read_as_it_was_written() {
    for codec in [Codec::default(), Codec::new(Some(b"secret"))] {
        for report in [round(1, &[("a", 1), ("b/c", u64::from(u32::MAX))]), report(u64::MAX, &[])] {
            assert_eq!(Report::decode(&codec, &report.encode(&codec)), Ok(report));
        }
        let mut encoded = BytesMut::from(&round(1, &[("a", 1)]).encode(&codec)[..]);
        for at in 0..encoded.len() {
            encoded[at] ^= 1;
            assert!(Report::decode(&codec, &encoded.clone().freeze()).is_err());
            encoded[at] ^= 1;
            assert!(Report::decode(&codec, &encoded.clone().freeze().slice(..at)).is_err());
        }
    }
}

#[test]
fn a_report_that_no_hub_of_the_cluster_sends_is_refused() {
    let (none, codec) = (Codec::default(), Codec::new(Some(b"secret")));
    let decode = |broadcast: &Bytes| Report::decode(&codec, broadcast);
    let unsigned = ReportError::Damaged(BatchError::Signature);
    assert_eq!(decode(&round(1, &[]).encode(&none)), Err(unsigned));
    let other = Codec::new(Some(b"other"));
    assert_eq!(decode(&round(1, &[]).encode(&other)), Err(unsigned));
    // A signed message of the log, sent as a report, and a report sent to the log.
    let mut body = BytesMut::new();
    write_command(&Command::Bye, &mut body);
    let batch = codec.encode(Header { session: OTHER, number: 1, ..Header::default() }, &body);
    assert_eq!(decode(&batch), Err(ReportError::Damaged(BatchError::Damaged)));
    assert_eq!(codec.decode(&round(1, &[]).encode(&codec)), Err(BatchError::Damaged));
    let too_many = report(1, &[("a", 1 << 32)]).encode(&codec);
    assert_eq!(decode(&too_many), Err(ReportError::Invalid(WireError::Range)));
    let large = "a".repeat(MAX_BROADCAST);
    let too_large = report(1, &[(large.as_str(), 1)]).encode(&codec);
    assert_eq!(decode(&too_large), Err(ReportError::TooLarge));
    let of_another_log = Report { epoch: "f".into(), ..round(1, &[]) }.encode(&none);
    let received = remote_viewers().receive(&of_another_log, |_| true, ms(0));
    assert_eq!(received, Err(ReportError::OtherLog));
}

#[test]
fn changes_are_reported_twice_a_second_and_all_channels_in_rounds() {
    let mut hub = ViewerReports::new(Codec::default(), "e".into());
    hub.set("a", 1);
    hub.set("b", 2);
    assert_eq!((reports_of(&mut hub, 0), hub.next_poll()), (Vec::new(), None));
    hub.begin(OTHER);
    let time = log_time(0);
    assert_eq!(reports_of(&mut hub, 0), [Report { time, ..round(1, &[("a", 1), ("b", 2)]) }]);
    hub.set("a", 3);
    hub.set("a", 2);
    hub.set("c", 1);
    assert_eq!(hub.next_poll(), Some(ms(500)));
    assert_eq!(reports_of(&mut hub, 499), []);
    let time = log_time(500);
    assert_eq!(reports_of(&mut hub, 500), [Report { time, ..report(2, &[("a", 2), ("c", 1)]) }]);
    // A channel that falls to zero is reported once. What has not changed is not reported.
    hub.set("a", 0);
    hub.set("a", 0);
    hub.set("b", 2);
    assert_eq!(counts(&reports_of(&mut hub, 1000)), [("a", 0)]);
    // Without a change, one empty report a second.
    assert_eq!(reports_of(&mut hub, 1500), []);
    let empty = Report { time: log_time(2000), ..report(4, &[]) };
    assert_eq!(reports_of(&mut hub, 2000), [empty]);
    // The next round, and one for a hub that has begun.
    assert_eq!(counts(&reports_of(&mut hub, 14_500)), []);
    let all = Report { time: log_time(15_000), ..round(6, &[("b", 2), ("c", 1)]) };
    assert_eq!(reports_of(&mut hub, 15_000), [all]);
    hub.repeat();
    assert_eq!(counts(&reports_of(&mut hub, 15_500)), [("b", 2), ("c", 1)]);
    assert_eq!(reports_of(&mut hub, 16_000), []);
    // Numbers are those of a session.
    hub.end();
    hub.set("b", 0);
    assert_eq!((reports_of(&mut hub, 20_000), hub.next_poll()), (Vec::new(), None));
    hub.begin(SessionId(Sequence(9)));
    let reports = reports_of(&mut hub, 20_500);
    assert_eq!((counts(&reports), reports[0].number), (vec![("c", 1)], 1));
}

#[test]
fn many_channels_are_reported_in_bounded_pieces() {
    let mut hub = local_viewers();
    let name = |channel: u64| format!("{:0>200}", channel);
    let channels = 20_000;
    (0..channels).for_each(|channel| hub.set(&name(channel), 1));
    let mut others = remote_viewers();
    let mut polls = 0;
    while age(&others, 0) == Duration::MAX {
        // Changes before and after the place that the round has reached.
        hub.set(&name(polls), 0);
        hub.set(&name(channels - 1 - polls), 0);
        hub.set(&name(channels + polls), 2);
        let reports = reports_of(&mut hub, polls * 500);
        assert!(reports.len() <= 16, "{} reports", reports.len());
        for report in &reports {
            receive(&mut others, report, polls * 500);
        }
        polls += 1;
    }
    assert!((4..10).contains(&polls), "{polls} polls");
    let total = |channel| others.total(&name(channel));
    assert!((0..polls).all(|poll| (total(poll), total(channels - 1 - poll)) == (0, 0)));
    assert!((0..polls).all(|poll| total(channels + poll) == 2));
    assert!((polls..channels - polls).all(|channel| total(channel) == 1));
}

#[test]
fn a_round_ends_however_much_changes() {
    let mut hub = local_viewers();
    let names: Vec<_> = (0..50_000).map(|channel| format!("{channel:0>100}")).collect();
    for at in 1..20 {
        names.iter().for_each(|name| hub.set(name, at));
        let reports = reports_of(&mut hub, at * 500);
        assert_eq!(reports.len(), 16);
        if reports.iter().any(|report| report.ends) {
            return;
        }
    }
    panic!("the round has not ended");
}

#[test]
fn more_changes_than_can_be_kept_are_reported_by_a_round() {
    let mut hub = local_viewers();
    let mut others = remote_viewers();
    hub.set("kept", 1);
    reports_of(&mut hub, 0).iter().for_each(|report| drop(receive(&mut others, report, 0)));
    assert_eq!((others.total("kept"), age(&others, 0)), (1, ms(0)));
    hub.set("kept", 2);
    for channel in 0..100_000 {
        hub.set(&channel.to_string(), 1);
        hub.set(&channel.to_string(), 0);
    }
    let reports = reports_of(&mut hub, 500);
    assert_eq!((reports[0].number, counts(&reports)), (3, vec![("99999", 0), ("kept", 2)]));
    assert!(reports[0].begins && reports[0].ends);
}

#[test]
fn the_numbers_of_all_hubs_are_added() {
    let mut viewers = remote_viewers();
    let third = |report: Report| Report { session: SessionId(Sequence(8)), ..report };
    let first = receive(&mut viewers, &round(1, &[("a", 1), ("b", 2), ("c", 0)]), 0);
    assert_eq!(first, changed(&[("a", 1), ("b", 2)]));
    assert_eq!(receive(&mut viewers, &third(round(1, &[("b", 3)])), 0), changed(&[("b", 5)]));
    assert_eq!(receive(&mut viewers, &report(2, &[("a", 1), ("b", 1)]), 0), changed(&[("b", 4)]));
    assert_eq!([viewers.total("a"), viewers.total("b"), viewers.total("c")], [1, 4, 0]);
    // What a round does not name has no viewers.
    assert_eq!(receive(&mut viewers, &round(3, &[("b", 1)]), 0), changed(&[("a", 0)]));
    assert_eq!(named(viewers.end_session(OTHER)), changed(&[("b", 3)]));
    assert_eq!(named(viewers.end_session(OTHER)), []);
    // A session that is over or this hub's own is not counted.
    let own = round(1, &[("b", 9)]).encode(&Codec::default());
    assert_eq!(named(viewers.receive(&own, |it| it != OTHER, ms(0)).expect("a report")), []);
    assert_eq!(viewers.total("b"), 3);
    assert_eq!(viewers.sizes(), [1, 1, 1]);
}

#[test]
fn a_missing_report_is_known_until_the_next_round() {
    let mut viewers = remote_viewers();
    assert_eq!(age(&viewers, 0), Duration::MAX);
    // The beginning of a session was missed.
    receive(&mut viewers, &report(5, &[("a", 1)]), 0);
    assert_eq!((viewers.total("a"), age(&viewers, 0)), (1, Duration::MAX));
    receive(&mut viewers, &round(6, &[("b", 1)]), 1000);
    assert_eq!((viewers.total("a"), age(&viewers, 1500)), (0, ms(500)));
    // Repeats and reports that come late are not used.
    receive(&mut viewers, &report(6, &[("b", 7)]), 1500);
    receive(&mut viewers, &round(4, &[("b", 8)]), 1500);
    assert_eq!((viewers.total("b"), age(&viewers, 1500)), (1, ms(500)));
    // After a hole, numbers are used. A round of which a part is missing repairs nothing.
    receive(&mut viewers, &report(8, &[("b", 2)]), 2000);
    assert_eq!((viewers.total("b"), age(&viewers, 2000)), (2, Duration::MAX));
    receive(&mut viewers, &Report { begins: true, ..report(9, &[("c", 1)]) }, 2000);
    receive(&mut viewers, &Report { ends: true, ..report(11, &[("d", 1)]) }, 2000);
    assert_eq!((viewers.total("b"), age(&viewers, 2000)), (2, Duration::MAX));
    receive(&mut viewers, &Report { begins: true, ..report(12, &[("c", 1)]) }, 2500);
    assert_eq!(age(&viewers, 2500), Duration::MAX);
    receive(&mut viewers, &Report { ends: true, ..report(13, &[("d", 1)]) }, 2600);
    assert_eq!((viewers.total("b"), age(&viewers, 2700)), (0, ms(100)));
    // The oldest of all sessions counts. Without another hub, none is old.
    let third = SessionId(Sequence(8));
    let oldest = viewers.oldest_report([OTHER, third], ms(2700), log_time(0));
    assert_eq!(oldest, Duration::MAX);
    assert_eq!(viewers.oldest_report([], ms(2700), log_time(0)), Duration::ZERO);
}

#[test]
fn a_report_that_was_delayed_is_as_old_as_the_log_says() {
    let mut viewers = remote_viewers();
    receive(&mut viewers, &Report { time: log_time(10_000), ..round(1, &[]) }, 0);
    let oldest = |at, time| viewers.oldest_report([OTHER], ms(at), log_time(time));
    assert_eq!(oldest(0, 15_000), ms(5000));
    assert_eq!(oldest(700, 10_000), ms(700));
    // This hub has read less than the other one.
    assert_eq!(oldest(700, 9000), ms(700));
}

#[test]
fn counts_and_sessions_are_bounded() {
    let mut viewers = remote_viewers();
    let names: Vec<_> = (0..1000).map(|channel| format!("{channel}")).collect();
    let all: Vec<_> = names.iter().map(|name| (name.as_str(), 1)).collect();
    let session = |id| SessionId(Sequence(id));
    for id in 1..=1001 {
        let report = Report { session: session(id), ..round(1, &all) };
        viewers.receive(&report.encode(&Codec::default()), |_| true, ms(0)).expect("a report");
    }
    assert_eq!(viewers.sizes(), [1000, 1_000_000, 1000]);
    let mut age = |id, report: Report| {
        let report = Report { session: session(id), ..report }.encode(&Codec::default());
        viewers.receive(&report, |_| true, ms(0)).expect("a report");
        viewers.oldest_report([session(id)], ms(0), log_time(0))
    };
    assert_eq!(age(1, report(2, &[("0", 2)])), ms(0));
    // A count that is not kept is one that is missing.
    assert_eq!(age(1, report(3, &[("new", 1)])), Duration::MAX);
    assert_eq!(age(2, report(2, &[("0", 0)])), ms(0));
    assert_eq!(age(1, round(4, &[("0", 2), ("new", 1)])), ms(0));
}
