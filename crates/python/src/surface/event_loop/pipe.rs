//! Transports for pipes.

use super::EventLoop;
use crate::ffi::{Args, Inst, Obj, Owned, Res, none};
use crate::io::pipe;

type Make<T> = fn(&Obj, &Obj, &Obj, Option<&Obj>, Option<&Obj>) -> Res<Owned<T>>;

fn make<T: crate::ffi::Native>(this: &Inst<EventLoop>, args: &Args, method: &'static str, make: Make<T>) -> Res {
    let [object, protocol, waiter, extra] = args.bind(method, ["pipe", "protocol", "waiter", "extra"], 4, 2)?;
    let given = |o: Option<&'_ Obj>| o.filter(|o| !o.is_none()).map(Obj::to_ref);
    let (object, protocol) = (object.unwrap_or(none()), protocol.unwrap_or(none()));
    this.driver.held.flush()?;
    make(this.obj(), object, protocol, given(waiter).as_deref(), given(extra).as_deref()).map(Owned::into_ref)
}

pub fn make_read(this: &Inst<EventLoop>, args: Args) -> Res {
    make(this, &args, "_make_read_pipe_transport", pipe::make_read)
}

pub fn make_write(this: &Inst<EventLoop>, args: Args) -> Res {
    make(this, &args, "_make_write_pipe_transport", pipe::make_write)
}
