//! Cancellation: asked for by `cancel()`, delivered by the future the task waits for, or at its next step.

use super::{Inst, Task};
use crate::ffi::{Obj, Res, none};
use crate::{kwnames, name};

impl Inst<Task> {
    /// Same as `Task.cancel`.
    pub fn cancel(&self, message: Option<&Obj>) -> Res<bool> {
        self.future.log_traceback.set(false);
        if !self.future.is_pending() {
            return Ok(false);
        }
        self.cancels_requested.set(self.cancels_requested.get().wrapping_add(1));
        if let Some(waiter) = self.waiter.get() {
            let done = waiter.call_method_kw(name!("cancel"), [message.unwrap_or(none())], kwnames!("msg"))?;
            if done.is_true()? {
                return Ok(true);
            }
        }
        self.must_cancel.set(true);
        match message {
            Some(m) => self.future.cancel_message.put(m.to_ref()),
            None => self.future.cancel_message.clear(),
        }
        Ok(true)
    }

    /// Same as `Task.uncancel`: how many requests remain. From 3.13 on the last one takes back a pending cancellation.
    pub fn uncancel(&self) -> i32 {
        let n = self.cancels_requested.get();
        if n > 0 {
            self.cancels_requested.set(n - 1);
            if cfg!(Py_3_13) && n == 1 {
                self.must_cancel.set(false);
            }
        }
        self.cancels_requested.get()
    }
}
