//! The cryptography of one connection, by either engine.
//!
//! CPython counterpart: `SSLProtocol._sslobj`, `_incoming`, `_outgoing`.
//!
//! * **Direct**: OpenSSL reads records from where they were received and writes them to where they are sent from (`ffi::openssl`).
//! * **Fallback**: `_ssl`'s own methods on two `MemoryBIO`s, for an OpenSSL that cannot be called directly, and for objects that are
//!   not `_ssl`'s. It shows `read` whole records only, because a read in vain costs an exception.
//!
//! Both do the handshake, the shutdown and all errors by the methods of the `ssl.SSLObject`, so these are the interpreter's. A
//! context with a message callback reads and writes by methods too, on whichever buffers: what the callback raises is known
//! to the methods alone.
//!
//! Which engine it is is decided once per process (`AIOXIDE_TLS=fallback` refuses the direct one), and per connection where
//! the object is a strange one.

use std::mem::MaybeUninit;
use std::sync::OnceLock;

use aioxide_core::tls::{RECORD_BYTES, Records};

use crate::ffi::cell::{Cell, RefCell};
use crate::ffi::openssl::{self, Connection, Flight, MemoryBio, Moved};
use crate::ffi::{
    Obj, Once, Raised, Ref, Res, Slot, Visit, bytes_from, bytes_of, exc, import_attr, index_value, int, tuple,
};
use crate::{kwnames, name};

/// `AIOXIDE_TLS=fallback` has every connection use the fallback engine.
const SWITCH: &str = "AIOXIDE_TLS";

/// What Python's `ssl` module gives.
struct Ssl {
    object_class: Ref,
    /// "Not now": `SSLAgainErrors` of `asyncio.sslproto`.
    again: Ref,
    error: Ref,
    certificate_error: Ref,
}

static SSL: Once<Ssl> = Once::new();

fn ssl() -> Res<&'static Ssl> {
    if !SSL.is_set() {
        let of = |attribute| import_attr("ssl", attribute);
        let (want_read, syscall) = (of("SSLWantReadError")?, of("SSLSyscallError")?);
        let again = match cfg!(Py_3_11) {
            true => tuple([&*want_read, &*syscall])?,
            false => tuple([&*want_read, &*syscall, &*of("SSLWantWriteError")?])?,
        };
        SSL.set(Ssl {
            object_class: of("SSLObject")?,
            again,
            error: of("SSLError")?,
            certificate_error: of("SSLCertVerificationError")?,
        });
    }
    Ok(SSL.get())
}

/// Is it an error of TLS?
pub fn is_tls_error(exception: &Obj) -> bool {
    SSL.is_set() && exception.is_exception_of(&SSL.get().error)
}

pub fn is_certificate_error(exception: &Obj) -> bool {
    SSL.is_set() && exception.is_exception_of(&SSL.get().certificate_error)
}

/// Why connections of this process do not use the direct engine; None if they do.
///
/// # Errors
/// ImportError of an interpreter without `ssl`.
pub fn fallback_reason() -> Res<Option<String>> {
    if is_refused() {
        return Ok(Some(format!("{SWITCH} is set to fallback")));
    }
    Ok(openssl::is_available()?.err().map(str::to_owned))
}

/// Looked up at the first connection.
fn is_refused() -> bool {
    static REFUSED: OnceLock<bool> = OnceLock::new();
    *REFUSED.get_or_init(|| std::env::var_os(SWITCH).is_some_and(|value| value == "fallback"))
}

fn check_memory(connection: &Connection) -> Res<()> {
    if connection.has_failed() { Err(Raised::no_memory()) } else { Ok(()) }
}

/// Are `read` and `write` those of `ssl.SSLObject`? A program may have its own class (`SSLContext.sslobject_class`), and there its
/// own methods: these are called then.
fn reads_and_writes_itself(object: &Obj, ssl: &Ssl) -> Res<bool> {
    let class = object.class();
    if class.is(&ssl.object_class) {
        return Ok(true);
    }
    for name in [name!("read"), name!("write")] {
        match class.getattr_opt(name)? {
            Some(method) if method.is(&*ssl.object_class.getattr(name)?) => {}
            _ => return Ok(false),
        }
    }
    Ok(object.getattr_opt(name!("_sslobj"))?.is_some())
}

