//! The smallest program that can be the launcher; the tests of this and other crates use it.

fn main() {
    if executor::is_launcher() {
        executor::launcher_main();
    }
}
