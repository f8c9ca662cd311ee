//! The loop object: asyncio's surface on top of the scheduler, the driver and the tasks.
//!
//! CPython counterpart: `asyncio.base_events.BaseEventLoop` and `asyncio.selector_events.BaseSelectorEventLoop`. The loop is
//! the top, not the middle (D2): nothing below knows this type. Files by concern: `run` (the turn), `schedule` (call_soon
//! and its like), `create` (futures and tasks), `debug` (the turn in debug mode), `execute` (threads), `watch` (descriptors), `serve` (transports and listeners), `pipe`,
//! `lifetime`.
//!
//! `aioxide.EventLoop` derives from this class and adds, in Python, what runs once per program, loop or connection.

mod create;
mod datagram;
mod debug;
mod execute;
mod lifetime;
mod pipe;
mod process;
mod run;
mod schedule;
mod sendfile;
mod serve;
mod signals;
mod sock;
mod tls;
mod watch;

use aioxide_core::kernel::PollRule;
use aioxide_core::sys::clock;

use crate::ffi::cell::{Cell, RefCell};
use crate::ffi::{Class, ClassBuilder, Inst, Native, Obj, Owned, Raised, Ref, Res, Slot, Visit};
use crate::io::driver::Driver;
use crate::objects::scheduler::Scheduler;
use crate::{constructor, finalizer, getter, keywords, noargs, onearg, setattro, setter};

pub struct EventLoop {
    pub scheduler: Scheduler,
    pub driver: Driver,
    stopping: Cell<bool>,
    rule: RefCell<PollRule>,
    /// `loop.time` was replaced (tests do this): ask it instead of the clock.
    time_overridden: Cell<bool>,
    /// A class of the program's own stands in the place of asyncio's Task or Future (see `create`).
    own_classes: Cell<bool>,
    /// Timers due within so many seconds are run; programs that move the clock set it.
    clock_resolution: Cell<f64>,
    /// `loop.sock_connect` was replaced: `create_connection` awaits that one.
    sock_connect_overridden: Cell<bool>,
    /// Nobody has overridden `create_future`: what a thread's call is for may be made without asking Python.
    makes_futures: Cell<bool>,
    /// The same of `call_soon_threadsafe`, by which outcomes come in.
    takes_from_threads: Cell<bool>,
    /// The handle that runs, in debug mode: reports show where it was made.
    current_handle: Slot,
    /// Where `run_forever` was called, if somebody in debug mode wanted to know.
    run_from: Slot,
}

static EVENT_LOOP: Class = Class::new();

impl Native for EventLoop {
    fn class() -> &'static Class {
        &EVENT_LOOP
    }

    fn traverse(&self, visit: &Visit) {
        self.scheduler.traverse(visit);
        self.driver.traverse(visit);
        visit.slot(&self.current_handle);
        visit.slot(&self.run_from);
    }

    fn clear(&self) {
        self.scheduler.clear_work();
        self.scheduler.task_factory.clear();
        self.driver.clear();
        self.current_handle.clear();
        self.run_from.clear();
    }
}

fn new(class: &Obj, _args: &Obj, _kwargs: Option<&Obj>) -> Res {
    let open = || -> std::io::Result<EventLoop> {
        let scheduler = Scheduler::new()?;
        let driver = Driver::new(&scheduler)?;
        Ok(EventLoop {
            scheduler,
            driver,
            stopping: Cell::new(false),
            rule: RefCell::new(PollRule::default()),
            time_overridden: Cell::new(false),
            own_classes: Cell::new(false),
            clock_resolution: Cell::new(clock::resolution_s()),
            sock_connect_overridden: Cell::new(false),
            makes_futures: Cell::new(true),
            takes_from_threads: Cell::new(true),
            current_handle: Slot::empty(),
            run_from: Slot::empty(),
        })
    };
    let value = open().map_err(|e| Raised::os(&e))?;
    let this = Owned::of_class(class, value)?;
    this.scheduler.set_overridden(is_overridden(class, crate::name!("call_soon"))?);
    this.time_overridden.set(is_overridden(class, crate::name!("time"))?);
    this.sock_connect_overridden.set(is_overridden(class, crate::name!("sock_connect"))?);
    this.makes_futures.set(!is_overridden(class, crate::name!("create_future"))?);
    this.takes_from_threads.set(!is_overridden(class, crate::name!("call_soon_threadsafe"))?);
    Ok(this.into_ref())
}

