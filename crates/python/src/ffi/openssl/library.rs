//! Which shared object holds the OpenSSL of `_ssl`, and its functions.
//!
//! A process may have several (psycopg2's wheels bring their own), and nothing must be called of a wrong one. `_ssl` is bound
//! to what the loader finds first: in the global scope, else among `_ssl`'s own dependencies. The global scope only grows, so if
//! it has no such symbol, or the same one, `_ssl`'s dependency is what `_ssl` is bound to. Where `_ssl` is part of the
//! executable (static OpenSSL), the global scope is all there is; if it hides the symbols there is no direct way.
//!
//! Then the proof: a new `SSL_new` of `_ssl` must call the function that was registered with this libcrypto, and give
//! it an `SSL*` whose application data, asked of this libssl, is the Python object.

use std::ffi::{CStr, CString, c_char, c_int, c_long, c_ulong, c_void};
use std::ptr;
use std::sync::OnceLock;

use super::super::call::import;
use super::super::error::Res;
use super::super::number::index_value;
use super::super::object::{Obj, false_};
use super::super::text::{intern, str_of, string};
use super::capture::{self, Capture};
use super::{bio, connection};

pub(super) type Ssl = c_void;
pub(super) type Bio = c_void;
pub(super) type BioMethod = c_void;

macro_rules! api {
    ($($library:literal { $($name:ident: fn($($arg:ty),* $(,)?) $(-> $ret:ty)?;)* })*) => {
        /// The functions in use, of one pair of libraries.
        #[allow(non_snake_case)]
        pub(super) struct Api { $($(pub(super) $name: unsafe extern "C" fn($($arg),*) $(-> $ret)?,)*)* }

        #[allow(non_snake_case)]
        impl Api {
            /// All of them, or what is missing or does not fit together.
            fn find(scope: Scope) -> Result<Api, String> {
                let mut libraries = Vec::new();
                $(
                    // $library
                    let mut base: Option<*mut c_void> = None;
                    $(
                        let $name = scope.symbol(stringify!($name), &mut base)?;
                    )*
                    libraries.push(base);
                )*
                scope.check_pair(&libraries)?;
                // SAFETY: the addresses of functions of these names in OpenSSL 1.1.1 or later, whose public signatures
                // these are.
                Ok(unsafe { Api { $($($name: std::mem::transmute::<*mut c_void, unsafe extern "C" fn($($arg),*) $(-> $ret)?>($name),)*)* } })
            }
        }
    };
}

type Create = unsafe extern "C" fn(*mut Bio) -> c_int;
type Read = unsafe extern "C" fn(*mut Bio, *mut c_char, c_int) -> c_int;
type Write = unsafe extern "C" fn(*mut Bio, *const c_char, c_int) -> c_int;
type Control = unsafe extern "C" fn(*mut Bio, c_int, c_long, *mut c_void) -> c_long;
/// `CRYPTO_EX_new` and `CRYPTO_EX_free`
pub(super) type ExData = unsafe extern "C" fn(*mut c_void, *mut c_void, *mut c_void, c_int, c_long, *mut c_void);

api! {
    "libssl" {
        SSL_get_ex_data: fn(*const Ssl, c_int) -> *mut c_void;
        SSL_get_servername: fn(*const Ssl, c_int) -> *const c_char;
        SSL_version: fn(*const Ssl) -> c_int;
        SSL_set_bio: fn(*mut Ssl, *mut Bio, *mut Bio);
        SSL_get_rbio: fn(*const Ssl) -> *mut Bio;
        SSL_get_wbio: fn(*const Ssl) -> *mut Bio;
        SSL_read_ex: fn(*mut Ssl, *mut c_void, usize, *mut usize) -> c_int;
        SSL_write_ex: fn(*mut Ssl, *const c_void, usize, *mut usize) -> c_int;
        SSL_pending: fn(*const Ssl) -> c_int;
        SSL_get_error: fn(*const Ssl, c_int) -> c_int;
        SSL_get_shutdown: fn(*const Ssl) -> c_int;
    }
    "libcrypto" {
        CRYPTO_get_ex_new_index: fn(c_int, c_long, *mut c_void, Option<ExData>, *const c_void, Option<ExData>) -> c_int;
        OpenSSL_version_num: fn() -> c_ulong;
        ERR_peek_error: fn() -> c_ulong;
        ERR_clear_error: fn();
        BIO_get_new_index: fn() -> c_int;
        BIO_meth_new: fn(c_int, *const c_char) -> *mut BioMethod;
        BIO_meth_set_create: fn(*mut BioMethod, Create) -> c_int;
        BIO_meth_set_destroy: fn(*mut BioMethod, Create) -> c_int;
        BIO_meth_set_read: fn(*mut BioMethod, Read) -> c_int;
        BIO_meth_set_write: fn(*mut BioMethod, Write) -> c_int;
        BIO_meth_set_ctrl: fn(*mut BioMethod, Control) -> c_int;
        BIO_new: fn(*const BioMethod) -> *mut Bio;
        BIO_set_init: fn(*mut Bio, c_int);
        BIO_set_data: fn(*mut Bio, *mut c_void);
        BIO_get_data: fn(*mut Bio) -> *mut c_void;
        BIO_set_flags: fn(*mut Bio, c_int);
        BIO_clear_flags: fn(*mut Bio, c_int);
    }
}

