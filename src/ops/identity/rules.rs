//! What of a system is the machine's identity: what two machines must not have in common. It is made anew, by the
//! system itself, where it is missing. Modelled on virt-sysprep(1), cloud-init's `clean`, and what systemd's
//! documentation has builders of images reset.

/// Files that go.
pub(super) struct Rule {
    /// The directory that holds them; symlinks to directories are followed.
    pub directory: &'static [u8],
    /// Patterns of names: `*` is any text, but none begins with a '.'.
    pub names: &'static [&'static [u8]],
    /// What else than a directory goes there.
    pub only: Only,
}

/// Which types.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Only {
    /// Whatever has the name, a symlink as itself.
    AnyType,
    /// Regular files.
    Regular,
}

const fn rule(directory: &'static str, names: &'static [&'static [u8]]) -> Rule {
    Rule {
        directory: directory.as_bytes(),
        names,
        only: Only::AnyType,
    }
}

/// systemd and D-Bus: emptied, not removed, so that the next boot makes a new one and is not taken for the first.
pub(super) const MACHINE_ID: &[u8] = b"/etc/machine-id";

/// The host's name.
pub(super) const HOSTNAME: &[u8] = b"/etc/hostname";

/// Where Debian's installer maps the host's name to 127.0.1.1.
pub(super) const HOSTS: &[u8] = b"/etc/hosts";

/// What dhcpcd keeps.
const DHCPCD: &[&[u8]] = &[
    b"duid",
    b"secret",
    b"rdm_monotonic",
    b"*.lease",
    b"*.lease6",
];

/// All that goes.
pub(super) const RULES: &[Rule] = &[
    // A symlink to /etc/machine-id is no identity.
    Rule {
        directory: b"/var/lib/dbus",
        names: &[b"machine-id"],
        only: Only::Regular,
    },
    rule(
        "/etc/ssh",
        &[
            b"ssh_host_key",
            b"ssh_host_key.pub",
            b"ssh_host_*_key",
            b"ssh_host_*_key.pub",
            b"ssh_host_*_key-cert.pub",
        ],
    ),
    rule("/etc/dropbear", &[b"dropbear_*_host_key"]),
    // Random seeds: of systemd, of its boot loader, of SysV init, OpenRC, BusyBox.
    rule("/var/lib/systemd", &[b"random-seed", b"credential.secret"]),
    rule("/boot/loader", &[b"random-seed"]),
    rule("/boot/efi/loader", &[b"random-seed"]),
    rule("/efi/loader", &[b"random-seed"]),
    rule("/var/lib", &[b"random-seed"]),
    rule("/var/lib/urandom", &[b"random-seed"]),
    rule("/var/lib/misc", &[b"random-seed"]),
    rule("/var/lib/seedrng", &[b"seed.*"]),
    // What a DHCP server knows this machine by, and what it gave it: of ISC's client, dhcpcd, NetworkManager,
    // wide-dhcpv6 and wicked.
    rule("/var/lib/dhcp", &[b"dhclient*.leases"]),
    rule("/var/lib/dhclient", &[b"*.leases", b"*.lease"]),
    rule("/var/lib/dhcpcd", DHCPCD),
    rule("/var/db/dhcpcd", DHCPCD),
    rule("/etc", &[b"dhcpcd.duid", b"dhcpcd.secret"]),
    rule(
        "/var/lib/NetworkManager",
        &[b"secret_key", b"seen-bssids", b"timestamps", b"*.lease"],
    ),
    rule("/var/lib/dhcpv6", &[b"dhcp6c_duid"]),
    rule(
        "/var/lib/wicked",
        &[b"duid.xml", b"iaid.xml", b"lease-*.xml"],
    ),
    // Which network card is called what, by their addresses.
    rule("/etc/udev/rules.d", &[b"70-persistent-net.rules"]),
    rule("/var/lib/yum", &[b"uuid"]),
];

impl Rule {
    /// Whether it is about a name.
    pub(super) fn is_about(&self, name: &[u8]) -> bool {
        !name.starts_with(b".") && self.names.iter().any(|pattern| matches(pattern, name))
    }
}

/// Whether a name is as a pattern says.
fn matches(pattern: &[u8], name: &[u8]) -> bool {
    let mut pieces = pattern.split(|&byte| byte == b'*');
    let first = pieces.next().unwrap_or_default();
    let Some(mut rest) = name.strip_prefix(first) else {
        return false;
    };
    let Some(last) = pieces.next_back() else {
        return rest.is_empty();
    };
    for piece in pieces {
        let mut places = 0..=rest.len().saturating_sub(piece.len());
        match places.find(|&at| rest[at..].starts_with(piece)) {
            Some(at) => rest = &rest[at + piece.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_matched_as_by_a_shell() {
        for (pattern, name, expected) in [
            ("a", "a", true),
            ("a", "ab", false),
            ("a", "", false),
            ("*", "a", true),
            ("a*", "a", true),
            ("*a", "ba", true),
            ("*a", "ab", false),
            ("a*a", "a", false),
            ("a*a", "aa", true),
            ("ssh_host_*_key", "ssh_host_rsa_key", true),
            ("ssh_host_*_key", "ssh_host__key", true),
            ("ssh_host_*_key", "ssh_host_key", false),
            ("ssh_host_*_key", "ssh_host_rsa_key.pub", false),
            ("a*b*c", "abc", true),
            ("a*b*c", "axbxbxc", true),
            ("a*b*c", "axc", false),
            ("a*bb*c", "ab", false),
        ] {
            let found = matches(pattern.as_bytes(), name.as_bytes());
            assert_eq!(found, expected, "{pattern} {name}");
        }
    }

    /// The rule and the name in it of a path.
    fn is_identity(path: &str) -> bool {
        let (directory, name) = path.rsplit_once('/').unwrap();
        RULES
            .iter()
            .any(|rule| rule.directory == directory.as_bytes() && rule.is_about(name.as_bytes()))
    }

    #[test]
    fn identities_go_and_nothing_else() {
        for path in [
            "/var/lib/dbus/machine-id",
            "/etc/ssh/ssh_host_ed25519_key",
            "/etc/ssh/ssh_host_ed25519_key.pub",
            "/etc/ssh/ssh_host_rsa_key-cert.pub",
            "/etc/dropbear/dropbear_rsa_host_key",
            "/var/lib/systemd/random-seed",
            "/var/lib/systemd/credential.secret",
            "/var/lib/misc/random-seed",
            "/var/lib/seedrng/seed.credit",
            "/var/lib/dhcp/dhclient.eth0.leases",
            "/var/lib/dhclient/dhclient--eth0.lease",
            "/var/lib/dhcpcd/duid",
            "/var/lib/NetworkManager/internal-0c1-eth0.lease",
            "/etc/udev/rules.d/70-persistent-net.rules",
        ] {
            assert!(is_identity(path), "{path}");
        }
        for path in [
            "/etc/ssh/sshd_config",
            "/etc/ssh/ssh_known_hosts",
            "/etc/ssh/moduli",
            "/etc/ssh/ssh_host_rsa_key.pub.orig",
            "/root/.ssh/id_rsa",
            "/var/lib/dhcp/dhcpd.leases",
            "/var/lib/NetworkManager/NetworkManager.state",
            "/var/lib/seedrng/.seed.credit",
            "/var/lib/dhcpcd/other",
            "/var/lib/systemd/timers",
            "/etc/udev/rules.d/99-own.rules",
            "/etc/krb5.keytab",
        ] {
            assert!(!is_identity(path), "{path}");
        }
    }
}
