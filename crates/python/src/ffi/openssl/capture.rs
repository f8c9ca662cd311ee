//! The `SSL*` that a call of `wrap_bio` makes.
//!
//! `SSL_new` calls what is registered for the application data of its objects, on the calling thread, with the new object as
//! `parent`. It is so since OpenSSL 1.1.1, and public. The function runs for each `SSL_new` of this libssl, whoever calls it,
//! so it only takes down the pointer, in thread-local memory.

use std::cell::Cell;
use std::ffi::{c_int, c_long, c_void};
use std::ptr;
use std::sync::OnceLock;

use super::library::{Api, Ssl};

/// `CRYPTO_EX_INDEX_SSL`
const OF_SSL: c_int = 0;

thread_local! {
    static LAST: Cell<*mut Ssl> = const { Cell::new(ptr::null_mut()) };
}

unsafe extern "C" fn on_new(
    parent: *mut c_void,
    _value: *mut c_void,
    _data: *mut c_void,
    _index: c_int,
    _number: c_long,
    _argument: *mut c_void,
) {
    // A thread whose local memory is gone already makes no connections of ours.
    let _ended = LAST.try_with(|last| last.set(parent));
}

/// Have OpenSSL tell of each new `SSL`, from now on and for ever. False if it refuses.
pub(super) fn register(api: &Api) -> bool {
    static INDEX: OnceLock<c_int> = OnceLock::new();
    // SAFETY: a function that is never unloaded, no others, no argument.
    *INDEX.get_or_init(|| unsafe {
        (api.CRYPTO_get_ex_new_index)(OF_SSL, 0, ptr::null_mut(), Some(on_new), ptr::null(), ptr::null())
    }) >= 0
}

/// What `make` returns, and the last `SSL*` that was made meanwhile by this thread.
pub(super) fn during<T>(make: impl FnOnce() -> T) -> (T, Option<*mut Ssl>) {
    let outer = LAST.with(|last| last.replace(ptr::null_mut()));
    let made = make();
    let found = LAST.with(|last| last.replace(outer));
    (made, (!found.is_null()).then_some(found))
}
