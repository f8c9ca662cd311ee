//! Where the watchers of a descriptor are kept.
//!
//! CPython counterpart: `_BaseSelectorImpl._fd_to_key`.
//!
//! Descriptors are small and dense, so a vector indexed by number is the fast case; a number from
//! [`DENSE`] on (a program that dups to the heights, a huge `RLIMIT_NOFILE`) goes to a map, or one such
//! descriptor would cost its number in slots.
//!
//! Invariants: `live` counts the slots with a watcher; a slot without watcher has generation 0 and
//! nothing armed, unless its registration lingers.

use std::collections::HashMap;
use std::os::fd::RawFd;

use super::Direction;
use crate::sys::epoll::Interest;

/// Numbers below are slots of the vector: 2 MiB when full.
const DENSE: RawFd = 65_536;

#[derive(Debug)]
pub(super) struct Slot<W> {
    /// Generation of the registration; 0 if there is none.
    pub(super) generation: u32,
    /// What the kernel has for it.
    pub(super) armed: Interest,
    /// The reader asks for edges.
    pub(super) edge: bool,
    /// The reader has not read everything and is to be told again by the next look.
    pub(super) again: bool,
    reader: Option<W>,
    writer: Option<W>,
}

impl<W> Slot<W> {
    const fn empty() -> Self {
        Self { generation: 0, armed: Interest::NONE, edge: false, again: false, reader: None, writer: None }
    }

    /// The interest of the watchers.
    #[inline]
    pub(super) fn wanted(&self) -> Interest {
        let read = if self.reader.is_some() { Interest::READ } else { Interest::NONE };
        let write = if self.writer.is_some() { Interest::WRITE } else { Interest::NONE };
        self.triggered(read | write)
    }

    /// What is asked of the kernel for these directions.
    #[inline]
    pub(super) fn triggered(&self, watched: Interest) -> Interest {
        triggered(self.edge, watched)
    }

    #[inline]
    pub(super) fn watcher(&self, d: Direction) -> &Option<W> {
        match d {
            Direction::Read => &self.reader,
            Direction::Write => &self.writer,
        }
    }

    #[inline]
    pub(super) fn watcher_mut(&mut self, d: Direction) -> &mut Option<W> {
        match d {
            Direction::Read => &mut self.reader,
            Direction::Write => &mut self.writer,
        }
    }

    pub(super) fn watchers(&self) -> impl Iterator<Item = (Direction, &W)> {
        let reader = self.reader.iter().map(|watcher| (Direction::Read, watcher));
        reader.chain(self.writer.iter().map(|watcher| (Direction::Write, watcher)))
    }
}

/// Edges are for a reader alone: a writer that has not used all of the room would not hear of it again.
#[inline]
pub(super) fn triggered(edge: bool, watched: Interest) -> Interest {
    let plain = watched.without(Interest::EDGE);
    if edge && plain == Interest::READ { plain | Interest::EDGE } else { plain }
}

#[derive(Debug)]
pub(super) struct Registry<W> {
    dense: Vec<Slot<W>>,
    sparse: HashMap<RawFd, Slot<W>>,
    live: usize,
}

impl<W> Registry<W> {
    pub(super) fn new() -> Self {
        Self { dense: Vec::new(), sparse: HashMap::new(), live: 0 }
    }

    pub(super) fn len(&self) -> usize {
        self.live
    }

    #[inline]
    pub(super) fn get(&self, fd: RawFd) -> Option<&Slot<W>> {
        if fd < DENSE { self.dense.get(usize::try_from(fd).ok()?) } else { self.sparse.get(&fd) }
    }

    #[inline]
    pub(super) fn get_mut(&mut self, fd: RawFd) -> Option<&mut Slot<W>> {
        if fd < DENSE { self.dense.get_mut(usize::try_from(fd).ok()?) } else { self.sparse.get_mut(&fd) }
    }

    /// The slot of a descriptor that epoll has accepted, so not of a negative one.
    pub(super) fn entry(&mut self, fd: RawFd) -> &mut Slot<W> {
        if fd >= DENSE {
            return self.sparse.entry(fd).or_insert_with(Slot::empty);
        }
        let index = fd.max(0) as usize;
        if index >= self.dense.len() {
            self.dense.resize_with(index + 1, Slot::empty);
        }
        &mut self.dense[index]
    }

