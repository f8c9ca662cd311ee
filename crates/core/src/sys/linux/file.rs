//! Reading and writing by descriptor, of what need not be a socket: pipes, terminals, other character devices, files.
//!
//! CPython counterpart: `os.read`, `os.write`, `os.sendfile`, `os.lseek`, `os.fstat`, `os.set_blocking`.
//!
//! Invariants: whether a call blocks is up to the descriptor (`set_nonblocking`), there is no flag for a single call; nor is
//! there one against SIGPIPE, which the interpreter ignores. `EINTR` is returned to the caller.

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::RawFd;

use rustix::fs::{FileType, OFlags, SeekFrom, fcntl_getfl, fcntl_setfl, fstat};
use rustix::io::Errno;

use super::fd::borrow;
use super::socket::MAX_SLICES;

/// What a descriptor is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A pipe, named or not.
    Fifo,
    /// A socket of any family.
    Socket,
    /// A terminal, `/dev/null` and their like.
    CharDevice,
    /// A regular file, a directory, a block device, or something without a name.
    Other,
}

/// `fstat(2)`, of which the kind.
pub fn kind(fd: RawFd) -> io::Result<Kind> {
    Ok(match FileType::from_raw_mode(fstat(borrow(fd)?)?.st_mode) {
        FileType::Fifo => Kind::Fifo,
        FileType::Socket => Kind::Socket,
        FileType::CharacterDevice => Kind::CharDevice,
        _ => Kind::Other,
    })
}

/// `O_NONBLOCK` on; for all who share the open file.
pub fn set_nonblocking(fd: RawFd) -> io::Result<()> {
    let fd = borrow(fd)?;
    let flags = fcntl_getfl(fd)?;
    if flags.contains(OFlags::NONBLOCK) {
        return Ok(());
    }
    Ok(fcntl_setfl(fd, flags | OFlags::NONBLOCK)?)
}

/// Whether calls wait: `O_NONBLOCK` is off, which anybody who shares the open file may have done.
#[inline]
pub fn is_blocking(fd: RawFd) -> io::Result<bool> {
    Ok(!fcntl_getfl(borrow(fd)?)?.contains(OFlags::NONBLOCK))
}

/// `read(2)`: the first so many bytes of `buffer` are initialised; zero is the end.
#[inline]
pub fn read(fd: RawFd, buffer: &mut [MaybeUninit<u8>]) -> io::Result<usize> {
    let (read, _) = rustix::io::read(borrow(fd)?, buffer)?;
    Ok(read.len())
}

/// `read(2)` into memory that is initialised already.
#[inline]
pub fn read_into(fd: RawFd, buffer: &mut [u8]) -> io::Result<usize> {
    Ok(rustix::io::read(borrow(fd)?, buffer)?)
}

/// `write(2)`
#[inline]
pub fn write(fd: RawFd, bytes: &[u8]) -> io::Result<usize> {
    Ok(rustix::io::write(borrow(fd)?, bytes)?)
}

/// `writev(2)`; slices beyond [`MAX_SLICES`] wait for the next call.
#[inline]
pub fn write_vectored(fd: RawFd, slices: &[IoSlice<'_>]) -> io::Result<usize> {
    Ok(rustix::io::writev(borrow(fd)?, &slices[..slices.len().min(MAX_SLICES)])?)
}

/// `sendfile(2)` of at most `size` bytes, from `offset` in the file, whose own position stays.
pub fn send_file(socket: RawFd, file: RawFd, offset: i64, size: usize) -> io::Result<usize> {
    let mut offset = u64::try_from(offset).map_err(|_| Errno::INVAL)?;
    Ok(rustix::fs::sendfile(borrow(socket)?, borrow(file)?, Some(&mut offset), size)?)
}

/// `lseek(2)` from the beginning.
pub fn seek(file: RawFd, position: i64) -> io::Result<()> {
    let position = u64::try_from(position).map_err(|_| Errno::INVAL)?;
    rustix::fs::seek(borrow(file)?, SeekFrom::Start(position))?;
    Ok(())
}

/// What reading a terminal gives whose other end is closed.
pub const EIO: i32 = rustix::io::Errno::IO.raw_os_error();
