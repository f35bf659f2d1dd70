//! "Did you mean": near misses, and the words of other firewalls.

use crate::conntrack::Timer;

/// Longer words are nobody's slip of the finger.
const LONGEST: usize = 48;

/// The candidate that is a slip or two away from `word`.
pub(super) fn nearest<'c>(word: &str, candidates: impl Iterator<Item = &'c str>) -> Option<&'c str> {
    if word.len() > LONGEST {
        return None;
    }
    let plain = |text: &str| text.to_ascii_lowercase().replace(['-', '.', ' '], "_");
    let word = plain(word);
    candidates
        .filter(|candidate| candidate.len() <= LONGEST)
        .map(|candidate| (strsim::damerau_levenshtein(&word, &plain(candidate)), candidate))
        .filter(|(distance, candidate)| {
            let most = match candidate.len().min(word.len()) {
                0..=2 => 0,
                3..=5 => 1,
                6..=9 => 2,
                _ => 3,
            };
            *distance <= most
        })
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// At most `most` characters of a text that may be anything.
pub(super) fn shorten(text: &str, most: usize) -> String {
    let one_line = text.replace(|c: char| c.is_control(), " ");
    if one_line.chars().count() <= most {
        return one_line;
    }
    one_line.chars().take(most.saturating_sub(1)).chain(['…']).collect()
}

/// Actions of iptables, nftables, pf, ASA and Palo Alto.
pub(super) const ACTIONS: &[(&str, &str)] = &[
    ("reject", "reset"),
    ("rst", "reset"),
    ("tcp-reset", "reset"),
    ("reset-both", "reset"),
    ("refuse", "reset"),
    ("deny", "drop"),
    ("block", "drop"),
    ("discard", "drop"),
    ("ignore", "drop"),
    ("allow", "accept"),
    ("pass", "accept"),
    ("permit", "accept"),
    ("trust", "accept"),
    ("return", "accept"),
];

/// The timer that others call so. Covers conntrack's sysctls and `ct timeout`
/// policies, pf's `set timeout`, ASA's `timeout` and Palo Alto's session
/// settings.
pub(super) fn foreign_timer(word: &str) -> Option<&'static str> {
    let mut plain = word.to_ascii_lowercase().replace(['-', '.', ' '], "_");
    for prefix in ["net_netfilter_", "nf_conntrack_", "ip_conntrack_", "timeout_"] {
        if let Some(rest) = plain.strip_prefix(prefix) {
            plain = rest.to_owned();
        }
    }
    let ours = match plain.as_str() {
        // pf's tcp.closing begins with the first FIN, its tcp.finwait with the second.
        "tcp_closing"
        | "tcp_half_closed"
        | "half_close"
        | "close_wait"
        | "tcp_timeout_close_wait"
        | "tcp_close_wait"
        | "conn_half_closed"
        | "halfclosed" => "half_closed",
        "tcp_finwait" | "tcp_time_wait" | "tcp_timeout_time_wait" | "timewait" | "tcp_timewait" => {
            "time_wait"
        }
        "tcp_closed" | "tcp_timeout_close" | "tcp_close" | "close" | "rst" | "tcp_rst" => "reset",
        "tcp_first"
        | "tcp_init"
        | "tcpinit"
        | "syn"
        | "tcp_syn"
        | "tcp_syn_sent"
        | "tcp_timeout_syn_sent" => "syn_sent",
        "tcp_opening"
        | "syn_recv"
        | "tcp_syn_recv"
        | "tcp_timeout_syn_recv"
        | "tcp_handshake"
        | "tcphandshake"
        | "syn_rcvd"
        | "tcp_syn_received"
        | "handshake" => "syn_received",
        "embryonic" | "half_open" | "conn_embryonic" => "syn_sent` and `syn_received",
        "tcp_established"
        | "tcp_timeout_established"
        | "tcp"
        | "conn"
        | "idle"
        | "tcp_idle"
        | "tcp_timeout" => "established",
        "tcp_timeout_unacknowledged" | "tcp_timeout_max_retrans" | "max_retrans" | "unack" | "retrans" => {
            "unacknowledged"
        }
        "tcp_timeout_fin_wait" | "tcp_fin_wait" | "fin" | "finwait" => "fin_wait",
        "tcp_timeout_last_ack" | "last_ack" | "tcp_last_ack" => "closing",
        "tcp_unverified_rst" => "unverified_rst",
        "udp_first" | "udp_single" | "udp_timeout" | "udp_unreplied" => "udp_new",
        "udp" | "udp_multiple" | "udp_timeout_stream" | "udp_replied" => "udp_stream",
        "icmp_first" | "icmp_error" | "icmp_timeout" | "icmpv6_timeout" | "ping" => "icmp",
        "generic" | "generic_timeout" | "other_first" | "other_single" | "other_multiple" | "default" => {
            "other"
        }
        _ => return None,
    };
    Some(ours)
}