    pub(super) fn put(&mut self, fd: RawFd, d: Direction, w: W) -> Option<W> {
        let slot = self.entry(fd);
        let was_empty = slot.wanted().is_none();
        let replaced = slot.watcher_mut(d).replace(w);
        self.live += usize::from(was_empty);
        replaced
    }

    pub(super) fn take(&mut self, fd: RawFd, d: Direction) -> Option<W> {
        let slot = self.get_mut(fd)?;
        let taken = slot.watcher_mut(d).take();
        if taken.is_some() && slot.wanted().is_none() {
            self.live -= 1;
            self.forget_if_empty(fd);
        }
        taken
    }

    /// The set is a new one, without what lingered in the old one.
    pub(super) fn forget_lingering(&mut self) {
        let lingering = |slot: &Slot<W>| !slot.armed.is_none() && slot.armed != slot.wanted();
        let all: Vec<RawFd> = self.iter_slots().filter(|(_, slot)| lingering(slot)).map(|(fd, _)| fd).collect();
        for fd in all {
            if let Some(slot) = self.get_mut(fd) {
                slot.armed = slot.wanted();
                self.forget_if_empty(fd);
            }
        }
    }

    /// The slot of a descriptor with neither watcher nor registration is as good as none.
    pub(super) fn forget_if_empty(&mut self, fd: RawFd) {
        let Some(slot) = self.get_mut(fd) else { return };
        if !slot.wanted().is_none() || !slot.armed.is_none() {
            return;
        }
        *slot = Slot::empty();
        if fd >= DENSE {
            self.sparse.remove(&fd);
        }
    }

    pub(super) fn take_all(&mut self) -> Vec<W> {
        let dense = std::mem::take(&mut self.dense);
        let sparse = std::mem::take(&mut self.sparse);
        self.live = 0;
        let slots = dense.into_iter().chain(sparse.into_values());
        slots.flat_map(|slot| [slot.reader, slot.writer]).flatten().collect()
    }

    /// Every slot with a watcher.
    pub(super) fn iter(&self) -> impl Iterator<Item = (RawFd, &Slot<W>)> {
        self.iter_slots().filter(|(_, slot)| !slot.wanted().is_none())
    }

    /// Every slot with a registration.
    pub(super) fn iter_armed(&self) -> impl Iterator<Item = (RawFd, &Slot<W>)> {
        self.iter_slots().filter(|(_, slot)| !slot.armed.is_none())
    }

    fn iter_slots(&self) -> impl Iterator<Item = (RawFd, &Slot<W>)> {
        let dense = self.dense.iter().enumerate().map(|(index, slot)| (index as RawFd, slot));
        let sparse = self.sparse.iter().map(|(&fd, slot)| (fd, slot));
        dense.chain(sparse)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_high_number_costs_one_slot_and_a_low_one_its_place() {
        let mut registry = Registry::new();
        for fd in [3, DENSE - 1, DENSE, RawFd::MAX] {
            assert_eq!(registry.put(fd, Direction::Read, 'r'), None);
            assert_eq!(registry.put(fd, Direction::Write, 'w'), None);
            assert_eq!(registry.put(fd, Direction::Read, 'R'), Some('r'));
        }
        assert_eq!((registry.len(), registry.iter().count()), (4, 4));
        assert_eq!((registry.dense.len(), registry.sparse.len()), (DENSE as usize, 2));
        for fd in [3, DENSE - 1, DENSE, RawFd::MAX] {
            assert_eq!(registry.take(fd, Direction::Read), Some('R'));
            assert_eq!(registry.take(fd, Direction::Read), None);
            assert_eq!(registry.take(fd, Direction::Write), Some('w'));
        }
        assert_eq!((registry.len(), registry.iter().count(), registry.sparse.len()), (0, 0, 0));
    }

    #[test]
    fn a_number_never_seen_or_negative_has_no_slot() {
        let mut registry = Registry::<()>::new();
        for fd in [-1, RawFd::MIN, 0, 5, DENSE, RawFd::MAX] {
            assert!(registry.get(fd).is_none() && registry.get_mut(fd).is_none());
            assert!(registry.take(fd, Direction::Read).is_none());
        }
    }
}
