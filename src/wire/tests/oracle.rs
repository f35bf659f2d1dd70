//! Against etherparse, in both directions.

use etherparse::{
    IpAuthHeader, IpHeaders, IpNumber, Ipv4Extensions, Ipv4Header, Ipv4Options, Ipv6Extensions,
    Ipv6FragmentHeader, Ipv6Header, Ipv6RawExtHeader, Ipv6RoutingExtensions, NetSlice, PacketBuilder,
    SlicedPacket, TcpHeader, TcpOptionElement, TransportSlice,
};
use proptest::{prelude::*, sample::Index};

use super::*;
use crate::wire::{IcmpMessage, Segment, TcpOptions, Transport};

/// An IP header with everything that may stand before a transport header.
pub(super) fn any_headers() -> impl Strategy<Value = IpHeaders> {
    prop_oneof![any_v4(), any_v6()]
}

fn any_v4() -> impl Strategy<Value = IpHeaders> {
    (any::<[u8; 3]>(), any::<[u8; 3]>(), any::<u8>(), any::<(u16, bool)>(), 0_usize..=10).prop_map(
        |([a, b, c], [d, e, f], ttl, (identification, dont_fragment), words)| {
            let mut header =
                Ipv4Header::new(0, ttl, IpNumber(0), [100, a, b, c], [200, d, e, f]).expect("a length of 0");
            header.identification = identification;
            header.dont_fragment = dont_fragment;
            header.options = Ipv4Options::try_from(&[1; 40][..words * 4]).expect("whole words");
            IpHeaders::Ipv4(header, Ipv4Extensions::default())
        },
    )
}

fn any_v6() -> impl Strategy<Value = IpHeaders> {
    // `units` more than the first eight octets of a header, filled with Pad1.
    let header = |range| {
        prop::option::of(range).prop_map(|units: Option<usize>| {
            units.map(|units| Ipv6RawExtHeader::new_raw(IpNumber(0), &vec![0; 6 + units * 8]).unwrap())
        })
    };
    (
        (any::<[u8; 14]>(), any::<[u8; 14]>(), any::<u8>()),
        (header(0..4_usize), header(0..4_usize), header(0..4_usize)),
        (any::<Option<u8>>(), prop::option::of(0_usize..8), any::<Option<u32>>()),
    )
        .prop_map(|((src, dst, hop_limit), (hop, first, last), (routing, icv, identification))| {
            let address = |tail: [u8; 14]| {
                let mut octets = [0x20; 16];
                octets[2..].copy_from_slice(&tail);
                octets
            };
            let header = Ipv6Header {
                source: address(src),
                destination: address(dst),
                hop_limit,
                ..Ipv6Header::default()
            };
            let extensions = Ipv6Extensions {
                hop_by_hop_options: hop,
                destination_options: first,
                // Any type but 0, which is refused; at the end of its way.
                routing: routing.map(|kind| Ipv6RoutingExtensions {
                    routing: Ipv6RawExtHeader::new_raw(IpNumber(0), &[kind.max(1), 0, 0, 0, 0, 0]).unwrap(),
                    final_destination_options: last,
                }),
                fragment: identification
                    .map(|id| Ipv6FragmentHeader::new(IpNumber(0), 0.try_into().unwrap(), false, id)),
                auth: icv.map(|words| IpAuthHeader::new(IpNumber(0), 1, 2, &vec![7; words * 4]).unwrap()),
            };
            IpHeaders::Ipv6(header, extensions)
        })
}

pub(super) fn any_tcp() -> impl Strategy<Value = TcpHeader> {
    (
        any::<(u16, u16, u32, u16)>(),
        any::<(u32, u8, u16)>(),
        prop_oneof![
            prop::collection::vec(any_element(), 0..4).prop_map(|elements| {
                let mut header = TcpHeader::default();
                // What does not fit is left out.
                let _ = header.set_options(&elements);
                header.options.as_slice().to_vec()
            }),
            prop::collection::vec(any::<u8>(), 0..=40),
        ],
    )
        .prop_map(|((src, dst, seq, window), (ack, bits, urgent), options)| {
            let mut header = TcpHeader::new(src, dst, seq, window);
            header.acknowledgment_number = ack;
            header.urgent_pointer = urgent;
            header.fin = bits & 1 != 0;
            header.syn = bits & 2 != 0;
            header.rst = bits & 4 != 0;
            header.psh = bits & 8 != 0;
            header.ack = bits & 16 != 0;
            header.urg = bits & 32 != 0;
            header.ece = bits & 64 != 0;
            header.cwr = bits & 128 != 0;
            header.set_options_raw(&options).expect("at most 40 octets");
            header
        })
}