#[repr(C)]
struct DlInfo {
    file: *const c_char,
    base: *mut c_void,
    symbol: *const c_char,
    address: *mut c_void,
}

unsafe extern "C" {
    fn dlopen(file: *const c_char, flags: c_int) -> *mut c_void;
    fn dlsym(handle: *mut c_void, symbol: *const c_char) -> *mut c_void;
    fn dladdr(address: *const c_void, info: *mut DlInfo) -> c_int;
}

/// The global scope.
const RTLD_DEFAULT: *mut c_void = ptr::null_mut();
const RTLD_NOW: c_int = 2;
/// Only what is loaded already.
const RTLD_NOLOAD: c_int = 4;

/// Where `_ssl` finds its symbols.
#[derive(Clone, Copy)]
struct Scope {
    /// `_ssl` itself; None if it is part of the executable.
    module: Option<*mut c_void>,
}

impl Scope {
    fn of_ssl_module() -> Res<Result<Scope, String>> {
        let module = import("_ssl")?;
        let Some(file) = module.getattr_opt(&*intern("__file__")?)?.filter(|file| file.is_str()) else {
            return Ok(Ok(Scope { module: None }));
        };
        let path = match str_of(&file) {
            Ok(path) => CString::new(path).unwrap_or_default(),
            Err(raised) => {
                raised.forget();
                return Ok(Err("the name of _ssl's file is not UTF-8".to_owned()));
            }
        };
        // SAFETY: a NUL-terminated path; with NOLOAD nothing is run, only a count goes up.
        let handle = unsafe { dlopen(path.as_ptr(), RTLD_NOW | RTLD_NOLOAD) };
        if handle.is_null() {
            return Ok(Err("_ssl is not loaded from the file that it names".to_owned()));
        }
        Ok(Ok(Scope { module: Some(handle) }))
    }

    /// The address that `_ssl` has for a function; those of one library must lie in one shared object.
    fn symbol(&self, name: &str, base: &mut Option<*mut c_void>) -> Result<*mut c_void, String> {
        let text = CString::new(name).unwrap_or_default();
        // SAFETY: a NUL-terminated name.
        let global = unsafe { dlsym(RTLD_DEFAULT, text.as_ptr()) };
        let found = match self.module {
            // SAFETY: an open handle, a NUL-terminated name.
            Some(handle) => unsafe { dlsym(handle, text.as_ptr()) },
            None => global,
        };
        if found.is_null() {
            return Err(match self.module {
                Some(_) => format!("{name} is not exported by the OpenSSL of _ssl"),
                None => format!("OpenSSL is part of the interpreter, which does not export {name}"),
            });
        }
        if !global.is_null() && global != found {
            return Err(format!("{name} is there twice, and which one _ssl uses cannot be told"));
        }
        let mut info =
            DlInfo { file: ptr::null(), base: ptr::null_mut(), symbol: ptr::null(), address: ptr::null_mut() };
        // SAFETY: any address may be asked for; `info` is ours to be filled in.
        if unsafe { dladdr(found, &raw mut info) } == 0 {
            return Err(format!("the shared object of {name} cannot be told"));
        }
        match *base {
            Some(other) if other != info.base => Err(format!("{name} is in another shared object than its neighbours")),
            _ => {
                *base = Some(info.base);
                Ok(found)
            }
        }
    }

