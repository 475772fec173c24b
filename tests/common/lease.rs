//! Leases that others hold.

use std::fs;

/// Whether there is a lease on a file of the host.
pub fn is_leased(file: u64) -> bool {
    let locks = fs::read_to_string("/proc/locks").unwrap();
    let inode = format!(":{file} ");
    let mut leases = locks.lines().filter(|line| line.contains("LEASE"));
    leases.any(|line| line.contains(&inode))
}
