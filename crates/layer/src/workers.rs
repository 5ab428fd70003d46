//! Threads that work on many layers at once, in bounded memory, and give results back in order.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;

use crossbeam_channel::{Receiver, bounded};
use rayon_core::{ThreadPool, ThreadPoolBuilder};

use crate::buffer::Buffer;
use crate::error::{Error, Result};

/// Jobs of one layer that may wait to be collected, beside the bound on their bytes.
const QUEUE: usize = 64;

/// Uncompressed bytes under way: for every thread as much as it works on, and as much as waits for it.
const BYTES_PER_THREAD: u64 = 16 << 20;

/// The threads that hash and compress, shared by all layers that are converted together.
///
/// However many there are, results are the same: a job is cut by content, and its result taken in its turn.
#[derive(Debug)]
pub struct Workers {
    pool: ThreadPool,
    budget: Arc<Budget>,
    idle: Mutex<Idle>,
}

/// Memory that no job uses at present.
#[derive(Debug, Default)]
struct Idle {
    memory: Vec<Memory>,
    bytes: u64,
}

/// Memory that jobs use one after another, so that the system need not find and clear it each time.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    /// For uncompressed bytes.
    pub(crate) plain: Buffer,
    /// For compressed bytes.
    pub(crate) compressed: Vec<u8>,
}

impl Memory {
    fn held(&self) -> u64 {
        (self.plain.capacity() + self.compressed.capacity()) as u64
    }
}

impl Workers {
    /// Starts `threads` threads, at least one.
    pub fn new(threads: usize) -> Result<Self> {
        let threads = threads.max(1);
        let pool = ThreadPoolBuilder::new()
            .num_threads(threads)
            .thread_name(|index| format!("restow-worker-{index}"))
            .build()
            .map_err(|error| Error::Workers(error.to_string()))?;
        let limit = BYTES_PER_THREAD.saturating_mul(threads as u64 + 1);
        Ok(Self {
            pool,
            budget: Arc::new(Budget { limit, used: Mutex::new(0), freed: Condvar::new() }),
            idle: Mutex::default(),
        })
    }

    /// Returns memory of an earlier job, emptied, or new.
    pub(crate) fn memory(&self) -> Memory {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let memory = idle.memory.pop().unwrap_or_default();
        idle.bytes -= memory.held();
        memory
    }

    /// Takes memory back, unless as much of it is idle as may be under way.
    pub(crate) fn recycle(&self, mut memory: Memory) {
        memory.plain.truncate(0);
        memory.compressed.clear();
        let held = memory.held();
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.bytes + held <= self.budget.limit {
            idle.bytes += held;
            idle.memory.push(memory);
        }
    }

    /// Returns how many threads there are.
    pub fn threads(&self) -> usize {
        self.pool.current_num_threads()
    }

    /// Runs `feed` on this thread, `work` on the jobs it sends, on any thread, and `drain` on the results in the
    /// order of the jobs, on a thread of its own.
    ///
    /// A job is sent with the bytes of memory it holds; sending waits while too many are under way. The first error
    /// in the order of the jobs ends all.
    pub(crate) fn run<J: Send, O: Send>(
        &self,
        feed: impl FnOnce(&mut dyn FnMut(J, usize) -> Result<()>) -> Result<()>,
        work: impl Fn(J) -> Result<O> + Sync,
        drain: impl FnMut(O) -> Result<()> + Send,
    ) -> Result<()> {
        let (queue, slots) = bounded(QUEUE);
        let work = &work;
        thread::scope(|threads| {
            let drainer = threads.spawn(move || drain_slots(&slots, drain));
            let fed = self.pool.in_place_scope_fifo(|scope| {
                let mut send = |job: J, bytes: usize| {
                    let lease = Budget::lease(&self.budget, bytes as u64);
                    let (done, slot) = bounded(1);
                    // The drainer hangs up when it has failed; its error is the one that counts.
                    queue.send(slot).map_err(|_| stopped())?;
                    scope.spawn_fifo(move |_| {
                        let _ = done.send((work(job), lease));
                    });
                    Ok(())
                };
                let fed = feed(&mut send);
                drop(queue);
                fed
            });
            let drained =
                drainer.join().map_err(|_| Error::Workers("the collecting thread panicked".into()))?;
            drained.and(fed)
        })
    }
}

