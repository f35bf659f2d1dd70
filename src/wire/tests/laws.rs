//! What holds for all bytes, and for all packets.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use proptest::{prelude::*, sample::Index};

use super::*;
use crate::wire::{IcmpMessage, InHeader, Plain, TcpOptions, Transport};

/// What must hold of whatever is read.
fn check(bytes: &[u8], wire_len: u32, packet: &Packet<'_>) {
    let offset = u32::try_from(packet.transport_offset).unwrap();
    assert!(packet.len <= wire_len);
    assert!(offset <= packet.len);
    assert_eq!(packet.src.is_ipv4(), packet.dst.is_ipv4());
    assert_eq!(packet.src.is_ipv4(), bytes[0] >> 4 == 4);
    match packet.transport {
        Transport::Tcp(segment) => {
            assert_eq!(packet.protocol, Protocol::TCP);
            let header = u32::from(bytes[packet.transport_offset + 12] >> 4) * 4;
            assert_eq!(offset + header + segment.payload_len, packet.len);
            assert!(segment.options.window_scale.is_none_or(|shift| shift <= 14));
        }
        Transport::Udp(_) => assert_eq!(packet.protocol, Protocol::UDP),
        Transport::Icmp(message) => {
            let ours = if packet.src.is_ipv4() { Protocol::ICMP } else { Protocol::ICMPV6 };
            assert_eq!(packet.protocol, ours);
            if let IcmpMessage::Error { embedded, .. } = message {
                assert_eq!(embedded.src.is_ipv4(), packet.src.is_ipv4());
                assert_eq!(embedded.seq.is_some(), embedded.protocol == Protocol::TCP);
            }
        }
        Transport::Other | Transport::Fragment => {}
    }
}

/// Whether a packet is refused because of who it is from, or to.
fn is_of_addresses(reason: Malformed) -> bool {
    matches!(
        reason,
        Malformed::TcpMulticast
            | Malformed::Land
            | Malformed::SourceMulticast
            | Malformed::SourceBroadcast
            | Malformed::SourceUnspecified
            | Malformed::SourceLoopback
            | Malformed::MappedAddress
            | Malformed::DestinationUnspecified
    )
}

/// What is seen of a plain packet in place is what is read of it, but for its addresses, at which
/// nobody has looked.
fn check_plain<A: InHeader + Into<IpAddr>>(
    bytes: &[u8],
    wire_len: u32,
    checksums: Checksums,
    read: Result<&Packet<'_>, &Malformed>,
) {
    let Some(plain) = Plain::<A>::of(bytes, wire_len, checksums) else { return };
    let packet = match read {
        Ok(packet) => packet,
        Err(reason) => return assert!(is_of_addresses(*reason), "{reason:?}"),
    };
    let Transport::Tcp(segment) = packet.transport else { panic!("{packet:?}") };
    let ((src, src_port), (dst, dst_port)) = plain.ends();
    assert_eq!((src.into(), dst.into()), (packet.src, packet.dst));
    assert_eq!((src_port, dst_port), (segment.src_port, segment.dst_port));
    assert_eq!((plain.len, plain.payload_len), (packet.len, segment.payload_len));
    assert_eq!((plain.seq(), plain.ack(), plain.window()), (segment.seq, segment.ack, segment.window));
    assert_eq!((plain.flags(), plain.timestamps()), (segment.flags, segment.options.timestamps));
}

/// Reads in every way; panics only if the parser does, or if it lies.
fn read_all_ways(bytes: &[u8], wire_len: u32) {
    for checksums in [Checksums::Verify, Checksums::VerifyTransport, Checksums::Trust] {
        let read = parse(bytes, wire_len, checksums);
        if let Ok(packet) = read {
            check(bytes, wire_len, &packet);
        }
        // The short way to the usual packet says what the long one does.
        let copied = bytes.get(..wire_len as usize).unwrap_or(bytes);
        assert_eq!(read, crate::wire::parse::any(copied, wire_len, checksums, crate::wire::Loopback::Refuse));
        check_plain::<Ipv4Addr>(bytes, wire_len, checksums, read.as_ref());
        check_plain::<Ipv6Addr>(bytes, wire_len, checksums, read.as_ref());
    }
    // Whoever trusts refuses nothing that a verifier lets pass.
    if let Ok(verified) = parse(bytes, wire_len, Checksums::Verify) {
        assert_eq!(parse(bytes, wire_len, Checksums::Trust), Ok(verified));
    }
}

