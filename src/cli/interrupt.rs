//! Signals: a process that is told to end removes what it has half written, and says so.

#[cfg(unix)]
pub(crate) use self::unix::{Interrupt, watch};

/// Why the process ends, once a signal has told it to.
#[cfg(not(unix))]
pub(crate) struct Interrupt;

#[cfg(not(unix))]
impl Interrupt {
    pub(crate) fn flag(&self) -> Option<&std::sync::atomic::AtomicBool> {
        None
    }

    pub(crate) fn end(&self) -> Option<(String, u8)> {
        None
    }
}

/// Begins to wait for signals; this system has none of them.
#[cfg(not(unix))]
pub(crate) fn watch() -> std::io::Result<Interrupt> {
    Ok(Interrupt)
}

#[cfg(unix)]
mod unix {
    use std::io::Write as _;
    use std::path::PathBuf;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::sync::{Arc, Mutex, PoisonError};
    use std::time::{Duration, Instant};

    use crate::exec::staging;
    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGXFSZ};
    use signal_hook::iterator::Signals;

    /// The signals that end the process, with their names.
    const ENDING: [(i32, &str); 3] = [(SIGINT, "SIGINT"), (SIGTERM, "SIGTERM"), (SIGHUP, "SIGHUP")];

    /// How long the work has to end by itself before its files are removed from under it.
    const GRACE: Duration = Duration::from_secs(2);

    /// Why the process ends, once a signal has told it to.
    #[derive(Clone)]
    pub(crate) struct Interrupt {
        flag: Arc<AtomicBool>,
        told: Arc<Mutex<Option<Told>>>,
    }

    struct Told {
        signal: i32,
        /// What was being written.
        begun: Vec<PathBuf>,
    }

    impl Interrupt {
        /// What is set when the work is to end.
        pub(crate) fn flag(&self) -> Option<&AtomicBool> {
            Some(&self.flag)
        }

        /// If a signal came: what to say, and the exit status.
        pub(crate) fn end(&self) -> Option<(String, u8)> {
            let told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
            let Told { signal, begun } = told.as_ref()?;
            let name = ENDING.iter().find(|(number, _)| number == signal).map_or("", |(_, n)| n);
            let mut text = format!("stopped by {name}");
            let (gone, left): (Vec<_>, Vec<_>) = begun.iter().partition(|path| !path.exists());
            let list = |paths: Vec<&PathBuf>| {
                paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
            };
            if gone.is_empty() && left.is_empty() {
                text.push_str(": nothing was written");
            }
            if !gone.is_empty() {
                text.push_str(&format!(": removed what was half written, {}", list(gone)));
            }
            if !left.is_empty() {
                text.push_str(&format!(": could not remove what was half written, {}", list(left)));
            }
            Some((text, u8::try_from(128 + signal).unwrap_or(2)))
        }
    }

    /// Begins to wait for signals that end the process, and turns the one for a file that is too
    /// long into an error of the write.
    pub(crate) fn watch() -> std::io::Result<Interrupt> {
        let interrupt = Interrupt { flag: Arc::default(), told: Arc::default() };
        signal_hook::flag::register(SIGXFSZ, Arc::default())?;
        let ignored = ignored();
        // What started this process may have asked it not to end, as `nohup` does.
        let ending = ENDING.iter().map(|(signal, _)| *signal);
        let mut signals = Signals::new(ending.filter(|signal| !ignored.contains(signal)))?;
        let own = interrupt.clone();
        std::thread::spawn(move || {
            let Some(signal) = signals.forever().next() else { return };
            let begun = staging::begun();
            *own.told.lock().unwrap_or_else(PoisonError::into_inner) =
                Some(Told { signal, begun: begun.clone() });
            own.flag.store(true, Ordering::Relaxed);
            // The work ends by itself in most cases, and `main` with it; a second signal is
            // impatient.
            let start = Instant::now();
            while !begun.is_empty() && start.elapsed() < GRACE && signals.pending().next().is_none()
            {
                std::thread::sleep(Duration::from_millis(20));
            }
            staging::abandon();
            #[cfg(feature = "remote")]
            crate::remote::abandon();
            if let Some((text, status)) = own.end() {
                let _ = writeln!(std::io::stderr().lock(), "error: {text}");
                exit(status);
            }
        });
        Ok(interrupt)
    }

    #[allow(clippy::exit)] // The other threads do not listen.
    fn exit(status: u8) -> ! {
        std::process::exit(i32::from(status))
    }

    /// The signals that this process was started with as ignored, where the system says it.
    fn ignored() -> Vec<i32> {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
        let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
        (1..64).filter(|signal| mask & (1 << (signal - 1)) != 0).collect()
    }
}
