//! Pages of a mapped file that cannot be had any more: the file was cut off while it was read, or its disk
//! failed. The system sends SIGBUS to a process that touches one, which ends it. After [`survive`] such pages
//! are zeros, and the map is marked, so that [`super::Source::check_unchanged`] refuses what was read of it.

#[cfg(not(unix))]
pub(super) use self::elsewhere::Watched;
#[cfg(unix)]
pub(super) use self::unix::Watched;

/// Lets this process go on where a page of a mapped file cannot be had. It takes the place of the handler of
/// SIGBUS, to which every other bus error still goes; so it is for programs to call, and not for libraries.
///
/// # Errors
/// The system refuses the handler.
pub fn survive() -> std::io::Result<()> {
    #[cfg(unix)]
    unix::install()?;
    Ok(())
}

#[cfg(unix)]
#[expect(unsafe_code, reason = "a signal's handler, and pages put in the place of a map's")]
mod unix {
    use std::ffi::{c_int, c_void};
    use std::mem::MaybeUninit;
    use std::ptr;
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering};

    /// Where a map lies. Regions are never freed: a handler may look at them at any time; they are used again.
    struct Region {
        /// The address of its first byte; 0 where the region is free.
        start: AtomicUsize,
        /// The address behind its last byte; 0 while it is not known yet, and then no address is in it.
        end: AtomicUsize,
        touched: AtomicBool,
        next: AtomicPtr<Region>,
    }

    static FIRST: AtomicPtr<Region> = AtomicPtr::new(ptr::null_mut());
    static PREVIOUS: OnceLock<libc::sigaction> = OnceLock::new();
    static PAGE: AtomicUsize = AtomicUsize::new(0);

    /// The region that follows in the list that begins with `at`.
    fn regions() -> impl Iterator<Item = &'static Region> {
        let first = FIRST.load(Ordering::Acquire);
        // SAFETY: A region that is in the list was leaked, and nothing but its atomics changes.
        std::iter::successors(unsafe { first.as_ref() }, |region| {
            let next = region.next.load(Ordering::Acquire);
            // SAFETY: As above.
            unsafe { next.as_ref() }
        })
    }

    /// A map whose missing pages are known.
    pub(in crate::base::source) struct Watched(&'static Region);

    impl Watched {
        /// Watches a map until this is dropped, which has to be before it is unmapped.
        pub(in crate::base::source) fn new(map: &[u8]) -> Watched {
            let start = map.as_ptr().addr();
            let take = |region: &&Region| {
                let (free, taken) = (Ordering::AcqRel, Ordering::Relaxed);
                region.start.compare_exchange(0, start, free, taken).is_ok()
            };
            let region = regions().find(take).unwrap_or_else(|| {
                let region: &'static Region = Box::leak(Box::new(Region {
                    start: AtomicUsize::new(start),
                    end: AtomicUsize::new(0),
                    touched: AtomicBool::new(false),
                    next: AtomicPtr::new(ptr::null_mut()),
                }));
                let place = ptr::from_ref(region).cast_mut();
                let mut first = FIRST.load(Ordering::Acquire);
                loop {
                    region.next.store(first, Ordering::Release);
                    let (done, again) = (Ordering::AcqRel, Ordering::Acquire);
                    match FIRST.compare_exchange_weak(first, place, done, again) {
                        Ok(_) => break region,
                        Err(now) => first = now,
                    }
                }
            });
            region.touched.store(false, Ordering::Relaxed);
            region.end.store(start + map.len(), Ordering::Release);
            Watched(region)
        }

        /// Whether something was read that could not be had.
        pub(in crate::base::source) fn is_touched(&self) -> bool {
            self.0.touched.load(Ordering::Acquire)
        }
    }

    impl Drop for Watched {
        fn drop(&mut self) {
            self.0.end.store(0, Ordering::Release);
            self.0.start.store(0, Ordering::Release);
        }
    }

    pub(super) fn install() -> std::io::Result<()> {
        // SAFETY: The call takes no pointers.
        let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
        PAGE.store(usize::try_from(page).unwrap_or(4096), Ordering::Release);
        let mut previous = MaybeUninit::<libc::sigaction>::zeroed();
        // SAFETY: All zeros is a value of this struct of numbers and a function's address.
        let mut action: libc::sigaction = unsafe { MaybeUninit::zeroed().assume_init() };
        let handler: extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void) = on_bus_error;
        action.sa_sigaction = handler as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
        // SAFETY: Both structs are whole, and the handler does only what handlers may: it loads and stores
        // atomics, and asks the system.
        let failed = unsafe {
            libc::sigemptyset(&raw mut action.sa_mask);
            libc::sigaction(libc::SIGBUS, &raw const action, previous.as_mut_ptr())
        };
        if failed != 0 {
            return Err(std::io::Error::last_os_error());
        }
        // SAFETY: The call wrote it. Of several calls the first knows who was there before.
        let _ = PREVIOUS.set(unsafe { previous.assume_init() });
        Ok(())
    }

    extern "C" fn on_bus_error(signal: c_int, info: *mut libc::siginfo_t, _: *mut c_void) {
        // SAFETY: The system hands over what it knows of the signal.
        let address = unsafe { (*info).si_addr() }.addr();
        let holds = |region: &&Region| {
            let end = region.end.load(Ordering::Acquire);
            (region.start.load(Ordering::Acquire)..end).contains(&address)
        };
        if let Some(region) = regions().find(holds) {
            let page = PAGE.load(Ordering::Acquire);
            let from = address & !(page - 1);
            // What lies behind a page that is gone is gone too.
            let len = (region.end.load(Ordering::Acquire) - from).next_multiple_of(page);
            let (rights, kind) =
                (libc::PROT_READ, libc::MAP_PRIVATE | libc::MAP_ANON | libc::MAP_FIXED);
            let place = ptr::with_exposed_provenance_mut(from);
            // SAFETY: The pages are those of a map that is there until its region is free, and which nobody
            // writes to; they are readable before and after.
            let put = unsafe { libc::mmap(place, len, rights, kind, -1, 0) };
            if put != libc::MAP_FAILED {
                region.touched.store(true, Ordering::Release);
                return;
            }
        }
        // Not one of ours: the same access goes to who was there before.
        if let Some(previous) = PREVIOUS.get() {
            // SAFETY: The struct is what the system once gave.
            unsafe { libc::sigaction(signal, ptr::from_ref(previous), ptr::null_mut()) };
        }
    }
}

#[cfg(not(unix))]
mod elsewhere {
    /// A map of a system that stops nobody.
    pub(in crate::base::source) struct Watched;

    impl Watched {
        pub(in crate::base::source) fn new(_: &[u8]) -> Watched {
            Watched
        }

        pub(in crate::base::source) fn is_touched(&self) -> bool {
            false
        }
    }
}
