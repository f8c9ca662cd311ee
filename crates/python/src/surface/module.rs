//! The module `aioxide._native`.

use crate::ffi::cell::Cell;
use crate::ffi::{
    Args, Obj, Once, Raised, Ref, Res, exc, import_attr, index_value, int, list, module_functions, none, string,
};
use crate::objects::{future, handle, names};
use crate::tasks::coroutine;
use crate::tasks::task::{self, registry};
use crate::{function, io, name};

/// Fill the module in. A second import (after `del sys.modules[...]`) gets the same classes.
pub fn execute(module: &Obj) -> Res<()> {
    refuse_subinterpreter()?;
    let running = index_value(&*import_attr("sys", "hexversion")?)?;
    if running >> 16 != built_for() {
        return Err(Raised::new(
            exc::import_error(),
            "aioxide: this extension was built for another version of Python",
        ));
    }
    names::load(running)?;
    if !CLASSES.is_set() {
        CLASSES.set(build_classes()?);
    }
    for (key, class) in CLASSES.get() {
        module.setattr(key, class)?;
    }
    module.setattr(name!("__version__"), &*string(env!("CARGO_PKG_VERSION"))?)?;
    module_functions(
        module,
        vec![
            (
                c"_pending_tasks",
                function!(pending_tasks),
                c"All native tasks that are not done, of all loops (up to 3.13).",
            ),
            (
                c"literal_address",
                function!(literal_address),
                c"literal_address(host, port, family, type, proto, flowinfo=0, scope_id=0)\n--\n\nWhat getaddrinfo would answer for a numeric address, or None if it must be asked.",
            ),
            (
                c"literal_answer",
                function!(literal_answer),
                c"literal_answer(host, port, family, type, proto)\n--\n\nsocket.getaddrinfo's answer for a numeric address, or None if it must be asked.",
            ),
            (
                c"tls_fallback_reason",
                function!(tls_fallback_reason),
                c"tls_fallback_reason()\n--\n\nWhy TLS data does not go by direct calls of OpenSSL, or None if it does.",
            ),
            (
                c"_sighandler_noop",
                function!(note_signal),
                c"_sighandler_noop(signum, frame)\n--\n\nThe Python handler of the signals that loops have handlers for: tells the loop that it came.",
            ),
            (
                c"_panic",
                function!(panic_on_purpose),
                c"Panic in native code; for the test that this becomes an exception.",
            ),
        ],
    )
}

/// The public classes by their names.
type Classes = Vec<(&'static Obj, Ref)>;

static CLASSES: Once<Classes> = Once::new();

fn build_classes() -> Res<Classes> {
    let (handle, timer_handle) = handle::build()?;
    let offset = future_offset();
    let future = future::build(offset)?;
    let task = task::build(offset)?;
    coroutine::build()?;
    io::build()?;
    let event_loop = super::event_loop::build()?;
    let [read_pipe_transport, write_pipe_transport] = io::pipe::classes();
    Ok(vec![
        (name!("Handle"), handle),
        (name!("TimerHandle"), timer_handle),
        (name!("Future"), future),
        (name!("Task"), task),
        (name!("Loop"), event_loop),
        (name!("SocketTransport"), io::transport::class()),
        (name!("SSLTransport"), io::tls::class()),
        (name!("DatagramTransport"), io::datagram::class()),
        (name!("ReadPipeTransport"), read_pipe_transport),
        (name!("WritePipeTransport"), write_pipe_transport),
        (name!("SubprocessTransport"), io::process::class()),
        (name!("WorkQueue"), io::executor::class()),
    ])
}

/// Where the Rust value of a future or a task begins: behind the larger of the two bases.
fn future_offset() -> usize {
    names::imports().c_future.instance_size().max(names::imports().c_task.instance_size())
}

/// Major and minor version that the extension was compiled for, as the upper bytes of `sys.hexversion`.
const fn built_for() -> i64 {
    0x0300
        + if cfg!(Py_3_15) {
            15
        } else if cfg!(Py_3_14) {
            14
        } else if cfg!(Py_3_13) {
            13
        } else if cfg!(Py_3_12) {
            12
        } else if cfg!(Py_3_11) {
            11
        } else {
            10
        }
}

/// Native classes are made once per process; a second interpreter would share them.
fn refuse_subinterpreter() -> Res<()> {
    if crate::ffi::is_main_interpreter() {
        return Ok(());
    }
    Err(Raised::new(exc::import_error(), "aioxide does not support subinterpreters"))
}

fn pending_tasks(_: Args) -> Res {
    let l = list()?;
    for task in registry::snapshot() {
        l.list_append(&task)?;
    }
    Ok(l)
}

fn literal_address(args: Args) -> Res {
    let names = ["host", "port", "family", "type", "proto", "flowinfo", "scope_id"];
    let [host, port, family, kind, protocol, flowinfo, scope_id] = args.bind("literal_address", names, 7, 5)?;
    let (nothing, zero) = (none(), int(0)?);
    io::literal_address(
        host.unwrap_or(nothing),
        port.unwrap_or(nothing),
        family.unwrap_or(&zero),
        kind.unwrap_or(&zero),
        protocol.unwrap_or(&zero),
        [flowinfo.unwrap_or(&zero), scope_id.unwrap_or(&zero)],
    )
}

fn literal_answer(args: Args) -> Res {
    let [host, port, family, kind, protocol] =
        args.exactly("literal_answer", ["host", "port", "family", "type", "proto"])?;
    io::literal_answer(host, port, family, kind, protocol)
}

fn tls_fallback_reason(_: Args) -> Res {
    io::tls::session::fallback_reason()?.map_or_else(|| Ok(none().to_ref()), |reason| string(&reason))
}

fn note_signal(args: Args) -> Res {
    let [signal, _frame] = args.exactly("_sighandler_noop", ["signum", "frame"])?;
    io::signals::note(signal)?;
    Ok(none().to_ref())
}

fn panic_on_purpose(_: Args) -> Res {
    let never = Cell::new(false);
    assert!(never.get(), "planted");
    Ok(none().to_ref())
}
