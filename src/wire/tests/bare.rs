//! Segments without their Fast Open, against the parser and etherparse.

use etherparse::{IpHeaders, PacketBuilder, SlicedPacket};
use proptest::{prelude::*, sample::Index};

use super::{
    oracle::{any_headers, any_payload, any_tcp, their_checksums_agree},
    *,
};
use crate::wire::{Segment, TcpOptions, Transport, without_fast_open};

fn bare(bytes: &[u8], wire_len: usize) -> Option<RawPacket> {
    let mut out = vec![1, 2, 3];
    let told = without_fast_open(bytes, u32::try_from(wire_len).unwrap(), &mut out);
    assert_eq!(told.is_none(), out.is_empty());
    told.map(|()| RawPacket { bytes: out })
}

fn tcp_of(packet: &RawPacket) -> Segment {
    let Transport::Tcp(segment) = read(packet).expect("a legal packet").transport else { panic!() };
    segment
}

/// Options with Fast Open among them, the experimental one too.
fn any_options() -> impl Strategy<Value = Vec<u8>> {
    let option = prop_oneof![
        Just(vec![1]),
        Just(vec![2, 4, 5, 0xb4]),
        Just(vec![3, 3, 7]),
        Just(vec![4, 2]),
        Just(vec![8, 10, 0, 0, 0, 1, 0, 0, 0, 2]),
        prop::collection::vec(any::<u8>(), 0..=16).prop_map(|cookie| option(34, &cookie)),
        prop::collection::vec(any::<u8>(), 0..=16)
            .prop_map(|cookie| option(254, &[&[0xf9, 0x89][..], &cookie].concat())),
        Just(vec![254, 4, 0xf9, 0x88]),
    ];
    prop::collection::vec(option, 0..6).prop_map(|options| {
        let mut area = Vec::new();
        for option in options.into_iter().filter(|option| option.len() <= 40) {
            if area.len() + option.len() <= 40 {
                area.extend(option);
            }
        }
        area
    })
}

fn option(kind: u8, value: &[u8]) -> Vec<u8> {
    [&[kind, value.len() as u8 + 2], value].concat()
}

proptest! {
    #![proptest_config(config(1000))]

    #[test]
    fn what_goes_on_is_the_same_packet_without_fast_open_and_data(
        headers in any_headers(),
        mut tcp in any_tcp(),
        sound in any::<bool>(),
        options in any_options(),
        payload in any_payload(),
        copied in any::<Index>(),
    ) {
        tcp.syn = true;
        if sound {
            tcp.set_options_raw(&options).unwrap();
        }
        let ipv4 = matches!(headers, IpHeaders::Ipv4(..));
        let mut bytes = Vec::new();
        PacketBuilder::ip(headers).tcp_header(tcp).write(&mut bytes, &payload).unwrap();
        let whole = RawPacket { bytes: bytes.clone() };
        let before = read(&whole).unwrap();
        let short = bare(&bytes, bytes.len()).expect("it can always be done");

        let after = read(&short).expect("a legal packet");
        prop_assert_eq!(after.len as usize, short.bytes.len());
        prop_assert_eq!((after.src, after.dst, after.hop_limit), (before.src, before.dst, before.hop_limit));
        prop_assert_eq!(after.transport_offset, before.transport_offset);
        let Transport::Tcp(was) = before.transport else { panic!() };
        let options = TcpOptions { fast_open: false, ..was.options };
        let expected = Segment { payload_len: 0, options, ..was };
        prop_assert_eq!(after.transport, Transport::Tcp(expected));
        prop_assert_eq!(short.bytes.len(), bytes.len() - payload.len());
        // Before the transport header only lengths and the checksum may differ.
        let at = before.transport_offset;
        let changed = (0..at).filter(|&place| short.bytes[place] != bytes[place]);
        let lengths: &[usize] = if ipv4 { &[2, 3, 10, 11] } else { &[4, 5] };
        prop_assert!(changed.clone().all(|place| lengths.contains(&place)), "{:?}", changed.collect::<Vec<_>>());
        their_checksums_agree(&short, &SlicedPacket::from_ip(&short.bytes).unwrap());

        // Whatever of the data was copied, and nothing twice.
        let headers = short.bytes.len();
        let copied = headers + copied.index(bytes.len() - headers + 1);
        prop_assert!(bare(&bytes[..copied], bytes.len()) == Some(short.clone()));
        prop_assert!(bare(&short.bytes, headers) == Some(short.clone()));
        prop_assert_eq!(bare(&bytes[..headers - 1], bytes.len()), None, "headers must be whole");
    }

    #[test]
    fn arbitrary_octets_never_panic(
        mut bytes in prop::collection::vec(any::<u8>(), 0..200),
        version in prop::sample::select(vec![0x45, 0x46, 0x4f, 0x60, 0x00]),
        more in 0_usize..300,
    ) {
        if let Some(first) = bytes.first_mut() {
            *first = version;
        }
        if bytes.len() > 10 {
            bytes[if version == 0x60 { 6 } else { 9 }] = 6;
        }
        bare(&bytes, bytes.len() + more);
    }
}

