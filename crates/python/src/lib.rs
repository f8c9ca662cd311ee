//! `aioxide._native`: asyncio's objects in Rust.
//!
//! Five layers, each using only those before it: [`ffi`] (the unsafe fence), [`objects`] (scheduler, handle, future),
//! [`tasks`], [`io`] (transports, servers), [`surface`] (the loop object). `make layout` checks the direction.

pub mod ffi;
pub mod io;
pub mod objects;
pub mod surface;
pub mod tasks;

ffi::module_entry!(PyInit__native, c"aioxide._native", c"The native part of aioxide.", surface::module::execute);
