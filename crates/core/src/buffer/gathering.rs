//! Adaptive write gathering: when a transport may hold back what one callback writes, to send it at the callback's end.
//!
//! CPython counterpart: none; asyncio makes a system call for each `write`, which costs more than the callback around it.
//!
//! Holding has a price, so a transport must earn it. It starts out *direct*: each write is sent at once, as in asyncio.
//! After [`CALLBACKS_TO_EARN`] callbacks in a row that wrote twice or more, each over within [`SLOW_S`], it *gathers*. A
//! callback that writes only once makes it direct again. So does one that holds bytes for longer than [`SLOW_S`], which
//! was late: for that, the next callbacks with several writes do not count, 16 of them, twice as many each time.
//!
//! Pure: a callback is a number that the caller counts up, the clock a function that is called only where the answer
//! depends on it. A transport that writes once per callback never asks for the time.
//!
//! Invariants: the machine gives advice. Who does not follow [`Advice::Hold`] says [`Gathering::on_sent`]; who follows it,
//! or [`Advice::SendAndWatch`], says [`Gathering::on_end`] once, at the end of the callback or before.

/// Bytes are not held for longer than this, in seconds, but for once. Much less, and a busy machine that takes the
/// processor away would look like a slow callback.
pub const SLOW_S: f64 = 0.001;

/// Callbacks with several writes in a row after which a transport gathers. Of the first one the time is taken only from
/// its second write on.
pub const CALLBACKS_TO_EARN: u8 = 2;

const FIRST_PENALTY: u16 = 16;
const LARGEST_PENALTY: u16 = 1024;

/// What to do with a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Advice {
    /// Send it now, after what is held.
    Send,
    /// Send it now, and tell when the callback ends.
    SendAndWatch,
    /// Hold it until the callback ends.
    Hold,
}

/// What one transport has earned.
#[derive(Clone, Debug)]
pub struct Gathering {
    /// The callback of the last write.
    callback: u64,
    /// Direct: since when the callback has been writing. Gathering: since when bytes are held. NaN: no time was taken, or
    /// nothing is held.
    since_s: f64,
    penalty: u16,
    /// Callbacks with several writes that do not count yet.
    penalty_left: u16,
    /// Callbacks with several writes in a row, all quick.
    streak: u8,
    /// The callback of the last write has written more than once.
    several: bool,
}

impl Gathering {
    /// A transport that has written nothing. Callbacks are numbered from 1.
    pub const fn new() -> Self {
        Self { callback: 0, since_s: f64::NAN, penalty: FIRST_PENALTY, penalty_left: 0, streak: 0, several: false }
    }

    /// Whether what the next callback writes will be held.
    #[inline]
    pub const fn gathers(&self) -> bool {
        self.streak >= CALLBACKS_TO_EARN
    }

    /// A write by this callback.
    #[inline]
    pub fn on_write(&mut self, callback: u64, now_s: impl FnOnce() -> f64) -> Advice {
        if callback == self.callback {
            return self.on_further_write(now_s);
        }
        self.callback = callback;
        // The last one to write has written once: back to direct.
        if !std::mem::replace(&mut self.several, false) {
            self.streak = 0;
        }
        if self.streak == 0 {
            self.since_s = f64::NAN;
            return Advice::Send;
        }
        self.since_s = now_s();
        if self.gathers() { Advice::Hold } else { Advice::Send }
    }

    fn on_further_write(&mut self, now_s: impl FnOnce() -> f64) -> Advice {
        let is_second = !std::mem::replace(&mut self.several, true);
        if !self.gathers() && !is_second {
            return Advice::Send;
        }
        if self.penalty_left > 0 {
            self.penalty_left -= 1;
            return Advice::Send;
        }
        let now_s = now_s();
        if self.since_s.is_nan() {
            self.since_s = now_s;
        }
        if !self.gathers() {
            return Advice::SendAndWatch;
        }
        if self.is_slow(now_s) {
            self.punish();
            return Advice::Send;
        }
        Advice::Hold
    }

    /// All that was held, and the last write with it, is on its way; the callback goes on.
    #[inline]
    pub fn on_sent(&mut self) {
        self.since_s = f64::NAN;
    }

    /// The callback has ended, or what it had held was sent before its end.
    #[inline]
    pub fn on_end(&mut self, now_s: f64) {
        let (gathers, slow) = (self.gathers(), self.is_slow(now_s));
        self.since_s = f64::NAN;
        match (gathers, slow) {
            (true, true) => self.punish(),
            (true, false) => {}
            (false, true) => self.streak = 0,
            (false, false) => self.streak += 1,
        }
    }

    fn is_slow(&self, now_s: f64) -> bool {
        // False where no time was taken.
        now_s - self.since_s > SLOW_S
    }

    #[cold]
    fn punish(&mut self) {
        self.since_s = f64::NAN;
        self.streak = 0;
        self.penalty_left = self.penalty;
        self.penalty = (self.penalty * 2).min(LARGEST_PENALTY);
    }
}

impl Default for Gathering {
    fn default() -> Self {
        Self::new()
    }
}
