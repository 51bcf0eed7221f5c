//! Numbers that tell names from each other, the same at each start: FNV-1a. Nobody's safety rests on them. Pure.

/// In 32 bits.
pub(crate) fn in_32_bits(bytes: impl IntoIterator<Item = u8>) -> u32 {
    bytes.into_iter().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

/// In 64 bits.
pub(crate) fn in_64_bits(bytes: impl IntoIterator<Item = u8>) -> u64 {
    let step = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    bytes.into_iter().fold(0xcbf2_9ce4_8422_2325, step)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_are_those_of_the_algorithm() {
        assert_eq!((in_32_bits(*b""), in_32_bits(*b"foobar")), (0x811c_9dc5, 0xbf9c_f968));
        assert_eq!((in_64_bits(*b""), in_64_bits(*b"foobar")), (0xcbf2_9ce4_8422_2325, 0x8594_4171_f739_67e8));
    }
}
