//! Sockets that listened before the hub was there, and go on when it has left: whoever starts the
//! hub may hand them to it, as systemd does (sd_listen_fds(3)).
//!
//! Here, because it is the environment that tells of them, and nobody else reads that.

use std::io;
use std::net::TcpListener;

use listenfd::ListenFd;
use socket2::SockRef;

use super::variable;

/// Where the names of the sockets stand, between colons.
const NAMES: &str = "LISTEN_FDNAMES";

/// What a socket is called by those who hand over sockets and no names.
const NAMELESS: [&str; 2] = ["", "unknown"];

/// What the names of systemd's units for sockets end with.
const UNIT: &str = ".socket";

/// The listening sockets that the process was started with.
#[derive(Debug, Default)]
pub struct Inherited {
    /// The one for `server.listen`.
    pub public: Option<TcpListener>,
    /// The one for `server.admin_listen`.
    pub admin: Option<TcpListener>,
}

/// Why a hub cannot serve on what it was started with.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum InheritError {
    /// More than there are listeners.
    #[error(
        "{0} sockets were inherited, and a hub has two listeners: hand over one socket named \
         `public`, one named `admin`, or both"
    )]
    TooMany(usize),
    /// It cannot be told which is which.
    #[error(
        "{NAMES} must name each of the {sockets} inherited sockets, as in `public:admin`, and \
         names {names}"
    )]
    Names {
        /// How many there are.
        sockets: usize,
        /// How many of them have a name.
        names: usize,
    },
    /// A name that says nothing to a hub.
    #[error(
        "an inherited socket is named `{0}`: set FileDescriptorName=public if it is for \
         `server.listen`, or FileDescriptorName=admin if it is for `server.admin_listen`"
    )]
    UnknownName(String),
    /// Two sockets for one listener.
    #[error(
        "two inherited sockets are for `{0}`, which takes one: leave one ListenStream= in its \
         unit, and name the socket of each unit, `public` or `admin`, by FileDescriptorName="
    )]
    Twice(&'static str),
    /// systemd orders the sockets of one unit, not those of two.
    #[error(
        "the sockets of `{0}` and `{1}` were inherited, and come in no order: set \
         FileDescriptorName=public in one unit, and FileDescriptorName=admin in the other"
    )]
    NoOrder(String, String),
    /// Nothing that a connection could come from.
    #[error(
        "the inherited socket for `{key}` is {found}: hand over a TCP socket that listens, by \
         ListenStream= with an address and a port, and Accept=no"
    )]
    WrongKind {
        /// The setting that it stands in for.
        key: &'static str,
        /// What it is.
        found: String,
    },
}

/// The listeners of a hub.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ListenerPlace {
    Public,
    Admin,
}

impl ListenerPlace {
    /// In the order in which sockets without a name are taken.
    const ALL: [Self; 2] = [Self::Public, Self::Admin];

    fn name(self) -> &'static str {
        match self {
            Self::Public => "public",
            Self::Admin => "admin",
        }
    }

    fn key(self) -> &'static str {
        match self {
            Self::Public => "server.listen",
            Self::Admin => "server.admin_listen",
        }
    }
}

impl Inherited {
    /// Takes over the sockets that were meant for this process: none, as a rule. Nothing that it
    /// starts will get them, or be told of them.
    ///
    /// Call it while the process has a single thread: it takes variables out of the environment.
    ///
    /// # Errors
    /// There are sockets, and they are not what a hub can serve on.
    pub fn from_environment() -> Result<Self, InheritError> {
        let names = variable(NAMES);
        // Of the variables, that with the names stays. Without the others it says nothing.
        let mut sockets = ListenFd::from_env();
        let places = places(sockets.len(), names.as_deref())?;
        let mut inherited = Self::default();
        for (index, place) in places.into_iter().enumerate() {
            let listener = Some(take(&mut sockets, index, place)?);
            match place {
                ListenerPlace::Public => inherited.public = listener,
                ListenerPlace::Admin => inherited.admin = listener,
            }
        }
        Ok(inherited)
    }
}

/// Which socket is for what.
fn places(sockets: usize, names: Option<&str>) -> Result<Vec<ListenerPlace>, InheritError> {
    if sockets > ListenerPlace::ALL.len() {
        return Err(InheritError::TooMany(sockets));
    }
    let names: Vec<&str> = match names {
        Some(names) if sockets > 0 => names.split(':').collect(),
        _ => vec![""; sockets],
    };
    if names.len() != sockets {
        return Err(InheritError::Names { sockets, names: names.len() });
    }
    let mut places = Vec::new();
    let mut nameless: Vec<&str> = Vec::new();
    for name in names {
        let place = match ListenerPlace::ALL.into_iter().find(|place| place.name() == name) {
            Some(place) => place,
            None if is_nameless(name) => {
                nameless.push(name);
                ListenerPlace::ALL[nameless.len() - 1]
            }
            None => return Err(InheritError::UnknownName(name.to_owned())),
        };
        if places.contains(&place) {
            return Err(InheritError::Twice(place.key()));
        }
        places.push(place);
    }
    match nameless[..] {
        [one, other] if one != other => Err(InheritError::NoOrder(one.into(), other.into())),
        _ => Ok(places),
    }
}

/// A socket that is given no name has that of its unit.
fn is_nameless(name: &str) -> bool {
    NAMELESS.contains(&name) || name.ends_with(UNIT)
}

fn take(
    sockets: &mut ListenFd,
    index: usize,
    place: ListenerPlace,
) -> Result<TcpListener, InheritError> {
    let wrong = |found: String| InheritError::WrongKind { key: place.key(), found };
    let taken = match sockets.take_tcp_listener(index) {
        Ok(taken) => taken.ok_or_else(|| wrong("taken already".into()))?,
        Err(error) => return Err(wrong(kind(sockets, index, &error))),
    };
    match SockRef::from(&taken).is_listener() {
        Ok(true) => Ok(taken),
        Ok(false) => Err(wrong("a TCP socket that does not listen".into())),
        Err(error) => Err(wrong(format!("in doubt ({error})"))),
    }
}

/// What it is, if not a TCP socket.
fn kind(sockets: &mut ListenFd, index: usize, error: &io::Error) -> String {
    if sockets.take_udp_socket(index).is_ok() {
        "a UDP socket".into()
    } else if sockets.take_unix_listener(index).is_ok() {
        "a Unix socket".into()
    } else {
        format!("none ({error})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_find_their_places_by_name_or_else_by_order() {
        use ListenerPlace::{Admin, Public};
        for (sockets, names, expected) in [
            (0, None, vec![]),
            (0, Some("public"), vec![]),
            (1, None, vec![Public]),
            (2, None, vec![Public, Admin]),
            (1, Some(""), vec![Public]),
            (1, Some("fanfare.socket"), vec![Public]),
            (2, Some("fanfare.socket:fanfare.socket"), vec![Public, Admin]),
            (2, Some("unknown:unknown"), vec![Public, Admin]),
            (1, Some("public"), vec![Public]),
            (1, Some("admin"), vec![Admin]),
            (2, Some("public:admin"), vec![Public, Admin]),
            (2, Some("admin:public"), vec![Admin, Public]),
            (2, Some("admin:fanfare.socket"), vec![Admin, Public]),
        ] {
            assert_eq!(places(sockets, names), Ok(expected), "{sockets} {names:?}");
        }
    }
}
