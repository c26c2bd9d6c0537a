//! Puts `src/rings.rs` between glommio and the liburing that glommio's build compiles.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let functions = [
        "io_uring_queue_init_params",
        "io_uring_submit",
        "io_uring_wait_cqes",
        "rust_io_uring_sq_ready",
        "syscall",
    ];
    for function in functions {
        println!("cargo::rustc-link-arg=-Wl,--wrap={function}");
    }
}
