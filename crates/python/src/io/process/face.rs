//! The Python class: `aioxide._native.SubprocessTransport`, derived from `asyncio.SubprocessTransport`.
//!
//! CPython counterpart: the public methods of `BaseSubprocessTransport`, and those attributes of it that asyncio itself and
//! libraries look at (`asyncio.subprocess.Process.wait` awaits `_wait()`).

use super::{PIPES, SubprocessTransport, exit};
use crate::ffi::{Args, ClassBuilder, Inst, Obj, Raised, Ref, Res, dict, index_value, int, none, str_of, string};
use crate::objects::names::imports;
use crate::{constructor, finalizer, getter, keywords, name, noargs, onearg, unary};

type This = Inst<SubprocessTransport>;

fn done(outcome: Res<()>) -> Res {
    outcome.map(|()| none().to_ref())
}

fn new(_class: &Obj, _args: &Obj, _kwargs: Option<&Obj>) -> Res {
    Err(Raised::type_error("a SubprocessTransport is made by its loop: subprocess_exec(), subprocess_shell()"))
}

fn get_pid(this: &This) -> Res {
    int(this.pid.into())
}

fn get_returncode(this: &This) -> Res {
    this.returncode.get().map_or_else(|| Ok(none().to_ref()), |status| int(status.into()))
}

fn get_pipe_transport(this: &This, args: Args) -> Res {
    let [fd] = args.exactly("get_pipe_transport", ["fd"])?;
    let fd = if fd.is_long() { index_value(fd)? } else { -1 };
    let transport = usize::try_from(fd).ok().and_then(|fd| this.pipe_transport(fd));
    Ok(transport.unwrap_or_else(|| none().to_ref()))
}

fn send_signal(this: &This, args: Args) -> Res {
    let [signal] = args.exactly("send_signal", ["signal"])?;
    done(this.send_signal(signal))
}

/// `signal.SIGTERM` and `signal.SIGKILL`.
const TERMINATE: i64 = 15;
const KILL: i64 = 9;

fn terminate(this: &This) -> Res {
    done(this.send_signal(&*int(TERMINATE)?))
}

fn kill(this: &This) -> Res {
    done(this.send_signal(&*int(KILL)?))
}

fn close(this: &This) -> Res {
    done(this.close())
}

fn is_closing(this: &This) -> Res {
    Ok(this.base.closing.get().into())
}

fn set_protocol(this: &This, args: Args) -> Res {
    let [protocol] = args.exactly("set_protocol", ["protocol"])?;
    this.base.protocol.set_object(protocol);
    Ok(none().to_ref())
}

fn get_protocol(this: &This) -> Res {
    Ok(this.base.protocol.object())
}

fn get_extra_info(this: &This, args: Args) -> Res {
    let [key, default] = args.bind("get_extra_info", ["name", "default"], 2, 1)?;
    let (key, default) = (key.unwrap_or(none()), default.unwrap_or(none()));
    this.extra.get_or_none().call_method(name!("get"), [key, default])
}

fn wait(this: &This) -> Res {
    this.wait()
}

fn reap(this: &This) -> Res {
    done(this.reap())
}

fn process_exited(this: &This, returncode: &Obj) -> Res {
    let status = i32::try_from(index_value(returncode)?);
    done(this.on_exit(status.map_err(|_| Raised::value_error("no return code of a process"))?))
}

fn call_connection_lost(this: &This, exception: &Obj) -> Res {
    if !this.base.event_loop.is_some() {
        return Ok(none().to_ref());
    }
    done(this.lose_connection(exception))
}

/// Same as `BaseSubprocessTransport.__repr__`.
pub(super) fn repr(this: &This) -> Res {
    let mut info = vec![str_of(&*this.obj().class().getattr(name!("__name__"))?)?];
    if this.base.closing.get() {
        info.push("closed".to_owned());
    }
    info.push(format!("pid={}", this.pid));
    info.push(this.returncode.get().map_or("running".to_owned(), |status| format!("returncode={status}")));
    for (fd, name) in ["stdin", "stdout", "stderr"].into_iter().enumerate() {
        if let Some(pipe) = this.pipe_transport(fd) {
            info.push(format!("{name}={}", str_of(&*pipe.repr()?)?));
        }
    }
    string(&format!("<{}>", info.join(" ")))
}

fn event_loop(this: &This) -> Res {
    Ok(this.base.event_loop.get_or_none())
}

fn process(this: &This) -> Res {
    Ok(this.process.get_or_none())
}

fn extra(this: &This) -> Res {
    Ok(this.extra.get_or_none())
}

