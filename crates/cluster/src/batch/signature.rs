//! Signatures of messages, with a secret that the hubs of a cluster share.

use std::fmt;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::hmac;

/// Number of bytes of a signature: HMAC-SHA-256, cut to 128 bits.
pub(super) const BYTES: usize = 16;

/// Signs messages, so that an account of the log is not enough to write valid ones.
#[derive(Clone)]
pub(super) struct Signer(hmac::Key);

impl Signer {
    pub(super) fn new(secret: &[u8]) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, secret))
    }

    pub(super) fn sign(&self, content: &[u8]) -> [u8; BYTES] {
        let tag = hmac::sign(&self.0, content);
        let mut signature = [0; BYTES];
        for (byte, signed) in signature.iter_mut().zip(tag.as_ref()) {
            *byte = *signed;
        }
        signature
    }

    /// Returns the fingerprint of the secret. No message has this content.
    pub(super) fn fingerprint(&self) -> [u8; 4] {
        let [a, b, c, d, ..] = self.sign(b"fanfare");
        [a, b, c, d]
    }

    pub(super) fn verify(&self, content: &[u8], signature: &[u8]) -> bool {
        verify_slices_are_equal(&self.sign(content), signature).is_ok()
    }
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Signer")
    }
}
