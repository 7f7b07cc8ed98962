//! The reasons for which credentials are refused.

use crate::word_enum::words;

words! {
    /// The reason for which a credential was refused. The messages are for the client: they reveal
    /// nothing about keys, issuers or channels that the client did not send. The words are stable:
    /// for clients, logs and metrics.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
    pub enum AuthError {
        /// No credential, and there is no anonymous role.
        #[error("no credential: send a token or an API key")]
        Missing = "missing",
        /// Not a token.
        #[error(
            "not a token of this hub: send a JWT that has `exp`, and the claim of \
             its grants as an object of lists of patterns"
        )]
        Malformed = "malformed",
        /// A scheme other than `Bearer`.
        #[error("the scheme must be `Bearer`, with a token or an API key after it")]
        Scheme = "malformed",
        /// A text without the dots of a token, where only tokens are accepted.
        #[error("not a token: only a JWT is taken here")]
        Misplaced = "malformed",
        /// More bytes than any valid credential has.
        #[error("the credential is larger than 8 KiB")]
        TooLarge = "too_large",
        /// No key of that name, or no such API key.
        #[error("not signed by a trusted key, and not a known API key")]
        UnknownKey = "unknown_key",
        /// The signature does not match the key.
        #[error("the signature is wrong")]
        WrongSignature = "wrong_signature",
        /// The token names another algorithm than that of its key, or none.
        #[error("the algorithm of the token is not that of its key")]
        Algorithm = "algorithm",
        /// The token has expired.
        #[error("the token has expired: send a new one")]
        Expired = "expired",
        /// Its `nbf` is in the future.
        #[error("the token is not valid yet")]
        NotYetValid = "not_yet_valid",
        /// The token's issuer is not trusted.
        #[error("the issuer of the token (`iss`) is not trusted")]
        Issuer = "issuer",
        /// The token is for another audience.
        #[error("the token is for another audience (`aud`)")]
        Audience = "audience",
        /// A valid token without grants here.
        #[error("the token grants nothing on this hub")]
        NoGrants = "no_grants",
    }
}
