//! The protocol of one pipe of a child: hands on what happens to the child's transport.
//!
//! CPython counterpart: `WriteSubprocessPipeProto` and `ReadSubprocessPipeProto`. One class for both: a pipe that is written
//! never receives.

use crate::ffi::cell::Cell;

use super::SubprocessTransport;
use crate::ffi::{
    Class, ClassBuilder, Inst, Native, Obj, Owned, Raised, Ref, Res, Slot, Visit, int, none, str_of, string,
};
use crate::objects::names::imports;
use crate::{constructor, getter, name, noargs, onearg, unary};

pub struct PipeProtocol {
    /// The child's transport; let go at the pipe's end.
    owner: Slot,
    fd: usize,
    /// The pipe's transport.
    transport: Slot,
    is_disconnected: Cell<bool>,
}

static CLASS: Class = Class::new();

impl Native for PipeProtocol {
    fn class() -> &'static Class {
        &CLASS
    }

    fn traverse(&self, visit: &Visit) {
        visit.slot(&self.owner);
        visit.slot(&self.transport);
    }

    fn clear(&self) {
        self.owner.clear();
        self.transport.clear();
    }
}

type This = Inst<PipeProtocol>;

impl PipeProtocol {
    pub(super) fn new(owner: &Obj, fd: usize) -> Res<Owned<PipeProtocol>> {
        Owned::new(PipeProtocol {
            owner: Slot::of(owner.to_ref()),
            fd,
            transport: Slot::empty(),
            is_disconnected: Cell::new(false),
        })
    }

    pub(super) fn transport(&self) -> Option<Ref> {
        self.transport.get()
    }

    pub(super) fn is_disconnected(&self) -> bool {
        self.is_disconnected.get()
    }

    /// Call `tell` with the child's transport, unless the pipe has ended.
    fn with_owner(&self, tell: impl FnOnce(&Inst<SubprocessTransport>) -> Res<()>) -> Res {
        if let Some(owner) = self.owner.get() {
            if let Some(owner) = owner.downcast::<SubprocessTransport>() {
                tell(owner)?;
            }
        }
        Ok(none().to_ref())
    }
}

fn new(_class: &Obj, _args: &Obj, _kwargs: Option<&Obj>) -> Res {
    Err(Raised::type_error("a SubprocessPipeProtocol is made by its SubprocessTransport"))
}

fn connection_made(this: &This, transport: &Obj) -> Res {
    this.transport.put(transport.to_ref());
    Ok(none().to_ref())
}

fn data_received(this: &This, data: &Obj) -> Res {
    let fd = int(this.fd as i64)?;
    this.with_owner(|owner| owner.on_pipe_data(&fd, data))
}

fn connection_lost(this: &This, exception: &Obj) -> Res {
    this.is_disconnected.set(true);
    let fd = int(this.fd as i64)?;
    let told = this.with_owner(|owner| owner.on_pipe_lost(&fd, exception));
    this.owner.clear();
    told
}

fn pause_writing(this: &This) -> Res {
    this.with_owner(|owner| owner.base.protocol.object().call_method(name!("pause_writing"), []).map(drop))
}

fn resume_writing(this: &This) -> Res {
    this.with_owner(|owner| owner.base.protocol.object().call_method(name!("resume_writing"), []).map(drop))
}

fn repr(this: &This) -> Res {
    // asyncio's two classes.
    let name = if this.fd == 0 { "WriteSubprocessPipeProto" } else { "ReadSubprocessPipeProto" };
    let pipe = str_of(&*this.transport.get_or_none().repr()?)?;
    string(&format!("<{name} fd={} pipe={pipe}>", this.fd))
}

fn owner(this: &This) -> Res {
    Ok(this.owner.get_or_none())
}

fn fd(this: &This) -> Res {
    int(this.fd as i64)
}

fn pipe(this: &This) -> Res {
    Ok(this.transport.get_or_none())
}

fn disconnected(this: &This) -> Res {
    Ok(this.is_disconnected.get().into())
}

pub(super) fn build() -> Res<Ref> {
    ClassBuilder::<PipeProtocol>::new(
        c"aioxide._native.SubprocessPipeProtocol",
        c"The protocol of one pipe of a child process.",
    )
    .python_base(&imports().protocol_class)
    .with_weaklist()
    .slot(pyo3_ffi::Py_tp_new, constructor!(new))
    .slot(pyo3_ffi::Py_tp_repr, unary!(PipeProtocol, repr))
    .method(c"connection_made", onearg!(PipeProtocol, connection_made), c"Keep the pipe's transport.")
    .method(c"data_received", onearg!(PipeProtocol, data_received), c"Hand bytes on.")
    .method(c"connection_lost", onearg!(PipeProtocol, connection_lost), c"Hand the pipe's end on.")
    .method(c"pause_writing", noargs!(PipeProtocol, pause_writing), c"Hand on that the pipe is full.")
    .method(c"resume_writing", noargs!(PipeProtocol, resume_writing), c"Hand on that the pipe has room.")
    .getset(c"proc", getter!(PipeProtocol, owner), None, c"The child's transport; None at the end.")
    .getset(c"fd", getter!(PipeProtocol, fd), None, c"Which descriptor of the child it is: 0, 1 or 2.")
    .getset(c"pipe", getter!(PipeProtocol, pipe), None, c"The pipe's transport.")
    .getset(c"disconnected", getter!(PipeProtocol, disconnected), None, c"Whether the pipe has ended.")
    .build()
}