/// A method's answer; None: it wants to be called again when more has come.
fn unless_again(outcome: Res) -> Res<Option<Ref>> {
    match outcome {
        Ok(answer) => Ok(Some(answer)),
        Err(raised) if raised.matches(&ssl()?.again) => {
            raised.forget();
            Ok(None)
        }
        Err(raised) => Err(raised),
    }
}

pub struct Session {
    /// The `ssl.SSLObject`. Kept whole: a server name callback has a weak reference to it.
    object: Slot,
    channel: Channel,
    /// Data goes by methods, for a message callback.
    by_methods: Cell<bool>,
}

enum Channel {
    Direct(Connection),
    Fallback(Memory),
}

struct Memory {
    /// Whose methods are called: `_ssl`'s object, or the `SSLObject` of a program's own class.
    methods: Slot,
    incoming: MemoryBio,
    outgoing: MemoryBio,
    records: Cell<Records>,
    /// The last read has filled its room: there may be more of the same record, which OpenSSL has.
    was_filled: Cell<bool>,
    /// What could not be sent.
    unsent: RefCell<Vec<u8>>,
    is_busy: Cell<bool>,
}

impl Session {
    /// Same as `context.wrap_bio(...)`.
    ///
    /// # Errors
    /// What that raises: ValueError for a host name that is none, most of all.
    pub fn new(context: &Obj, server_side: &Obj, server_hostname: &Obj) -> Res<Session> {
        let ssl = ssl()?;
        let (incoming, outgoing) = (MemoryBio::new()?, MemoryBio::new()?);
        let wrap = || {
            let arguments = [&*incoming.object(), &*outgoing.object(), server_side, server_hostname];
            context.getattr(name!("wrap_bio"))?.call_kw(&arguments, kwnames!("server_side", "server_hostname"))
        };
        let (object, connection) = if is_refused() {
            (wrap()?, None)
        } else {
            openssl::wrap(wrap, |object| {
                // A context may have begun the handshake already.
                let is_fresh = incoming.pending() == 0 && outgoing.pending() == 0;
                Ok(is_fresh && reads_and_writes_itself(object, ssl)?)
            })?
        };
        let channel = match connection {
            Some(connection) => Channel::Direct(connection),
            None => {
                let methods = if reads_and_writes_itself(&object, ssl)? {
                    object.getattr(name!("_sslobj"))?
                } else {
                    object.clone()
                };
                Channel::Fallback(Memory {
                    methods: Slot::of(methods),
                    incoming,
                    outgoing,
                    records: Cell::new(Records::new()),
                    was_filled: Cell::new(false),
                    unsent: RefCell::new(Vec::new()),
                    is_busy: Cell::new(false),
                })
            }
        };
        let session = Session { object: Slot::of(object), channel, by_methods: Cell::new(false) };
        session.look_for_message_callback()?;
        Ok(session)
    }

    pub fn traverse(&self, visit: &Visit) {
        visit.slot(&self.object);
        match &self.channel {
            Channel::Direct(connection) => connection.traverse(visit),
            Channel::Fallback(memory) => memory.traverse(visit),
        }
    }

    /// The `ssl.SSLObject`.
    pub fn object(&self) -> Ref {
        self.object.get_or_none()
    }

    pub fn is_direct(&self) -> bool {
        matches!(self.channel, Channel::Direct(_))
    }

    /// A server name callback may have put another context in the place of the first one.
    pub fn look_for_message_callback(&self) -> Res<()> {
        if !self.is_direct() {
            return Ok(());
        }
        let context = self.object().getattr(name!("context"))?;
        let callback = context.getattr_opt(name!("_msg_callback"))?;
        self.by_methods.set(callback.is_some_and(|callback| !callback.is_none()));
        Ok(())
    }

    /// The connection is over. The `ssl.SSLObject` stays as it is, without a peer.
    pub fn end(&self) {
        match &self.channel {
            Channel::Direct(connection) => connection.detach(),
            Channel::Fallback(memory) => memory.clear(),
        }
    }

    pub fn clear(&self) {
        self.end();
        self.object.clear();
    }

    /// Bytes received that are not decrypted.
    pub fn unread(&self) -> usize {
        match &self.channel {
            Channel::Direct(connection) => connection.unread(),
            Channel::Fallback(memory) => memory.incoming.pending(),
        }
    }

