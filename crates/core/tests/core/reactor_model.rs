//! The reactor on a real epoll set against a model of both: numbers are opened, closed, closed with a dup
//! left alive, and re-used, while watchers come and go.
//!
//! Every file is readable and writable all the time, so each look must wake exactly the watchers whose
//! registered file is alive; a registration that nobody owns must be noticed, and be gone after a rebuild.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::os::fd::{OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use aioxide_core::reactor::{AfterFork, Direction, Event, Reactor};
use proptest::collection::vec;
use proptest::prelude::*;
use rustix::io::dup;

use crate::support::{FIRST_PRIVATE, MAX_OPERATIONS, at, cases};

/// Few, so that a file often comes back to a number it has had.
const NUMBERS: usize = 3;

type FileId = usize;

#[derive(Clone, Debug)]
enum Operation {
    Open(usize),
    Close(usize),
    /// Closes the number while a dup of the file lives on.
    Leak(usize),
    /// Gives a number to a file that was leaked so many leaks ago, of those that had this number if there are.
    Return(usize, usize),
    Set(usize, Direction),
    Clear(usize, Direction),
    /// Ends a watch and leaves its registration behind.
    Linger(usize, Direction),
    Look,
    ClearAll,
    Fork(AfterFork),
}

fn operation() -> impl Strategy<Value = Operation> {
    let direction = prop::sample::select(vec![Direction::Read, Direction::Write]);
    prop_oneof![
        4 => (0..NUMBERS).prop_map(Operation::Open),
        2 => (0..NUMBERS).prop_map(Operation::Close),
        6 => (0..NUMBERS).prop_map(Operation::Leak),
        6 => (0..NUMBERS, 0..3_usize).prop_map(|(number, back)| Operation::Return(number, back)),
        10 => (0..NUMBERS, direction.clone()).prop_map(|(number, d)| Operation::Set(number, d)),
        6 => (0..NUMBERS, direction.clone()).prop_map(|(number, d)| Operation::Clear(number, d)),
        6 => (0..NUMBERS, direction).prop_map(|(number, d)| Operation::Linger(number, d)),
        3 => Just(Operation::Look),
        1 => Just(Operation::ClearAll),
        1 => prop::sample::select(vec![AfterFork::Forget, AfterFork::Reregister]).prop_map(Operation::Fork),
    ]
}

/// A number: the file that has it, and the watch on it.
#[derive(Default)]
struct Place {
    open: Option<(FileId, OwnedFd)>,
    watchers: BTreeMap<bool, usize>,
    /// The file our registration is for; it may be dead, or have lost the number.
    registered: Option<FileId>,
    /// The registration is for more than the watchers want.
    lingers: bool,
}

#[derive(Default)]
struct World {
    places: [Place; NUMBERS],
    /// Dups, with the number their file had.
    leaked: Vec<(FileId, OwnedFd, usize)>,
    peers: Vec<UnixStream>,
    /// What the kernel holds: (file, number).
    kernel: BTreeSet<(FileId, usize)>,
}

fn fd_of(number: usize) -> RawFd {
    FIRST_PRIVATE + number as RawFd
}

impl World {
    fn file_at(&self, number: usize) -> Option<FileId> {
        self.places[number].open.as_ref().map(|(file, _)| *file)
    }

    fn is_alive(&self, file: FileId) -> bool {
        let is_open = |place: &Place| place.open.as_ref().is_some_and(|(other, _)| *other == file);
        self.places.iter().any(is_open) || self.leaked.iter().any(|(other, _, _)| *other == file)
    }

    fn open(&mut self, number: usize) {
        if self.places[number].open.is_none() {
            let (ours, mut theirs) = UnixStream::pair().unwrap();
            theirs.write_all(b"x").unwrap();
            self.places[number].open = Some((self.peers.len(), at(fd_of(number), &ours)));
            self.peers.push(theirs);
        }
    }

    fn close(&mut self, number: usize, leak: bool) {
        let Some((file, fd)) = self.places[number].open.take() else {
            return;
        };
        if leak {
            self.leaked.push((file, dup(&fd).unwrap(), number));
        }
        drop(fd);
        if !self.is_alive(file) {
            self.kernel.retain(|&(other, _)| other != file);
        }
    }

    fn give_back(&mut self, number: usize, back: usize) {
        let had_it = |leak: &&(FileId, OwnedFd, usize)| leak.2 == number;
        let mut own = self.leaked.iter().rev().filter(had_it);
        let chosen = own.nth(back).or_else(|| self.leaked.iter().nth_back(back));
        if let (None, Some((file, dup, _))) = (&self.places[number].open, chosen) {
            self.places[number].open = Some((*file, at(fd_of(number), dup)));
        }
    }

    /// The effect of a DEL (nothing left to watch) or a MOD.
    fn unregister(&mut self, number: usize, is_last: bool) {
        let hit = self.file_at(number).filter(|&file| self.kernel.contains(&(file, number)));
        if let (Some(file), true) = (hit, is_last) {
            self.kernel.remove(&(file, number));
        }
        self.places[number].registered = if is_last { None } else { hit };
        self.places[number].lingers = false;
    }

