//! `add_reader` and its like.

use aioxide_core::reactor::Direction;

use super::EventLoop;
use crate::ffi::{Args, Inst, Obj, Ref, Res, int, list, none, tuple};
use crate::io::driver::descriptor;
use crate::objects::handle::{self, Handle};

fn add(this: &Inst<EventLoop>, method: &str, direction: Direction, args: Args, any: bool) -> Res<Ref> {
    this.scheduler.check_closed()?;
    this.driver.held.flush()?;
    let ([file, callback], args, _) = args.leading(method, ["fd", "callback"], false)?;
    let fd = if any { descriptor(file)? } else { this.driver.descriptor_without_transport(file)? };
    let handle = Handle::new(callback, args, this.obj(), None)?;
    if this.scheduler.debug.get() {
        handle.set_source_traceback(handle::current_stack()?);
    }
    this.driver.set_callback(fd, direction, handle.clone(), file)?;
    Ok(handle.into_ref())
}

fn remove(this: &Inst<EventLoop>, direction: Direction, file: &Obj, any: bool) -> Res {
    if this.scheduler.closed.get() {
        return Ok(false.into());
    }
    if !any {
        this.driver.transports.ensure_none(file)?;
    }
    // A file that was closed while it was watched is known by itself, as in `selectors`.
    let was_watched = match this.driver.watched_descriptor(file)? {
        Some(fd) => this.driver.clear_callback(fd, direction)?,
        None => false,
    };
    Ok(was_watched.into())
}

pub fn add_reader(this: &Inst<EventLoop>, args: Args) -> Res {
    add(this, "add_reader", Direction::Read, args, false)?;
    Ok(none().to_ref())
}

pub fn add_writer(this: &Inst<EventLoop>, args: Args) -> Res {
    add(this, "add_writer", Direction::Write, args, false)?;
    Ok(none().to_ref())
}

pub fn add_reader_handle(this: &Inst<EventLoop>, args: Args) -> Res {
    add(this, "_add_reader", Direction::Read, args, true)
}

pub fn add_writer_handle(this: &Inst<EventLoop>, args: Args) -> Res {
    add(this, "_add_writer", Direction::Write, args, true)
}

pub fn remove_reader(this: &Inst<EventLoop>, args: Args) -> Res {
    let [fd] = args.exactly("remove_reader", ["fd"])?;
    remove(this, Direction::Read, fd, false)
}

pub fn remove_writer(this: &Inst<EventLoop>, args: Args) -> Res {
    let [fd] = args.exactly("remove_writer", ["fd"])?;
    remove(this, Direction::Write, fd, false)
}

pub fn remove_reader_any(this: &Inst<EventLoop>, fd: &Obj) -> Res {
    remove(this, Direction::Read, fd, true)
}

pub fn remove_writer_any(this: &Inst<EventLoop>, fd: &Obj) -> Res {
    remove(this, Direction::Write, fd, true)
}

pub fn watched(this: &Inst<EventLoop>) -> Res {
    let all = list()?;
    for (fd, file, [reader, writer]) in this.driver.watched() {
        let or_none = |o: &Option<Ref>| o.clone().unwrap_or_else(|| none().to_ref());
        all.list_append(&*tuple([&*int(fd.into())?, &*or_none(&file), &*or_none(&reader), &*or_none(&writer)])?)?;
    }
    Ok(all)
}

pub fn wake_pipe(this: &Inst<EventLoop>) -> Res {
    let pipe = this.scheduler.pipe();
    tuple([&*int(pipe.reader_fd().into())?, &*int(pipe.writer_fd().into())?])
}
