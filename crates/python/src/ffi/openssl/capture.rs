//! The `SSL*` that a call of `wrap_bio` makes.
//!
//! `SSL_new` calls what is registered for the application data of its objects, on the calling thread, with the new object as
//! `parent`; `SSL_free` does so before it frees one. It is so since OpenSSL 1.1.1, and public. Both run for each `SSL` of this
//! libssl, whoever makes it, in any thread, so they do next to nothing.

use std::cell::RefCell;
use std::ffi::{c_int, c_long, c_void};
use std::ptr;
use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use super::library::{Api, Ssl};

/// `CRYPTO_EX_INDEX_SSL`
const OF_SSL: c_int = 0;

/// The last `SSL` that was made and is not freed; NULL if there is none.
type Captured = Arc<AtomicPtr<Ssl>>;

thread_local! {
    /// Of the call that goes on in this thread.
    static CURRENT: RefCell<Option<Captured>> = const { RefCell::new(None) };
}

/// All that go on, of all threads: an `SSL` may be freed by another thread than made it.
static GOING_ON: Mutex<Vec<Captured>> = Mutex::new(Vec::new());
/// How many; asked without the lock by each `SSL_free` of the process.
static COUNT: AtomicUsize = AtomicUsize::new(0);

unsafe extern "C" fn on_new(
    parent: *mut c_void,
    _value: *mut c_void,
    _data: *mut c_void,
    _index: c_int,
    _number: c_long,
    _argument: *mut c_void,
) {
    // A thread whose local memory is gone already makes no connections of ours.
    let _ended = CURRENT.try_with(|current| {
        if let Some(captured) = current.try_borrow().ok().as_ref().and_then(|current| current.as_ref()) {
            captured.store(parent, Ordering::Release);
        }
    });
}

unsafe extern "C" fn on_free(
    parent: *mut c_void,
    _value: *mut c_void,
    _data: *mut c_void,
    _index: c_int,
    _number: c_long,
    _argument: *mut c_void,
) {
    if COUNT.load(Ordering::Acquire) == 0 {
        return;
    }
    for captured in GOING_ON.lock().unwrap_or_else(PoisonError::into_inner).iter() {
        let _other = captured.compare_exchange(parent, ptr::null_mut(), Ordering::AcqRel, Ordering::Relaxed);
    }
}

/// Have OpenSSL tell of each new and each freed `SSL`, from now on and for ever. False if it refuses.
pub(super) fn register(api: &Api) -> bool {
    static INDEX: OnceLock<c_int> = OnceLock::new();
    // SAFETY: functions that are never unloaded, no argument.
    *INDEX.get_or_init(|| unsafe {
        (api.CRYPTO_get_ex_new_index)(OF_SSL, 0, ptr::null_mut(), Some(on_new), ptr::null(), Some(on_free))
    }) >= 0
}

/// From its beginning on, what this thread makes is taken down; as long as it lives, what any thread frees is struck off.
pub(super) struct Capture {
    captured: Captured,
    outer: Option<Captured>,
}

impl Capture {
    pub(super) fn begin() -> Capture {
        let captured = Captured::default();
        GOING_ON.lock().unwrap_or_else(PoisonError::into_inner).push(captured.clone());
        COUNT.fetch_add(1, Ordering::AcqRel);
        let outer = CURRENT.with(|current| current.borrow_mut().replace(captured.clone()));
        Capture { captured, outer }
    }

    /// The last `SSL*` that was made, unless it is freed by now. It is valid until something runs that may free it: any Python code.
    pub(super) fn last(&self) -> Option<*mut Ssl> {
        let last = self.captured.load(Ordering::Acquire);
        (!last.is_null()).then_some(last)
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        let _ended = CURRENT.try_with(|current| *current.borrow_mut() = self.outer.take());
        GOING_ON.lock().unwrap_or_else(PoisonError::into_inner).retain(|other| !Arc::ptr_eq(other, &self.captured));
        COUNT.fetch_sub(1, Ordering::AcqRel);
    }
}
