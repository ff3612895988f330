//! Zeroed memory, aligned to pages, that fails instead of aborting.
//!
//! Pages that are never touched are never backed, so a cache may be larger than what is used of it. Huge pages, of 2 MiB
//! as a rule, are backed whole when any of them is touched; reading them takes a fifth to a third less time. A system puts
//! none in a map that is smaller, so maps of half of one and more are rounded up.

use memmap2::{MmapMut, MmapRaw};

/// Bytes of a huge page.
const HUGE: usize = 2 << 20;

/// Whether the system is asked for huge pages.
const HAS_HUGE: bool = cfg!(all(target_os = "linux", not(miri)));

/// A block of bytes with interior mutability; whoever hands out views keeps writers apart from readers.
pub(crate) struct Memory {
    map: MmapRaw,
}

impl std::fmt::Debug for Memory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Memory({} bytes)", self.len())
    }
}

impl Memory {
    /// `bytes` zeros, in huge pages where the system has them, or `None` if it has no more memory.
    pub(crate) fn zeroed(bytes: usize) -> Option<Self> {
        // A map is of one byte at least.
        let bytes = match HAS_HUGE && bytes >= HUGE / 2 {
            true => bytes.checked_next_multiple_of(HUGE)?,
            false => bytes.max(1),
        };
        let map: MmapRaw = MmapMut::map_anon(bytes).ok()?.into();
        // Only a hint, for speed.
        #[cfg(all(target_os = "linux", not(miri)))]
        let _ = map.advise(memmap2::Advice::HugePage);
        Some(Self { map })
    }

    /// Its size in bytes, what was asked for at least.
    pub(crate) fn len(&self) -> usize {
        self.map.len()
    }

    /// Its start.
    pub(crate) fn pointer(&self) -> *mut u8 {
        self.map.as_mut_ptr()
    }
}
