//! One 512-byte header block, without the extensions that other blocks bring.
//!
//! | bytes | field | | bytes | field |
//! |---|---|---|---|---|
//! | 0–99 | name | | 257–264 | magic and version |
//! | 100–107 | mode | | 265–296 | user name |
//! | 108–115 | uid | | 297–328 | group name |
//! | 116–123 | gid | | 329–336 | device major |
//! | 124–135 | size | | 337–344 | device minor |
//! | 136–147 | mtime | | 345–499 | prefix (ustar); 345–475 prefix, 476–487 atime, 488–499 ctime (star) |
//! | 148–155 | checksum | | 345–356 | atime (GNU) |
//! | 156 | typeflag | | 357–368 | ctime (GNU) |
//! | 157–256 | link name | | 386–481 | the first four parts of a sparse file (GNU `S`) |
//! | | | | 482 | whether a sparse map continues in the next block (GNU `S`) |
//! | | | | 483–494 | the size of a sparse file, holes and all (GNU `S`) |
//! | | | | 508–511 | `tar\0` (star) |

use super::BLOCK;
use super::sparse::{Extent, Map, Sparse};

/// Where a block that continues a sparse map says whether the next one does so too.
pub(super) const SPARSE_MAP_CONTINUES: usize = 504;

/// The size of one part in a sparse map: where it starts, and how long it is.
const SPARSE_PART: usize = 24;

/// The fields of a header block.
pub(super) struct Fields {
    pub(super) name: Vec<u8>,
    pub(super) mode: i64,
    pub(super) uid: i64,
    pub(super) gid: i64,
    pub(super) size: u64,
    pub(super) modified: i64,
    pub(super) typeflag: u8,
    pub(super) link_name: Vec<u8>,
    pub(super) user_name: Vec<u8>,
    pub(super) group_name: Vec<u8>,
    pub(super) device_major: i64,
    pub(super) device_minor: i64,
    pub(super) accessed: Option<i64>,
    pub(super) changed: Option<i64>,
    /// What a header of type `S` says, as far as it goes.
    pub(super) sparse: Option<Sparse>,
    pub(super) sparse_map_continues: bool,
}

enum Format {
    V7,
    Ustar,
    Star,
    Gnu,
}

/// Reads a header block that is not all zeros.
pub(super) fn parse(block: &[u8; BLOCK]) -> Result<Fields, String> {
    check(block)?;
    let format = match &block[257..265] {
        [b'u', b's', b't', b'a', b'r', 0, ..] if &block[508..512] == b"tar\0" => Format::Star,
        [b'u', b's', b't', b'a', b'r', 0, ..] => Format::Ustar,
        b"ustar  \0" => Format::Gnu,
        _ => Format::V7,
    };
    let mut fields = Fields {
        name: text(&block[0..100]),
        mode: number(&block[100..108], "mode")?,
        uid: number(&block[108..116], "uid")?,
        gid: number(&block[116..124], "gid")?,
        size: u64::try_from(number(&block[124..136], "size")?)
            .map_err(|_| "the size is negative".to_string())?,
        modified: number(&block[136..148], "mtime")?,
        typeflag: block[156],
        link_name: text(&block[157..257]),
        user_name: Vec::new(),
        group_name: Vec::new(),
        device_major: 0,
        device_minor: 0,
        accessed: None,
        changed: None,
        sparse: None,
        sparse_map_continues: block[156] == b'S' && block[482] != 0,
    };
    if let (b'S', Format::Gnu) = (fields.typeflag, &format) {
        fields.sparse = Some(sparse(block)?);
    }
    if matches!(format, Format::V7) {
        return Ok(fields);
    }
    fields.user_name = text(&block[265..297]);
    fields.group_name = text(&block[297..329]);
    fields.device_major = number(&block[329..337], "device major number")?;
    fields.device_minor = number(&block[337..345], "device minor number")?;
    let prefix = match format {
        Format::Ustar => text(&block[345..500]),
        Format::Star => {
            fields.accessed = Some(number(&block[476..488], "atime")?);
            fields.changed = Some(number(&block[488..500], "ctime")?);
            text(&block[345..476])
        }
        _ => match (recorded(&block[345..357], "atime"), recorded(&block[357..369], "ctime")) {
            (Ok(accessed), Ok(changed)) => {
                (fields.accessed, fields.changed) = (accessed, changed);
                Vec::new()
            }
            // Go before 1.8 wrote a prefix here, and its readers still look for one.
            _ => Some(text(&block[345..500])).filter(|prefix| prefix.is_ascii()).unwrap_or_default(),
        },
    };
    if !prefix.is_empty() {
        fields.name = [prefix.as_slice(), b"/", fields.name.as_slice()].concat();
    }
    Ok(fields)
}

fn sparse(block: &[u8; BLOCK]) -> Result<Sparse, String> {
    let size = number(&block[483..495], "size of the sparse file")?;
    let size = u64::try_from(size).map_err(|_| "the size of the sparse file is negative".to_string())?;
    let mut extents = Vec::new();
    add_sparse_parts(&block[386..482], &mut extents)?;
    Ok(Sparse { size, map: Map::Extents(extents) })
}