fn any_element() -> impl Strategy<Value = TcpOptionElement> {
    prop_oneof![
        Just(TcpOptionElement::Noop),
        any::<u16>().prop_map(TcpOptionElement::MaximumSegmentSize),
        any::<u8>().prop_map(TcpOptionElement::WindowScale),
        Just(TcpOptionElement::SelectiveAcknowledgementPermitted),
        any::<(u32, u32)>().prop_map(|(value, echo)| TcpOptionElement::Timestamp(value, echo)),
        any::<((u32, u32), Option<(u32, u32)>)>().prop_map(|(first, second)| {
            TcpOptionElement::SelectiveAcknowledgement(first, [second, None, None])
        }),
    ]
}

pub(super) fn any_payload() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(any::<u8>(), 0..200)
}

/// What etherparse read before it stopped, which is all if nothing is broken.
fn their_options(header: &TcpHeader) -> (TcpOptions, bool) {
    let mut options = TcpOptions::default();
    for element in header.options_iterator() {
        let Ok(element) = element else { return (options, false) };
        match element {
            TcpOptionElement::Noop => {}
            TcpOptionElement::MaximumSegmentSize(mss) if header.syn => options.mss = Some(mss),
            TcpOptionElement::WindowScale(shift) if header.syn => options.window_scale = Some(shift.min(14)),
            TcpOptionElement::SelectiveAcknowledgementPermitted if header.syn => {
                options.sack_permitted = true
            }
            TcpOptionElement::MaximumSegmentSize(_)
            | TcpOptionElement::WindowScale(_)
            | TcpOptionElement::SelectiveAcknowledgementPermitted => {}
            TcpOptionElement::Timestamp(value, echo) => options.timestamps = Some((value, echo)),
            TcpOptionElement::SelectiveAcknowledgement(first, more) => {
                for (_, right) in [Some(first)].into_iter().chain(more).flatten() {
                    let right = SeqNum(right);
                    options.sack_high = Some(options.sack_high.map_or(right, |high| high.latest(right)));
                }
            }
        }
    }
    (options, true)
}

fn same_segment(ours: &Segment, theirs: &TcpHeader, payload: usize) {
    assert_eq!((ours.src_port, ours.dst_port), (theirs.source_port, theirs.destination_port));
    assert_eq!((ours.seq.0, ours.ack.0), (theirs.sequence_number, theirs.acknowledgment_number));
    assert_eq!((ours.window, ours.payload_len as usize), (theirs.window_size, payload));
    let bits = [
        (Flags::FIN, theirs.fin),
        (Flags::SYN, theirs.syn),
        (Flags::RST, theirs.rst),
        (Flags::PSH, theirs.psh),
        (Flags::ACK, theirs.ack),
        (Flags::URG, theirs.urg),
        (Flags(64), theirs.ece),
        (Flags(128), theirs.cwr),
    ];
    for (bit, set) in bits {
        assert_eq!(ours.flags.contains(bit), set, "{bit:?}");
    }
    let (options, all) = their_options(theirs);
    if all {
        assert_eq!(ours.options, options);
    }
}

/// Whether both read the same from a packet that both read.
fn same(bytes: &[u8], ours: &Packet<'_>, theirs: &SlicedPacket<'_>) {
    let net = theirs.net.as_ref().expect("it is an IP packet");
    let (src, dst, hop_limit): (std::net::IpAddr, std::net::IpAddr, u8) = match net {
        NetSlice::Ipv4(slice) => {
            let header = slice.header();
            (header.source_addr().into(), header.destination_addr().into(), header.ttl())
        }
        NetSlice::Ipv6(slice) => {
            let header = slice.header();
            (header.source_addr().into(), header.destination_addr().into(), header.hop_limit())
        }
        NetSlice::Arp(_) => panic!("no IP"),
    };
    assert_eq!((ours.src, ours.dst, ours.hop_limit), (src, dst, hop_limit));
    let payload = theirs.ip_payload().expect("it has one");
    assert_eq!(ours.protocol.0, payload.ip_number.0);
    assert_eq!(ours.transport_offset, payload.payload.as_ptr().addr() - bytes.as_ptr().addr());
    assert_eq!(ours.len as usize - ours.transport_offset, payload.payload.len());
    if payload.fragmented {
        // etherparse reads nothing behind the IP header of any fragment.
        return;
    }
    match (ours.transport, &theirs.transport) {
        (Transport::Tcp(ours), Some(TransportSlice::Tcp(theirs))) => {
            same_segment(&ours, &theirs.to_header(), theirs.payload().len());
        }
        (Transport::Udp(ours), Some(TransportSlice::Udp(theirs))) => {
            assert_eq!((ours.src_port, ours.dst_port), (theirs.source_port(), theirs.destination_port()));
        }
        (Transport::Icmp(ours), Some(TransportSlice::Icmpv4(theirs))) => {
            same_icmp(&ours, theirs.type_u8(), theirs.code_u8(), theirs.bytes5to8(), 8, 0);
        }
        (Transport::Icmp(ours), Some(TransportSlice::Icmpv6(theirs))) => {
            same_icmp(&ours, theirs.type_u8(), theirs.code_u8(), theirs.bytes5to8(), 128, 129);
        }
        (Transport::Other, None | Some(TransportSlice::Igmp(_))) => {}
        (ours, theirs) => panic!("{ours:?}, but etherparse {theirs:?}"),
    }
}

