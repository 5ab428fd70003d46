//! Forged programs: 64-bit, little-endian, for x86-64; one loaded segment, an interpreter, a dynamic section.

/// The dynamic loader of most programs.
pub const LOADER: &str = "/lib64/ld-linux-x86-64.so.2";
/// The dynamic loader of those that use musl.
pub const MUSL_LOADER: &str = "/lib/ld-musl-x86_64.so.1";

/// Names a library that a program needs, in a dynamic section.
pub const NEEDED: u64 = 1;
/// Names where libraries are looked for, those of libraries too.
pub const RPATH: u64 = 15;
/// Names where a file's own libraries are looked for.
pub const RUNPATH: u64 = 29;
/// Stands for nothing, but its text is among the strings, as the names of called functions are.
pub const CALLS: u64 = 0x6fff_0000;

/// Forges a program or, without an interpreter, a library; `padding` bytes lie before the dynamic section.
pub fn elf(interpreter: &str, dynamic: &[(u64, &str)], padding: usize) -> Vec<u8> {
    const TABLE: usize = 64;
    let mut strings = vec![0];
    let mut entries = Vec::new();
    for (tag, value) in dynamic {
        entries.push((*tag, strings.len() as u64));
        strings.extend_from_slice(value.as_bytes());
        strings.push(0);
    }
    let interpreter_at = TABLE + 3 * 56;
    let strings_at = interpreter_at + interpreter.len() + 1;
    let dynamic_at = strings_at + strings.len() + padding;
    entries.extend([(5, strings_at as u64), (10, strings.len() as u64), (0, 0)]);
    let mut file = b"\x7fELF\x02\x01\x01".to_vec();
    file.resize(TABLE, 0);
    file[18] = 62;
    file[32..40].copy_from_slice(&(TABLE as u64).to_le_bytes());
    file[54] = 56;
    file[56] = 3;
    let end = (dynamic_at + entries.len() * 16) as u64;
    for (kind, offset, size) in [
        (1_u32, 0, end),
        (2, dynamic_at as u64, entries.len() as u64 * 16),
        (3, interpreter_at as u64, interpreter.len() as u64 + 1),
    ] {
        file.extend_from_slice(&kind.to_le_bytes());
        file.extend_from_slice(&[0; 4]);
        for number in [offset, offset, offset, size, size, 0] {
            file.extend_from_slice(&number.to_le_bytes());
        }
    }
    file.extend_from_slice(interpreter.as_bytes());
    file.push(0);
    file.extend_from_slice(&strings);
    file.resize(dynamic_at, 0);
    for (tag, value) in entries {
        file.extend_from_slice(&tag.to_le_bytes());
        file.extend_from_slice(&value.to_le_bytes());
    }
    file
}

/// Forges a static program as Go's linker makes them: no interpreter, the mark of its build at the start of the data, which
/// begins behind `padding` bytes; `names` are among the bytes before.
pub fn go(names: &[&str], padding: usize) -> Vec<u8> {
    let mut file = b"\x7fELF\x02\x01\x01".to_vec();
    file.resize(64, 0);
    file[18] = 62;
    file[32..40].copy_from_slice(&64_u64.to_le_bytes());
    file[54] = 56;
    file[56] = 1;
    let text = names.join("\0");
    let data = (64 + 56 + text.len() + padding) as u64;
    file.extend_from_slice(&1_u32.to_le_bytes());
    // Read and write, which code and constants are not.
    file.extend_from_slice(&6_u32.to_le_bytes());
    for number in [data, data, data, 32, 32, 16] {
        file.extend_from_slice(&number.to_le_bytes());
    }
    file.extend_from_slice(text.as_bytes());
    file.resize(data as usize, 0);
    file.extend_from_slice(b"\xff Go buildinf:\x08\x02");
    file.resize(data as usize + 32, 0);
    file
}
