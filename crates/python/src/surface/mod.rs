//! Layer 5: what Python sees of the whole: the loop object and the module.

pub mod event_loop;
pub mod module;
