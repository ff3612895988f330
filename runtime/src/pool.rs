//! A fork-join pool for regions of a few microseconds.
//!
//! A forward has some hundred parallel regions a token, so entering and leaving one must cost far less than a
//! microsecond: threads that wait look out for a while before they park, tasks are claimed one by one from counters,
//! and nothing is allocated. Neighbouring tasks are one thread's, because cores that work on neighbouring memory fetch
//! each other's lines ahead, and because what a thread wrote in one region it finds nearby in the next. But whoever is
//! there works, on others' tasks when its own are claimed: a thread that the system keeps off its core holds up only
//! the tasks that it has already claimed, and a region can end before such a thread has noticed that it began.
//!
//! Not here: nested regions, tasks with results.

use std::any::Any;
use std::cell::UnsafeCell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicIsize, AtomicUsize, Ordering, fence};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{JoinHandle, Thread};
use std::time::{Duration, Instant};

/// How long an idle thread spins for the next region: as long as most serial stretches within a forward.
const SPIN: Duration = Duration::from_micros(20);

/// How long it then goes on, offering its core to others at every look, before it parks: longer than what lies between
/// two forwards. On virtual machines a parked thread may wake up milliseconds late, on the core of who woke it.
const YIELD: Duration = Duration::from_millis(5);

/// What a region runs: `(task, worker)`.
type Job = dyn Fn(usize, usize) + Sync;

/// A value on cache lines of its own (two, because adjacent lines are fetched together).
#[repr(align(128))]
struct Padded<T>(T);

#[derive(Clone, Copy)]
struct Region {
    /// `None` before the first region.
    job: Option<*const Job>,
    tasks: usize,
    /// Threads that tasks are dealt to.
    threads: usize,
}

impl Region {
    /// The first task of a thread.
    fn first(&self, worker: usize) -> usize {
        worker * self.tasks / self.threads
    }
}

struct Shared {
    /// How many regions were opened: what threads that wait look at.
    opened: Padded<AtomicUsize>,
    /// For each thread, how many of its tasks nobody has claimed; below one when there are none. Who decrements a
    /// positive value owns a task.
    unclaimed: Box<[Padded<AtomicIsize>]>,
    /// Tasks that are not finished.
    unfinished: Padded<AtomicUsize>,
    /// Written by the thread that opens a region while no task is unfinished; read by owners of a task.
    region: UnsafeCell<Region>,
    /// One flag for each spawned thread: it parks, or is about to.
    parked: Box<[Padded<AtomicBool>]>,
    closing: AtomicBool,
    /// What the first task that panicked in this region panicked with.
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

// SAFETY: `region` is written only while `unfinished` is zero and all of `unclaimed` below one, by the one thread that
// holds `Pool::turn`; it is read only by owners of a task, which exist only afterwards (release/acquire on a counter of
// `unclaimed`) and until they decrement `unfinished` (release/acquire with the next writer). The job itself is `Sync`.
unsafe impl Sync for Shared {}
// SAFETY: as above; the pointer is not tied to a thread.
unsafe impl Send for Shared {}

/// Threads that run the tasks of one region at a time.
///
/// Dropping it ends and joins its threads.
pub struct Pool {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    /// Held by the caller of the open region.
    turn: Mutex<()>,
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Pool({} threads)", self.threads())
    }
}

impl Pool {
    /// A pool of `threads` threads, the caller of [`Pool::run`] included; at least one. If the system refuses a
    /// thread, the pool has fewer.
    pub fn new(threads: usize) -> Self {
        let spawned = threads.saturating_sub(1);
        let shared = Arc::new(Shared {
            opened: Padded(AtomicUsize::new(0)),
            unclaimed: (0..=spawned).map(|_| Padded(AtomicIsize::new(0))).collect(),
            unfinished: Padded(AtomicUsize::new(0)),
            region: UnsafeCell::new(Region { job: None, tasks: 0, threads: 1 }),
            parked: (0..spawned).map(|_| Padded(AtomicBool::new(false))).collect(),
            closing: AtomicBool::new(false),
            panic: Mutex::new(None),
        });
        let threads = (1..=spawned)
            .map_while(|worker| {
                let shared = Arc::clone(&shared);
                std::thread::Builder::new()
                    .name(format!("llamac-{worker}"))
                    .spawn(move || shared.work_until_closed(worker))
                    .ok()
            })
            .collect();
        Self { shared, threads, turn: Mutex::new(()) }
    }

