//! Batches as messages of the log.
//!
//! All integers are little-endian. A message is
//!
//! ```text
//! u8 0xFA  u8 version  u8 flags  u64 session  u64 number  body…  [16 bytes HMAC]  u32 CRC-32
//! ```
//!
//! The body is the commands of the batch. A batch that is larger than a message is sent in parts,
//! each with a number of its own: the bodies of the parts together are the commands.

mod commands;
mod signature;
#[cfg(test)]
mod tests;
mod texts;
pub(crate) mod wire;

use bytes::{BufMut, Bytes, BytesMut};

pub use self::commands::{CommandError, MAX_WEIGHT, read_commands, write_command};
use self::signature::Signer;
pub use self::texts::check_texts;
pub use self::wire::WireError;
use crate::command::SessionId;
use crate::log::Sequence;

const MAGIC: u8 = 0xFA;
const VERSION: u8 = 1;
const HEADER_BYTES: usize = 3 + 8 + 8;
const CHECKSUM_BYTES: usize = 4;

/// Bytes of a message that are not its body, at most.
pub const OVERHEAD: usize = HEADER_BYTES + signature::BYTES + CHECKSUM_BYTES;

mod flag {
    /// More parts of the batch follow.
    pub(super) const MORE: u8 = 1;
    /// Earlier parts of the batch precede.
    pub(super) const CONTINUES: u8 = 2;
    /// The message has a signature.
    pub(super) const SIGNED: u8 = 4;
}

/// The header of a message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// The session of the sender; zero for a hello, which begins one.
    pub session: SessionId,
    /// The number of the message in its session, counted from one; zero for a hello.
    pub number: u64,
    /// Whether more parts of the batch follow.
    pub more: bool,
    /// Whether earlier parts of the batch precede.
    pub continues: bool,
}

/// A message is not a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BatchError {
    /// The message is not one of a cluster, or is damaged.
    #[error("the message is no batch, or is damaged")]
    Damaged,
    /// A later version has written the message: this hub is too old for the log.
    #[error("the message has the version {0}, and this hub knows {VERSION}")]
    Version(u8),
    /// The signature is not valid, or is missing.
    #[error("the message has no valid signature of the cluster's secret")]
    Signature,
    /// The message is signed, and this hub has no secret.
    #[error("the message is signed, and this hub has no secret to check it")]
    NoSecret,
}

/// Encodes and decodes messages, with a signature if the cluster has a secret.
#[derive(Clone, Debug, Default)]
pub struct Codec {
    signer: Option<Signer>,
}

impl Codec {
    /// Returns a codec; all hubs of a cluster have the same secret, or none.
    #[must_use]
    pub fn new(secret: Option<&[u8]>) -> Self {
        Self { signer: secret.map(Signer::new) }
    }

    /// Returns a text that differs between secrets, and does not reveal them; nothing if there is
    /// no secret.
    #[must_use]
    pub fn fingerprint(&self) -> Option<Box<str>> {
        let fingerprint = self.signer.as_ref()?.fingerprint();
        Some(format!("{:08x}", u32::from_be_bytes(fingerprint)).into())
    }

    /// Returns a message.
    #[must_use]
    pub fn encode(&self, header: Header, body: &[u8]) -> Bytes {
        let Header { session, number, more, continues } = header;
        let mut flags = 0;
        flags |= if more { flag::MORE } else { 0 };
        flags |= if continues { flag::CONTINUES } else { 0 };
        flags |= if self.signer.is_some() { flag::SIGNED } else { 0 };
        let mut message = BytesMut::with_capacity(body.len() + OVERHEAD);
        message.put_slice(&[MAGIC, VERSION, flags]);
        message.put_u64_le(session.0.0);
        message.put_u64_le(number);
        message.put_slice(body);
        self.sign(message)
    }

    /// Adds the signature, if the cluster has a secret, and the checksum to what is sent. Its first
    /// byte says what it is, so that none of one kind is valid as another.
    #[must_use]
    pub fn sign(&self, mut content: BytesMut) -> Bytes {
        if let Some(signer) = &self.signer {
            let signature = signer.sign(&content);
            content.put_slice(&signature);
        }
        let checksum = crc32fast::hash(&content);
        content.put_u32_le(checksum);
        content.freeze()
    }

    /// Returns the header and the body of a message. The body shares its memory.
    ///
    /// # Errors
    /// The message is not a batch of this cluster and version.
    pub fn decode(&self, message: &Bytes) -> Result<(Header, Bytes), BatchError> {
        let content = self.verify(message)?;
        let header = self.decode_header(&content)?;
        Ok((header, content.slice(HEADER_BYTES..)))
    }

    /// Returns what was sent, without its signature and checksum. It shares the memory.
    ///
    /// # Errors
    /// The checksum or the signature is wrong.
    pub fn verify(&self, message: &Bytes) -> Result<Bytes, BatchError> {
        let (checked, checksum) = message.split_last_chunk().ok_or(BatchError::Damaged)?;
        if crc32fast::hash(checked) != u32::from_le_bytes(*checksum) {
            return Err(BatchError::Damaged);
        }
        let signed_end = match &self.signer {
            None => checked.len(),
            Some(signer) => {
                let (content, signature) = checked
                    .split_last_chunk::<{ signature::BYTES }>()
                    .ok_or(BatchError::Signature)?;
                if !signer.verify(content, signature) {
                    return Err(BatchError::Signature);
                }
                content.len()
            }
        };
        Ok(message.slice(..signed_end))
    }

    fn decode_header(&self, content: &[u8]) -> Result<Header, BatchError> {
        let [MAGIC, version, flags, rest @ ..] = content else { return Err(BatchError::Damaged) };
        if *version != VERSION {
            return Err(BatchError::Version(*version));
        }
        if *flags >= flag::SIGNED << 1 {
            return Err(BatchError::Damaged);
        }
        match (flags & flag::SIGNED != 0, &self.signer) {
            (false, Some(_)) => return Err(BatchError::Signature),
            (true, None) => return Err(BatchError::NoSecret),
            _ => {}
        }
        let (session, rest) = rest.split_first_chunk().ok_or(BatchError::Damaged)?;
        let (number, _) = rest.split_first_chunk().ok_or(BatchError::Damaged)?;
        Ok(Header {
            session: SessionId(Sequence(u64::from_le_bytes(*session))),
            number: u64::from_le_bytes(*number),
            more: flags & flag::MORE != 0,
            continues: flags & flag::CONTINUES != 0,
        })
    }
}
