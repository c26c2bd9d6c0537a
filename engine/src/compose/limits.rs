//! Bounds of composition, in one place, and how they relate.

/// One template folder, all files together.
pub const TEMPLATE_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Files of one template folder.
pub const TEMPLATE_FILES_MAX: usize = 256;
/// One source of template language (text, html, an include).
pub const SOURCE_BYTES_MAX: usize = 512 * 1024;
/// What one part may render to.
pub const PART_BYTES_MAX: usize = 2 * 1024 * 1024;
/// What one header field may render to.
pub const HEADER_BYTES_MAX: usize = 8 * 1024;
/// Work one part may cost: minijinja's fuel, an instruction or 64 bytes of data each.
pub const RENDER_FUEL_MAX: u64 = 200_000;
/// Depth of includes, macros and recursive loops together, in minijinja's units (an include costs
/// 10, a macro call 4).
pub const RECURSION_DEPTH_MAX: usize = 80;
/// One line on the wire without its CRLF (RFC 5322 §2.1.1); docomo refuses more than 1,000 bytes.
pub const LINE_BYTES_MAX: usize = 998;
/// One header line that can be folded (RFC 5322 §2.1.1).
pub const HEADER_LINE_BYTES_MAX: usize = 76;
/// One record of a recipient list.
pub const LIST_RECORD_BYTES_MAX: usize = 256 * 1024;
/// Columns of a recipient list.
pub const LIST_COLUMNS_MAX: usize = 1024;
/// Local part (RFC 5321 §4.5.3.1.1).
pub const LOCAL_PART_BYTES_MAX: usize = 64;
/// Domain (RFC 5321 §4.5.3.1.2).
pub const DOMAIN_BYTES_MAX: usize = 255;

const _: () = assert!(SOURCE_BYTES_MAX < TEMPLATE_BYTES_MAX);
const _: () = assert!(SOURCE_BYTES_MAX <= PART_BYTES_MAX);
const _: () = assert!(HEADER_LINE_BYTES_MAX < LINE_BYTES_MAX);
