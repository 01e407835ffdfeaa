//! Work that blocks, of which only so much may be under way.
//!
//! A future may be dropped at any moment, since its client may leave; work on a blocking thread goes on. So what limits the work
//! belongs to the work and not to whoever waits for it.

use tokio::task::JoinError;

/// Does `work` on a blocking thread. `permit` is free again when the work has ended, whether or not somebody still waits for it.
///
/// # Errors
/// [`JoinError`] if the work panics, or the runtime ends before it begins.
pub(crate) async fn with_permit<P, T>(permit: P, work: impl FnOnce() -> T + Send + 'static) -> Result<T, JoinError>
where
    P: Send + 'static,
    T: Send + 'static,
{
    let working = tokio::task::spawn_blocking(move || {
        let _permit = permit;
        work()
    });
    working.await
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, mpsc};
    use std::time::Duration;

    use tokio::sync::Semaphore;

    use super::*;

    #[tokio::test]
    async fn a_permit_is_kept_until_the_work_ends_though_nobody_waits_for_it() {
        let permits = Arc::new(Semaphore::new(1));
        let permit = Arc::clone(&permits).acquire_owned().await.expect("free");
        let (begun, begin) = mpsc::channel();
        let (end, ended) = mpsc::channel::<()>();
        let working = tokio::spawn(with_permit(permit, move || {
            begun.send(()).expect("the test waits");
            // Until the test lets go of its end.
            let _ = ended.recv();
        }));
        tokio::task::spawn_blocking(move || begin.recv()).await.expect("no panic").expect("it begins");
        working.abort();
        assert!(working.await.is_err_and(|error| error.is_cancelled()));
        assert_eq!(permits.available_permits(), 0);
        drop(end);
        tokio::time::timeout(Duration::from_secs(60), permits.acquire())
            .await
            .expect("it ends")
            .map(drop)
            .expect("free");
    }
}
