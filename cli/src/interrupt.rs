//! Ctrl-C: stop in good order, and if that takes too long, stop.

use std::process;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use anyhow::Context as _;
use restow::Session;

/// What a shell reports for a program that Ctrl-C ended.
pub(crate) const EXIT_CODE: u8 = 130;

/// How long work may take to stop by itself.
const GRACE: Duration = Duration::from_millis(800);

static RAISED: AtomicBool = AtomicBool::new(false);
/// Whether something waits for Ctrl-C, and whether it came.
static WAITING: AtomicBool = AtomicBool::new(false);
static CAME: AtomicBool = AtomicBool::new(false);

/// As long as this lives, the first Ctrl-C is an answer to it, and ends nothing else.
pub(crate) struct Wait(());

impl Wait {
    pub(crate) fn begin() -> Self {
        CAME.store(false, Ordering::SeqCst);
        WAITING.store(true, Ordering::SeqCst);
        Self(())
    }

    /// Says whether Ctrl-C came.
    pub(crate) fn is_over(&self) -> bool {
        CAME.load(Ordering::SeqCst)
    }
}

impl Drop for Wait {
    fn drop(&mut self) {
        WAITING.store(false, Ordering::SeqCst);
    }
}

/// Takes a Ctrl-C as the answer to who waits for it; says whether anyone did.
fn answered() -> bool {
    WAITING.load(Ordering::SeqCst) && !CAME.swap(true, Ordering::SeqCst)
}

/// Says whether the process was told to end.
pub(crate) fn happened() -> bool {
    RAISED.load(Ordering::SeqCst)
}

/// Lets Ctrl-C (or a termination signal) stop all work of the session.
///
/// The process ends after a grace period, or at once on a second Ctrl-C, whatever still runs: a destination
/// is replaced in one step, so there is no moment at which it must not die. Temporary directories go with it. While
/// someone [waits](Wait) for Ctrl-C, the first is for him.
#[expect(
    clippy::disallowed_methods,
    reason = "what does not stop by itself is stopped; the kernel lets go of locks"
)]
pub(crate) fn watch(session: &Session) -> anyhow::Result<()> {
    let session = session.clone();
    let exit = |session: &Session| {
        session.abandon();
        process::exit(EXIT_CODE.into())
    };
    ctrlc::set_handler(move || {
        if answered() {
            return;
        }
        if RAISED.swap(true, Ordering::SeqCst) {
            exit(&session);
        }
        session.stop().cancel();
        let session = session.clone();
        thread::spawn(move || {
            thread::sleep(GRACE);
            exit(&session)
        });
    })
    .context("cannot watch for Ctrl-C")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_interrupt_is_for_who_waits_and_the_next_is_not() {
        assert!(!answered());
        let wait = Wait::begin();
        assert!(!wait.is_over());
        assert!(answered() && wait.is_over());
        assert!(!answered());
        drop(wait);
        let again = Wait::begin();
        assert!(!again.is_over() && answered());
        drop(again);
        assert!(!answered());
    }
}