#[test]
fn the_option_is_blanked_where_it_stands() {
    let timestamps = [8, 10, 0, 0, 0, 1, 0, 0, 0, 2];
    for (cookie, blanks) in [
        (option(34, &[]), vec![1; 2]),
        (option(34, &[7; 8]), vec![1; 10]),
        (option(254, &[0xf9, 0x89]), vec![1; 4]),
        (option(254, &[0xf9, 0x89, 1, 2, 3, 4]), vec![1; 8]),
        // Somebody else's experiment (RFC 6994).
        (option(254, &[0xf9, 0x8a]), option(254, &[0xf9, 0x8a])),
    ] {
        let area = |middle: &[u8]| [&[2, 4, 5, 0xb4], middle, &timestamps].concat();
        let segment =
            SegmentBuilder::new(v4()).flags(Flags::SYN).raw_options(&area(&cookie)).payload(b"GET /");
        let packet = segment.build();
        let short = bare(&packet.bytes, packet.bytes.len()).unwrap();
        let expected = SegmentBuilder::new(v4()).flags(Flags::SYN).raw_options(&area(&blanks)).build();
        assert_eq!(short, expected);
        assert_eq!(tcp_of(&short).options.mss, Some(1460));
    }
}

#[test]
fn two_of_them_are_both_blanked_and_what_nobody_reads_is_left() {
    let area = [&option(34, &[1, 2])[..], &option(34, &[3, 4]), &[0], &option(34, &[5, 6])].concat();
    let packet = SegmentBuilder::new(v6()).flags(Flags::SYN).raw_options(&area).build();
    let short = bare(&packet.bytes, packet.bytes.len()).unwrap();
    assert_eq!(short.bytes[60..68], [1; 8]);
    assert_eq!(short.bytes[68..73], [0, 34, 4, 5, 6], "behind the end of the options");
    assert!(!tcp_of(&short).options.fast_open);
}

#[test]
fn padding_of_the_link_is_cut_off_too() {
    let packet = SegmentBuilder::new(v4()).flags(Flags::SYN).payload(b"ab").build();
    let mut padded = packet.bytes.clone();
    padded.extend([9; 12]);
    assert_eq!(bare(&padded, padded.len()), bare(&packet.bytes, packet.bytes.len()));
}

#[test]
fn options_of_the_ip_header_stay_and_its_checksum_is_made_good() {
    // A record route that the kernel has filled in and not yet summed.
    let packet = with_options(&syn(v4()), &[7, 7, 8, 198, 51, 100, 1, 0]);
    let broken = changed(packet.clone(), 10, &[0xde, 0xad]);
    assert_eq!(bare(&broken.bytes, broken.bytes.len()), Some(packet));
}

#[test]
fn what_is_no_whole_tcp_segment_stays_untouched() {
    let hidden_address =
        chained_tcp(&[(ROUTING, &[0, 2, 2, 1, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 1, 2, 3, 4, 5, 6, 7, 8])]);
    assert!(read(&hidden_address).is_ok());
    for packet in [
        datagram(v4()),
        fragment_v4(&syn(v4()), 0, 40, true),
        fragment_v6(&syn(v6()), 0, 40, true),
        hidden_address,
        changed(syn(v4()), 32, &[0x40]),
        changed(syn(v4()), 32, &[0xf0]),
    ] {
        assert_eq!(bare(&packet.bytes, packet.bytes.len()), None, "{packet:?}");
    }
    // Longer than its field can say.
    let mut huge = syn(v4()).bytes;
    huge[2..4].fill(0);
    assert_eq!(bare(&huge, 70_000), None);
}