/// Everything that the other tests know how to make.
fn any_packet() -> impl Strategy<Value = RawPacket> {
    let mut packets = sound_packets();
    packets.extend([
        with_options(&syn(v4()), &[148, 4, 0, 0, 7, 7, 4, 0, 0, 0, 0, 0]),
        fragment_v4(&syn(v4()), 0, 40, true),
        fragment_v4(&datagram(v4()), 8, 16, true),
        fragment_v6(&syn(v6()), 0, 40, true),
        fragment_v6(&datagram(v6()), 8, 16, true),
        chained_tcp(&[
            (HOP_BY_HOP, &PADDING),
            (ROUTING, &[0, 0, 2, 0, 0, 0, 0, 0]),
            (FRAGMENT, &fragment_header(0, false)),
            (AUTHENTICATION, &[0, 1, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1]),
            (DESTINATION_OPTIONS, &PADDING),
        ]),
        chained(&[(HOP_BY_HOP, &PADDING)], Protocol(NO_NEXT), &[]),
        answer(v6(), 2, 0, &chained_tcp(&[(HOP_BY_HOP, &PADDING), (DESTINATION_OPTIONS, &PADDING)]).bytes),
        answer(v4(), 3, 4, &with_options(&segment(v4()), &[1; 40]).bytes),
    ]);
    prop::sample::select(packets)
}

fn any_tuple() -> impl Strategy<Value = FourTuple> {
    let v4 = (any::<[u8; 4]>(), any::<[u8; 4]>()).prop_map(|(a, b)| (IpAddr::from(a), IpAddr::from(b)));
    let v6 = (any::<[u8; 16]>(), any::<[u8; 16]>()).prop_map(|(a, b)| (IpAddr::from(a), IpAddr::from(b)));
    (prop_oneof![v4, v6], any::<u16>(), any::<u16>())
        .prop_map(|((src, dst), src_port, dst_port)| FourTuple { src, src_port, dst, dst_port })
        .prop_filter("addresses of hosts", |tuple| {
            read(&syn(*tuple)).is_ok() && read(&syn(tuple.reversed())).is_ok()
        })
}

fn any_options() -> impl Strategy<Value = TcpOptions> {
    (
        any::<Option<u16>>(),
        prop::option::of(0_u8..=14),
        any::<bool>(),
        any::<Option<(u32, u32)>>(),
        any::<Option<u32>>(),
        any::<bool>(),
    )
        .prop_map(|(mss, window_scale, sack_permitted, timestamps, sack_high, fast_open)| TcpOptions {
            mss,
            window_scale,
            sack_permitted,
            timestamps,
            sack_high: sack_high.map(SeqNum),
            fast_open,
        })
}

