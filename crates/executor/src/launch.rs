//! The launcher: a small process with one thread that makes containers.
//!
//! It is the first process of a pid namespace of its own, in which all containers are. When it ends,
//! for whatever reason, the kernel kills everything in that namespace. It ends when its channel to the
//! daemon closes. So no container outlives the daemon, also if both are killed.
//!
//! It lives in a mount namespace with nothing but `/proc`, its control groups and the place where a
//! root filesystem is put together: copying that namespace for a container is fast, and a container
//! never has a mount of the host, not even for a moment.

mod ahead;
mod container;
mod mounts;
mod process;
mod server;
mod world;

use std::io;

use sys::fdpass::Channel;

/// The name by which a program is called to be the launcher.
pub const LAUNCHER_NAME: &str = "drydock-launcher";

/// Whether this program was started as the launcher. Then it calls [`launcher_main`] first thing.
pub fn is_launcher() -> bool {
    std::env::args_os()
        .next()
        .is_some_and(|name| name == LAUNCHER_NAME)
}

/// The channel to the daemon, as [`sys::process::spawn_in_pid_namespace`] numbers it.
const CHANNEL: i32 = 3;

/// Serves the daemon until it closes the channel. Does not return.
#[expect(
    clippy::print_stderr,
    reason = "the launcher has no other way to say why it gives up"
)]
pub fn launcher_main() -> ! {
    let code = match serve() {
        Ok(()) => 0,
        Err(error) => {
            eprintln!("{LAUNCHER_NAME}: {error}");
            1
        }
    };
    std::process::exit(code)
}

fn serve() -> io::Result<()> {
    let channel = Channel::from_fd(sys::process::inherited_descriptor(CHANNEL)?);
    server::Server::start(channel)?.run()
}
