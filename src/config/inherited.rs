//! Inherited sockets: they listened before the hub was started, and stay open after it has left.
//! The parent process passes them, as systemd does (sd_listen_fds(3)).
//!
//! They are part of this module because they are described by environment variables, which are read
//! only here.

use std::io;
use std::net::TcpListener;

use listenfd::ListenFd;
use socket2::SockRef;

use super::variable;

/// The variable with the names of the sockets, separated by colons.
const NAMES: &str = "LISTEN_FDNAMES";

/// Names that a parent process gives to sockets without a name.
const NAMELESS: [&str; 2] = ["", "unknown"];

/// The suffix of systemd's socket units.
const UNIT: &str = ".socket";

/// The listening sockets that the process was started with.
#[derive(Debug, Default)]
pub struct Inherited {
    /// The socket for `server.listen`.
    pub public: Option<TcpListener>,
    /// The socket for `server.admin_listen`.
    pub admin: Option<TcpListener>,
}

/// The reason for which a hub cannot serve on its inherited sockets.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum InheritError {
    /// More sockets than listeners.
    #[error(
        "{0} sockets were inherited, and a hub has two listeners: hand over one socket named \
         `public`, one named `admin`, or both"
    )]
    TooMany(usize),
    /// The sockets cannot be assigned to the listeners.
    #[error(
        "{NAMES} must name each of the {sockets} inherited sockets, as in `public:admin`, and \
         names {names}"
    )]
    Names {
        /// Number of sockets.
        sockets: usize,
        /// Number of names.
        names: usize,
    },
    /// A name that is not known.
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
    /// Not a listening TCP socket.
    #[error(
        "the inherited socket for `{key}` is {found}: hand over a TCP socket that listens, by \
         ListenStream= with an address and a port, and Accept=no"
    )]
    WrongKind {
        /// The setting that the socket replaces.
        key: &'static str,
        /// The kind of the socket.
        found: String,
    },
}

/// A listener of the hub.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ListenerPlace {
    Public,
    Admin,
}

impl ListenerPlace {
    /// In the order in which sockets without a name are assigned.
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
    /// Takes over the sockets that were passed to this process: usually none. Its child processes
    /// inherit neither the sockets nor the variables that announce them.
    ///
    /// Call it while the process has a single thread: it removes environment variables.
    ///
    /// # Errors
    /// There are sockets that a hub cannot serve on.
    pub fn from_environment() -> Result<Self, InheritError> {
        let names = variable(NAMES);
        // The variable with the names is not removed. Without the others it has no effect.
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

/// Assigns the sockets to listeners.
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

/// Returns whether the socket has no name of its own: systemd then uses that of the unit.
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

/// Returns the kind of a socket that is not a TCP listener.
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
