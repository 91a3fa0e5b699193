//! A pool of CPU workers, apart from the threads that handle sockets and timers.
//!
//! Inflating, hashing and scanning run here in jobs of about 1 MiB, on one thread per core. The pool owns its
//! workers. Dropping it lets running jobs end, skips jobs whose caller is gone, and joins the threads.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use tokio::sync::oneshot;

use crate::error::{Error, Result};

type Job = Box<dyn FnOnce() + Send>;

/// A pool of CPU workers. Conversions can share one.
#[derive(Debug)]
pub struct CpuPool {
    jobs: Option<Sender<Job>>,
    workers: Vec<JoinHandle<()>>,
}

impl CpuPool {
    /// A pool of `threads` workers; 0 means one per core.
    ///
    /// # Errors
    /// `internal` if the system cannot create a thread.
    pub fn new(threads: usize) -> Result<Self> {
        let threads = match threads {
            0 => std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            some => some,
        };
        let (jobs, queue) = channel::<Job>();
        let queue = Arc::new(Mutex::new(queue));
        let spawn = |number: usize| {
            let queue = Arc::clone(&queue);
            std::thread::Builder::new().name(format!("diskferry-cpu-{number}")).spawn(move || work(&queue))
        };
        let workers = (0..threads).map(spawn).collect::<std::io::Result<_>>();
        let workers = workers
            .map_err(|error| Error::internal("cannot create a thread for a CPU worker").caused_by(error))?;
        Ok(Self { jobs: Some(jobs), workers })
    }

    /// The number of workers.
    pub fn threads(&self) -> usize {
        self.workers.len()
    }

    /// Runs `job` on a worker and waits for its result. Jobs start in the order of submission. Dropping the future
    /// drops a job that has not started; a running job continues to its end, and its result is discarded.
    ///
    /// # Errors
    /// Errors of the job; `internal` if it panics.
    pub fn run<T, F>(&self, job: F) -> impl Future<Output = Result<T>> + Send + use<T, F>
    where
        T: Send + 'static,
        F: FnOnce() -> Result<T> + Send + 'static,
    {
        let (answer, waiting) = oneshot::channel();
        let job = Box::new(move || {
            if !answer.is_closed() {
                let done = catch_unwind(AssertUnwindSafe(job));
                let done = done.unwrap_or_else(|_| Err(Error::internal("a job of a CPU worker panicked")));
                // Fails if the caller was dropped meanwhile.
                let _ = answer.send(done);
            }
        });
        let sent = self.jobs.as_ref().is_some_and(|jobs| jobs.send(job).is_ok());
        async move {
            match waiting.await {
                Ok(done) if sent => done,
                _ => Err(Error::internal("the CPU workers are gone")),
            }
        }
    }
}

fn work(queue: &Mutex<Receiver<Job>>) {
    loop {
        let job = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
        match job {
            Ok(job) => job(),
            Err(_) => return,
        }
    }
}

impl Drop for CpuPool {
    fn drop(&mut self) {
        self.jobs = None;
        for worker in self.workers.drain(..) {
            // A worker cannot panic: panics of jobs are caught.
            let _ = worker.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_in_a_job_is_an_error_and_the_pool_continues() {
        let pool = CpuPool::new(1).unwrap();
        let failed = pool.run(|| -> Result<()> { panic!("on purpose") }).await;
        assert_eq!(failed.unwrap_err().kind(), crate::error::ErrorKind::Internal);
        assert_eq!(pool.run(|| Ok(7)).await.unwrap(), 7);
    }
}