/// What to say about a name that is no timer.
pub(super) fn timer_hint(word: &str) -> String {
    let near = || nearest(word, Timer::ALL.into_iter().map(Timer::name));
    match foreign_timer(word).or_else(near) {
        Some(name) => format!("did you mean `{name}`?"),
        None => format!("the timers are: {}", Timer::ALL.map(Timer::name).join(", ")),
    }
}

/// Well-known services by the names that others have for them.
pub(super) fn well_known(word: &str) -> Option<&'static str> {
    Some(match word.to_ascii_lowercase().as_str() {
        "ssh" => "tcp/22",
        "http" | "www" => "tcp/80",
        "https" => "tcp/443",
        "dns" | "domain" => "tcp/53, udp/53",
        "ntp" => "udp/123",
        "smtp" => "tcp/25",
        "imaps" => "tcp/993",
        "dhcp" | "bootps" => "udp/67",
        "telnet" => "tcp/23",
        "ftp" => "tcp/21",
        "rdp" => "tcp/3389",
        "mysql" => "tcp/3306",
        "postgres" | "postgresql" => "tcp/5432",
        "wireguard" => "udp/51820",
        "ipsec" => "udp/500, udp/4500, esp",
        "ping" | "echo" => "icmp/echo-request",
        "all" | "*" | "ip" => "any",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_are_near_and_other_words_are_not() {
        let keys = ["half_closed", "time_wait", "udp_new"];
        assert_eq!(nearest("half-closed", keys.into_iter()), Some("half_closed"));
        assert_eq!(nearest("timewait", keys.into_iter()), Some("time_wait"));
        assert_eq!(nearest("established", keys.into_iter()), None);
        assert_eq!(nearest(&"x".repeat(1_000_000), keys.into_iter()), None);
    }

    #[test]
    fn what_others_call_a_timer_is_one_of_ours() {
        for (word, ours) in [
            ("nf_conntrack_tcp_timeout_close_wait", "half_closed"),
            ("net.netfilter.nf_conntrack_tcp_timeout_syn_recv", "syn_received"),
            ("tcp.finwait", "time_wait"),
            ("tcp.closing", "half_closed"),
            ("timeout-tcp-half-closed", "half_closed"),
            ("half-open", "syn_sent` and `syn_received"),
            ("timeout-tcp-unverified-rst", "unverified_rst"),
            ("udp.multiple", "udp_stream"),
        ] {
            assert_eq!(foreign_timer(word), Some(ours), "{word}");
        }
        assert_eq!(timer_hint("halfclosed"), "did you mean `half_closed`?");
        assert!(timer_hint("xyzzy").starts_with("the timers are: syn_sent"));
    }

    #[test]
    fn texts_are_cut_and_tamed() {
        assert_eq!(shorten("a\u{1b}[31mb\nc", 99), "a [31mb c");
        assert_eq!(shorten("äöüäöü", 4), "äöü…");
    }
}
