//! Which domain a message goes to: a list of domains with weights.

use crate::failure::Failure;
use crate::random::Random;

/// Domains a mix may have.
pub const DOMAINS_MAX: usize = 1 << 24;

/// How messages spread over a list of domains.
#[derive(Debug, Clone, Copy, PartialEq, clap::ValueEnum)]
pub enum Spread {
    /// Every domain gets as many.
    Uniform,
    /// The n-th domain gets 1/n of the first one's share, as real lists do.
    Zipf,
}

/// Domains with their cumulative shares.
#[derive(Debug, Clone)]
pub struct DomainMix {
    names: Vec<String>,
    cumulative: Vec<f64>,
}

impl DomainMix {
    /// A mix of `(domain, weight)`; weights need not add up to anything.
    ///
    /// # Errors
    /// [`Failure::Setup`] when there is no domain or no weight above zero.
    pub fn weighted(domains: &[(String, f64)]) -> Result<Self, Failure> {
        let mut total = 0.0;
        let cumulative: Vec<f64> = domains
            .iter()
            .map(|(_, weight)| {
                total += weight.max(0.0);
                total
            })
            .collect();
        if total <= 0.0 {
            return Err(Failure::setup("no recipient domain: give at least one"));
        }
        if domains.len() > DOMAINS_MAX {
            return Err(Failure::setup(format!(
                "{} domains, at most {DOMAINS_MAX}",
                domains.len()
            )));
        }
        Ok(Self {
            names: domains.iter().map(|(name, _)| name.clone()).collect(),
            cumulative,
        })
    }

    /// A mix of `names` in order of their rank.
    ///
    /// # Errors
    /// [`Failure::Setup`] when `names` is empty.
    pub fn spread(names: &[String], spread: Spread) -> Result<Self, Failure> {
        let weigh = |rank: usize| match spread {
            Spread::Uniform => 1.0,
            Spread::Zipf => 1.0 / (rank + 1) as f64,
        };
        let weighted: Vec<_> = names
            .iter()
            .enumerate()
            .map(|(rank, name)| (name.clone(), weigh(rank)))
            .collect();
        Self::weighted(&weighted)
    }

    /// Picks a domain: its index and name.
    pub fn pick(&self, random: &mut Random) -> (u32, &str) {
        let total = self.cumulative[self.cumulative.len() - 1];
        let at = random.unit() * total;
        let index = self.cumulative.partition_point(|share| *share <= at);
        let index = index.min(self.names.len() - 1);
        (index as u32, &self.names[index])
    }

    /// All names, by index.
    pub fn names(&self) -> &[String] {
        &self.names
    }
}

/// Expands `d{0..100}.example` into a hundred names; other text stands for itself.
///
/// # Errors
/// [`Failure::Setup`] when the braces do not hold `FROM..TO`.
pub fn expand(pattern: &str) -> Result<Vec<String>, Failure> {
    let Some((before, rest)) = pattern.split_once('{') else {
        return Ok(vec![pattern.to_owned()]);
    };
    let bad = || {
        Failure::setup(format!(
            "cannot read {pattern:?}: write a range as in d{{0..100}}.example"
        ))
    };
    let (range, after) = rest.split_once('}').ok_or_else(bad)?;
    let (from, to) = range.split_once("..").ok_or_else(bad)?;
    let (from, to): (u32, u32) = match (from.parse(), to.parse()) {
        (Ok(from), Ok(to)) => (from, to),
        _ => return Err(bad()),
    };
    Ok((from..to).map(|n| format!("{before}{n}{after}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn domains_beyond_two_to_the_sixteenth_keep_their_number() {
        let names = expand("d{0..70000}.example").expect("a range");
        let mix = DomainMix::spread(&names, Spread::Uniform).expect("names");
        let mut random = Random::new(7);
        let picks = (0..1_000).map(|_| mix.pick(&mut random));
        let mut beyond = 0;
        for (number, name) in picks {
            assert_eq!(names[number as usize], name);
            beyond += u32::from(number > 0xffff);
        }
        assert!(beyond > 0);
    }

    fn shares(mix: &DomainMix) -> Vec<usize> {
        let mut random = Random::new(1);
        let mut counts = vec![0; mix.names.len()];
        for _ in 0..10_000 {
            counts[mix.pick(&mut random).0 as usize] += 1;
        }
        counts
    }

    #[test]
    fn zipf_halves_the_second() {
        let names = expand("d{0..4}.example").unwrap();
        let counts = shares(&DomainMix::spread(&names, Spread::Zipf).unwrap());
        assert!((4500..5100).contains(&counts[0]), "{counts:?}");
        assert!((2200..2600).contains(&counts[1]), "{counts:?}");
        let counts = shares(&DomainMix::spread(&names, Spread::Uniform).unwrap());
        assert!(
            counts.iter().all(|c| (2300..2700).contains(c)),
            "{counts:?}"
        );
    }

    #[test]
    fn bad_ranges_are_refused() {
        assert_eq!(expand("a.example").unwrap(), ["a.example"]);
        assert!(expand("d{1-3}.example").is_err());
        assert!(expand("d{1..3.example").is_err());
        assert!(DomainMix::weighted(&[]).is_err());
    }
}