fn same_icmp(ours: &IcmpMessage<'_>, kind: u8, code: u8, head: [u8; 4], request: u8, reply: u8) {
    let echo = u16::from_be_bytes([head[0], head[1]]);
    match *ours {
        IcmpMessage::EchoRequest { id } => assert_eq!((kind, echo), (request, id)),
        IcmpMessage::EchoReply { id } => assert_eq!((kind, echo), (reply, id)),
        IcmpMessage::Error { kind: ours, code: our_code, .. }
        | IcmpMessage::Other { kind: ours, code: our_code, .. } => {
            assert_eq!((ours, our_code), (kind, code));
            assert!(kind != request && kind != reply);
        }
    }
}

/// Packets that etherparse has no opinion on, or another one for a good reason.
fn is_comparable(bytes: &[u8], ours: &Packet<'_>) -> bool {
    // It takes a payload length of 0 for a jumbogram.
    let empty = bytes[0] >> 4 == 6 && bytes[4..6] == [0, 0];
    // It follows AH over IPv4, and these headers over IPv6; it wants more of IGMP
    // than a header, and of ICMP timestamps exactly what RFC 792 has.
    let followed = match ours.protocol.0 {
        51 => ours.src.is_ipv4(),
        135 | 139 | 140 => true,
        2 => true,
        _ => false,
    };
    let timestamps = matches!(ours.transport, Transport::Icmp(IcmpMessage::Other { kind: 13 | 14, .. }));
    !empty && !followed && !timestamps
}

/// What we refuse and etherparse does not look at.
fn is_our_own_rule(reason: Malformed) -> bool {
    !matches!(
        reason,
        Malformed::TooShort
            | Malformed::CutOff
            | Malformed::Version
            | Malformed::Ipv4HeaderLength
            | Malformed::TcpTooShort
            | Malformed::TcpDataOffset
            | Malformed::UdpTooShort
            | Malformed::IcmpTooShort
    )
}

