//! A hash for names and boundaries of parts.

/// FNV-1a: names and boundaries need spread, not secrecy.
pub(super) fn fnv1a(pieces: &[&[u8]]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for piece in pieces {
        for &byte in *piece {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
        }
        hash = (hash ^ 0xff).wrapping_mul(0x100_0000_01b3);
    }
    hash
}
