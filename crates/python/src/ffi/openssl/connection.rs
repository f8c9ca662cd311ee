//! One connection: data in and out, without a Python call.
//!
//! CPython counterpart: `_ssl._SSLSocket.read` and `.write`.

use std::ffi::c_int;
use std::mem::MaybeUninit;

use super::super::call::import_attr;
use super::super::cell::Cell;
use super::super::class::Visit;
use super::super::error::Res;
use super::super::gil::critical_section;
use super::super::object::{Obj, Ref, Slot};
use super::super::once::Once;
use super::super::text::intern;
use super::bio::{self, Shared};
use super::capture::Capture;
use super::library::{Api, Ssl, api, is_available};

/// `SSL_get_app_data`: where `_ssl` keeps its object.
pub(super) const APP_DATA: c_int = 0;

const WANT_READ: c_int = 2;
const WANT_WRITE: c_int = 3;
const ZERO_RETURN: c_int = 6;

/// `SSL_RECEIVED_SHUTDOWN`, and no `close_notify` sent.
const ONLY_RECEIVED_SHUTDOWN: c_int = 2;

static SSL_SOCKET: Once<Ref> = Once::new();

/// What came of a read or a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moved {
    Bytes(usize),
    /// The peer has to say something first.
    Later,
    /// The peer has sent `close_notify`.
    Closed,
    /// OpenSSL has an error: the same call of `_ssl`'s, made at once, raises it.
    Failed,
}

pub struct Connection {
    /// The `_ssl._SSLSocket`, which owns `ssl`.
    raw: Slot,
    ssl: *mut Ssl,
    shared: Shared,
    /// A flight is on.
    is_flying: Cell<bool>,
    /// As the buffers had it last.
    has_failed: Cell<bool>,
}

// SAFETY: the pointer is used by flights only, which hold the critical section of `raw` and keep it alive.
#[cfg(Py_GIL_DISABLED)]
unsafe impl Send for Connection {}
// SAFETY: see above.
#[cfg(Py_GIL_DISABLED)]
unsafe impl Sync for Connection {}

/// Run `make`, which shall return an `ssl.SSLObject` on two `MemoryBIO`s, and take its connection over, if it `is_plain`. None if
/// that cannot be done for this object: then it is as `make` has made it.
///
/// # Errors
/// Those of `make` and `is_plain`.
pub fn wrap(make: impl FnOnce() -> Res, is_plain: impl FnOnce(&Obj) -> Res<bool>) -> Res<(Ref, Option<Connection>)> {
    if is_available()?.is_err() {
        return make().map(|object| (object, None));
    }
    let capture = Capture::begin();
    let object = make()?;
    if !is_plain(&object)? {
        return Ok((object, None));
    }
    let raw = object.getattr_opt(&*intern("_sslobj")?)?;
    if !SSL_SOCKET.is_set() {
        SSL_SOCKET.set(import_attr("_ssl", "_SSLSocket")?);
    }
    let is_its_kind = |raw: &Ref| raw.type_ptr() == SSL_SOCKET.get().as_ptr().cast();
    // Asked last: all that came before runs Python, which may free an `SSL`.
    let (Some(raw), Some(api), Some(ssl)) = (raw.filter(is_its_kind), api(), capture.last()) else {
        return Ok((object, None));
    };
    // SAFETY: OpenSSL has given this pointer as an `SSL*` during `make`, and has not said that it is freed. If it carries `raw` as
    // its application data, it is the one that `raw` owns.
    let is_its_own = unsafe { (api.SSL_get_ex_data)(ssl, APP_DATA) } == raw.as_ptr().cast();
    if !is_its_own {
        return Ok((object, None));
    }
    let shared = Shared::default();
    let ours = bio::new(api, shared.clone());
    if ours.is_null() {
        return Ok((object, None));
    }
    // SAFETY: a live SSL and a BIO whose only reference it takes over, for both directions; its old ones it lets go of.
    unsafe { (api.SSL_set_bio)(ssl, ours, ours) };
    Ok((
        object,
        Some(Connection { raw: Slot::of(raw), ssl, shared, is_flying: Cell::new(false), has_failed: Cell::new(false) }),
    ))
}

impl Connection {
    pub fn traverse(&self, visit: &Visit) {
        visit.slot(&self.raw);
    }

    /// Let go of the object; nothing is read or written any more. Whoever else has it finds it without a peer.
    pub fn detach(&self) {
        if let Some(mut buffers) = self.shared.lock() {
            buffers.detached = true;
            buffers.drop_all();
        }
        self.raw.clear();
    }

    /// Bytes received that OpenSSL has not read.
    pub fn unread(&self) -> usize {
        self.shared.lock().map_or(0, |buffers| buffers.unread())
    }

    /// Bytes to be sent that were put back, or that somebody else has made OpenSSL write.
    pub fn unsent(&self) -> usize {
        self.shared.lock().map_or(0, |buffers| buffers.outgoing.len())
    }

    /// Has there been no memory for what was received or is to be sent? Then the connection is broken.
    #[inline]
    pub fn has_failed(&self) -> bool {
        self.has_failed.get()
    }