proptest! {
    #![proptest_config(config(2000))]

    #[test]
    fn arbitrary_octets_never_panic(
        mut bytes in prop::collection::vec(any::<u8>(), 0..200),
        version in prop::sample::select(vec![0x45, 0x46, 0x4f, 0x60, 0x00]),
        wire_len in prop_oneof![0_u32..300, Just(70_000), any::<u32>()],
        honest in any::<bool>(),
    ) {
        if let Some(first) = bytes.first_mut() {
            *first = version;
        }
        let len = u16::try_from(bytes.len()).unwrap();
        if honest && len >= 20 {
            let (at, len) = if version == 0x60 { (4, len.saturating_sub(40)) } else { (2, len) };
            bytes[at..at + 2].copy_from_slice(&len.to_be_bytes());
        }
        read_all_ways(&bytes, wire_len);
        read_all_ways(&bytes, u32::from(len));
    }

    #[test]
    fn mutated_packets_never_panic(
        packet in any_packet(),
        changes in prop::collection::vec((any::<Index>(), any::<u8>()), 0..5),
        copied in any::<Index>(),
        wire_len in prop_oneof![0_u32..200, Just(65_535), Just(65_575), Just(65_576), any::<u32>()],
    ) {
        let honest = packet.wire_len();
        let mut bytes = packet.bytes;
        for (place, octet) in changes {
            let place = place.index(bytes.len());
            bytes[place] = octet;
        }
        read_all_ways(&bytes, honest);
        read_all_ways(&bytes, wire_len);
        bytes.truncate(copied.index(bytes.len()));
        read_all_ways(&bytes, honest);
        read_all_ways(&bytes, wire_len);
    }

    #[test]
    fn a_shorter_copy_says_the_same_or_that_it_is_cut(packet in any_packet(), copied in any::<Index>()) {
        let whole = read(&packet).unwrap();
        let bytes = &packet.bytes[..copied.index(packet.bytes.len())];
        match parse(bytes, packet.wire_len(), Checksums::Verify) {
            Err(reason) => prop_assert_eq!(reason, Malformed::CutOff),
            Ok(read) => prop_assert_eq!(read, whole),
        }
    }

    #[test]
    fn a_shorter_wire_is_refused(packet in any_packet(), lost in 1_u32..100) {
        let wire_len = packet.wire_len().saturating_sub(lost);
        prop_assert!(parse(&packet.bytes, wire_len, Checksums::Trust).is_err());
    }

    #[test]
    fn padding_changes_nothing(packet in any_packet(), padding in prop::collection::vec(any::<u8>(), 0..60)) {
        let mut padded = packet.clone();
        padded.bytes.extend_from_slice(&padding);
        prop_assert_eq!(read(&padded), read(&packet));
    }

    #[test]
    fn one_flipped_bit_of_a_segment_is_noticed(ipv4 in any::<bool>(), place in any::<Index>(), bit in 0_u8..8) {
        // The version says which checks there are, and of the IPv6 header only a
        // part is covered.
        let (tuple, covered) = if ipv4 { (v4(), 1) } else { (v6(), 40) };
        let mut packet = syn(tuple);
        let place = covered + place.index(packet.bytes.len() - covered);
        packet.bytes[place] ^= 1 << bit;
        prop_assert!(read(&packet).is_err());
    }

    #[test]
    fn a_built_segment_is_read_back(
        tuple in any_tuple(),
        (seq, ack) in any::<(u32, Option<u32>)>(),
        (bits, window, hop_limit) in any::<(u8, u16, u8)>(),
        mut options in any_options(),
        payload in prop::collection::vec(any::<u8>(), 0..100),
    ) {
        let mut builder = SegmentBuilder::new(tuple)
            .seq(SeqNum(seq))
            .flags(Flags(bits))
            .window(window)
            .hop_limit(hop_limit)
            .options(&options)
            .payload(&payload);
        if let Some(ack) = ack {
            builder = builder.ack(SeqNum(ack));
        }
        let packet = builder.build();
        let parsed = read(&packet).unwrap();
        prop_assert_eq!((parsed.src, parsed.dst), (tuple.src, tuple.dst));
        prop_assert_eq!((parsed.hop_limit, parsed.len), (hop_limit, packet.wire_len()));
        let Transport::Tcp(segment) = parsed.transport else { panic!("{parsed:?}") };
        prop_assert_eq!((segment.src_port, segment.dst_port), (tuple.src_port, tuple.dst_port));
        prop_assert_eq!((segment.seq, segment.ack), (SeqNum(seq), SeqNum(ack.unwrap_or(0))));
        prop_assert_eq!(segment.flags.0, bits | if ack.is_some() { Flags::ACK.0 } else { 0 });
        prop_assert_eq!((segment.window, segment.payload_len as usize), (window, payload.len()));
        if !segment.flags.contains(Flags::SYN) {
            let TcpOptions { timestamps, sack_high, .. } = options;
            options = TcpOptions { timestamps, sack_high, ..TcpOptions::default() };
        }
        prop_assert_eq!(segment.options, options);
    }

    #[test]
    fn built_datagrams_and_echoes_are_read_back(
        tuple in any_tuple(),
        id in any::<u16>(),
        seq in any::<u16>(),
        payload in prop::collection::vec(any::<u8>(), 0..100),
    ) {
        let FourTuple { src, dst, src_port, dst_port } = tuple;
        let packet = build::udp(tuple, &payload);
        let Transport::Udp(datagram) = read(&packet).unwrap().transport else { panic!() };
        prop_assert_eq!((datagram.src_port, datagram.dst_port), (src_port, dst_port));
        let request = build::icmp_echo(src, dst, Echo::Request, id, seq, &payload);
        prop_assert_eq!(
            read(&request).unwrap().transport,
            Transport::Icmp(IcmpMessage::EchoRequest { id })
        );
        let reply = build::icmp_echo(src, dst, Echo::Reply, id, seq, &payload);
        prop_assert_eq!(read(&reply).unwrap().transport, Transport::Icmp(IcmpMessage::EchoReply { id }));
        let error = build::icmp_error(dst, src, 3, 1, &packet.bytes);
        let Transport::Icmp(IcmpMessage::Error { embedded, .. }) = read(&error).unwrap().transport else {
            panic!()
        };
        prop_assert_eq!((embedded.src, embedded.dst), (src, dst));
        prop_assert_eq!((embedded.src_port, embedded.dst_port), (src_port, dst_port));
    }
}