/// Does a subclass define the method anew?
fn is_overridden(class: &Obj, name: &Obj) -> Res<bool> {
    Ok(!class.getattr(name)?.is(&*EVENT_LOOP.type_object().getattr(name)?))
}

/// Attributes can be set on a loop; some of them change what native code may assume.
fn set_attribute(this: &Inst<EventLoop>, name: &Obj, value: Option<&Obj>) -> Res<()> {
    this.obj().generic_setattr(name, value)?;
    if name.equals(crate::name!("call_soon"))? {
        this.scheduler.set_overridden(value.is_some() || is_overridden(this.obj().class(), name)?);
    } else if name.equals(crate::name!("time"))? {
        this.time_overridden.set(value.is_some() || is_overridden(this.obj().class(), name)?);
    } else if name.equals(crate::name!("sock_connect"))? {
        this.sock_connect_overridden.set(value.is_some() || is_overridden(this.obj().class(), name)?);
    } else if name.equals(crate::name!("create_future"))? {
        this.makes_futures.set(value.is_none() && !is_overridden(this.obj().class(), name)?);
    } else if name.equals(crate::name!("call_soon_threadsafe"))? {
        this.takes_from_threads.set(value.is_none() && !is_overridden(this.obj().class(), name)?);
    }
    Ok(())
}