fn drain_slots<O>(
    slots: &Receiver<Receiver<(Result<O>, Lease)>>,
    mut drain: impl FnMut(O) -> Result<()>,
) -> Result<()> {
    for slot in slots {
        let (output, lease) = slot.recv().map_err(|_| stopped())?;
        drain(output?)?;
        drop(lease);
    }
    Ok(())
}

fn stopped() -> Error {
    Error::Workers("the work was given up".into())
}

/// A bound on the bytes held by jobs, over all layers.
#[derive(Debug)]
struct Budget {
    limit: u64,
    used: Mutex<u64>,
    freed: Condvar,
}

/// Bytes taken from the budget until dropped.
#[derive(Debug)]
struct Lease {
    budget: Arc<Budget>,
    bytes: u64,
}

impl Budget {
    /// Waits until `bytes` fit. A lease larger than the whole budget is granted when nothing else is.
    fn lease(budget: &Arc<Budget>, bytes: u64) -> Lease {
        let used = budget.used.lock().unwrap_or_else(PoisonError::into_inner);
        let fits = |used: &mut u64| *used > 0 && used.saturating_add(bytes) > budget.limit;
        let mut used = budget.freed.wait_while(used, fits).unwrap_or_else(PoisonError::into_inner);
        *used += bytes;
        Lease { budget: Arc::clone(budget), bytes }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        *self.budget.used.lock().unwrap_or_else(PoisonError::into_inner) -= self.bytes;
        self.budget.freed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_come_in_the_order_of_the_jobs() {
        for threads in [1, 3] {
            let workers = Workers::new(threads).unwrap();
            let mut results = Vec::new();
            workers
                .run(
                    |send| (0..1000u64).try_for_each(|job| send(job, 1 << 20)),
                    |job| Ok(job * 2),
                    |result| {
                        results.push(result);
                        Ok(())
                    },
                )
                .unwrap();
            assert_eq!(results, (0..1000).map(|job| job * 2).collect::<Vec<_>>());
        }
    }

    #[test]
    fn the_first_error_in_order_ends_all() {
        let workers = Workers::new(2).unwrap();
        let failed = workers.run(
            |send| (0..10_000usize).try_for_each(|job| send(job, 1)),
            |job| if job < 7 { Ok(job) } else { Err(Error::Toc(format!("job {job}"))) },
            |_| Ok(()),
        );
        assert_eq!(failed.unwrap_err().to_string(), "the table of contents is not valid: job 7");
    }

    #[test]
    fn an_error_of_the_feeder_comes_after_what_it_fed() {
        let workers = Workers::new(2).unwrap();
        let mut drained = 0;
        let failed = workers.run(
            |send| {
                (0..5usize).try_for_each(|job| send(job, 1))?;
                Err(Error::NotSeekable)
            },
            Ok,
            |_| {
                drained += 1;
                Ok(())
            },
        );
        assert!(matches!(failed, Err(Error::NotSeekable)));
        assert_eq!(drained, 5);
    }

    #[test]
    fn jobs_larger_than_the_budget_run_one_by_one() {
        let workers = Workers::new(1).unwrap();
        let huge = BYTES_PER_THREAD as usize * 10;
        let mut count = 0;
        workers
            .run(
                |send| (0..5).try_for_each(|job| send(job, huge)),
                Ok,
                |_: i32| {
                    count += 1;
                    Ok(())
                },
            )
            .unwrap();
        assert_eq!(count, 5);
    }
}