    /// Records that wait to be sent, in bytes.
    pub fn unsent(&self) -> usize {
        match &self.channel {
            Channel::Direct(connection) => connection.unsent(),
            Channel::Fallback(memory) => memory.unsent.borrow().len() + memory.outgoing.pending(),
        }
    }

    /// Received bytes for later.
    pub fn keep(&self, bytes: &[u8]) -> Res<()> {
        match &self.channel {
            Channel::Direct(connection) => {
                connection.keep(bytes);
                check_memory(connection)
            }
            Channel::Fallback(memory) => memory.feed(bytes),
        }
    }

    /// Records that could not be sent: they come first in what the next exchange gives.
    pub fn put_back(&self, records: &[u8]) {
        match &self.channel {
            Channel::Direct(connection) => connection.put_back(records),
            Channel::Fallback(memory) => {
                let mut unsent = memory.unsent.borrow_mut();
                unsent.splice(..0, records.iter().copied());
            }
        }
    }

    /// Run `f` where it may read what was received, `input` last, and write. What is not read of `input` is kept. `output`, empty
    /// before, then has all records to be sent; without one they wait for the next exchange that has one. None, and `f` is not
    /// run, inside of another exchange of this connection (a callback of the context's), or when it is over.
    ///
    /// # Errors
    /// Of the fallback engine: what `MemoryBIO` raises.
    #[inline]
    pub fn exchange<R>(
        &self,
        input: &[u8],
        output: Option<&mut Vec<u8>>,
        f: impl FnOnce(&Exchange<'_>) -> Res<R>,
    ) -> Res<Option<R>> {
        let outcome = match &self.channel {
            Channel::Direct(connection) => {
                let by_methods = self.by_methods.get();
                let outcome = connection.fly(input, output, |flight| {
                    f(&Exchange { session: self, how: How::Direct { flight, by_methods } })
                });
                match outcome {
                    Some(Ok(answer)) => Some(check_memory(connection).map(|()| answer)),
                    outcome => outcome,
                }
            }
            Channel::Fallback(memory) => memory.exchange(input, output, |methods| {
                f(&Exchange { session: self, how: How::Methods { memory, methods } })
            })?,
        };
        outcome.transpose()
    }
}

/// `sslobj.pending()`: plain text that OpenSSL has decrypted and not given.
fn held_back(methods: &Obj) -> usize {
    match methods.call_method(name!("pending"), []).and_then(|count| index_value(&count)) {
        Ok(count) => usize::try_from(count).unwrap_or(0),
        Err(raised) => {
            raised.forget();
            0
        }
    }
}

impl Memory {
    fn traverse(&self, visit: &Visit) {
        visit.slot(&self.methods);
        self.incoming.traverse(visit);
        self.outgoing.traverse(visit);
    }

    fn clear(&self) {
        self.methods.clear();
        self.incoming.clear();
        self.outgoing.clear();
    }

    fn feed(&self, bytes: &[u8]) -> Res<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        self.incoming.write(bytes)?;
        let mut records = self.records.get();
        records.feed(bytes);
        self.records.set(records);
        Ok(())
    }

    fn exchange<R>(
        &self,
        input: &[u8],
        output: Option<&mut Vec<u8>>,
        f: impl FnOnce(&Obj) -> Res<R>,
    ) -> Res<Option<Res<R>>> {
        self.feed(input)?;
        let Some(methods) = self.methods.get() else {
            return Ok(None);
        };
        if self.is_busy.replace(true) {
            return Ok(None);
        }
        let outcome = f(&methods);
        self.is_busy.set(false);
        if let Some(output) = output {
            output.append(&mut self.unsent.borrow_mut());
            Raised::aside(|| self.outgoing.drain(output));
        }
        Ok(Some(outcome))
    }
}

/// A session while it may be read and written.
pub struct Exchange<'a> {
    session: &'a Session,
    how: How<'a>,
}

enum How<'a> {
    Direct { flight: &'a Flight<'a>, by_methods: bool },
    Methods { memory: &'a Memory, methods: &'a Obj },
}

/// What came of a read or a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    Bytes(usize),
    /// The peer has to say something first.
    Later,
    /// The peer has sent `close_notify`.
    Closed,
}

