//! Flow control against the answers of `asyncio.transports._FlowControlMixin` of CPython 3.11.

use aioxide_core::buffer::{InvalidLimits, Watermarks};

fn limits(high: Option<i64>, low: Option<i64>) -> Result<(i64, i64), InvalidLimits> {
    let mut marks = Watermarks::new();
    marks.set(high, low).map(|()| (marks.high(), marks.low()))
}

#[test]
fn missing_limits_are_derived_as_in_asyncio() {
    assert_eq!(limits(None, None), Ok((65_536, 16_384)));
    assert_eq!(limits(Some(0), None), Ok((0, 0)));
    assert_eq!(limits(Some(7), None), Ok((7, 1)));
    assert_eq!(limits(None, Some(100)), Ok((400, 100)));
    assert_eq!(limits(Some(5), Some(5)), Ok((5, 5)));
    assert_eq!(limits(None, Some(i64::MAX)), Ok((i64::MAX, i64::MAX)));
}

#[test]
fn invalid_limits_have_the_text_of_asyncio_and_change_nothing() {
    let text = |high, low| limits(high, low).unwrap_err().to_string();
    assert_eq!(text(Some(1), Some(2)), "high (1) must be >= low (2) must be >= 0");
    assert_eq!(text(Some(-5), None), "high (-5) must be >= low (-2) must be >= 0");
    assert_eq!(text(None, Some(-1)), "high (-4) must be >= low (-1) must be >= 0");
    let mut marks = Watermarks::new();
    assert!(marks.set(Some(1), Some(2)).is_err());
    assert_eq!((marks.high(), marks.low()), (65_536, 16_384));
}

#[test]
fn pause_comes_above_high_and_resume_at_low_each_once() {
    let mut marks = Watermarks::new();
    marks.set(Some(100), Some(20)).unwrap();
    assert!(!marks.on_grow(100));
    assert!(marks.on_grow(101));
    assert!(!marks.on_grow(500), "told twice");
    assert!(!marks.on_shrink(21));
    assert!(marks.on_shrink(20));
    assert!(!marks.on_shrink(0), "told twice");
    assert!(marks.on_grow(101));
}

#[test]
fn with_a_high_limit_of_zero_one_byte_pauses_and_none_resumes() {
    let mut marks = Watermarks::new();
    marks.set(Some(0), None).unwrap();
    assert!(!marks.on_grow(0));
    assert!(marks.on_grow(1));
    assert!(marks.on_shrink(0));
}

#[test]
fn lower_limits_pause_at_the_next_look_and_higher_ones_do_not_resume() {
    let mut marks = Watermarks::new();
    assert!(!marks.on_grow(50));
    marks.set(Some(10), None).unwrap();
    assert!(marks.on_grow(50));
    marks.set(Some(1000), None).unwrap();
    assert!(marks.is_paused());
}
