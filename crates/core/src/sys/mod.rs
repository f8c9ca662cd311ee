//! The unsafe fence: one file per kernel mechanism, safe functions out.
//!
//! CPython counterpart: the C modules `select`, `_socket`, `time`, `posix`.
//!
//! A platform supplies the modules below under these names; there is no trait, the name is the
//! interface. Linux has its seat in `linux/`; kqueue and IOCP find theirs beside it.
//!
//! * `clock`: `monotonic_s`, `monotonic_coarse_s`, `COARSE_LAG_S`, `resolution_s`
//! * `epoll`: `Epoll`, `Event`, `Interest`, `Timeout` (a readiness set: level-triggered, edges on demand)
//! * `file`: `read`, `write`, `write_vectored`, `kind`, `set_nonblocking`
//! * `outlet`: `Outlet` (a descriptor for `signal.set_wakeup_fd` that is never closed)
//! * `pipe`: `WakePipe` (a descriptor other threads and signal handlers write a byte into)
//! * `process`: `open_pidfd`, `take_status`, `is_unknown` (children)
//! * `socket`: `recv`, `recv_from`, `send`, `send_to`, `send_vectored`, `accept`, `connect`, ...
//!
//! Invariants: nothing outside this folder is unsafe; a descriptor is an `OwnedFd` at birth; a raw
//! descriptor number that comes from Python may be closed or negative, and the answer to both is
//! `EBADF`, never a panic.

mod address;
pub use address::Address;

#[cfg(target_os = "linux")]
mod linux;
#[cfg(target_os = "linux")]
pub use linux::{clock, epoll, file, outlet, pipe, process, socket};

#[cfg(not(target_os = "linux"))]
compile_error!("aioxide-core has no sys/ for this platform yet: sys/mod.rs lists what it must supply");