    /// Bytes that were received, for a later flight.
    pub fn keep(&self, bytes: &[u8]) {
        if let Some(mut buffers) = self.shared.lock().filter(|_| !bytes.is_empty()) {
            buffers.keep(bytes);
            self.has_failed.set(buffers.failed);
        }
    }

    /// Bytes that could not be sent: the next flight's output begins with them.
    pub fn put_back(&self, bytes: &[u8]) {
        if let Some(mut buffers) = self.shared.lock() {
            // Before what OpenSSL was made to write meanwhile.
            buffers.put_back(bytes);
        }
    }

    /// Run `f`, which may read what was kept and then `input`. What is not read of `input` is kept. All that is to be sent is in
    /// `output` afterwards, which is empty before; without one it waits for the next flight that has one.
    ///
    /// None, and `f` is not run, inside of another flight of this connection, or when it is over; the input is kept.
    #[inline]
    pub fn fly<R>(&self, input: &[u8], output: Option<&mut Vec<u8>>, f: impl FnOnce(&Flight<'_>) -> R) -> Option<R> {
        struct Landing<'a>(&'a Connection, Option<&'a mut Vec<u8>>);
        impl Drop for Landing<'_> {
            fn drop(&mut self) {
                if let Some(mut buffers) = self.0.shared.lock() {
                    buffers.close_window();
                    self.0.has_failed.set(buffers.failed);
                    if let Some(output) = &mut self.1 {
                        **output = std::mem::take(&mut buffers.outgoing);
                    }
                }
                self.0.is_flying.set(false);
            }
        }
        let (Some(raw), Some(api)) = (self.raw.get(), api()) else {
            return None;
        };
        if self.is_flying.replace(true) {
            self.keep(input);
            return None;
        }
        let mut landing = Landing(self, output);
        {
            let mut buffers = self.shared.lock()?;
            if let Some(output) = landing.1.as_mut().filter(|_| buffers.outgoing.is_empty()) {
                std::mem::swap(&mut buffers.outgoing, *output);
            }
            // SAFETY: `input` is borrowed until this function returns, and `Landing` closes the window before, also when `f`
            // panics.
            unsafe { buffers.open_window(input) };
        }
        let outcome = critical_section(&raw, || f(&Flight { connection: self, raw: &raw, api }));
        drop(landing);
        Some(outcome)
    }
}

/// A connection while it may be read and written.
pub struct Flight<'a> {
    connection: &'a Connection,
    raw: &'a Obj,
    api: &'static Api,
}

impl Flight<'_> {
    /// The `_ssl._SSLSocket`: its methods read and write the same buffers.
    pub fn raw(&self) -> &Obj {
        self.raw
    }

    /// Plain text of one record, or as much of it as there is room for.
    #[inline]
    pub fn read(&self, room: &mut [MaybeUninit<u8>]) -> Moved {
        self.forget_stale_errors();
        let mut count = 0;
        // SAFETY: a live SSL (`Connection`), and room of this length.
        unsafe {
            let ssl = self.connection.ssl;
            let done = (self.api.SSL_read_ex)(ssl, room.as_mut_ptr().cast(), room.len(), &raw mut count);
            if done == 1 { Moved::Bytes(count) } else { self.why_not(done) }
        }
    }

    /// All of `bytes`, as records.
    #[inline]
    pub fn write(&self, bytes: &[u8]) -> Moved {
        self.forget_stale_errors();
        let mut count = 0;
        // SAFETY: a live SSL (`Connection`), and bytes of this length.
        unsafe {
            let ssl = self.connection.ssl;
            let done = (self.api.SSL_write_ex)(ssl, bytes.as_ptr().cast(), bytes.len(), &raw mut count);
            if done == 1 { Moved::Bytes(count) } else { self.why_not(done) }
        }
    }

    /// Received bytes that are not read, and plain text of a record that was read in part.
    #[inline]
    pub fn unread(&self) -> usize {
        // SAFETY: a live SSL (`Connection`).
        let pending = unsafe { (self.api.SSL_pending)(self.connection.ssl) };
        self.connection.unread() + usize::try_from(pending).unwrap_or(0)
    }

    /// An error that somebody else has left in this thread's queue would be taken for this connection's.
    #[inline]
    pub fn forget_stale_errors(&self) {
        // SAFETY: no precondition.
        unsafe {
            if (self.api.ERR_peek_error)() != 0 {
                (self.api.ERR_clear_error)();
            }
        }
    }

    /// The queue of errors is left as it is: `_ssl` reads it.
    #[cold]
    fn why_not(&self, done: c_int) -> Moved {
        let ssl = self.connection.ssl;
        // SAFETY: a live SSL (`Connection`), right after the call that failed.
        unsafe {
            match (self.api.SSL_get_error)(ssl, done) {
                WANT_READ | WANT_WRITE => Moved::Later,
                ZERO_RETURN if (self.api.SSL_get_shutdown)(ssl) == ONLY_RECEIVED_SHUTDOWN => Moved::Closed,
                _ => Moved::Failed,
            }
        }
    }
}
