//! Address literals against the answers of `inet_pton(3)` by way of asyncio (numbers are Linux's).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use aioxide_core::net::ip_literal;

const UNSPEC: i32 = 0;
const UNIX: i32 = 1;
const INET: i32 = 2;
const INET6: i32 = 10;

#[test]
fn a_literal_is_recognised_in_its_family() {
    let v4 = Some(IpAddr::V4(Ipv4Addr::new(1, 2, 3, 4)));
    assert_eq!(ip_literal("1.2.3.4", INET), v4);
    assert_eq!(ip_literal("1.2.3.4", UNSPEC), v4);
    assert_eq!(ip_literal("::1", UNSPEC), Some(IpAddr::V6(Ipv6Addr::LOCALHOST)));
    assert!(ip_literal("::ffff:1.2.3.4", INET6).is_some());
    assert_eq!(ip_literal("1.2.3.4", INET6), None, "another family");
    assert_eq!(ip_literal("::3", INET), None, "another family");
    assert_eq!(ip_literal("1.2.3.4", UNIX), None, "a family without literals");
}

#[test]
fn what_asyncio_leaves_to_the_resolver_is_none() {
    for host in ["", "localhost", "1.2.3", "01.2.3.4", "1.2.3.256", " 1.2.3.4", "[::1]", "::1%lo", "1.2.3.4%1"] {
        assert_eq!(ip_literal(host, UNSPEC), None, "{host:?}");
    }
}
