//! The OpenSSL that the interpreter's own `_ssl` uses, called directly: reading and writing of TLS data without a Python
//! call and without a copy through `MemoryBIO`.
//!
//! CPython counterpart: `Modules/_ssl.c`. Everything but data (handshake, shutdown, errors, certificates) goes through
//! `_ssl`'s own methods, so it is exactly theirs.
//!
//! | file           | one idea                                                            |
//! |----------------|---------------------------------------------------------------------|
//! | [`library`]    | find the functions, and prove that they are the right ones          |
//! | [`capture`]    | learn the `SSL*` of an `SSLObject`: OpenSSL itself tells it          |
//! | [`bio`]        | a BIO on buffers of ours                                             |
//! | [`memory_bio`] | `_ssl`'s own buffers, for where none of this can be had                  |
//! | [`connection`] | one connection: read, write, and what it takes to call them safely  |
//!
//! Invariants:
//! * No structure of CPython's or OpenSSL's is read, and no pointer is dereferenced that OpenSSL has not given us as an `SSL*`
//!   and that does not carry the Python object as its application data.
//! * The extension is never unloaded: OpenSSL keeps pointers to functions of it.
//! * OpenSSL's functions are called by attached threads only. With a GIL that excludes everybody else but `_ssl`'s methods in
//!   another thread, which let go of it; [`connection::Flight`] keeps those of ours apart, a program's own are its matter, as
//!   in asyncio. Without a GIL the object's critical section excludes them, as in `_ssl`.

mod bio;
mod capture;
mod connection;
mod library;
mod memory_bio;

pub use connection::{Connection, Flight, Moved, wrap};
pub use library::is_available;
pub use memory_bio::MemoryBio;
