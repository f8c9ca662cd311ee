//! Child processes: the part of `subprocess_exec` and `subprocess_shell` after the start.

use super::EventLoop;
use crate::ffi::{Args, Inst, Res, index_value};
use crate::io::process::{self, Notices};

/// `_adopt_child(popen, protocol, waiter, extra, wakes_at, by_pidfd)`: wakes_at 0, 1, 2 are the three [`Notices`].
pub fn adopt_child(this: &Inst<EventLoop>, args: Args) -> Res {
    this.scheduler.check_closed()?;
    let [popen, protocol, waiter, extra, wakes_at, by_pidfd] =
        args.exactly("_adopt_child", ["popen", "protocol", "waiter", "extra", "wakes_at", "by_pidfd"])?;
    let notices = match index_value(wakes_at)? {
        0 => Notices::AfterExit,
        1 => Notices::AtLoss,
        _ => Notices::AtExit,
    };
    let extra = Some(extra).filter(|e| !e.is_none());
    process::adopt(this.obj(), popen, protocol, waiter, extra, notices, by_pidfd.is_true()?)
        .map(crate::ffi::Owned::into_ref)
}
