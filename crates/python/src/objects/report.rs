//! Reports to a loop's exception handler: `loop.call_exception_handler({'message': ..., ...})`.

use crate::ffi::{Obj, Raised, Ref, Res, dict, string};
use crate::name;

/// The context dictionary of a report under construction.
pub struct Report(Ref);

impl Report {
    pub fn new(message: &str) -> Res<Report> {
        let d = dict()?;
        d.set_item(name!("message"), &*string(message)?)?;
        Ok(Report(d))
    }

    pub fn with(self, key: &Obj, value: &Obj) -> Res<Report> {
        self.0.set_item(key, value)?;
        Ok(self)
    }

    pub fn with_opt(self, key: &Obj, value: Option<Ref>) -> Res<Report> {
        match value {
            Some(v) if !v.is_none() => self.with(key, &v),
            _ => Ok(self),
        }
    }

    pub fn send(self, event_loop: &Obj) -> Res<()> {
        event_loop.call_method(name!("call_exception_handler"), [&*self.0]).map(drop)
    }
}

/// Report what a callback raised; SystemExit and KeyboardInterrupt go on instead, and end run_forever.
pub fn callback_failed(
    raised: Raised,
    event_loop: &Obj,
    message: impl FnOnce() -> Res<String>,
    fill: impl FnOnce(Report) -> Res<Report>,
) -> Res<()> {
    if raised.is_exit() {
        return Err(raised);
    }
    let exception = raised.take();
    let report = Report::new(&message()?)?.with(name!("exception"), &exception)?;
    fill(report)?.send(event_loop)
}
