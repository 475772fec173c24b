//! Who asks, and what the kernel leaves to us to ask about it.

use crate::sys::process::{self, Capability};

/// Who asks: for ownership of new files and for the rules that the kernel leaves to us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Caller {
    /// fsuid.
    pub uid: u32,
    /// fsgid.
    pub gid: u32,
    /// Thread id, 0 if unknown: of a virtiofs guest's processes. Then root has all capabilities
    /// and nobody supplementary groups.
    pub pid: u32,
}

impl Caller {
    /// CAP_SYS_ADMIN where the daemon lives: only then the names of trusted.* are listed.
    pub(super) fn sees_trusted(&self) -> bool {
        match process::credentials(self.pid) {
            Some(credentials) => credentials.has_in_our_namespace(Capability::SysAdmin),
            None => self.uid == 0,
        }
    }

    /// in_group_or_capable() of the kernel: who may leave a set-gid bit of this group in place.
    pub(super) fn is_in_group_or_capable(&self, group: u32) -> bool {
        if self.gid == group {
            return true;
        }
        match process::credentials(self.pid) {
            Some(credentials) => {
                credentials.groups.contains(&group) || credentials.has(Capability::FsetId)
            }
            None => self.uid == 0,
        }
    }

    fn has_fsetid(&self) -> bool {
        match process::credentials(self.pid) {
            Some(credentials) => credentials.has(Capability::FsetId),
            None => self.uid == 0,
        }
    }

    /// What is left of a regular file's mode when this caller changes its content
    /// (setattr_should_drop_suidgid() of the kernel).
    pub(super) fn mode_after_change(&self, mode: u32, group: u32) -> u32 {
        if mode & (libc::S_ISUID | libc::S_ISGID) == 0 || self.has_fsetid() {
            return mode;
        }
        // Without execution for the group it once meant mandatory locking, no privilege.
        let keeps_set_gid = mode & libc::S_IXGRP == 0 && self.is_in_group_or_capable(group);
        match keeps_set_gid {
            true => mode & !libc::S_ISUID,
            false => mode & !(libc::S_ISUID | libc::S_ISGID),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn set_id_bits_are_cleared_as_the_kernel_does() {
        let caller = |uid, gid| Caller { uid, gid, pid: 0 };
        for (caller, mode, kept) in [
            (caller(0, 0), 0o6755, 0o6755),
            (caller(7, 50), 0o6755, 0o755),
            (caller(7, 50), 0o6745, 0o2745),
            (caller(7, 51), 0o6745, 0o745),
            (caller(7, 51), 0o1644, 0o1644),
        ] {
            assert_eq!(caller.mode_after_change(mode, 50), kept, "{caller:?}");
        }
    }
}
