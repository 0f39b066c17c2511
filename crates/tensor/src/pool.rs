//! A fork-join pool of spinning threads, one per rank.
//!
//! A decode step of a small model is a few hundred parallel regions of tens of microseconds, so waking a
//! sleeping thread for each would cost more than the work. Workers therefore spin for a while after each
//! region and sleep only when none follows.

// The job pointer is handed to workers without a lifetime; `run` outlives every use of it.
#![allow(unsafe_code)]

use std::cell::UnsafeCell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{JoinHandle, Thread};

/// Spins before a waiting thread yields its core (about 50 microseconds).
const SPINS_BEFORE_YIELD: u32 = 20_000;
/// Yields before an idle worker sleeps.
const YIELDS_BEFORE_SLEEP: u32 = 64;

type Job = *const (dyn Fn(usize) + Sync);

struct Shared {
    /// Incremented once per region; workers run the job when it moves.
    epoch: AtomicUsize,
    job: UnsafeCell<Option<Job>>,
    /// Workers that have not finished the current region.
    unfinished: AtomicUsize,
    panicked: AtomicBool,
    stop: AtomicBool,
    asleep: Vec<AtomicBool>,
}

// SAFETY: `job` is written only by `Pool::run` while no worker is inside a region (`unfinished == 0`), and read
// by workers only after they acquire the epoch that published it.
unsafe impl Sync for Shared {}
// SAFETY: as above; the pointer itself is only used between publication and the end of the region.
unsafe impl Send for Shared {}

/// A fixed set of threads that run one closure together. The caller is worker 0.
pub struct Pool {
    shared: Arc<Shared>,
    threads: Vec<Thread>,
    handles: Vec<JoinHandle<()>>,
}

impl Pool {
    /// A pool of `threads` workers in all, the caller included; at least one.
    pub fn new(threads: usize) -> Self {
        let helpers = threads.max(1) - 1;
        let shared = Arc::new(Shared {
            epoch: AtomicUsize::new(0),
            job: UnsafeCell::new(None),
            unfinished: AtomicUsize::new(0),
            panicked: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            asleep: (0..helpers).map(|_| AtomicBool::new(false)).collect(),
        });
        // The first thread that the system refuses is the last one asked for: workers are numbered without gaps.
        let handles: Vec<_> = (0..helpers)
            .map_while(|helper| {
                let shared = shared.clone();
                std::thread::Builder::new()
                    .name(format!("tensor-{}", helper + 1))
                    .spawn(move || worker(&shared, helper))
                    .ok()
            })
            .collect();
        let threads = handles.iter().map(|h| h.thread().clone()).collect();
        Self { shared, threads, handles }
    }

    /// Workers, the caller included.
    pub fn threads(&self) -> usize {
        self.threads.len() + 1
    }