    /// Number of threads, the caller's included; workers are numbered below this.
    pub fn threads(&self) -> usize {
        self.threads.len() + 1
    }

    /// Runs `job(task, worker)` for every `task` below `tasks`, in any order, and returns when all have ended.
    ///
    /// `worker` is the same for all tasks of one thread and different between threads that run at the same time; the
    /// caller is worker 0. Calls from several threads take turns. A task must not call `run` of its own pool.
    ///
    /// # Panics
    /// If a task panics, with the first such task's payload, after the others have ended.
    pub fn run(&self, tasks: usize, job: &(dyn Fn(usize, usize) + Sync)) {
        let _turn = lock(&self.turn);
        if tasks <= 1 || self.threads.is_empty() {
            (0..tasks).for_each(|task| job(task, 0));
            return;
        }
        // SAFETY: only the lifetime changes. The pointer is used by owners of a task alone, and this call returns
        // only after all of them are done.
        let job: *const Job = unsafe { std::mem::transmute::<&(dyn Fn(usize, usize) + Sync), &Job>(job) };
        let region = Region { job: Some(job), tasks, threads: self.threads().min(tasks) };
        let counts = (0..region.threads).map(|worker| region.first(worker + 1) - region.first(worker));
        // SAFETY: no task is owned (the last region ended with none unfinished), and `turn` keeps other callers out.
        unsafe { *self.shared.region.get() = region };
        self.shared.unfinished.0.store(tasks, Ordering::Relaxed);
        for (unclaimed, count) in self.shared.unclaimed.iter().zip(counts) {
            unclaimed.0.store(isize::try_from(count).expect("fewer tasks than addresses"), Ordering::Release);
        }
        self.shared.opened.0.fetch_add(1, Ordering::Release);
        // As in `work_until_closed`: either a thread that parks sees the region, or this thread sees its flag.
        fence(Ordering::SeqCst);
        for (thread, parked) in self.threads.iter().zip(&self.shared.parked).take(tasks - 1) {
            if parked.0.load(Ordering::Relaxed) && parked.0.swap(false, Ordering::Relaxed) {
                thread.thread().unpark();
            }
        }
        while self.shared.work_once(0) {}
        self.shared.wait_for_others();
        if let Some(payload) = lock(&self.shared.panic).take() {
            resume_unwind(payload);
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.closing.store(true, Ordering::SeqCst);
        self.threads.iter().map(JoinHandle::thread).for_each(Thread::unpark);
        for thread in self.threads.drain(..) {
            // Tasks' panics are caught, so a thread ends by returning.
            let _ = thread.join();
        }
    }
}

impl Shared {
    /// Claims a task, one of the thread's own if there is any, and runs it; `false` if there was none.
    fn work_once(&self, worker: usize) -> bool {
        let claim = |of: usize| {
            let unclaimed = &self.unclaimed[of].0;
            if unclaimed.load(Ordering::Relaxed) <= 0 {
                return None;
            }
            let left = unclaimed.fetch_sub(1, Ordering::Acquire);
            (left > 0).then_some((of, left as usize))
        };
        let claimed = (worker..self.unclaimed.len()).chain(0..worker).find_map(claim);
        let Some((of, left)) = claimed else { return false };
        // SAFETY: a positive value was decremented, so this thread owns a task of the region, which cannot end or
        // change before `unfinished` is decremented below.
        let region = unsafe { &*self.region.get() };
        let task = region.first(of + 1) - left;
        let job = region.job.expect("an owned task has a job");
        // SAFETY: as above, the caller of `run` still holds the job.
        let job = unsafe { &*job };
        if let Err(payload) = catch_unwind(AssertUnwindSafe(|| job(task, worker))) {
            lock(&self.panic).get_or_insert(payload);
        }
        self.unfinished.0.fetch_sub(1, Ordering::Release);
        true
    }

    /// Waits until every claimed task has ended. Their owners are running, or were put off their core: then the
    /// system is asked to run them.
    fn wait_for_others(&self) {
        let mut spins = 0_u32;
        while self.unfinished.0.load(Ordering::Acquire) != 0 {
            spins += 1;
            if spins < 256 {
                std::hint::spin_loop();
            } else {
                std::thread::yield_now();
            }
        }
    }

