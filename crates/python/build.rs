//! Passes the interpreter's version on as cfg flags (`Py_3_12` and so on), as pyo3-ffi itself does.
fn main() {
    pyo3_build_config::use_pyo3_cfgs();
}
