//! Why a credential was refused.

/// Why a credential was refused. The sentences are meant for the client: they say nothing about
/// keys, issuers or channels that it did not say itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AuthError {
    /// Nothing was shown, and there is no anonymous role.
    #[error("no credential: send `Authorization: Bearer` with a token or an API key")]
    Missing,
    /// Not a token.
    #[error(
        "not a token of this hub: send `Bearer` with a JWT that has `exp`, and the claim of its \
         grants as an object of lists of patterns"
    )]
    Malformed,
    /// Another scheme than `Bearer`.
    #[error("the scheme of `Authorization` must be `Bearer`, with a token or an API key behind it")]
    Scheme,
    /// Something without the dots of a token, where only tokens are taken.
    #[error(
        "not a token: in `access_token` and in the cookie only a JWT is taken; send an API key as \
         `Authorization: Bearer` or `X-API-Key`"
    )]
    Misplaced,
    /// More bytes than any credential has.
    #[error("the credential is larger than 8 KiB")]
    TooLarge,
    /// No key of that name, or no such API key.
    #[error("no key that is trusted here has signed this, or it is not a known API key")]
    UnknownKey,
    /// The signature is not the key's.
    #[error("the signature is wrong")]
    WrongSignature,
    /// The token names another algorithm than its key has, or none.
    #[error("the algorithm of the token is not that of its key")]
    Algorithm,
    /// Its time is over.
    #[error("the token has expired: come back with a new one")]
    Expired,
    /// Its time has not come.
    #[error("the token is not valid yet")]
    NotYetValid,
    /// Nobody here trusts whoever made the token.
    #[error("the issuer of the token (`iss`) is not trusted here")]
    Issuer,
    /// The token is for somebody else.
    #[error("the token is for another audience (`aud`)")]
    Audience,
    /// Valid, and of no use.
    #[error("the token grants nothing here")]
    NoGrants,
}

impl AuthError {
    /// One cause of each code.
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

    /// The stable code of the cause: for clients, logs and metrics.
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