pub fn build() -> Res<Ref> {
    let b = ClassBuilder::<EventLoop>::new(
        c"aioxide._native.Loop",
        c"The native part of aioxide.EventLoop; make that one, not this.",
    )
    .subclassable()
    .slot(pyo3_ffi::Py_tp_new, constructor!(new))
    .slot(pyo3_ffi::Py_tp_setattro, setattro!(EventLoop, set_attribute))
    .slot(pyo3_ffi::Py_tp_finalize, finalizer!(EventLoop, lifetime::finalize))
    // run
    .method(c"run_forever", noargs!(EventLoop, run::run_forever), c"run_forever($self, /)\n--\n\nRun until stop(). Same as asyncio.loop.run_forever.")
    .method(c"stop", noargs!(EventLoop, run::stop), c"stop($self, /)\n--\n\nStop when the current turn ends. Loop's thread only.")
    .method(c"is_running", noargs!(EventLoop, run::is_running), c"is_running($self, /)\n--\n\nWhether a thread is inside run_forever().")
    // schedule
    .method(c"call_soon", keywords!(EventLoop, schedule::call_soon), c"call_soon($self, callback, *args, context=None)\n--\n\nCall at the next turn, in order. Same as asyncio.loop.call_soon.")
    .method(c"call_soon_threadsafe", keywords!(EventLoop, schedule::call_soon_threadsafe), c"call_soon_threadsafe($self, callback, *args, context=None)\n--\n\ncall_soon from any thread; wakes the loop.")
    .method(c"call_later", keywords!(EventLoop, schedule::call_later), c"call_later($self, delay, callback, *args, context=None)\n--\n\nCall after delay seconds. Same as asyncio.loop.call_later.")
    .method(c"call_at", keywords!(EventLoop, schedule::call_at), c"call_at($self, when, callback, *args, context=None)\n--\n\nCall at loop.time() == when, in seconds.")
    .method(c"time", noargs!(EventLoop, schedule::time), c"time($self, /)\n--\n\nThe loop's clock in seconds: time.monotonic().")
    .getset(c"_ready", getter!(EventLoop, schedule::ready), None, c"A list of the handles that are ready (a copy).")
    .getset(c"_scheduled", getter!(EventLoop, schedule::scheduled), None, c"A list of the timers (a copy).")
    .getset(c"_clock_resolution", getter!(EventLoop, run::clock_resolution), setter!(EventLoop, run::set_clock_resolution), c"Seconds within which a timer counts as due.")
    // create
    .method(c"create_future", noargs!(EventLoop, create::create_future), c"create_future($self, /)\n--\n\nA new Future of this loop.")
    .method(c"create_task", keywords!(EventLoop, create::create_task), c"create_task($self, coro, *, name=None, context=None, **kwargs)\n--\n\nSchedule a coroutine as a Task. Same as asyncio.loop.create_task.")
    .method(c"set_task_factory", keywords!(EventLoop, create::set_task_factory), c"set_task_factory($self, factory)\n--\n\nHow create_task makes tasks; None for the default.")
    .method(c"get_task_factory", noargs!(EventLoop, create::get_task_factory), c"get_task_factory($self, /)\n--\n\nThe task factory or None.")
    .getset(c"_task_factory", getter!(EventLoop, create::get_task_factory), None, c"The task factory or None.")
    // execute
    .method(c"run_in_executor", keywords!(EventLoop, execute::run_in_executor), c"run_in_executor($self, executor, func, *args)\n--\n\nCall func(*args) in the executor, or in the default one for None. Same as asyncio.loop.run_in_executor.")
    // watch
    .method(c"add_reader", keywords!(EventLoop, watch::add_reader), c"add_reader($self, fd, callback, *args)\n--\n\nCall whenever fd is readable. Same as asyncio.loop.add_reader.")
    .method(c"remove_reader", keywords!(EventLoop, watch::remove_reader), c"remove_reader($self, fd)\n--\n\nStop watching; whether it was watched.")
    .method(c"add_writer", keywords!(EventLoop, watch::add_writer), c"add_writer($self, fd, callback, *args)\n--\n\nCall whenever fd is writable.")
    .method(c"remove_writer", keywords!(EventLoop, watch::remove_writer), c"remove_writer($self, fd)\n--\n\nStop watching; whether it was watched.")
    .method(c"_add_reader", keywords!(EventLoop, watch::add_reader_handle), c"add_reader that gives the handle and does not look for transports.")
    .method(c"_remove_reader", onearg!(EventLoop, watch::remove_reader_any), c"remove_reader that does not look for transports.")
    .method(c"_add_writer", keywords!(EventLoop, watch::add_writer_handle), c"add_writer that gives the handle and does not look for transports.")
    .method(c"_remove_writer", onearg!(EventLoop, watch::remove_writer_any), c"remove_writer that does not look for transports.")
    .method(c"_watched", noargs!(EventLoop, watch::watched), c"(fd, file object or None, reader, writer) of all that is watched.")
    .getset(c"_wake_pipe", getter!(EventLoop, watch::wake_pipe), None, c"The descriptors of the pipe that wakes the loop.")
    // serve
    .method(c"_make_socket_transport", keywords!(EventLoop, serve::make_socket_transport), c"A transport for a connected socket.")
    .method(c"_make_tls", keywords!(EventLoop, tls::make), c"TLS for a transport to come.")
    .method(c"_start_serving", keywords!(EventLoop, serve::start_serving), c"Accept connections of a listening socket.")
    .method(c"_make_datagram_transport", keywords!(EventLoop, datagram::make_datagram_transport), c"A transport of a datagram socket.")
    .method(c"_stop_listening", onearg!(EventLoop, serve::stop_listening), c"Stop accepting, and close the listening socket.")
    .method(c"_transports_of", onearg!(EventLoop, serve::transports_of), c"The open transports that a server has accepted; of all, if it is None.")
    .method(c"set_write_gathering", keywords!(EventLoop, serve::set_write_gathering), c"set_write_gathering($self, enabled)\n--\n\nWhether a transport may hold what one callback writes, to send it at the callback's end. On unless AIOXIDE_GATHER=0.")
    .method(c"_flush_held", noargs!(EventLoop, serve::flush_held), c"Send what a transport holds.")
    // process
    .method(c"_adopt_child", keywords!(EventLoop, process::adopt_child), c"The transport of a child that a Popen has started.")
    // pipe
    .method(c"_make_read_pipe_transport", keywords!(EventLoop, pipe::make_read), c"A transport for the reading end of a pipe.")
    .method(c"_make_write_pipe_transport", keywords!(EventLoop, pipe::make_write), c"A transport for the writing end of a pipe.")
    // sock
    .method(c"sock_recv", keywords!(EventLoop, sock::recv), c"sock_recv($self, sock, n)\n--\n\nReceive up to n bytes. Same as asyncio.loop.sock_recv.")
    .method(c"sock_recv_into", keywords!(EventLoop, sock::recv_into), c"sock_recv_into($self, sock, buf)\n--\n\nReceive into a writable buffer; the count of bytes.")
    .method(c"sock_sendall", keywords!(EventLoop, sock::sendall), c"sock_sendall($self, sock, data)\n--\n\nSend all of data. After an error or a cancellation nobody knows how much was sent.")
    .method(c"sock_connect", keywords!(EventLoop, sock::connect), c"sock_connect($self, sock, address)\n--\n\nConnect; hosts are resolved for IP sockets.")
    .method(c"sock_accept", keywords!(EventLoop, sock::accept), c"sock_accept($self, sock)\n--\n\nAccept a connection: (socket, address). The socket does not block.")
    .method(c"_connect_sock", keywords!(EventLoop, sock::connect_sock), c"A socket connected to one address.")
    .method(c"_create_connection_transport", keywords!(EventLoop, sock::create_transport), c"A transport and its protocol for a connected socket.")
    // sendfile
    .method(c"_sendfile", keywords!(EventLoop, sendfile::sendfile), c"sendfile(2) from one descriptor to a socket; how many bytes went.")
    .method(c"_set_aside", onearg!(EventLoop, sendfile::set_aside), c"The descriptor of a transport counts as free.")
    .method(c"_take_back", onearg!(EventLoop, sendfile::take_back), c"The descriptor of a transport is its own again.")
    // signals
    .method(c"_claim_signals", noargs!(EventLoop, signals::claim), c"Signals come to this loop: a handler is to be installed.")
    .method(c"_release_signals", noargs!(EventLoop, signals::release), c"Signals do not come any more: the last handler was removed.")
    .method(c"_handle_signal", onearg!(EventLoop, signals::handle), c"Queue the handler of a signal that has come.")
    .getset(c"_signal_handlers", getter!(EventLoop, signals::handlers), None, c"Number of a signal to its handle.")
    // lifetime
    .method(c"is_closed", noargs!(EventLoop, lifetime::is_closed), c"is_closed($self, /)\n--\n\nWhether close() was called.")
    .method(c"_close", noargs!(EventLoop, lifetime::close), c"Release the native resources.")
    .method(c"_check_closed", noargs!(EventLoop, lifetime::check_closed), c"RuntimeError if the loop is closed.")
    .method(c"_check_thread", noargs!(EventLoop, lifetime::check_thread), c"RuntimeError if another thread runs the loop.")
    .method(c"_check_running", noargs!(EventLoop, lifetime::check_running), c"RuntimeError if this or another loop runs in this thread.")
    .method(c"_timer_handle_cancelled", onearg!(EventLoop, lifetime::timer_handle_cancelled), c"For asyncio's own TimerHandle; ours does not need it.")
    .method(c"get_debug", noargs!(EventLoop, lifetime::get_debug), c"get_debug($self, /)\n--\n\nWhether debug mode is on.")
    .method(c"set_debug", keywords!(EventLoop, lifetime::set_debug), c"set_debug($self, enabled)\n--\n\nTurn debug mode on or off.")
    .getset(c"_debug", getter!(EventLoop, lifetime::get_debug), setter!(EventLoop, lifetime::set_debug_attribute), c"Whether debug mode is on.")
    .getset(c"_closed", getter!(EventLoop, lifetime::is_closed), None, c"Whether close() was called.")
    .getset(c"_stopping", getter!(EventLoop, run::stopping), setter!(EventLoop, run::set_stopping), c"Whether stop() was called.")
    .getset(c"_thread_id", getter!(EventLoop, lifetime::thread_id), None, c"Identifier of the thread that runs the loop, or None.")
    .getset(c"_current_handle", getter!(EventLoop, lifetime::current_handle), None, c"The handle that runs (debug mode), or None.");
    let b = if cfg!(Py_3_11) { datagram_methods(b) } else { b };
    let class = b.build()?;
    Scheduler::register_loop_class(|o| o.downcast::<EventLoop>().map(|l| &l.scheduler));
    Driver::register_loop_class(|o| o.downcast::<EventLoop>().map(|l| &l.driver));
    Ok(class)
}

/// Of 3.11.
fn datagram_methods(b: ClassBuilder<EventLoop>) -> ClassBuilder<EventLoop> {
    b.method(c"sock_recvfrom", keywords!(EventLoop, sock::recvfrom), c"sock_recvfrom($self, sock, bufsize)\n--\n\nReceive a datagram: (data, address).")
        .method(c"sock_recvfrom_into", keywords!(EventLoop, sock::recvfrom_into), c"sock_recvfrom_into($self, sock, buf, nbytes=0)\n--\n\nReceive a datagram into a writable buffer: (count of bytes, address).")
        .method(c"sock_sendto", keywords!(EventLoop, sock::sendto), c"sock_sendto($self, sock, data, address)\n--\n\nSend a datagram; the count of bytes.")
}
