//! Bytes in and out: exact `bytes` from received data, and the buffer protocol (PEP 3118).

use std::mem::MaybeUninit;
use std::slice;

use pyo3_ffi as c;

use super::error::{Raised, Res};
use super::object::{Obj, Ref};

unsafe extern "C" {
    // Declared by pyo3-ffi, but not exported from it.
    fn _PyBytes_Resize(bytes: *mut *mut c::PyObject, size: isize) -> std::ffi::c_int;
}

/// `bytes(data)`.
#[inline]
pub fn bytes_from(data: &[u8]) -> Res {
    // SAFETY: pointer and length of one live slice.
    unsafe { Ref::from_owned(c::PyBytes_FromStringAndSize(data.as_ptr().cast(), data.len() as isize)) }
}

/// Run a method of a C class that takes a buffer and keeps nothing of it, with a view of `bytes`.
///
/// # Safety
/// `method` keeps no reference to its argument and no view of it.
pub(super) unsafe fn call_with_view(o: &Obj, method: &Obj, bytes: &[u8]) -> Res {
    // SAFETY: pointer and length of one live slice, only to be read; by the caller's promise nobody sees the view afterwards.
    let view = unsafe {
        Ref::from_owned(c::PyMemoryView_FromMemory(
            bytes.as_ptr().cast_mut().cast(),
            bytes.len() as isize,
            c::PyBUF_READ,
        ))?
    };
    o.call_method(method, [&*view])
}

/// The content of an exact `bytes` object, which never changes and refers to nothing: whoever keeps one has nothing to show to
/// the collector. None for other types, subclasses of `bytes` among them: an instance of one may refer to anything.
#[inline]
pub fn bytes_of(o: &Obj) -> Option<&[u8]> {
    // SAFETY: a live object; if it is bytes, the content lives as long and is immutable.
    unsafe {
        if c::PyBytes_CheckExact(o.as_ptr()) == 0 {
            return None;
        }
        let n = c::Py_SIZE(o.as_ptr()) as usize;
        Some(slice::from_raw_parts(c::PyBytes_AS_STRING(o.as_ptr()).cast(), n))
    }
}

/// `isinstance(o, (bytes, bytearray, memoryview))`: what `transport.write` takes.
#[inline]
pub fn is_bytes_like(o: &Obj) -> bool {
    // SAFETY: a live object.
    unsafe {
        c::PyBytes_Check(o.as_ptr()) != 0
            || c::PyByteArray_Check(o.as_ptr()) != 0
            || c::PyMemoryView_Check(o.as_ptr()) != 0
    }
}

/// A `bytes` object under construction: room to receive into, shrunk to what came.
pub struct BytesWriter(*mut c::PyObject);

impl BytesWriter {
    pub fn with_capacity(n: usize) -> Res<BytesWriter> {
        // SAFETY: no precondition; the content is uninitialised.
        let p = unsafe { c::PyBytes_FromStringAndSize(std::ptr::null(), n as isize) };
        if p.is_null() { Err(Raised::witness()) } else { Ok(BytesWriter(p)) }
    }

    pub fn room(&mut self) -> &mut [MaybeUninit<u8>] {
        // SAFETY: nobody else has seen this object, so its content is ours to write.
        unsafe {
            slice::from_raw_parts_mut(c::PyBytes_AS_STRING(self.0).cast_mut().cast(), c::Py_SIZE(self.0) as usize)
        }
    }

    /// The first `n` bytes, which the caller has written.
    pub fn finish(mut self, n: usize) -> Res {
        let mut p = std::mem::replace(&mut self.0, std::ptr::null_mut());
        // SAFETY: the only reference to a fresh bytes object; on failure it is freed and NULLed.
        unsafe {
            if n as isize != c::Py_SIZE(p) && _PyBytes_Resize(&raw mut p, n as isize) < 0 {
                return Err(Raised::witness());
            }
            Ref::from_owned(p)
        }
    }
}

impl Drop for BytesWriter {
    fn drop(&mut self) {
        // SAFETY: NULL or a reference of ours.
        unsafe { c::Py_XDECREF(self.0) }
    }
}

// SAFETY: the only reference to an object that nobody has seen; a view may be released by any attached thread.
#[cfg(Py_GIL_DISABLED)]
unsafe impl Send for BytesWriter {}
// SAFETY: see above.
#[cfg(Py_GIL_DISABLED)]
unsafe impl Send for ReadBuffer {}
// SAFETY: see above.
#[cfg(Py_GIL_DISABLED)]
unsafe impl Send for WriteBuffer {}

/// A readable view on an object with the buffer protocol.
pub struct ReadBuffer(Box<c::Py_buffer>);

impl ReadBuffer {
    /// # Errors
    /// TypeError or BufferError as `memoryview(o)` raises them.
    pub fn new(o: &Obj) -> Res<ReadBuffer> {
        view(o, c::PyBUF_SIMPLE).map(ReadBuffer)
    }

    pub fn as_slice(&self) -> &[u8] {
        if self.0.len == 0 {
            return &[];
        }
        // SAFETY: the view is held, so the memory stays; a mutable owner may change it (documented race of PEP 3118).
        unsafe { slice::from_raw_parts(self.0.buf.cast(), self.0.len as usize) }
    }
}

impl Drop for ReadBuffer {
    fn drop(&mut self) {
        // SAFETY: got by PyObject_GetBuffer, released once.
        unsafe { c::PyBuffer_Release(&raw mut *self.0) }
    }
}

/// A writable view.
pub struct WriteBuffer(Box<c::Py_buffer>);

impl WriteBuffer {
    pub fn new(o: &Obj) -> Res<WriteBuffer> {
        view(o, c::PyBUF_WRITABLE).map(WriteBuffer)
    }

    pub fn len(&self) -> usize {
        self.0.len as usize
    }

    pub fn room(&mut self) -> &mut [MaybeUninit<u8>] {
        if self.0.len == 0 {
            return &mut [];
        }
        // SAFETY: the view is held and writable.
        unsafe { slice::from_raw_parts_mut(self.0.buf.cast(), self.0.len as usize) }
    }
}

impl Drop for WriteBuffer {
    fn drop(&mut self) {
        // SAFETY: got by PyObject_GetBuffer, released once.
        unsafe { c::PyBuffer_Release(&raw mut *self.0) }
    }
}

fn view(o: &Obj, flags: i32) -> Res<Box<c::Py_buffer>> {
    // SAFETY: all-zero is a valid Py_buffer to fill in; a live object.
    unsafe {
        let mut b: Box<c::Py_buffer> = Box::new(std::mem::zeroed());
        Raised::check(c::PyObject_GetBuffer(o.as_ptr(), &raw mut *b, flags))?;
        Ok(b)
    }
}
