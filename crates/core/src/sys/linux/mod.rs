//! Linux behind the names that `sys` promises: one file per mechanism.
//!
//! CPython counterpart: the `#ifdef` branches of the C modules. rustix comes first, libc only where
//! rustix lacks something (today: nowhere).

pub mod clock;
pub mod epoll;
mod fd;
pub mod file;
pub mod outlet;
pub mod pipe;
pub mod process;
pub mod socket;
