//! Puts `src/rings.rs` between glommio and the liburing that glommio's build compiles.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let functions = ["io_uring_queue_init_params", "syscall"];
    for function in functions {
        println!("cargo::rustc-link-arg=-Wl,--wrap={function}");
    }
}
