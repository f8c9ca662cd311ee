//! `_ssl.MemoryBIO`, written without a `bytes` object in between.
//!
//! CPython counterpart: `ssl.MemoryBIO`, by its class in C: a program may put another one in the place of the public name, and
//! this one is known to keep nothing of what it is given.

use super::super::buffer::{bytes_from, bytes_of, call_with_view};
use super::super::call::import_attr;
use super::super::class::Visit;
use super::super::error::Res;
use super::super::number::index_value;
use super::super::object::{Obj, Ref, Slot};
use super::super::once::{Name, Once};

static CLASS: Once<Ref> = Once::new();
/// Is its `write` the interpreter's? A test may have put a mock in its place, which would keep what it is shown.
static IS_NATIVE: Once<bool> = Once::new();
static WRITE: Name = Name::new("write");
static READ: Name = Name::new("read");
static PENDING: Name = Name::new("pending");

pub struct MemoryBio(Slot);

impl MemoryBio {
    /// # Errors
    /// ImportError of an interpreter without `_ssl`; MemoryError.
    pub fn new() -> Res<MemoryBio> {
        if !CLASS.is_set() {
            let class = import_attr("_ssl", "MemoryBIO")?;
            let write = class.getattr(WRITE.get())?;
            IS_NATIVE.set(write.class().is(&*import_attr("types", "MethodDescriptorType")?));
            CLASS.set(class);
        }
        Ok(MemoryBio(Slot::of(CLASS.get().call0()?)))
    }

    pub fn traverse(&self, visit: &Visit) {
        visit.slot(&self.0);
    }

    pub fn clear(&self) {
        self.0.clear();
    }

    /// For `wrap_bio`.
    pub fn object(&self) -> Ref {
        self.0.get_or_none()
    }

    /// Nothing if it is cleared.
    pub fn write(&self, bytes: &[u8]) -> Res<()> {
        let Some(bio) = self.0.get() else {
            return Ok(());
        };
        if !*IS_NATIVE.get() {
            return bio.call_method(WRITE.get(), [&*bytes_from(bytes)?]).map(drop);
        }
        // SAFETY: `write` is C code of the interpreter's, which copies and lets go.
        unsafe { call_with_view(&bio, WRITE.get(), bytes).map(drop) }
    }

    /// All that it holds, after `into`. Errors, of memory, are nobody's.
    pub fn drain(&self, into: &mut Vec<u8>) {
        let Some(bio) = self.0.get().filter(|_| self.pending() != 0) else {
            return;
        };
        match bio.call_method(READ.get(), []) {
            Ok(bytes) => into.extend_from_slice(bytes_of(&bytes).unwrap_or_default()),
            Err(raised) => raised.forget(),
        }
    }

    /// Bytes that it holds.
    #[inline]
    pub fn pending(&self) -> usize {
        self.0.get().map_or(0, |bio| pending_of(&bio))
    }
}

fn pending_of(bio: &Obj) -> usize {
    let count = bio.getattr(PENDING.get()).and_then(|count| index_value(&count));
    match count {
        Ok(count) => usize::try_from(count).unwrap_or(0),
        Err(raised) => {
            raised.forget();
            0
        }
    }
}
