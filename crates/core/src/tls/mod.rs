//! The life of a TLS connection as a state machine, and the framing of its records. No cryptography: that is OpenSSL's.
//!
//! CPython counterpart: the states of `asyncio.sslproto.SSLProtocol`; for the framing none, asyncio asks OpenSSL after
//! each receive.

mod machine;
mod records;

pub use machine::{AtClose, AtEof, AtInput, Machine, Phase};
pub use records::{RECORD_BYTES, Records};
