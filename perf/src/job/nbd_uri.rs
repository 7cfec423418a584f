//! Where an NBD server listens, as the NBD project writes it (`doc/uri.md` there): over TCP or a Unix
//! socket, without TLS.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// An NBD server and one of its exports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NbdUri {
    /// Where it listens.
    pub place: NbdPlace,
    /// Which export; the default one has no name.
    pub export: String,
}

/// Where an NBD server listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NbdPlace {
    /// `nbd://HOST:PORT/`
    Tcp {
        /// Name or address.
        host: String,
        /// Port.
        port: u16,
    },
    /// `nbd+unix:///?socket=PATH`
    Unix(PathBuf),
}

/// Not an NBD URI, or one of a kind that isn't spoken here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not nbd://HOST[:PORT]/[EXPORT] or nbd+unix:///[EXPORT]?socket=PATH")]
pub struct NotAnNbdUri;

impl FromStr for NbdUri {
    type Err = NotAnNbdUri;

    fn from_str(text: &str) -> Result<NbdUri, NotAnNbdUri> {
        let (scheme, rest) = text.split_once("://").ok_or(NotAnNbdUri)?;
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, export) = rest.split_once('/').unwrap_or((rest, ""));
        let export = decode(export)?;
        if export.len() > EXPORT_BYTES_MAX {
            return Err(NotAnNbdUri);
        }
        let place = match scheme {
            "nbd" if query.is_empty() => tcp(authority)?,
            "nbd+unix" if authority.is_empty() => {
                let path = query.strip_prefix("socket=").filter(|path| !path.is_empty());
                NbdPlace::Unix(decode(path.ok_or(NotAnNbdUri)?)?.into())
            }
            _ => return Err(NotAnNbdUri),
        };
        Ok(NbdUri { place, export })
    }
}

impl fmt::Display for NbdPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NbdPlace::Tcp { host, port } => write!(f, "{host}:{port}"),
            NbdPlace::Unix(path) => write!(f, "{}", path.display()),
        }
    }
}

/// `HOST`, `HOST:PORT`, `[::1]:PORT`.
fn tcp(authority: &str) -> Result<NbdPlace, NotAnNbdUri> {
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => {
            let (host, port) = rest.split_once(']').ok_or(NotAnNbdUri)?;
            (host, if port.is_empty() { None } else { Some(port.strip_prefix(':').ok_or(NotAnNbdUri)?) })
        }
        None => match authority.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (authority, None),
        },
    };
    let port = port.map_or(Ok(PORT_DEFAULT), |port| port.parse().map_err(|_| NotAnNbdUri))?;
    if host.is_empty() || host.contains('@') {
        return Err(NotAnNbdUri);
    }
    Ok(NbdPlace::Tcp { host: host.to_owned(), port })
}

/// Undoes `%20`.
fn decode(text: &str) -> Result<String, NotAnNbdUri> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let byte;
        (byte, rest) = match (first, after) {
            (b'%', [high, low, after @ ..]) => {
                let digit = |digit: u8| char::from(digit).to_digit(16).ok_or(NotAnNbdUri);
                ((digit(*high)? * 16 + digit(*low)?) as u8, after)
            }
            (b'%', _) => return Err(NotAnNbdUri),
            _ => (*first, after),
        };
        bytes.push(byte);
    }
    String::from_utf8(bytes).map_err(|_| NotAnNbdUri)
}

/// Registered for NBD.
const PORT_DEFAULT: u16 = 10809;
/// Longest string of the protocol.
const EXPORT_BYTES_MAX: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    fn unix(path: &str, export: &str) -> NbdUri {
        NbdUri { place: NbdPlace::Unix(path.into()), export: export.into() }
    }

    fn tcp(host: &str, port: u16, export: &str) -> NbdUri {
        NbdUri { place: NbdPlace::Tcp { host: host.into(), port }, export: export.into() }
    }

    #[test]
    fn both_kinds_are_understood() {
        for (text, expected) in [
            ("nbd+unix:///?socket=/tmp/socket", unix("/tmp/socket", "")),
            ("nbd+unix:///a/b%20c?socket=x%3f", unix("x?", "a/b c")),
            ("nbd://localhost", tcp("localhost", 10809, "")),
            ("nbd://localhost:1/vm1", tcp("localhost", 1, "vm1")),
            ("nbd://[::1]:2/", tcp("::1", 2, "")),
            ("nbd://[::1]", tcp("::1", 10809, "")),
        ] {
            assert_eq!(text.parse(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn everything_else_is_refused() {
        for text in [
            "",
            "nbd",
            "nbd://",
            "nbd://:1/",
            "nbd://h:x/",
            "nbd://h:65536/",
            "nbd://[::1/",
            "nbd://[::1]2/",
            "nbd://me@h/",
            "nbd://h/%4",
            "nbd://h/%zz",
            "nbd://h/%ff",
            "nbds://h/",
            "nbd+unix:///",
            "nbd+unix:///?socket=",
            "nbd+unix://h/?socket=/s",
            "nbd://h/?socket=/s",
            "http://h/",
        ] {
            assert_eq!(text.parse::<NbdUri>(), Err(NotAnNbdUri), "{text}");
        }
    }
}
