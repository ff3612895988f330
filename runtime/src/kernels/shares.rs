//! How the panels of a matrix are dealt out among tasks: about equally, and so that no thread has a task more than others
//! where there is work for all.

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
        let least = pairs.div_ceil(a_task.div_ceil(2).max(1));
        // Few tasks are not worth waking every thread for.
        let tasks = if least < threads { least } else { least.next_multiple_of(threads).min(pairs) };
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
    fn every_panel_has_one_task_and_tasks_are_about_equal() {
        for panels in [0, 1, 2, 7, 36, 60, 2001] {
            for (a_task, threads) in [(0, 3), (1, 8), (3, 2), (12, 2), (32, 7), (5000, 2)] {
                let shares = Shares::new(panels, a_task, threads);
                let most = a_task.next_multiple_of(2).max(2);
                let (mut next, mut sizes) = (0, Vec::new());
                for task in 0..shares.tasks() {
                    let share = shares.panels(task);
                    assert_eq!(share.start, next);
                    assert!(share.start.is_multiple_of(2) && (1..=most).contains(&share.len()), "{shares:?}");
                    sizes.push(share.len().div_ceil(2));
                    next = share.end;
                }
                assert_eq!(next, panels);
                assert!(sizes.iter().max() <= sizes.iter().min().map(|size| size + 1).as_ref(), "{sizes:?}");
                let tasks = shares.tasks();
                let is_fair = tasks.is_multiple_of(threads) || tasks == panels.div_ceil(2) || tasks < threads;
                assert!(is_fair, "{shares:?} for {threads} threads");
            }
        }
        assert_eq!([Shares::new(36, 12, 2).tasks(), Shares::new(36, 3, 2).tasks()], [4, 10]);
    }
}