    /// Both libraries inside one executable, or each a shared object of its own.
    fn check_pair(&self, libraries: &[Option<*mut c_void>]) -> Result<(), String> {
        match self.module {
            None if libraries.iter().any(|library| *library != libraries[0]) => {
                Err("libssl and libcrypto do not belong together".to_owned())
            }
            _ => Ok(()),
        }
    }
}

/// What was found; whether it may be used is [`USABLE`]'s to say.
static FOUND: OnceLock<Api> = OnceLock::new();
static USABLE: OnceLock<Result<(), String>> = OnceLock::new();

/// The functions, once [`is_available`] has looked for them.
#[inline]
pub(super) fn api() -> Option<&'static Api> {
    FOUND.get()
}

/// Can `_ssl`'s OpenSSL be called directly in this process? If not: why. Looked for at the first call.
///
/// # Errors
/// ImportError of an interpreter without `_ssl`.
pub fn is_available() -> Res<Result<(), &'static str>> {
    if USABLE.get().is_none() {
        let usable = match Scope::of_ssl_module()?.and_then(Api::find) {
            // Without a GIL another thread may have been quicker, with the same outcome.
            Ok(found) => match check(FOUND.get_or_init(|| found)) {
                Ok(usable) => usable,
                // No memory, or an interrupt: another connection may try again.
                Err(raised) if raised.is_exit() => return Err(raised),
                Err(raised) => {
                    raised.forget();
                    return Ok(Err("it could not be tried out"));
                }
            },
            Err(why) => Err(why),
        };
        let _late = USABLE.set(usable);
    }
    Ok(USABLE.get().map_or(Ok(()), |usable| usable.as_ref().copied().map_err(String::as_str)))
}

/// Does all of this work on a connection made for the purpose? Of `_ssl`'s own classes: `ssl`'s may be a program's just now.
fn check(api: &Api) -> Res<Result<(), String>> {
    let module = import("_ssl")?;
    let of = |name: &str| module.getattr(&*intern(name)?);
    let compiled = index_value(&*of("OPENSSL_VERSION_NUMBER")?)?;
    // SAFETY: no precondition.
    let running = unsafe { (api.OpenSSL_version_num)() };
    if i64::try_from(running) != Ok(compiled) {
        return Ok(Err(format!("the library is version {running:#x}, _ssl says {compiled:#x}")));
    }
    if !capture::register(api) {
        return Ok(Err("OpenSSL has no room for another callback".to_owned()));
    }
    const NAME: &str = "aioxide.invalid";
    let context = of("_SSLContext")?.call1(&*of("PROTOCOL_TLS_CLIENT")?)?;
    let (incoming, outgoing) = (of("MemoryBIO")?.call0()?, of("MemoryBIO")?.call0()?);
    let (wrap, name) = (context.getattr(&*intern("_wrap_bio")?)?, string(NAME)?);
    let capture = Capture::begin();
    let raw = wrap.call([&*incoming, &*outgoing, false_(), &*name])?;
    let Some(captured) = capture.last() else {
        return Ok(Err("_ssl uses another OpenSSL than was found, or one without these callbacks".to_owned()));
    };
    // SAFETY: OpenSSL gave this pointer as an `SSL*` inside the call of `_wrap_bio`, whose object is alive.
    Ok(unsafe { check_connection(api, captured, &raw, NAME) })
}

/// # Safety
/// `ssl` is an `SSL*` that `raw` owns, if `raw` is its application data.
unsafe fn check_connection(api: &Api, ssl: *mut Ssl, raw: &Obj, name: &str) -> Result<(), String> {
    // SAFETY: the caller's promise.
    unsafe {
        if (api.SSL_get_ex_data)(ssl, connection::APP_DATA) != raw.as_ptr().cast() {
            return Err("the SSL object does not carry its Python object".to_owned());
        }
        let known = (api.SSL_get_servername)(ssl, 0);
        if known.is_null() || CStr::from_ptr(known).to_bytes() != name.as_bytes() {
            return Err("the SSL object does not know the name it was given".to_owned());
        }
        if (api.SSL_version)(ssl) <= 0 {
            return Err("the SSL object has no version".to_owned());
        }
        let ours = bio::new(api, bio::Shared::default());
        if ours.is_null() {
            return Err("a BIO could not be made".to_owned());
        }
        (api.SSL_set_bio)(ssl, ours, ours);
        if (api.SSL_get_rbio)(ssl) != ours || (api.SSL_get_wbio)(ssl) != ours {
            return Err("the SSL object does not take another BIO".to_owned());
        }
    }
    Ok(())
}
