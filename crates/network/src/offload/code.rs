//! Writes instructions of the kernel's virtual machine (RFC 9669), with names instead of distances for jumps. It knows nothing of packets.

/// A register. R0 is what a call or the program returns, R1 to R5 are a call's arguments and lost by it, R6 to R9 are kept, R10 is the
/// upper end of the stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum R {
    R0,
    R1,
    R2,
    R3,
    R4,
    R5,
    R6,
    R7,
    R8,
    R9,
    R10,
}

/// How much is read or written.
#[derive(Clone, Copy, Debug)]
#[repr(u8)]
pub(super) enum Size {
    Word = 0x00,
    Half = 0x08,
    Byte = 0x10,
    Double = 0x18,
}

/// When to jump.
#[derive(Clone, Copy, Debug)]
#[repr(u8)]
pub(super) enum When {
    Equal = 0x10,
    Greater = 0x20,
    AnyBit = 0x40,
    Different = 0x50,
    Less = 0xa0,
}

/// What to calculate.
#[derive(Clone, Copy, Debug)]
#[repr(u8)]
pub(super) enum Op {
    Add = 0x00,
    Or = 0x40,
    And = 0x50,
    ShiftLeft = 0x60,
    ShiftRight = 0x70,
    Move = 0xb0,
}

const LOAD: u8 = 0x61;
const STORE: u8 = 0x63;
const STORE_NUMBER: u8 = 0x62;
const LOAD_MAP: u8 = 0x18;
/// The number is that of an open map.
const MAP_BY_FILE: u8 = 1;
const CALCULATE: u8 = 0x07;
const CALCULATE_IN_32_BITS: u8 = 0x04;
const JUMP: u8 = 0x05;
const JUMP_ON_32_BITS: u8 = 0x06;
const CALL: u8 = 0x85;
const EXIT: u8 = 0x95;
/// The second operand is a register.
const BY_REGISTER: u8 = 0x08;

/// A place to jump to, which may come later.
#[derive(Clone, Copy, Debug)]
pub(super) struct Label(usize);

#[derive(Clone, Copy, Debug, Default)]
struct Instruction {
    opcode: u8,
    target: u8,
    source: u8,
    offset: i16,
    number: i32,
}

/// A program being written.
#[derive(Debug, Default)]
pub(super) struct Code {
    instructions: Vec<Instruction>,
    /// Where each label is, once that is known.
    places: Vec<Option<usize>>,
    /// Which instructions jump where.
    jumps: Vec<(usize, Label)>,
}

impl Code {
    pub(super) fn label(&mut self) -> Label {
        self.places.push(None);
        Label(self.places.len() - 1)
    }

    /// The label is here.
    pub(super) fn place(&mut self, label: Label) {
        self.places[label.0] = Some(self.instructions.len());
    }

    fn push(&mut self, opcode: u8, target: R, source: R, offset: i16, number: i32) {
        self.instructions.push(Instruction { opcode, target: target as u8, source: source as u8, offset, number });
    }

    /// `target = *(base + offset)`
    pub(super) fn load(&mut self, size: Size, target: R, base: R, offset: i16) {
        self.push(LOAD | size as u8, target, base, offset, 0);
    }

    /// `*(base + offset) = source`
    pub(super) fn store(&mut self, size: Size, base: R, offset: i16, source: R) {
        self.push(STORE | size as u8, base, source, offset, 0);
    }

    /// `*(base + offset) = number`
    pub(super) fn store_number(&mut self, size: Size, base: R, offset: i16, number: i32) {
        self.push(STORE_NUMBER | size as u8, base, R::R0, offset, number);
    }

    /// `target = target op source`
    pub(super) fn calculate(&mut self, op: Op, target: R, source: R) {
        self.push(CALCULATE | op as u8 | BY_REGISTER, target, source, 0, 0);
    }

    /// `target = target op number`
    pub(super) fn calculate_number(&mut self, op: Op, target: R, number: i32) {
        self.push(CALCULATE | op as u8, target, R::R0, 0, number);
    }

    /// The same for the lower half; the upper one becomes 0, so a mask has no sign.
    pub(super) fn mask(&mut self, target: R, mask: u32) {
        self.push(CALCULATE_IN_32_BITS | Op::And as u8, target, R::R0, 0, mask as i32);
    }

    pub(super) fn set(&mut self, target: R, number: i32) {
        self.calculate_number(Op::Move, target, number);
    }