impl Exchange<'_> {
    /// Before a method of the object's that looks into OpenSSL's queue of errors.
    fn forget_stale_errors(&self) {
        if let How::Direct { flight, .. } = &self.how {
            flight.forget_stale_errors();
        }
    }

    /// Same as `do_handshake`; is it done?
    pub fn handshake(&self) -> Res<bool> {
        self.forget_stale_errors();
        unless_again(self.session.object().call_method(name!("do_handshake"), [])).map(|done| done.is_some())
    }

    /// Same as `unwrap`; has the peer answered?
    pub fn shut_down(&self) -> Res<bool> {
        self.forget_stale_errors();
        unless_again(self.session.object().call_method(name!("unwrap"), [])).map(|done| done.is_some())
    }

    /// Might a read give something?
    #[inline]
    pub fn has_more(&self) -> bool {
        match &self.how {
            How::Direct { flight, .. } => flight.unread() != 0,
            How::Methods { memory, methods } => {
                (memory.was_filled.get() && held_back(methods) != 0)
                    || memory.incoming.pending() > memory.records.get().unfinished()
            }
        }
    }

    /// Same as `read`: plain text of one record, or as much as there is room for.
    #[inline]
    pub fn read(&self, room: &mut [MaybeUninit<u8>]) -> Res<Progress> {
        match &self.how {
            How::Direct { flight, by_methods: false } => match flight.read(room) {
                Moved::Bytes(count) => Ok(Progress::Bytes(count)),
                Moved::Later => Ok(Progress::Later),
                Moved::Closed => Ok(Progress::Closed),
                // OpenSSL fails again in the same way, and `_ssl` knows what to raise.
                Moved::Failed => read_by_method(flight.raw(), &mut room[..1]),
            },
            How::Direct { flight, .. } => read_by_method(flight.raw(), room),
            How::Methods { memory, methods } => {
                let progress = read_by_method(methods, room)?;
                memory.was_filled.set(progress == Progress::Bytes(room.len().min(RECORD_BYTES)));
                Ok(progress)
            }
        }
    }

    /// Same as `write`: all of `bytes`, or nothing. `whole` is the object that they are all of, if there is one.
    #[inline]
    pub fn write(&self, bytes: &[u8], whole: Option<&Obj>) -> Res<Progress> {
        match &self.how {
            How::Direct { flight, by_methods: false } => match flight.write(bytes) {
                Moved::Bytes(count) => Ok(Progress::Bytes(count)),
                Moved::Later => Ok(Progress::Later),
                Moved::Closed | Moved::Failed => write_by_method(flight.raw(), bytes, whole),
            },
            How::Direct { flight, .. } => write_by_method(flight.raw(), bytes, whole),
            How::Methods { methods, .. } => write_by_method(methods, bytes, whole),
        }
    }
}

fn read_by_method(methods: &Obj, room: &mut [MaybeUninit<u8>]) -> Res<Progress> {
    let most = room.len().min(RECORD_BYTES);
    let Some(read) = unless_again(methods.call_method(name!("read"), [&*int(most as i64)?]))? else {
        return Ok(Progress::Later);
    };
    let Some(bytes) = bytes_of(&read).filter(|bytes| bytes.len() <= room.len()) else {
        return Err(Raised::type_error("SSLObject.read() returned no bytes, or too many"));
    };
    if bytes.is_empty() {
        return Ok(Progress::Closed);
    }
    for (place, byte) in room.iter_mut().zip(bytes) {
        place.write(*byte);
    }
    Ok(Progress::Bytes(bytes.len()))
}

fn write_by_method(methods: &Obj, bytes: &[u8], whole: Option<&Obj>) -> Res<Progress> {
    let data = whole.map_or_else(|| bytes_from(bytes), |whole| Ok(whole.to_ref()))?;
    match unless_again(methods.call_method(name!("write"), [&*data]))? {
        Some(count) => {
            let count = usize::try_from(index_value(&count)?).unwrap_or(0);
            Ok(Progress::Bytes(count.min(bytes.len())))
        }
        None => Ok(Progress::Later),
    }
}

/// Is it an `Exception`: what asyncio takes for the connection's failure?
pub fn is_failure(raised: &Raised) -> bool {
    raised.matches(exc::exception())
}
