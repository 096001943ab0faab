//! Measures how long `true` takes in a fresh container, network by network. Needs root and a static
//! busybox.
//!
//! ```text
//! cargo run --example latency [runs]
//! ```

use std::error::Error;
use std::path::Path;
use std::time::{Duration, Instant};

use executor::spec::{Security, StepSpec, step};
use executor::user::UserIds;
use executor::{
    ContainerRequest, Launcher, LauncherOptions, Network, NetworkOptions, Stdio, Stubs,
};

fn main() -> Result<(), Box<dyn Error>> {
    // Before the runtime has made threads.
    if executor::is_launcher() {
        executor::launcher_main();
    }
    tokio::runtime::Runtime::new()?.block_on(measure())
}

async fn measure() -> Result<(), Box<dyn Error>> {
    let runs = std::env::args()
        .nth(1)
        .map_or(Ok(100), |runs| runs.parse())?;
    let dir = tempfile::tempdir()?;
    let bin = dir.path().join("image/bin");
    std::fs::create_dir_all(&bin)?;
    std::fs::copy("/bin/busybox", bin.join("true"))?;
    let launcher = Launcher::start(LauncherOptions {
        program: std::env::current_exe()?,
        arguments: Vec::new(),
        state_dir: dir.path().join("state"),
        cgroup_parent: "drydock-latency".to_owned(),
        network: NetworkOptions {
            eager: true,
            ..NetworkOptions::default()
        },
    })
    .await?;
    for network in [Network::Bridge, Network::None, Network::Host] {
        let mut times = Vec::new();
        for run in 0..runs {
            times.push(once(&launcher, dir.path(), network, run).await?);
        }
        report(&format!("{network:?}"), times);
    }
    let begin = Instant::now();
    let all = (0..runs).map(|run| once(&launcher, dir.path(), Network::Bridge, run + runs));
    let all: Vec<_> = all.collect();
    for done in futures_join(all).await {
        done?;
    }
    println!("{runs} at once with a bridge: {:?}", begin.elapsed());
    launcher.shutdown().await;
    Ok(())
}

async fn futures_join<F: Future>(all: Vec<F>) -> Vec<F::Output> {
    let mut all: Vec<_> = all.into_iter().map(Box::pin).collect();
    let mut done = Vec::new();
    std::future::poll_fn(|context| {
        all.retain_mut(|future| match future.as_mut().poll(context) {
            std::task::Poll::Ready(output) => {
                done.push(output);
                false
            }
            std::task::Poll::Pending => true,
        });
        if all.is_empty() {
            std::task::Poll::Ready(())
        } else {
            std::task::Poll::Pending
        }
    })
    .await;
    done
}

/// Mount, start and end of one container, each as time since the beginning.
async fn once(
    launcher: &Launcher,
    dir: &Path,
    network: Network,
    run: usize,
) -> Result<[Duration; 3], Box<dyn Error>> {
    let (upper, work) = (
        dir.join(format!("{network:?}-{run}/fs")),
        dir.join(format!("{network:?}-{run}/work")),
    );
    std::fs::create_dir_all(&upper)?;
    std::fs::create_dir_all(&work)?;
    let begin = Instant::now();
    let rootfs = sys::mount::overlay(&[dir.join("image")], Some((&upper, &work)))?;
    let mounted = begin.elapsed();
    let spec = step(StepSpec {
        args: vec!["/bin/true".to_owned()],
        env: vec!["PATH=/bin".to_owned()],
        cwd: "/".to_owned(),
        user: UserIds {
            uid: 0,
            gid: 0,
            groups: vec![0],
            home: None,
        },
        hostname: String::new(),
        ulimits: Vec::new(),
        limits: sys::cgroup::Limits::default(),
        security: Security::Sandbox,
        readonly_rootfs: false,
        shm_size_bytes: 0,
        oom_score_adj: None,
    })?;
    let container = launcher
        .create(ContainerRequest {
            id: "latency".to_owned(),
            spec,
            rootfs,
            mounts: Vec::new(),
            stdio: Stdio::Pipes { stdin: false },
            network,
            stubs: Stubs::Leaves,
        })
        .await?;
    let started = begin.elapsed();
    let exit = container.wait().await?;
    assert_eq!(exit.code, 0);
    Ok([mounted, started, begin.elapsed()])
}

fn report(network: &str, times: Vec<[Duration; 3]>) {
    let column = |index: usize| {
        let mut column: Vec<Duration> = times.iter().map(|times| times[index]).collect();
        column.sort();
        let at = |percent: usize| column[(column.len() - 1) * percent / 100];
        format!(
            "{:>7.2?} median {:>7.2?} p95 {:>7.2?} least",
            at(50),
            at(95),
            at(0)
        )
    };
    println!("{network:>6}: mounted {}", column(0));
    println!("        started {}", column(1));
    println!("        ended   {}", column(2));
}