fn finished(this: &This) -> Res {
    Ok(this.finished.get().into())
}

/// Same as `_pipes`: descriptor to protocol, None while it is not connected.
fn pipes(this: &This) -> Res {
    let found = dict()?;
    for fd in (0..PIPES).filter(|&fd| this.has_pipe[fd]) {
        found.set_item(&*int(fd as i64)?, &this.pipes[fd].get_or_none())?;
    }
    Ok(found)
}

pub fn build() -> Res<Ref> {
    super::pipe::build()?;
    ClassBuilder::<SubprocessTransport>::new(
        c"aioxide._native.SubprocessTransport",
        c"The transport of a child process. Same as asyncio's.",
    )
    .python_base(&imports().subprocess_transport_class)
    .with_dict()
    .with_weaklist()
    .slot(pyo3_ffi::Py_tp_new, constructor!(new))
    .slot(pyo3_ffi::Py_tp_repr, unary!(SubprocessTransport, repr))
    .slot(pyo3_ffi::Py_tp_finalize, finalizer!(SubprocessTransport, exit::finalize))
    .method(c"get_pid", noargs!(SubprocessTransport, get_pid), c"get_pid($self, /)\n--\n\nThe child's process number.")
    .method(c"get_returncode", noargs!(SubprocessTransport, get_returncode), c"get_returncode($self, /)\n--\n\nThe exit code, or minus the signal that ended it; None while it runs.")
    .method(c"get_pipe_transport", keywords!(SubprocessTransport, get_pipe_transport), c"get_pipe_transport($self, fd)\n--\n\nThe transport of the child's descriptor 0, 1 or 2; None if it is no pipe.")
    .method(c"send_signal", keywords!(SubprocessTransport, send_signal), c"send_signal($self, signal)\n--\n\nSend a signal to the child; nothing once it has ended. ProcessLookupError after connection_lost.")
    .method(c"terminate", noargs!(SubprocessTransport, terminate), c"terminate($self, /)\n--\n\nsend_signal(SIGTERM).")
    .method(c"kill", noargs!(SubprocessTransport, kill), c"kill($self, /)\n--\n\nsend_signal(SIGKILL).")
    .method(c"close", noargs!(SubprocessTransport, close), c"close($self, /)\n--\n\nClose the pipes, and kill the child if it still runs.")
    .method(c"is_closing", noargs!(SubprocessTransport, is_closing), c"is_closing($self, /)\n--\n\nWhether close() was called.")
    .method(c"set_protocol", keywords!(SubprocessTransport, set_protocol), c"set_protocol($self, protocol)\n--\n\nExchange the protocol.")
    .method(c"get_protocol", noargs!(SubprocessTransport, get_protocol), c"get_protocol($self, /)\n--\n\nThe protocol; None after connection_lost.")
    .method(c"get_extra_info", keywords!(SubprocessTransport, get_extra_info), c"get_extra_info($self, name, default=None)\n--\n\n'subprocess' is the subprocess.Popen.")
    .method(c"_wait", noargs!(SubprocessTransport, wait), c"_wait($self, /)\n--\n\nA coroutine: the return code, when there is one.")
    .method(c"_reap", noargs!(SubprocessTransport, reap), c"Take the child's status, if it has ended, and tell of it.")
    .method(c"_process_exited", onearg!(SubprocessTransport, process_exited), c"Tell of the child's end.")
    .method(c"_call_connection_lost", onearg!(SubprocessTransport, call_connection_lost), c"The end: connection_lost, then everything is let go.")
    .getset(c"_loop", getter!(SubprocessTransport, event_loop), None, c"The loop; None after connection_lost.")
    .getset(c"_protocol", getter!(SubprocessTransport, get_protocol), None, c"The protocol; None after connection_lost.")
    .getset(c"_proc", getter!(SubprocessTransport, process), None, c"The subprocess.Popen; None after connection_lost.")
    .getset(c"_pid", getter!(SubprocessTransport, get_pid), None, c"The child's process number.")
    .getset(c"_returncode", getter!(SubprocessTransport, get_returncode), None, c"As get_returncode().")
    .getset(c"_extra", getter!(SubprocessTransport, extra), None, c"The dict behind get_extra_info().")
    .getset(c"_closed", getter!(SubprocessTransport, is_closing), None, c"Whether close() was called.")
    .getset(c"_finished", getter!(SubprocessTransport, finished), None, c"Whether connection_lost is due or over.")
    .getset(c"_pipes", getter!(SubprocessTransport, pipes), None, c"Descriptor to pipe protocol (a copy).")
    .build()
}
