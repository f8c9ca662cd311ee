//! The unsafe fence of the Python side: CPython's C API behind safe functions.
//!
//! CPython counterpart: `Include/cpython`. Every other module of this crate is free of unsafe code.
//!
//! Two conventions carry the whole crate:
//!
//! * **An error is the interpreter's own error indicator.** `Raised` is a zero-sized witness that it is set; no error
//!   value travels through Rust, so nothing is fetched, normalised or restored on the way out (D10, and the cost: none).
//! * **The thread is attached.** Every function here must be called by a thread that holds the interpreter (the GIL on
//!   ordinary builds). `Ref` and `Obj` are neither `Send` nor `Sync` there, so no object reaches another thread by accident.
//!   Free-threaded builds have them both, because any thread may call any object; there each native object must be, too
//!   (`cell`).
//!
//! Why not PyO3's safe layer: its objects cannot have storage behind a base class whose size is only known at run time
//! (`_asyncio.Task`), it has no `am_send`, and its reference pool costs a thread-local check on each drop
//! (`docs/decisions/0001-raw-ffi.md`). `pyo3-ffi` gives the declarations for each version.

mod args;
pub mod asyncio_layout;
mod audit;
mod borrowed;
mod buffer;
mod builder;
mod call;
pub mod cell;
mod class;
mod context;
pub mod current_task;
mod error;
mod gil;
mod lifecycle;
mod number;
mod object;
mod once;
pub mod openssl;
pub mod send;
#[cfg(Py_GIL_DISABLED)]
mod shared;
mod socket_fd;
mod text;
pub mod trampoline;
mod trash;
mod unwind;

pub use args::Args;
pub use audit::audit;
pub use borrowed::BorrowedSet;
pub use buffer::{BytesWriter, ReadBuffer, WriteBuffer, bytes_from, bytes_of, is_bytes_like};
pub use builder::ClassBuilder;
pub use call::{Vector, import, import_attr};
pub use class::{Class, Inst, Native, Owned, Visit};
pub use context::Context;
pub use error::{Raised, Res, exc, warn};
pub use gil::{CrossThread, check_signals, detached, is_main_interpreter, recursion_guarded, thread_ident};
pub use number::{float, float_value, index_value, int, int_u64, saturated_value};
pub use object::{BoolExt, Obj, Ref, Slot, dict, false_, list, none, not_implemented, true_, tuple, tuple_of_refs};
pub use once::{Name, Once};
pub use socket_fd::{probe_socket_layout, socket_fd};
pub use text::{intern, path_text, str_of, string, type_name, utf8};
pub use trampoline::{Method, module_entry, module_functions};