/// Adds the parts of a sparse map, up to one that starts with a NUL.
pub(super) fn add_sparse_parts(bytes: &[u8], extents: &mut Vec<Extent>) -> Result<(), String> {
    for part in bytes.chunks_exact(SPARSE_PART).take_while(|part| part[0] != 0) {
        let (offset, size) = part.split_at(SPARSE_PART / 2);
        let whole = |field, what| number(field, what).map(u64::try_from);
        let (Ok(offset), Ok(size)) =
            (whole(offset, "offset in a sparse map")?, whole(size, "size in a sparse map")?)
        else {
            return Err("a number in the map of the sparse file is negative".into());
        };
        extents.push(Extent { offset, size });
    }
    Ok(())
}

/// Compares the recorded checksum with the sum of the bytes, unsigned or, as old tars wrote it, signed.
fn check(block: &[u8; BLOCK]) -> Result<(), String> {
    let recorded = number(&block[148..156], "checksum")?;
    let counted = |index: usize| if (148..156).contains(&index) { b' ' } else { block[index] };
    let unsigned: i64 = (0..BLOCK).map(|index| i64::from(counted(index))).sum();
    let signed: i64 = (0..BLOCK).map(|index| i64::from(counted(index).cast_signed())).sum();
    if recorded != unsigned && recorded != signed {
        return Err(format!("the header's checksum is {recorded}, its bytes sum up to {unsigned}"));
    }
    Ok(())
}

fn text(field: &[u8]) -> Vec<u8> {
    field.iter().copied().take_while(|byte| *byte != 0).collect()
}

fn recorded(field: &[u8], what: &str) -> Result<Option<i64>, String> {
    if field[0] == 0 { Ok(None) } else { number(field, what).map(Some) }
}

/// Reads octal digits between spaces and NULs, or a big-endian two's complement number whose first bit is set.
fn number(field: &[u8], what: &str) -> Result<i64, String> {
    if field[0] & 0x80 != 0 {
        return binary(field).ok_or_else(|| format!("the {what} does not fit in 64 bits"));
    }
    let blank = |byte: &u8| *byte == b' ' || *byte == 0;
    let start = field.iter().position(|byte| !blank(byte)).unwrap_or(field.len());
    let digits = text(&field[start..]);
    let end = digits.iter().rposition(|byte| !blank(byte)).map_or(0, |last| last + 1);
    digits[..end].iter().try_fold(0i64, |value, digit| match digit {
        b'0'..=b'7' => value
            .checked_mul(8)
            .and_then(|value| value.checked_add(i64::from(digit - b'0')))
            .ok_or_else(|| format!("the {what} does not fit in 64 bits")),
        _ => Err(format!("the {what} is not an octal number")),
    })
}

fn binary(field: &[u8]) -> Option<i64> {
    let negative = field[0] & 0x40 != 0;
    let mut value: i64 = if negative { -1 } else { 0 };
    for (index, byte) in field.iter().enumerate() {
        // The top bit only says that the number is binary.
        let byte = match (index, negative) {
            (0, true) => byte | 0x80,
            (0, false) => byte & 0x7f,
            _ => *byte,
        };
        value = value.checked_mul(256)? | i64::from(byte);
    }
    ((value < 0) == negative).then_some(value)
}

/// Returns the header block of a regular file of `size` bytes below 8 GiB, everything else about it zero.
pub(crate) fn plain_header(name: &str, size: u64) -> [u8; BLOCK] {
    let mut block = [0u8; BLOCK];
    block[..name.len()].copy_from_slice(name.as_bytes());
    block[100..107].copy_from_slice(b"0000000");
    block[108..115].copy_from_slice(b"0000000");
    block[116..123].copy_from_slice(b"0000000");
    block[124..135].copy_from_slice(format!("{size:011o}").as_bytes());
    block[136..147].copy_from_slice(b"00000000000");
    block[148..156].copy_from_slice(b"        ");
    block[156] = b'0';
    block[257..265].copy_from_slice(b"ustar\x0000");
    let checksum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..155].copy_from_slice(format!("{checksum:06o}\0").as_bytes());
    block
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_octal_with_blanks_or_binary() {
        for (field, value) in [
            (b"0000644\0".as_slice(), Ok(0o644)),
            (b"   644 \0", Ok(0o644)),
            (b"\0\0\0\0\0\0\0\0", Ok(0)),
            (b"        ", Ok(0)),
            (b"0000008\0", Err("the mode is not an octal number")),
            (b"-000001\0", Err("the mode is not an octal number")),
            (b"12\x0034567", Ok(0o12)),
            (b"777777777777777777777", Ok(i64::MAX)),
            (b"1000000000000000000000", Err("the mode does not fit in 64 bits")),
            (b"\x80\0\0\0\0\0\x01\0", Ok(256)),
            (b"\xff\xff\xff\xff\xff\xff\xff\xfe", Ok(-2)),
            (b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xfe", Ok(-2)),
            (b"\x80\0\0\0\x7f\xff\xff\xff\xff\xff\xff\xff", Ok(i64::MAX)),
            (b"\x80\0\0\0\x80\0\0\0\0\0\0\0", Err("the mode does not fit in 64 bits")),
            (b"\x80\0\x01\0\0\0\0\0\0\0\0\0", Err("the mode does not fit in 64 bits")),
        ] {
            assert_eq!(number(field, "mode"), value.map_err(str::to_string), "{field:?}");
        }
    }
}