    pub(super) fn copy(&mut self, target: R, source: R) {
        self.calculate(Op::Move, target, source);
    }

    /// `target = upper end of the stack + offset`
    pub(super) fn stack(&mut self, target: R, offset: i16) {
        self.copy(target, R::R10);
        self.calculate_number(Op::Add, target, offset.into());
    }

    /// `target` = the map behind an open file.
    pub(super) fn map(&mut self, target: R, file: i32) {
        self.instructions.push(Instruction {
            opcode: LOAD_MAP,
            target: target as u8,
            source: MAP_BY_FILE,
            offset: 0,
            number: file,
        });
        self.instructions.push(Instruction::default());
    }

    pub(super) fn jump(&mut self, to: Label) {
        self.jumps.push((self.instructions.len(), to));
        self.push(JUMP, R::R0, R::R0, 0, 0);
    }

    /// Compares the lower halves with a number.
    pub(super) fn jump_if(&mut self, register: R, when: When, number: u32, to: Label) {
        self.jumps.push((self.instructions.len(), to));
        self.push(JUMP_ON_32_BITS | when as u8, register, R::R0, 0, number as i32);
    }

    /// Compares whole registers.
    pub(super) fn jump_if_register(&mut self, register: R, when: When, other: R, to: Label) {
        self.jumps.push((self.instructions.len(), to));
        self.push(JUMP | when as u8 | BY_REGISTER, register, other, 0, 0);
    }

    /// Compares a whole register, which may be an address, with 0.
    pub(super) fn jump_if_zero(&mut self, register: R, to: Label) {
        self.jumps.push((self.instructions.len(), to));
        self.push(JUMP | When::Equal as u8, register, R::R0, 0, 0);
    }

    /// The kernel's function of this number.
    pub(super) fn call(&mut self, function: i32) {
        self.push(CALL, R::R0, R::R0, 0, function);
    }

    pub(super) fn exit(&mut self) {
        self.push(EXIT, R::R0, R::R0, 0, 0);
    }

    /// As the kernel takes them, eight bytes each.
    ///
    /// # Panics
    /// When a label is jumped to and was not placed: a mistake of whoever wrote the program.
    #[expect(clippy::expect_used, reason = "programs are written once, by this crate")]
    pub(super) fn finish(mut self) -> Vec<u8> {
        for (at, label) in &self.jumps {
            let place = self.places[label.0].expect("a label that was placed");
            self.instructions[*at].offset = (place as i64 - *at as i64 - 1) as i16;
        }
        self.instructions.iter().flat_map(|instruction| instruction.bytes()).collect()
    }
}

impl Instruction {
    fn bytes(self) -> [u8; 8] {
        let registers = match cfg!(target_endian = "little") {
            true => self.target | self.source << 4,
            false => self.target << 4 | self.source,
        };
        let ([a, b], [c, d, e, f]) = (self.offset.to_ne_bytes(), self.number.to_ne_bytes());
        [self.opcode, registers, a, b, c, d, e, f]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jumps_lead_to_their_labels() {
        let mut code = Code::default();
        let (start, end) = (code.label(), code.label());
        code.place(start);
        code.set(R::R0, -1);
        code.jump_if(R::R1, When::Equal, 7, end);
        code.map(R::R1, 3);
        code.jump(start);
        code.place(end);
        code.exit();
        let offsets: Vec<i16> = code.finish().chunks_exact(8).map(|it| i16::from_ne_bytes([it[2], it[3]])).collect();
        assert_eq!(offsets, [0, 3, 0, 0, -5, 0]);
    }

    #[test]
    #[cfg(target_endian = "little")]
    fn instructions_are_the_kernels() {
        let mut code = Code::default();
        code.load(Size::Word, R::R7, R::R6, 76);
        code.store(Size::Double, R::R10, -8, R::R1);
        code.calculate_number(Op::Add, R::R2, -24);
        code.call(1);
        code.exit();
        let words: Vec<String> = code.finish().chunks_exact(8).map(|it| format!("{it:02x?}")).collect();
        assert_eq!(
            words,
            [
                "[61, 67, 4c, 00, 00, 00, 00, 00]",
                "[7b, 1a, f8, ff, 00, 00, 00, 00]",
                "[07, 02, 00, 00, e8, ff, ff, ff]",
                "[85, 00, 00, 00, 01, 00, 00, 00]",
                "[95, 00, 00, 00, 00, 00, 00, 00]",
            ]
        );
    }
}
