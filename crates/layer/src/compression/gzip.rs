//! gzip with blocks compressed in parallel.
//!
//! The input is cut into blocks of one fixed size. Each is compressed on its own and ends at a byte
//! boundary (a sync flush), so that the compressed blocks one after another are one deflate stream.
//! The cuts depend on the input alone, and so does the output.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use flate2::{Compress, Compression, Crc, FlushCompress, Status};

/// Large enough that starting anew at each block costs nothing that matters, small enough that a
/// layer keeps several cores busy.
const BLOCK: usize = 1 << 20;

/// No time, no name, unknown system: nothing that would differ between machines.
const HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff];

/// An empty last block: what ends the deflate stream.
const END: [u8; 2] = [3, 0];

pub(super) struct GzipWriter<W> {
    out: W,
    level: Compression,
    threads: usize,
    block: Vec<u8>,
    /// Threads are started when the first block is full, since most blobs are smaller.
    pool: Option<Pool>,
    /// The blocks being compressed, in order.
    waiting: VecDeque<Receiver<io::Result<Compressed>>>,
    crc: Crc,
}

struct Compressed {
    bytes: Vec<u8>,
    crc: Crc,
    /// The block's memory, to be filled again.
    block: Vec<u8>,
}

struct Job {
    block: Vec<u8>,
    result: SyncSender<io::Result<Compressed>>,
}

/// Threads that compress blocks until the sender is dropped.
struct Pool {
    jobs: Sender<Job>,
}

impl<W: Write> GzipWriter<W> {
    pub(super) fn new(mut out: W, level: u32, threads: usize) -> io::Result<GzipWriter<W>> {
        out.write_all(&HEADER)?;
        Ok(GzipWriter {
            out,
            level: Compression::new(level.min(9)),
            threads,
            block: Vec::new(),
            pool: None,
            waiting: VecDeque::new(),
            crc: Crc::new(),
        })
    }

    pub(super) fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(BLOCK - self.block.len());
        self.block.extend_from_slice(&bytes[..taken]);
        if self.block.len() == BLOCK {
            self.submit()?;
        }
        Ok(taken)
    }

    pub(super) fn finish(mut self) -> io::Result<W> {
        while let Some(result) = self.waiting.pop_front() {
            self.put(&result)?;
        }
        if !self.block.is_empty() {
            let block = std::mem::take(&mut self.block);
            let last = compress_block(&mut Compress::new(self.level, false), block)?;
            self.put_block(&last)?;
        }
        self.out.write_all(&END)?;
        self.out.write_all(&self.crc.sum().to_le_bytes())?;
        // Both are modulo 2^32.
        self.out.write_all(&self.crc.amount().to_le_bytes())?;
        self.out.flush()?;
        Ok(self.out)
    }

    /// Gives the full block to the threads, and takes a finished one if enough are under way.
    fn submit(&mut self) -> io::Result<()> {
        let (level, threads) = (self.level, self.threads);
        let pool = match &self.pool {
            Some(pool) => pool,
            None => self.pool.insert(Pool::start(level, threads)?),
        };
        let (result, receiver) = sync_channel(1);
        let block = std::mem::take(&mut self.block);
        let job = Job { block, result };
        pool.jobs
            .send(job)
            .map_err(|_| io::Error::other("compression threads are gone"))?;
        self.waiting.push_back(receiver);
        if self.waiting.len() > 2 * self.threads
            && let Some(oldest) = self.waiting.pop_front()
        {
            self.put(&oldest)?;
        }
        if self.block.capacity() == 0 {
            self.block.reserve_exact(BLOCK);
        }
        Ok(())
    }

    fn put(&mut self, result: &Receiver<io::Result<Compressed>>) -> io::Result<()> {
        let compressed = result
            .recv()
            .map_err(|_| io::Error::other("a compression thread panicked"))??;
        self.put_block(&compressed)?;
        if self.block.capacity() == 0 {
            self.block = compressed.block;
            self.block.clear();
        }
        Ok(())
    }

    fn put_block(&mut self, compressed: &Compressed) -> io::Result<()> {
        self.crc.combine(&compressed.crc);
        self.out.write_all(&compressed.bytes)
    }
}

impl Pool {
    fn start(level: Compression, threads: usize) -> io::Result<Pool> {
        let (jobs, receiver) = channel::<Job>();
        let receiver = Arc::new(Mutex::new(receiver));
        for _ in 0..threads {
            let receiver = Arc::clone(&receiver);
            thread::Builder::new()
                .name("gzip".to_owned())
                .spawn(move || run(level, &receiver))?;
        }
        Ok(Pool { jobs })
    }
}

fn run(level: Compression, jobs: &Mutex<Receiver<Job>>) {
    let mut compress = Compress::new(level, false);
    loop {
        let job = jobs.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(Job { block, result }) = job else {
            return;
        };
        // Nobody waits any more if the writer was dropped.
        let _ = result.send(compress_block(&mut compress, block));
    }
}

fn compress_block(compress: &mut Compress, block: Vec<u8>) -> io::Result<Compressed> {
    compress.reset();
    let mut bytes = Vec::with_capacity(block.len() / 2 + 64);
    loop {
        let taken = usize::try_from(compress.total_in()).unwrap_or(usize::MAX);
        let status = compress
            .compress_vec(
                &block[taken.min(block.len())..],
                &mut bytes,
                FlushCompress::Sync,
            )
            .map_err(io::Error::other)?;
        // The flush is complete when there was room to spare.
        let done = usize::try_from(compress.total_in()).is_ok_and(|taken| taken == block.len());
        if done && bytes.len() < bytes.capacity() {
            break;
        }
        if status == Status::StreamEnd {
            return Err(io::Error::other("deflate stream ended early"));
        }
        bytes.reserve(bytes.capacity().max(1024));
    }
    let mut crc = Crc::new();
    crc.update(&block);
    Ok(Compressed { bytes, crc, block })
}
