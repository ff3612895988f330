//! How the panels of a matrix are dealt out among tasks: about equally, and so that all threads have as many tasks.

use std::ops::Range;

/// Panels in tasks. They come in twos, because tiles take two.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shares {
    panels: usize,
    pairs: usize,
    tasks: usize,
}

impl Shares {
    /// `panels` panels for `threads` threads, about `a_task` of them in a task, or fewer.
    pub(super) fn new(panels: usize, a_task: usize, threads: usize) -> Self {
        let pairs = panels.div_ceil(2);
        let tasks = pairs.div_ceil(a_task.div_ceil(2).max(1)).next_multiple_of(threads).min(pairs);
        Self { panels, pairs, tasks }
    }

    /// How many tasks there are.
    pub(super) fn tasks(&self) -> usize {
        self.tasks
    }

    /// The panels of a task.
    pub(super) fn panels(&self, task: usize) -> Range<usize> {
        let start = |task: usize| (2 * (task * self.pairs / self.tasks)).min(self.panels);
        start(task)..start(task + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_panel_has_one_task_and_threads_have_equal_shares() {
        for (panels, a_task, threads) in
            [(36, 3, 2), (36, 12, 2), (1, 1, 8), (60, 12, 2), (2001, 32, 7), (7, 0, 3), (0, 4, 2)]
        {
            let shares = Shares::new(panels, a_task, threads);
            let mut next = 0;
            for task in 0..shares.tasks() {
                let panels = shares.panels(task);
                assert_eq!(panels.start, next);
                assert!(!panels.is_empty() && panels.start % 2 == 0);
                assert!(panels.len() <= a_task.next_multiple_of(2).max(2));
                next = panels.end;
            }
            assert_eq!(next, panels);
            assert!(shares.tasks() % threads == 0 || shares.tasks() == panels.div_ceil(2));
        }
    }
}
