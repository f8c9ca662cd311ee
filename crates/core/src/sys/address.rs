//! A socket address as the core names it; the public name is [`crate::net::Address`].
//!
//! CPython counterpart: the address tuples of `socket` (`getsockaddrarg`, `makesockaddr`).
//!
//! Invariants: `flowinfo` and `scope_id` are in host order, as in Python's 4-tuples; a Unix path is
//! bytes and not UTF-8. The type lives here and not in `net/` because `sys::socket` needs it and
//! dependencies point down; `sockaddr` bytes never leave `sys/`.

use std::io;
use std::net::{SocketAddr, SocketAddrV4, SocketAddrV6};

use rustix::net::{AddressFamily, SocketAddrAny, SocketAddrUnix};

/// The address of a socket of the families asyncio connects and binds.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Address {
    /// `AF_INET`
    V4(SocketAddrV4),
    /// `AF_INET6`
    V6(SocketAddrV6),
    /// `AF_UNIX` with a path in the file system, without its NUL.
    UnixPath(Vec<u8>),
    /// `AF_UNIX` in Linux's abstract name space, without the leading NUL.
    UnixAbstract(Vec<u8>),
    /// `AF_UNIX` without a name: what an unbound peer reports.
    UnixUnnamed,
}

impl Address {
    /// The `AF_*` number.
    pub fn family(&self) -> i32 {
        let family = match self {
            Self::V4(_) => AddressFamily::INET,
            Self::V6(_) => AddressFamily::INET6,
            Self::UnixPath(_) | Self::UnixAbstract(_) | Self::UnixUnnamed => AddressFamily::UNIX,
        };
        i32::from(family.as_raw())
    }

    /// Fails with `ENAMETOOLONG` or `EINVAL` where a Unix name does not fit `sun_path`.
    pub(super) fn to_sockaddr(&self) -> io::Result<SocketAddrAny> {
        Ok(match self {
            Self::V4(v4) => SocketAddrAny::from(*v4),
            Self::V6(v6) => SocketAddrAny::from(*v6),
            Self::UnixPath(path) => SocketAddrUnix::new(path.as_slice())?.into(),
            Self::UnixAbstract(name) => SocketAddrUnix::new_abstract_name(name)?.into(),
            Self::UnixUnnamed => SocketAddrUnix::new_unnamed().into(),
        })
    }

    /// Fails with `EAFNOSUPPORT` for a family the core has no word for.
    pub(super) fn from_sockaddr(any: SocketAddrAny) -> io::Result<Self> {
        if any.address_family() == AddressFamily::UNIX {
            // rustix reads a bare family as an abstract name of no bytes, which is another address.
            if any.addr_len() as usize <= size_of::<u16>() {
                return Ok(Self::UnixUnnamed);
            }
            let unix = SocketAddrUnix::try_from(any)?;
            return Ok(match unix.path_bytes() {
                Some(path) => Self::UnixPath(path.to_vec()),
                None => Self::UnixAbstract(unix.abstract_name().unwrap_or_default().to_vec()),
            });
        }
        Ok(match SocketAddr::try_from(any)? {
            SocketAddr::V4(v4) => Self::V4(v4),
            SocketAddr::V6(v6) => Self::V6(v6),
        })
    }
}

impl From<SocketAddr> for Address {
    fn from(address: SocketAddr) -> Self {
        match address {
            SocketAddr::V4(v4) => Self::V4(v4),
            SocketAddr::V6(v6) => Self::V6(v6),
        }
    }
}
