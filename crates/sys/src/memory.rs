//! How the C library keeps the memory that the process has let go of.
//!
//! Its allocator makes an arena for each thread that finds the others locked, and keeps in each what
//! was freed there. A process with many threads that do little at a time has most of its memory in
//! such leftovers. Libraries without these calls (musl) are left as they are.

/// Lets the allocator make no more than `count` arenas. Only those to come are meant, so it is
/// called before there are threads.
pub fn limit_arenas(count: usize) {
    #[cfg(target_env = "gnu")]
    {
        let count = libc::c_int::try_from(count.max(1)).unwrap_or(libc::c_int::MAX);
        // SAFETY: the call takes two numbers and is safe beside other threads. What it answers is
        // whether it knows the number, which it does since glibc 2.10.
        unsafe { libc::mallopt(libc::M_ARENA_MAX, count) };
    }
    #[cfg(not(target_env = "gnu"))]
    let _ = count;
}

/// Gives the kernel the pages in which nothing is kept. Takes some milliseconds when there is much,
/// in which other threads wait for memory.
pub fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: the call takes a number, and locks what it works on.
    unsafe {
        libc::malloc_trim(0)
    };
}
