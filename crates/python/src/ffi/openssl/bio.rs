//! A BIO on buffers of ours: OpenSSL reads records where the socket's bytes lie, and writes them where they are sent from.
//!
//! CPython counterpart: `ssl.MemoryBIO`. The callbacks run on the thread that is inside of OpenSSL, which may have let go of the
//! interpreter (`do_handshake`); they touch no Python object. The buffers are behind a mutex, because a program
//! may call the `ssl_object` in another thread; nobody waits for it in practice, and nobody holds it while calling out.

use std::ffi::{CStr, c_char, c_int, c_long, c_void};
use std::ptr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};

use super::super::once::Once;
use super::library::{Api, Bio, BioMethod, api};

/// `BIO_FLAGS_RWS | BIO_FLAGS_SHOULD_RETRY`
const RETRY: c_int = 0x0f;
/// `BIO_FLAGS_READ | BIO_FLAGS_SHOULD_RETRY`
const RETRY_READ: c_int = 0x09;

/// `BIO_TYPE_SOURCE_SINK`
const SOURCE_SINK: c_int = 0x0400;

const PENDING: c_int = 10;
const FLUSH: c_int = 11;
const WRITE_PENDING: c_int = 13;

const NAME: &CStr = c"aioxide";

/// What one connection receives and sends.
#[derive(Default)]
pub(super) struct Buffers {
    /// Received, not read yet, and older than the window.
    pub(super) kept: Vec<u8>,
    /// How much of `kept` is read.
    kept_read: usize,
    /// The part of a receive buffer that is not read yet. It lies in memory that a `Flight` borrows.
    window: Window,
    /// Records to be sent.
    pub(super) outgoing: Vec<u8>,
    /// The connection is over: whatever is written goes nowhere.
    pub(super) detached: bool,
    /// There was no memory for something, which is lost.
    pub(super) failed: bool,
}

struct Window {
    first: *const u8,
    len: usize,
}

// SAFETY: memory that is borrowed for as long as the window is not empty (`Flight`), and only read.
unsafe impl Send for Window {}

impl Default for Window {
    fn default() -> Self {
        Window { first: ptr::null(), len: 0 }
    }
}

impl Buffers {
    /// # Safety
    /// `bytes` stay where they are, unchanged, until [`Buffers::close_window`].
    pub(super) unsafe fn open_window(&mut self, bytes: &[u8]) {
        self.window = Window { first: bytes.as_ptr(), len: bytes.len() };
    }

    /// What was not read is kept.
    pub(super) fn close_window(&mut self) {
        let Window { first, len } = std::mem::take(&mut self.window);
        if len != 0 {
            // SAFETY: the promise of `open_window`.
            let rest = unsafe { std::slice::from_raw_parts(first, len) };
            self.append(rest);
        }
    }

    /// Bytes that were received, after all others.
    pub(super) fn keep(&mut self, bytes: &[u8]) {
        self.close_window();
        self.append(bytes);
    }

    fn append(&mut self, bytes: &[u8]) {
        self.kept.drain(..self.kept_read);
        self.kept_read = 0;
        match self.kept.try_reserve(bytes.len()) {
            Ok(()) => self.kept.extend_from_slice(bytes),
            Err(_) => self.failed = true,
        }
    }

    /// Records to be sent, after all others. False if there is no memory for them.
    fn send_later(&mut self, bytes: &[u8]) -> bool {
        if self.detached {
            return true;
        }
        // As a vector grows by itself: by doubling.
        let more = bytes.len().max(self.outgoing.len());
        let has_room = self.outgoing.capacity() - self.outgoing.len() >= bytes.len();
        if !has_room && self.outgoing.try_reserve(more).is_err() {
            self.failed = true;
            return false;
        }
        self.outgoing.extend_from_slice(bytes);
        true
    }

    /// Records to be sent, before all others.
    pub(super) fn put_back(&mut self, bytes: &[u8]) {
        match self.outgoing.try_reserve(bytes.len()) {
            Ok(()) => drop(self.outgoing.splice(..0, bytes.iter().copied())),
            Err(_) => self.failed = true,
        }
    }

    /// Forget everything but the window.
    pub(super) fn drop_all(&mut self) {
        self.kept = Vec::new();
        self.kept_read = 0;
        self.outgoing = Vec::new();
    }

    /// Bytes that OpenSSL has not read.
    pub(super) fn unread(&self) -> usize {
        self.kept.len() - self.kept_read + self.window.len
    }

    fn read(&mut self, into: *mut u8, room: usize) -> usize {
        let kept = self.kept.len() - self.kept_read;
        if kept != 0 {
            let count = kept.min(room);
            // SAFETY: `into` has `room` bytes, by OpenSSL's promise; the source is inside of the vector.
            unsafe { ptr::copy_nonoverlapping(self.kept.as_ptr().add(self.kept_read), into, count) };
            self.kept_read += count;
            if self.kept_read == self.kept.len() {
                // An idle connection keeps no memory for this.
                self.kept = Vec::new();
                self.kept_read = 0;
            }
            return count;
        }
        let count = self.window.len.min(room);
        if count != 0 {
            // SAFETY: `into` as above; the window's memory by the promise of `open_window`.
            unsafe {
                ptr::copy_nonoverlapping(self.window.first, into, count);
                self.window.first = self.window.first.add(count);
            }
            self.window.len -= count;
        }
        count
    }
}

/// The buffers and their lock.
pub(super) struct Guarded {
    buffers: Mutex<Buffers>,
    /// The process that has made them.
    process: u32,
}

