//! Gives buffers their places in one arena: buffers that are never alive together may share memory.
//!
//! Sizes are bytes a token (see [`llamac_plan::Buffer`]), so the plan does not know how long a chunk is.

/// When a buffer is alive and how much it takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Lifetime {
    /// Bytes a token; a multiple of the alignment.
    pub(crate) bytes: usize,
    /// The step that writes it first.
    pub(crate) first: usize,
    /// The last step that touches it.
    pub(crate) last: usize,
}

/// Where each buffer starts, and the size of the arena.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Placement {
    /// Bytes a token from the arena's start, by buffer.
    pub(crate) offsets: Vec<usize>,
    /// Bytes a token of the whole arena.
    pub(crate) total: usize,
}

/// Places the largest buffers first, each at the lowest offset that is free for its whole life ("greedy by size",
/// Pisarchyk and Lee, "Efficient Memory Management for Deep Neural Net Inference", 2020).
pub(crate) fn place(buffers: &[Lifetime]) -> Placement {
    let mut order: Vec<usize> = (0..buffers.len()).collect();
    order.sort_by_key(|&i| (std::cmp::Reverse(buffers[i].bytes), i));
    let mut offsets = vec![0; buffers.len()];
    let mut placed: Vec<usize> = Vec::with_capacity(buffers.len());
    let mut total = 0;
    for i in order {
        let buffer = buffers[i];
        let mut offset = 0;
        // `placed` is sorted by offset, so the first gap that is wide enough is the lowest.
        for &other in &placed {
            let alive_together = buffers[other].first <= buffer.last && buffer.first <= buffers[other].last;
            if !alive_together {
                continue;
            }
            if offsets[other] >= offset + buffer.bytes {
                break;
            }
            offset = offset.max(offsets[other] + buffers[other].bytes);
        }
        offsets[i] = offset;
        total = total.max(offset + buffer.bytes);
        let at = placed.partition_point(|&other| offsets[other] <= offset);
        placed.insert(at, i);
    }
    Placement { offsets, total }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn lifetime(bytes: usize, first: usize, last: usize) -> Lifetime {
        Lifetime { bytes, first, last }
    }

    #[test]
    fn buffers_that_never_meet_share_memory() {
        let placement = place(&[lifetime(64, 0, 1), lifetime(128, 2, 3), lifetime(64, 1, 2)]);
        assert_eq!(placement, Placement { offsets: vec![0, 0, 128], total: 192 });
    }

    #[test]
    fn a_gap_between_two_others_is_used() {
        let placement = place(&[lifetime(192, 0, 0), lifetime(128, 0, 9), lifetime(64, 1, 9)]);
        assert_eq!(placement, Placement { offsets: vec![0, 192, 0], total: 320 });
    }

    proptest! {
        #[test]
        fn buffers_alive_together_are_apart(raw in prop::collection::vec((0usize..9, 0usize..30, 0usize..10), 0..40)) {
            let buffers: Vec<_> = raw.iter().map(|&(size, first, len)| lifetime(size * 64, first, first + len)).collect();
            let placement = place(&buffers);
            for (i, a) in buffers.iter().enumerate() {
                prop_assert!(placement.offsets[i] + a.bytes <= placement.total);
                for (j, b) in buffers.iter().enumerate().take(i) {
                    let together = a.first <= b.last && b.first <= a.last;
                    let (x, y) = (placement.offsets[i], placement.offsets[j]);
                    let apart = x + a.bytes <= y || y + b.bytes <= x;
                    prop_assert!(!together || apart, "{a:?} at {x}, {b:?} at {y}");
                }
            }
        }
    }
}
