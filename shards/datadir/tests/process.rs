//! What changes the whole process is tested in a process of its own.

#[test]
fn a_process_that_is_not_dumpable_says_so() {
    datadir::process_not_dumpable().unwrap();
    let behavior = rustix::process::dumpable_behavior().unwrap();
    assert_eq!(behavior, rustix::process::DumpableBehavior::NotDumpable);
    let limits = std::fs::read_to_string("/proc/self/limits");
    // Once not dumpable, /proc/self may belong to root; either way the limit is 0.
    if let Ok(limits) = limits {
        let core = limits
            .lines()
            .find(|line| line.starts_with("Max core file size"))
            .unwrap();
        assert_eq!(
            core.split_whitespace().filter(|word| *word == "0").count(),
            2,
            "{core}"
        );
    }
}