    /// The effect of a look: an event for what lingers ends it.
    fn end_lingering(&mut self) {
        for number in 0..NUMBERS {
            let place = &self.places[number];
            if place.lingers && place.registered.is_some_and(|file| self.is_alive(file)) {
                self.unregister(number, place.watchers.is_empty());
            }
        }
    }

    /// A new set: whatever was registered is so again, by number.
    fn rebuild(&mut self) {
        self.kernel.clear();
        for number in 0..NUMBERS {
            self.places[number].lingers = false;
            if self.places[number].watchers.is_empty() {
                self.places[number].registered = None;
            }
            if self.places[number].registered.is_some() {
                let file = self.file_at(number);
                self.places[number].registered = file;
                self.kernel.extend(file.map(|file| (file, number)));
            }
        }
    }

    fn forget(&mut self) -> Vec<usize> {
        let places = self.places.iter_mut();
        let mut all: Vec<usize> = places
            .flat_map(|place| {
                place.registered = None;
                place.lingers = false;
                std::mem::take(&mut place.watchers).into_values()
            })
            .collect();
        all.sort_unstable();
        all
    }

    fn expected(&self) -> Vec<usize> {
        let is_live = |place: &&Place| place.registered.is_some_and(|file| self.is_alive(file));
        let mut woken: Vec<usize> =
            self.places.iter().filter(is_live).flat_map(|place| place.watchers.values().copied()).collect();
        woken.sort_unstable();
        woken
    }

    fn has_leftovers(&self) -> bool {
        self.kernel.iter().any(|&(file, number)| self.places[number].registered != Some(file))
    }
}

fn look(reactor: &mut Reactor<usize>) -> Vec<usize> {
    let mut events: Vec<Event> = Vec::with_capacity(256);
    reactor.poller().wait(&mut events, Some(Duration::ZERO)).unwrap();
    let mut woken: Vec<usize> = events
        .into_iter()
        .map(|event| reactor.resolve(event))
        .flat_map(|(reader, writer)| [reader, writer])
        .flatten()
        .collect();
    woken.sort_unstable();
    woken
}

fn run(operations: Vec<Operation>) -> Result<(), TestCaseError> {
    let (mut reactor, mut world) = (Reactor::new().unwrap(), World::default());
    for (id, operation) in operations.into_iter().enumerate() {
        match operation {
            Operation::Open(number) => world.open(number),
            Operation::Close(number) => world.close(number, false),
            Operation::Leak(number) => world.close(number, true),
            Operation::Return(number, back) => world.give_back(number, back),
            Operation::Set(number, d) => {
                let result = reactor.set(fd_of(number), d, id);
                match world.file_at(number) {
                    None => prop_assert!(result.is_err()),
                    Some(file) => {
                        prop_assert_eq!(
                            result.unwrap(),
                            world.places[number].watchers.insert(d == Direction::Read, id)
                        );
                        world.places[number].registered = Some(file);
                        world.places[number].lingers = false;
                        world.kernel.insert((file, number));
                    }
                }
            }
            Operation::Clear(number, d) => {
                let expected = world.places[number].watchers.remove(&(d == Direction::Read));
                prop_assert_eq!(reactor.clear(fd_of(number), d).unwrap(), expected);
                if expected.is_some() && world.places[number].registered.is_some() {
                    world.unregister(number, world.places[number].watchers.is_empty());
                }
            }
            Operation::Linger(number, d) => {
                let place = &mut world.places[number];
                let expected = place.watchers.remove(&(d == Direction::Read));
                prop_assert_eq!(reactor.linger(fd_of(number), d), expected);
                place.lingers |= expected.is_some() && place.registered.is_some();
            }
            Operation::Look => {
                prop_assert_eq!(look(&mut reactor), world.expected());
                world.end_lingering();
                prop_assert_eq!(reactor.is_stale(), world.has_leftovers());
                if reactor.is_stale() {
                    world.rebuild();
                    reactor.rebuild_if_stale().unwrap();
                    prop_assert_eq!(look(&mut reactor), world.expected());
                    prop_assert!(!reactor.is_stale(), "would spin");
                }
            }
            Operation::ClearAll => {
                for number in 0..NUMBERS {
                    if world.places[number].registered.is_some() {
                        world.unregister(number, true);
                    }
                }
                let mut all = reactor.clear_all();
                all.sort_unstable();
                prop_assert_eq!(all, world.forget());
            }
            Operation::Fork(watchers) => {
                let mut all = reactor.after_fork_child(watchers).unwrap();
                all.sort_unstable();
                let forgotten = if watchers == AfterFork::Forget { world.forget() } else { Vec::new() };
                prop_assert_eq!(all, forgotten);
                world.rebuild();
            }
        }
        let count = world.places.iter().filter(|place| !place.watchers.is_empty()).count();
        prop_assert_eq!((reactor.len(), reactor.is_empty()), (count, count == 0));
        for (number, place) in world.places.iter().enumerate() {
            prop_assert_eq!(reactor.get(fd_of(number), Direction::Read), place.watchers.get(&true));
            prop_assert_eq!(reactor.get(fd_of(number), Direction::Write), place.watchers.get(&false));
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(cases())]
    #[test]
    fn each_look_wakes_exactly_the_watchers_of_live_files(operations in vec(operation(), 0..MAX_OPERATIONS)) {
        run(operations)?;
    }
}
