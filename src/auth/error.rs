//! The reasons for which credentials are refused.

/// The reason for which a credential was refused. The messages are for the client: they reveal
/// nothing about keys, issuers or channels that the client did not send.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AuthError {
    /// No credential, and there is no anonymous role.
    #[error("no credential: send `Authorization: Bearer` with a token or an API key")]
    Missing,
    /// Not a token.
    #[error(
        "not a token of this hub: send `Bearer` with a JWT that has `exp`, and the claim of its \
         grants as an object of lists of patterns"
    )]
    Malformed,
    /// A scheme other than `Bearer`.
    #[error("the scheme of `Authorization` must be `Bearer`, with a token or an API key after it")]
    Scheme,
    /// A text without the dots of a token, where only tokens are accepted.
    #[error(
        "not a token: in `access_token` and in the cookie only a JWT is taken; send an API key as \
         `Authorization: Bearer` or `X-API-Key`"
    )]
    Misplaced,
    /// More bytes than any valid credential has.
    #[error("the credential is larger than 8 KiB")]
    TooLarge,
    /// No key of that name, or no such API key.
    #[error("no key that is trusted here has signed this, or it is not a known API key")]
    UnknownKey,
    /// The signature does not match the key.
    #[error("the signature is wrong")]
    WrongSignature,
    /// The token names another algorithm than that of its key, or none.
    #[error("the algorithm of the token is not that of its key")]
    Algorithm,
    /// The token has expired.
    #[error("the token has expired: come back with a new one")]
    Expired,
    /// Its `nbf` is in the future.
    #[error("the token is not valid yet")]
    NotYetValid,
    /// The token's issuer is not trusted.
    #[error("the issuer of the token (`iss`) is not trusted here")]
    Issuer,
    /// The token is for another audience.
    #[error("the token is for another audience (`aud`)")]
    Audience,
    /// A valid token without grants here.
    #[error("the token grants nothing here")]
    NoGrants,
}

impl AuthError {
    /// One value per code.
    pub const ALL: [Self; 11] = [
        Self::Missing,
        Self::Malformed,
        Self::TooLarge,
        Self::UnknownKey,
        Self::WrongSignature,
        Self::Algorithm,
        Self::Expired,
        Self::NotYetValid,
        Self::Issuer,
        Self::Audience,
        Self::NoGrants,
    ];

    /// Returns the stable code of the reason: for clients, logs and metrics.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Malformed | Self::Scheme | Self::Misplaced => "malformed",
            Self::TooLarge => "too_large",
            Self::UnknownKey => "unknown_key",
            Self::WrongSignature => "wrong_signature",
            Self::Algorithm => "algorithm",
            Self::Expired => "expired",
            Self::NotYetValid => "not_yet_valid",
            Self::Issuer => "issuer",
            Self::Audience => "audience",
            Self::NoGrants => "no_grants",
        }
    }
}
