//! From a started child to `connection_made`: a transport for each of its pipes.
//!
//! CPython counterpart: `BaseSubprocessTransport.__init__` (less the start) and `_connect_pipes`.

use crate::ffi::cell::{Cell, RefCell};

use super::exit::Notices;
use super::pipe::PipeProtocol;
use super::{PIPES, SubprocessTransport};
use crate::ffi::trampoline::Definition;
use crate::ffi::{Inst, Obj, Owned, Raised, Ref, Res, Slot, dict, index_value, none};
use crate::io::base::{self, Base};
use crate::io::finally;
use crate::tasks::coroutine::{self, Frame};
use crate::{definition_noargs, name};

const OWNER: usize = 0;
const WAITER: usize = 1;
const PROTOCOL: usize = 2;

/// Called by `connect_read_pipe` and `connect_write_pipe`, bound to the protocol.
static PROTOCOL_FACTORY: Definition = definition_noargs!(c"protocol_factory", itself);

fn itself(protocol: &Obj) -> Res {
    Ok(protocol.to_ref())
}

/// The transport of a child that `process`, a `subprocess.Popen`, has started. Its end is watched for; its pipes are
/// connected by a task, then `protocol.connection_made` is called and `waiter` gets its result.
///
/// # Errors
/// TypeError and AttributeError if it is no Popen; OSError as epoll has it. Then nobody watches, and the pipes are the caller's.
pub fn adopt(
    event_loop: &Obj,
    process: &Obj,
    protocol: &Obj,
    waiter: &Obj,
    extra: Option<&Obj>,
    notices: Notices,
    by_pidfd: bool,
) -> Res<Owned<SubprocessTransport>> {
    let mut has_pipe = [false; PIPES];
    for (fd, name) in pipe_names().into_iter().enumerate() {
        has_pipe[fd] = !process.getattr(name)?.is_none();
    }
    let info = dict()?;
    if let Some(extra) = extra {
        info.call_method(name!("update"), [extra])?;
    }
    info.set_item(name!("subprocess"), process)?;
    let me = Owned::new(SubprocessTransport {
        base: Base::new(event_loop, None),
        process: Slot::of(process.to_ref()),
        pid: i32::try_from(index_value(&*process.getattr(name!("pid"))?)?).unwrap_or(0),
        extra: Slot::of(info),
        returncode: Cell::new(None),
        pidfd: RefCell::new(None),
        exit_context: Slot::empty(),
        has_pipe,
        pipes: std::array::from_fn(|_| Slot::empty()),
        pending: RefCell::new(Some(Vec::new())),
        waiters: RefCell::new(Vec::new()),
        notices: Cell::new(notices),
        finished: Cell::new(false),
    })?;
    me.base.protocol.set_object(protocol);
    me.watch_for_exit(event_loop, by_pidfd)?;
    match me.begin(event_loop, waiter) {
        Ok(()) => Ok(me),
        Err(raised) => finally(Err(raised), || me.close()).map(|()| me),
    }
}

/// The attributes of a Popen.
fn pipe_names() -> [&'static Obj; PIPES] {
    [name!("stdin"), name!("stdout"), name!("stderr")]
}

/// Same as `_connect_pipes`.
fn connect_pipes(owner: &Obj, waiter: &Obj) -> Res {
    coroutine::start("SubprocessTransport._connect_pipes", [owner, waiter, none()], |frame| async move {
        let connected = connect_each(&frame).await.and_then(|()| owner_of(&frame)?.announce());
        let waiter = frame.local(WAITER);
        match connected {
            Ok(()) => base::wake(&waiter)?,
            Err(raised) if raised.is_exit() => return Err(raised),
            Err(raised) => {
                let exception = raised.take();
                let released = release_pipes(&frame);
                finally(released, || owner_of(&frame)?.give_up(&waiter, &exception))?;
            }
        }
        Ok(none().to_ref())
    })
}

fn owner_of(frame: &Frame) -> Res<Owned<SubprocessTransport>> {
    frame
        .local(OWNER)
        .downcast_into::<SubprocessTransport>()
        .ok_or_else(|| Raised::runtime("the subprocess's transport is gone"))
}

async fn connect_each(frame: &Frame) -> Res<()> {
    for (fd, name) in pipe_names().into_iter().enumerate() {
        let Some(connecting) = start_connecting(frame, fd, name)? else {
            continue;
        };
        frame.wait_for(connecting).await?;
        let owner = owner_of(frame)?;
        owner.pipes[fd].put(frame.local(PROTOCOL));
        // Closed while this pipe was on its way: nobody else would close it.
        if owner.base.closing.get() {
            owner.close_pipes()?;
        }
    }
    Ok(())
}

/// The loop's own method, which a program may have replaced.
fn start_connecting(frame: &Frame, fd: usize, name: &Obj) -> Res<Option<Ref>> {
    let owner = owner_of(frame)?;
    let file = owner.process.get_or_none().getattr(name)?;
    if file.is_none() {
        return Ok(None);
    }
    let protocol = PipeProtocol::new(owner.obj(), fd)?.into_ref();
    let factory = PROTOCOL_FACTORY.bind(&protocol)?;
    frame.set_local(PROTOCOL, protocol);
    let connect = if fd == 0 { name!("connect_write_pipe") } else { name!("connect_read_pipe") };
    owner.base.event_loop()?.call_method(connect, [&*factory, &*file]).map(Some)
}

impl Inst<SubprocessTransport> {
    /// A task connects the pipes, if there are any.
    fn begin(&self, event_loop: &Obj, waiter: &Obj) -> Res<()> {
        if self.has_pipe.contains(&true) {
            let connecting = connect_pipes(self.obj(), waiter)?;
            return event_loop.call_method(name!("create_task"), [&*connecting]).map(drop);
        }
        match self.announce() {
            Ok(()) => base::wake(waiter),
            Err(raised) if raised.is_exit() => Err(raised),
            Err(raised) => self.give_up(waiter, &raised.take()),
        }
    }

    /// `connection_made` will not be called, nor `connection_lost`: who waits for the end gets it with the status.
    fn give_up(&self, waiter: &Obj, exception: &Obj) -> Res<()> {
        self.notices.set(Notices::AtExit);
        base::fail(waiter, exception)
    }

    /// `connection_made`, then what has happened before it.
    fn announce(&self) -> Res<()> {
        let connection_made = self.base.protocol.object().getattr(name!("connection_made"))?;
        self.call_soon(&connection_made, &[self.obj()])?;
        let pending = self.pending.take().unwrap_or_default();
        for (callback, arguments) in pending {
            let arguments = arguments.to_refs();
            let arguments: Vec<&Obj> = arguments.iter().map(|a| &**a).collect();
            self.call_soon(&callback, &arguments)?;
        }
        Ok(())
    }
}

/// A pipe could not be connected: no descriptor of the others is left open.
fn release_pipes(frame: &Frame) -> Res<()> {
    let owner = owner_of(frame)?;
    let mut outcome = owner.close_pipes();
    let process = owner.process.get_or_none();
    for name in pipe_names() {
        outcome = finally(outcome, || {
            let file = process.getattr(name)?;
            if file.is_none() { Ok(()) } else { file.call_method(name!("close"), []).map(drop) }
        });
    }
    outcome
}