proptest! {
    #![proptest_config(config(1000))]

    #[test]
    fn what_etherparse_builds_we_read(
        headers in any_headers(),
        tcp in any_tcp(),
        payload in any_payload(),
        kind in 0..3,
    ) {
        let ipv4 = matches!(headers, IpHeaders::Ipv4(..));
        let builder = PacketBuilder::ip(headers);
        let mut bytes = Vec::new();
        let (src_port, dst_port) = (tcp.source_port, tcp.destination_port);
        match kind {
            0 => builder.tcp_header(tcp).write(&mut bytes, &payload).unwrap(),
            1 => builder.udp(src_port, dst_port).write(&mut bytes, &payload).unwrap(),
            _ if ipv4 => builder.icmpv4_echo_request(src_port, dst_port).write(&mut bytes, &payload).unwrap(),
            _ => builder.icmpv6_echo_reply(src_port, dst_port).write(&mut bytes, &payload).unwrap(),
        }
        let ours = parse(&bytes, bytes.len() as u32, Checksums::Verify).unwrap();
        prop_assert_eq!(ours.len as usize, bytes.len());
        same(&bytes, &ours, &SlicedPacket::from_ip(&bytes).unwrap());
    }

    #[test]
    fn what_we_build_etherparse_reads(headers in any_headers(), tcp in any_tcp(), payload in any_payload()) {
        let (src, dst): (std::net::IpAddr, std::net::IpAddr) = match headers {
            IpHeaders::Ipv4(header, _) => (header.source.into(), header.destination.into()),
            IpHeaders::Ipv6(header, _) => (header.source.into(), header.destination.into()),
        };
        let tuple = FourTuple { src, src_port: tcp.source_port, dst, dst_port: tcp.destination_port };
        let segment = SegmentBuilder::new(tuple)
            .seq(SeqNum(tcp.sequence_number))
            .flags(Flags(if tcp.syn { 2 } else { 0 }))
            .raw_options(tcp.options.as_slice())
            .payload(&payload)
            .build();
        let echo = |echo| build::icmp_echo(src, dst, echo, tuple.src_port, tuple.dst_port, &payload);
        let datagram = build::udp(tuple, &payload);
        let error = build::icmp_error(dst, src, 3, 1, &datagram.bytes);
        for packet in [segment, datagram, echo(Echo::Request), echo(Echo::Reply), error] {
            let theirs = SlicedPacket::from_ip(&packet.bytes).unwrap();
            same(&packet.bytes, &read(&packet).unwrap(), &theirs);
            their_checksums_agree(&packet, &theirs);
        }
    }

    #[test]
    fn we_refuse_what_etherparse_refuses(
        packet in prop::sample::select(sound_packets()),
        changes in prop::collection::vec((any::<Index>(), any::<u8>()), 0..4),
        end in any::<Index>(),
        cut in any::<bool>(),
    ) {
        let mut bytes = packet.bytes;
        for (place, octet) in changes {
            let place = place.index(bytes.len());
            bytes[place] = octet;
        }
        if cut {
            bytes.truncate(end.index(bytes.len() + 1));
        }
        let ours = parse(&bytes, bytes.len() as u32, Checksums::Trust);
        match (ours, SlicedPacket::from_ip(&bytes)) {
            (Ok(ours), Ok(theirs)) if is_comparable(&bytes, &ours) => same(&bytes, &ours, &theirs),
            (Ok(ours), Err(error)) => prop_assert!(!is_comparable(&bytes, &ours), "{:?}, {:?}", ours, error),
            // It takes a length of nothing for all that is there.
            (Err(_), Ok(_)) if matches!(bytes[..], [0x60..=0x6f, _, _, _, 0, 0, ..]) => {}
            (Err(reason), Ok(theirs)) if !theirs.is_ip_payload_fragmented() => {
                prop_assert!(is_our_own_rule(reason), "{}", reason);
            }
            (Ok(_), Ok(_)) | (Err(_), _) => {}
        }
    }
}

/// The checksums of a built packet against those that etherparse works out.
pub(super) fn their_checksums_agree(packet: &RawPacket, theirs: &SlicedPacket<'_>) {
    let bytes = &packet.bytes;
    match (theirs.net.as_ref().unwrap(), theirs.transport.as_ref().unwrap()) {
        (NetSlice::Ipv4(ip), transport) => {
            let header = ip.header().to_header();
            assert_eq!(header.header_checksum, header.calc_header_checksum());
            match transport {
                TransportSlice::Tcp(tcp) => {
                    let expected = tcp.calc_checksum_ipv4(header.source, header.destination).unwrap();
                    assert_eq!(tcp.checksum(), expected);
                }
                TransportSlice::Udp(udp) => {
                    let expected = udp.to_header().calc_checksum_ipv4(&header, udp.payload()).unwrap();
                    assert_eq!(udp.checksum(), expected);
                }
                TransportSlice::Icmpv4(icmp) => {
                    let expected = icmp.icmp_type().calc_checksum(icmp.payload());
                    assert_eq!(icmp.checksum(), expected);
                }
                TransportSlice::Icmpv6(_) | TransportSlice::Igmp(_) => panic!("{bytes:?}"),
            }
        }
        (NetSlice::Ipv6(ip), transport) => {
            let header = ip.header().to_header();
            match transport {
                TransportSlice::Tcp(tcp) => {
                    let expected = tcp.calc_checksum_ipv6(header.source, header.destination).unwrap();
                    assert_eq!(tcp.checksum(), expected);
                }
                TransportSlice::Udp(udp) => {
                    let expected = udp.to_header().calc_checksum_ipv6(&header, udp.payload()).unwrap();
                    assert_eq!(udp.checksum(), expected);
                }
                TransportSlice::Icmpv6(icmp) => {
                    assert!(icmp.is_checksum_valid(header.source, header.destination));
                }
                TransportSlice::Icmpv4(_) | TransportSlice::Igmp(_) => panic!("{bytes:?}"),
            }
        }
        (NetSlice::Arp(_), _) => panic!("{bytes:?}"),
    }
}
