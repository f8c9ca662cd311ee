//! The names that we look up, and every object that we import from Python, in one place.

use crate::ffi::{Once, Ref, Res, import, import_attr};

/// An interned `str` for an attribute or keyword, made at its first use and kept: `name!("call_soon")`.
#[macro_export]
macro_rules! name {
    ($text:literal) => {{
        static NAME: $crate::ffi::Name = $crate::ffi::Name::new($text);
        NAME.get()
    }};
}

/// A tuple of keyword names for a call, made at its first use and kept: `kwnames!("context")`.
#[macro_export]
macro_rules! kwnames {
    ($($text:literal),+) => {{
        static NAMES: $crate::ffi::Once<$crate::ffi::Ref> = $crate::ffi::Once::new();
        if !NAMES.is_set() {
            NAMES.set($crate::ffi::tuple([$($crate::name!($text)),+])?);
        }
        &**NAMES.get()
    }};
}

macro_rules! imports {
    ($($name:ident = $module:literal . $attribute:literal),* $(,)?) => {
        /// What native code needs of asyncio and the standard library.
        pub struct Imports { $(pub $name: Ref),* }

        impl Imports {
            fn load() -> Res<Imports> {
                // `asyncio` first: importing `_asyncio` before it would leave asyncio with its pure-Python Task.
                import("asyncio")?;
                Ok(Imports { $($name: import_attr($module, $attribute)?),* })
            }
        }
    };
}

imports! {
    c_future = "_asyncio"."Future",
    c_task = "_asyncio"."Task",
    tasks_namespace = "asyncio.tasks"."__dict__",
    futures_namespace = "asyncio.futures"."__dict__",
    cancelled_error = "asyncio.exceptions"."CancelledError",
    invalid_state_error = "asyncio.exceptions"."InvalidStateError",
    get_running_loop = "asyncio.events"."_get_running_loop",
    set_running_loop = "asyncio.events"."_set_running_loop",
    get_event_loop = "asyncio.events"."get_event_loop",
    get_event_loop_policy = "asyncio.events"."get_event_loop_policy",
    handle_class = "asyncio.events"."Handle",
    timer_handle_class = "asyncio.events"."TimerHandle",
    constants = "asyncio"."constants",
    transport_socket_class = "asyncio.trsock"."TransportSocket",
    read_transport_class = "asyncio.transports"."ReadTransport",
    transport_class = "asyncio.transports"."Transport",
    subprocess_transport_class = "asyncio.transports"."SubprocessTransport",
    protocol_class = "asyncio.protocols"."Protocol",
    datagram_transport_class = "asyncio.transports"."DatagramTransport",
    buffered_protocol_class = "asyncio.protocols"."BufferedProtocol",
    extract_stack = "asyncio.format_helpers"."extract_stack",
    extract_whole_stack = "traceback"."extract_stack",
    format_callback_source = "asyncio.format_helpers"."_format_callback_source",
    get_function_source = "asyncio.format_helpers"."_get_function_source",
    format_helpers = "asyncio"."format_helpers",
    is_coroutine = "asyncio.coroutines"."iscoroutine",
    format_coroutine = "asyncio.coroutines"."_format_coroutine",
    future_repr = "asyncio.base_futures"."_future_repr_info",
    task_get_stack = "asyncio.base_tasks"."_task_get_stack",
    task_print_stack = "asyncio.base_tasks"."_task_print_stack",
    task_repr = "asyncio.base_tasks"."_task_repr_info",
    enter_task = "asyncio.tasks"."_enter_task",
    leave_task = "asyncio.tasks"."_leave_task",
    logger = "asyncio.log"."logger",
    get_frame = "sys"."_getframe",
    get_origin_depth = "sys"."get_coroutine_origin_tracking_depth",
    generic_alias = "types"."GenericAlias",
    os_kill = "os"."kill",
    memoryview = "builtins"."memoryview",
    is_generator = "inspect"."isgenerator",
    socket_class = "socket"."socket",
    socket_namespace = "socket"."__dict__",
    af_inet = "socket"."AF_INET",
    sock_stream = "socket"."SOCK_STREAM",
    sock_dgram = "socket"."SOCK_DGRAM",
    af_inet6 = "socket"."AF_INET6",
    c_socket_class = "_socket"."socket",
    weak_reference = "weakref"."ref",
    wrap_future = "asyncio.futures"."wrap_future",
    convert_future_exception = "asyncio.futures"."_convert_future_exc",
    futures_cancelled_error = "concurrent.futures"."CancelledError",
    futures_invalid_state_error = "concurrent.futures"."InvalidStateError",
    futures_timeout_error = "concurrent.futures"."TimeoutError",
    pool_globals = "concurrent.futures.thread"."__dict__",
    reentrant_lock = "_thread"."RLock",
    sendfile_not_available = "asyncio.exceptions"."SendfileNotAvailableError",
    set_wakeup_fd = "signal"."set_wakeup_fd",
    queue_empty = "queue"."Empty",
}

static IMPORTS: Once<Imports> = Once::new();

static HEXVERSION: Once<i64> = Once::new();

/// `sys.hexversion` of the interpreter that runs us, which may be a later patch release than the one we were built for.
pub fn hexversion() -> i64 {
    *HEXVERSION.get()
}

/// Load all imports, once; `running` is `sys.hexversion`.
pub fn load(running: i64) -> Res<()> {
    if !IMPORTS.is_set() {
        HEXVERSION.set(running);
        let loaded = Imports::load()?;
        IMPORTS.set(loaded);
    }
    Ok(())
}

#[inline]
pub fn imports() -> &'static Imports {
    IMPORTS.get()
}