    fn work_until_closed(&self, worker: usize) {
        let parked = &self.parked[worker - 1].0;
        while !self.closing.load(Ordering::Relaxed) {
            // Before its tasks are looked for: a region that opens meanwhile is news.
            let seen = self.opened.0.load(Ordering::Acquire);
            while self.work_once(worker) {}
            if self.look_out(seen) {
                continue;
            }
            parked.store(true, Ordering::Relaxed);
            // With the one in `Pool::run`.
            fence(Ordering::SeqCst);
            if !self.has_news(seen) {
                std::thread::park();
            }
            parked.store(false, Ordering::Relaxed);
        }
    }

    /// Whether a region was opened since `seen` were, or the pool is closing.
    fn has_news(&self, seen: usize) -> bool {
        self.opened.0.load(Ordering::Relaxed) != seen || self.closing.load(Ordering::SeqCst)
    }

    /// Watches for news for a while; `true` if there are any.
    fn look_out(&self, seen: usize) -> bool {
        let start = Instant::now();
        while start.elapsed() < SPIN {
            for _ in 0..16 {
                if self.has_news(seen) {
                    return true;
                }
                std::hint::spin_loop();
            }
        }
        while start.elapsed() < YIELD {
            if self.has_news(seen) {
                return true;
            }
            std::thread::yield_now();
        }
        false
    }
}

/// Locks, whatever an earlier panic left: the values locked here are whole at all times.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sum(pool: &Pool, tasks: usize) -> usize {
        let total = AtomicUsize::new(0);
        pool.run(tasks, &|task, _| {
            total.fetch_add(task + 1, Ordering::Relaxed);
        });
        total.into_inner()
    }

    #[test]
    fn every_task_runs_once() {
        for threads in [0, 1, 2, 3, 8] {
            let pool = Pool::new(threads);
            assert_eq!(pool.threads(), threads.max(1));
            for tasks in [0, 1, 2, 3, 7, 100] {
                let seen: Vec<AtomicUsize> = (0..tasks).map(|_| AtomicUsize::new(0)).collect();
                pool.run(tasks, &|task, worker| {
                    assert!(worker < pool.threads());
                    seen[task].fetch_add(1, Ordering::Relaxed);
                });
                assert!(seen.iter().all(|n| n.load(Ordering::Relaxed) == 1));
            }
        }
    }

    #[test]
    fn many_regions_follow_each_other() {
        let pool = Pool::new(3);
        for i in 0..20_000 {
            let tasks = i % 5;
            assert_eq!(sum(&pool, tasks), tasks * (tasks + 1) / 2);
        }
    }

    #[test]
    fn parked_threads_wake_up() {
        let pool = Pool::new(2);
        for _ in 0..20 {
            std::thread::sleep(YIELD * 2);
            let both = std::sync::Barrier::new(2);
            pool.run(2, &|_, _| {
                both.wait();
            });
        }
    }

    #[test]
    fn fewer_tasks_than_threads_wake_up_whom_they_need() {
        let pool = Pool::new(4);
        for _ in 0..10 {
            std::thread::sleep(YIELD * 2);
            let both = std::sync::Barrier::new(2);
            pool.run(2, &|_, _| {
                both.wait();
            });
        }
    }

    #[test]
    fn who_is_done_takes_tasks_of_who_is_held_up() {
        let pool = Pool::new(2);
        for held_up in [0, 2] {
            let done = AtomicUsize::new(0);
            pool.run(4, &|task, _| {
                while task == held_up && done.load(Ordering::SeqCst) < 3 {
                    std::thread::yield_now();
                }
                done.fetch_add(1, Ordering::SeqCst);
            });
        }
    }

    #[test]
    fn no_two_tasks_share_a_worker() {
        let pool = Pool::new(4);
        let busy: Vec<AtomicBool> = (0..4).map(|_| AtomicBool::new(false)).collect();
        pool.run(2000, &|_, worker| {
            assert!(!busy[worker].swap(true, Ordering::SeqCst));
            std::hint::spin_loop();
            busy[worker].store(false, Ordering::SeqCst);
        });
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_pool_lives_on() {
        for threads in [1, 2, 4] {
            let pool = Pool::new(threads);
            for bad in [0, 7] {
                let payload = catch_unwind(AssertUnwindSafe(|| {
                    pool.run(8, &|task, _| assert!(task != bad, "task {task}"));
                }))
                .unwrap_err();
                assert_eq!(payload.downcast_ref::<String>().unwrap(), &format!("task {bad}"));
                assert_eq!(sum(&pool, 10), 55);
            }
        }
    }

    #[test]
    fn callers_take_turns() {
        let pool = Pool::new(2);
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| (0..500).for_each(|_| assert_eq!(sum(&pool, 8), 36)));
            }
        });
    }
}
