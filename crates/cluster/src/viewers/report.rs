//! Reports as bytes.

use bytes::{BufMut, Bytes, BytesMut};

use crate::batch::wire::{Reader, Writer};
use crate::batch::{BatchError, Codec, WireError};
use crate::command::SessionId;
use crate::log::{LogTime, MAX_BROADCAST, Sequence};
use crate::text::Text;

/// The first byte: no batch begins with it, so that none can be sent as a report.
const MAGIC: u8 = 0xFB;
const VERSION: u8 = 1;

/// Maximum number of viewers of a channel at one hub, so that sums do not overflow.
pub(super) const MAX_VIEWERS: u64 = u32::MAX as u64;

mod flag {
    /// A round begins with this report.
    pub(super) const BEGINS: u8 = 1;
    /// The round ends with this report.
    pub(super) const ENDS: u8 = 2;
}

/// Numbers of the viewers of one hub.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// The session of the hub.
    pub session: SessionId,
    /// The number of the report in the session, counted from 1.
    pub number: u64,
    /// The time of the last message of the log that the hub had applied.
    pub time: LogTime,
    /// The epoch with which the log was created.
    pub epoch: Text,
    /// Whether a round begins with this report.
    pub begins: bool,
    /// Whether a round ends with this report: all channels that none of its reports has named have
    /// no viewers.
    pub ends: bool,
    /// Channels, and the number of viewers of each.
    pub counts: Vec<(Text, u64)>,
}

/// A broadcast is not a report that can be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReportError {
    /// The report is larger than any hub sends.
    #[error("the report of viewers is too large")]
    TooLarge,
    /// The checksum or the signature is wrong.
    #[error("the report of viewers is damaged, or has no valid signature")]
    Damaged(#[from] BatchError),
    /// A value is damaged.
    #[error("the report of viewers is not valid: {0}")]
    Invalid(#[from] WireError),
    /// A later version has written the report.
    #[error("the report of viewers has the version {0}, and this hub knows {VERSION}")]
    Version(u8),
    /// The report is of a hub that uses another log.
    #[error("the report of viewers belongs to another log")]
    OtherLog,
}

impl Report {
    /// Returns the report as a broadcast.
    #[must_use]
    pub fn encode(&self, codec: &Codec) -> Bytes {
        let Self { session, number, time, epoch, begins, ends, counts } = self;
        let mut flags = 0;
        flags |= if *begins { flag::BEGINS } else { 0 };
        flags |= if *ends { flag::ENDS } else { 0 };
        let mut content = BytesMut::new();
        content.put_slice(&[MAGIC, VERSION, flags]);
        content.put_u64_le(session.0.0);
        content.put_u64_le(*number);
        content.put_u64_le(time.0);
        content.text(epoch);
        content.number(counts.len() as u64);
        for (channel, viewers) in counts {
            content.text(channel);
            content.number(*viewers);
        }
        codec.sign(content)
    }

    /// Returns the report of a broadcast. Its texts share the memory.
    ///
    /// # Errors
    /// The broadcast is not a report of this cluster and version.
    pub fn decode(codec: &Codec, broadcast: &Bytes) -> Result<Self, ReportError> {
        if broadcast.len() > MAX_BROADCAST {
            return Err(ReportError::TooLarge);
        }
        let mut reader = Reader::new(codec.verify(broadcast)?);
        if reader.byte()? != MAGIC {
            return Err(ReportError::Damaged(BatchError::Damaged));
        }
        match reader.byte()? {
            VERSION => {}
            version => return Err(ReportError::Version(version)),
        }
        let flags = reader.byte()?;
        if flags > flag::BEGINS | flag::ENDS {
            return Err(WireError::Range.into());
        }
        let session = SessionId(Sequence(reader.fixed()?));
        let number = reader.fixed()?;
        let time = LogTime(reader.fixed()?);
        let epoch = reader.text()?;
        let count = reader.count(2)?;
        let mut counts = Vec::with_capacity(count);
        for _ in 0..count {
            counts.push((reader.text()?, read_viewers(&mut reader)?));
        }
        reader.end()?;
        let begins = flags & flag::BEGINS != 0;
        let ends = flags & flag::ENDS != 0;
        Ok(Self { session, number, time, epoch, begins, ends, counts })
    }
}

fn read_viewers(reader: &mut Reader) -> Result<u64, WireError> {
    let viewers = reader.number()?;
    if viewers > MAX_VIEWERS { Err(WireError::Range) } else { Ok(viewers) }
}
