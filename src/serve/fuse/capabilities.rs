//! What is asked of the kernel when a mount begins.

use fuser::{InitFlags, KernelConfig};

/// The most that one READ or WRITE carries.
pub(super) const DATA_MAX: u32 = 1 << 20;

/// Asks for what the live image is made for. Never for OVER_IO_URING (fuser would not answer) or
/// SETXATTR_EXT (it cannot parse it); WRITEBACK_CACHE would leave sizes and times to the kernel.
pub(super) fn negotiate(config: &mut KernelConfig) -> std::io::Result<()> {
    let wanted = [
        InitFlags::FUSE_ATOMIC_O_TRUNC,
        InitFlags::FUSE_EXPORT_SUPPORT,
        InitFlags::FUSE_DONT_MASK,
        InitFlags::FUSE_DO_READDIRPLUS,
        InitFlags::FUSE_PARALLEL_DIROPS,
        InitFlags::FUSE_POSIX_ACL,
        InitFlags::FUSE_CACHE_SYMLINKS,
        InitFlags::FUSE_EXPLICIT_INVAL_DATA,
        InitFlags::FUSE_ASYNC_DIO,
        InitFlags::FUSE_HANDLE_KILLPRIV_V2,
    ];
    for flag in wanted {
        if config.add_capabilities(flag).is_err() {
            log::info!("the kernel has no {flag:?}");
        }
    }
    // What the kernel cannot do is not worth failing for: these only bound its read-ahead.
    if let Err(most) = config.set_max_write(DATA_MAX) {
        config
            .set_max_write(most)
            .map_err(|_| std::io::Error::other("max_write"))?;
    }
    Ok(())
}

/// Asks for passthrough; whether there is any. A depth of 1 leaves room for an overlayfs above, and the
/// host must not be one.
pub(super) fn pass_through(config: &mut KernelConfig) -> bool {
    let granted = config
        .add_capabilities(InitFlags::FUSE_PASSTHROUGH)
        .is_ok_and(|()| config.set_max_stack_depth(1).is_ok());
    if !granted {
        log::info!("the kernel passes no files through: all of them are cached");
    }
    granted
}