impl Guarded {
    /// None in a forked child, if another thread of the parent was inside at the fork: it will never leave.
    #[inline]
    fn lock(&self) -> Option<MutexGuard<'_, Buffers>> {
        match self.buffers.try_lock() {
            Ok(guard) => Some(guard),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => self.wait(),
        }
    }

    #[cold]
    fn wait(&self) -> Option<MutexGuard<'_, Buffers>> {
        if self.process != std::process::id() {
            return None;
        }
        Some(self.buffers.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Owned by the BIO and by the connection.
#[derive(Clone)]
pub(super) struct Shared(Arc<Guarded>);

impl Default for Shared {
    fn default() -> Self {
        Shared(Arc::new(Guarded { buffers: Mutex::default(), process: std::process::id() }))
    }
}

impl Shared {
    /// As [`Guarded::lock`].
    #[inline]
    pub(super) fn lock(&self) -> Option<MutexGuard<'_, Buffers>> {
        self.0.lock()
    }
}

struct Method(*mut BioMethod);

// SAFETY: made once, only read afterwards.
unsafe impl Send for Method {}
// SAFETY: see above.
unsafe impl Sync for Method {}

static METHOD: Once<Method> = Once::new();

/// A BIO on these buffers, with one reference, which is the caller's; NULL if there is no memory.
pub(super) fn new(api: &Api, shared: Shared) -> *mut Bio {
    if !METHOD.is_set() {
        METHOD.set(Method(make_method(api)));
    }
    let method = METHOD.get().0;
    if method.is_null() {
        return ptr::null_mut();
    }
    // SAFETY: a complete method; the data is given back to an Arc by `destroy`, once.
    unsafe {
        let bio = (api.BIO_new)(method);
        if !bio.is_null() {
            (api.BIO_set_data)(bio, Arc::into_raw(shared.0).cast_mut().cast());
            (api.BIO_set_init)(bio, 1);
        }
        bio
    }
}

fn make_method(api: &Api) -> *mut BioMethod {
    // SAFETY: a static name, functions that are never unloaded.
    unsafe {
        let index = (api.BIO_get_new_index)();
        if index < 0 {
            return ptr::null_mut();
        }
        let method = (api.BIO_meth_new)(index | SOURCE_SINK, NAME.as_ptr());
        if !method.is_null() {
            (api.BIO_meth_set_create)(method, create);
            (api.BIO_meth_set_destroy)(method, destroy);
            (api.BIO_meth_set_read)(method, read);
            (api.BIO_meth_set_write)(method, write);
            (api.BIO_meth_set_ctrl)(method, control);
        }
        method
    }
}

unsafe extern "C" fn create(_bio: *mut Bio) -> c_int {
    1
}

unsafe extern "C" fn destroy(bio: *mut Bio) -> c_int {
    let Some(api) = api() else {
        return 0;
    };
    // SAFETY: a BIO of ours; its data is NULL or what `new` has put there, and taken out once.
    unsafe {
        let data = (api.BIO_get_data)(bio);
        (api.BIO_set_data)(bio, ptr::null_mut());
        if !data.is_null() {
            drop(Arc::from_raw(data.cast::<Guarded>()));
        }
    }
    1
}

unsafe extern "C" fn read(bio: *mut Bio, into: *mut c_char, room: c_int) -> c_int {
    let Some(api) = api() else {
        return -1;
    };
    // SAFETY: a BIO of ours.
    unsafe { (api.BIO_clear_flags)(bio, RETRY) };
    let room = usize::try_from(room).unwrap_or(0);
    let count = with_buffers(api, bio, |buffers| buffers.read(into.cast(), room)).unwrap_or(0);
    if count == 0 {
        // SAFETY: as above.
        unsafe { (api.BIO_set_flags)(bio, RETRY_READ) };
        return -1;
    }
    // No more than `room`, which was a c_int.
    count as c_int
}

unsafe extern "C" fn write(bio: *mut Bio, from: *const c_char, count: c_int) -> c_int {
    let (Some(api), Ok(len)) = (api(), usize::try_from(count)) else {
        return -1;
    };
    // SAFETY: a BIO of ours.
    unsafe { (api.BIO_clear_flags)(bio, RETRY) };
    if len == 0 {
        return 0;
    }
    // SAFETY: OpenSSL's promise.
    let bytes = unsafe { std::slice::from_raw_parts(from.cast::<u8>(), len) };
    match with_buffers(api, bio, |buffers| buffers.send_later(bytes)) {
        Some(false) => -1,
        _ => count,
    }
}

/// 0 for what is unknown: no kernel TLS, no datagrams.
unsafe extern "C" fn control(bio: *mut Bio, command: c_int, _number: c_long, _argument: *mut c_void) -> c_long {
    let Some(api) = api() else {
        return 0;
    };
    match command {
        FLUSH => 1,
        PENDING => with_buffers(api, bio, |buffers| buffers.unread() as c_long).unwrap_or(0),
        WRITE_PENDING => with_buffers(api, bio, |buffers| buffers.outgoing.len() as c_long).unwrap_or(0),
        _ => 0,
    }
}

fn with_buffers<T>(api: &Api, bio: *mut Bio, f: impl FnOnce(&mut Buffers) -> T) -> Option<T> {
    // SAFETY: a BIO of ours, whose data is NULL or lives as long as the BIO.
    let guarded = unsafe { (api.BIO_get_data)(bio).cast::<Guarded>().as_ref() }?;
    guarded.lock().map(|mut buffers| f(&mut buffers))
}