    /// Runs `job(worker)` once on every worker and returns when all have finished. A panic in any of them
    /// is raised again here. Takes `&mut self`: regions do not nest.
    pub fn run(&mut self, job: &(dyn Fn(usize) + Sync)) {
        if self.threads.is_empty() {
            return job(0);
        }
        let shared = &*self.shared;
        // SAFETY: the lifetime is erased only until this function returns, and it returns only after every worker
        // has left the region; no worker reads the cell now (`unfinished` is zero between regions).
        unsafe {
            *shared.job.get() = Some(std::mem::transmute::<*const (dyn Fn(usize) + Sync + '_), Job>(job as *const _));
        }
        shared.unfinished.store(self.threads.len(), Ordering::Relaxed);
        shared.epoch.fetch_add(1, Ordering::SeqCst);
        for (thread, asleep) in self.threads.iter().zip(&shared.asleep) {
            if asleep.load(Ordering::SeqCst) {
                thread.unpark();
            }
        }
        let mine = catch_unwind(AssertUnwindSafe(|| job(0)));
        let mut spins = 0;
        while shared.unfinished.load(Ordering::Acquire) != 0 {
            relax(&mut spins);
        }
        if let Err(panic) = mine {
            resume_unwind(panic);
        }
        assert!(!shared.panicked.swap(false, Ordering::Relaxed), "a worker thread panicked; its message stands above");
    }

    /// Runs `work(unit, worker)` for every unit in `0..units`, handed out one by one to whoever is free.
    pub fn for_each(&mut self, units: usize, work: &(dyn Fn(usize, usize) + Sync)) {
        if units <= 1 || self.threads.is_empty() {
            (0..units).for_each(|unit| work(unit, 0));
            return;
        }
        let next = AtomicUsize::new(0);
        self.run(&|worker| {
            loop {
                let unit = next.fetch_add(1, Ordering::Relaxed);
                if unit >= units {
                    break;
                }
                work(unit, worker);
            }
        });
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.shared.epoch.fetch_add(1, Ordering::SeqCst);
        self.threads.iter().for_each(Thread::unpark);
        for handle in self.handles.drain(..) {
            // A worker catches panics of its jobs, so joining cannot fail; nothing could be done if it did.
            let _ = handle.join();
        }
    }
}

/// One turn of a waiting loop: spins first, then gives the core away.
fn relax(spins: &mut u32) {
    *spins += 1;
    if *spins < SPINS_BEFORE_YIELD {
        std::hint::spin_loop();
    } else {
        std::thread::yield_now();
    }
}

fn worker(shared: &Shared, helper: usize) {
    let mut seen = 0;
    loop {
        let mut spins = 0;
        while shared.epoch.load(Ordering::Acquire) == seen {
            relax(&mut spins);
            if spins > SPINS_BEFORE_YIELD + YIELDS_BEFORE_SLEEP {
                sleep_until_moved(shared, helper, seen);
            }
        }
        seen = seen.wrapping_add(1);
        if shared.stop.load(Ordering::Relaxed) {
            return;
        }
        // SAFETY: the epoch moved, so `run` has published a job and waits for `unfinished` to reach zero before
        // the closure behind it goes away.
        let job = unsafe { (*shared.job.get()).map(|job| &*job) };
        if let Some(job) = job
            && catch_unwind(AssertUnwindSafe(|| job(helper + 1))).is_err()
        {
            shared.panicked.store(true, Ordering::Relaxed);
        }
        shared.unfinished.fetch_sub(1, Ordering::Release);
    }
}

/// Parks until the epoch leaves `seen`. The flag is set before the epoch is read again, and `run` moves the epoch
/// before it reads the flag, so one of the two always sees the other.
fn sleep_until_moved(shared: &Shared, helper: usize, seen: usize) {
    shared.asleep[helper].store(true, Ordering::SeqCst);
    while shared.epoch.load(Ordering::SeqCst) == seen {
        std::thread::park();
    }
    shared.asleep[helper].store(false, Ordering::SeqCst);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_unit_runs_exactly_once() {
        for threads in [1, 2, 3] {
            let mut pool = Pool::new(threads);
            for units in [0, 1, 2, 7, 1000] {
                let counts: Vec<AtomicUsize> = (0..units).map(|_| AtomicUsize::new(0)).collect();
                pool.for_each(units, &|unit, worker| {
                    assert!(worker < threads);
                    counts[unit].fetch_add(1, Ordering::Relaxed);
                });
                assert!(counts.iter().all(|c| c.load(Ordering::Relaxed) == 1));
            }
        }
    }

    #[test]
    fn a_sleeping_worker_wakes() {
        let mut pool = Pool::new(2);
        for _ in 0..3 {
            std::thread::sleep(std::time::Duration::from_millis(30));
            let ran = AtomicUsize::new(0);
            pool.run(&|_| {
                ran.fetch_add(1, Ordering::Relaxed);
            });
            assert_eq!(ran.into_inner(), 2);
        }
    }

    #[test]
    fn a_panic_in_a_worker_reaches_the_caller_and_the_pool_survives() {
        let mut pool = Pool::new(2);
        let failed = catch_unwind(AssertUnwindSafe(|| pool.run(&|worker| assert_eq!(worker, 0))));
        assert!(failed.is_err());
        pool.run(&|_| {});
    }
}
