//! Addresses against the answers of `asyncio.base_events` of CPython 3.11 (numbers are Linux's).

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddrV4, SocketAddrV6};

use aioxide_core::net::{Address, LiteralInfo, interleave, ip_literal, ipaddr_info};

const UNSPEC: i32 = 0;
const UNIX: i32 = 1;
const INET: i32 = 2;
const INET6: i32 = 10;
const STREAM: i32 = 1;
const DGRAM: i32 = 2;
const TCP: i32 = 6;
const UDP: i32 = 17;

fn v4(port: u16) -> Address {
    Address::V4(SocketAddrV4::new(Ipv4Addr::new(1, 2, 3, 4), port))
}

fn info(host: &str, family: i32, kind: i32, protocol: i32) -> Option<LiteralInfo> {
    ipaddr_info(host, 1, family, kind, protocol, 0, 0)
}

#[test]
fn a_literal_is_recognised_and_the_protocol_follows_the_kind() {
    let tcp = LiteralInfo { family: INET, kind: STREAM, protocol: TCP, address: v4(1) };
    let udp = LiteralInfo { family: INET, kind: DGRAM, protocol: UDP, address: v4(1) };
    assert_eq!(info("1.2.3.4", INET, STREAM, TCP), Some(tcp.clone()));
    assert_eq!(info("1.2.3.4", UNSPEC, STREAM, TCP), Some(tcp.clone()));
    assert_eq!(info("1.2.3.4", UNSPEC, STREAM, 0), Some(tcp.clone()));
    assert_eq!(info("1.2.3.4", INET, STREAM, UDP), Some(tcp));
    assert_eq!(info("1.2.3.4", UNSPEC, DGRAM, UDP), Some(udp));
}

#[test]
fn what_asyncio_leaves_to_the_resolver_is_none() {
    assert_eq!(info("1.2.3.4", UNSPEC, 0, TCP), None, "no kind");
    assert_eq!(info("1.2.3.4", UNSPEC, STREAM, 132), None, "SCTP");
    assert_eq!(info("1.2.3.4", INET6, STREAM, TCP), None, "another family");
    assert_eq!(info("::3", INET, STREAM, TCP), None, "another family");
    assert_eq!(info("1.2.3.4", UNIX, STREAM, TCP), None, "a family without literals");
    for host in ["", "localhost", "1.2.3", "01.2.3.4", "1.2.3.256", " 1.2.3.4", "[::1]", "::1%lo", "1.2.3.4%1"] {
        assert_eq!(ip_literal(host, UNSPEC), None, "{host:?}");
    }
}

#[test]
fn an_ipv6_literal_keeps_flowinfo_and_scope() {
    let address = Address::V6(SocketAddrV6::new(Ipv6Addr::LOCALHOST, 80, 7, 3));
    let expected = LiteralInfo { family: INET6, kind: STREAM, protocol: TCP, address };
    assert_eq!(ipaddr_info("::1", 80, UNSPEC, STREAM, 0, 7, 3), Some(expected));
    assert!(ip_literal("::ffff:1.2.3.4", INET6).is_some());
}

type Item = (char, u8);

fn order(items: &[Item], count: usize) -> Vec<u8> {
    interleave(items.iter().copied(), |item| item.0, count).into_iter().map(|item| item.1).collect()
}

#[test]
fn families_take_turns_and_the_first_opens_with_its_count() {
    let items = [('6', 1), ('6', 2), ('4', 3), ('6', 4), ('4', 5), ('6', 6)];
    assert_eq!(order(&items, 1), [1, 3, 2, 5, 4, 6]);
    assert_eq!(order(&items, 0), [1, 3, 2, 5, 4, 6]);
    assert_eq!(order(&items, 2), [1, 2, 3, 4, 5, 6]);
    assert_eq!(order(&items, 3), [1, 2, 4, 3, 6, 5]);
    assert_eq!(order(&items, 99), [1, 2, 4, 6, 3, 5]);
    assert_eq!(order(&[], 2), []);
    assert_eq!(order(&[('u', 1), ('4', 2), ('6', 3), ('4', 4)], 1), [1, 2, 3, 4]);
}
