//! Prints what is read of each file named: for development.
use engine::bounce::{Classifier, Reader};
fn main() {
    let reader = Reader::new(Classifier::builtin());
    for path in std::env::args().skip(1) {
        let bytes = std::fs::File::open(&path)
            .and_then(|mut f| {
                let mut v = Vec::new();
                std::io::Read::read_to_end(&mut f, &mut v)?;
                Ok(v)
            })
            .unwrap();
        let r = reader.read(&bytes);
        let name = path.rsplit('/').next().unwrap();
        let join = |f: &dyn Fn(&engine::bounce::Failure) -> String| {
            r.failures
                .iter()
                .map(|x| f(x))
                .collect::<Vec<_>>()
                .join(",")
        };
        let (v, w) = if r.failures.is_empty() {
            (r.verdict.to_string(), r.reason.to_string())
        } else {
            (
                join(&|f| f.verdict.to_string()),
                join(&|f| f.reason.to_string()),
            )
        };
        println!(
            "{name}\t{}\t{v}\t{w}\t{}",
            join(&|f| f.recipient.to_lowercase()),
            join(&|f| format!(
                "[{} {} {}]",
                f.decided.source, f.decided.rule, f.decided.text
            ))
            .chars()
            .take(260)
            .collect::<String>()
        );
        if r.failures.is_empty() {
            eprintln!("{name} {:?}", r.decided);
        }
    }
}
