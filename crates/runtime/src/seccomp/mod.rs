//! The filter over system calls, as a search tree of ranges in the kernel's classic packet filter language.
//!
//! A tree, since the kernel runs the filter once for each number when it is installed, and a list of 350 comparisons costs a
//! millisecond there; a tree of some 60 ranges costs a tenth of that.

mod table;

use std::collections::BTreeMap;

/// Classic BPF instructions: load a word, compare and jump, jump, and, return.
const LOAD: u16 = 0x20;
const JUMP_EQUAL: u16 = 0x15;
const JUMP_AT_LEAST: u16 = 0x35;
const JUMP: u16 = 0x05;
const AND: u16 = 0x54;
const RETURN: u16 = 0x06;

const ALLOW: u32 = 0x7fff_0000;
const ERROR: u32 = 0x0005_0000;
const NOT_PERMITTED: u32 = ERROR | libc::EPERM as u32;
const NOT_IMPLEMENTED: u32 = ERROR | libc::ENOSYS as u32;

/// Where the kernel puts what a filter may look at.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const FIRST_ARGUMENT: u32 = 16;

#[cfg(target_arch = "x86_64")]
const THIS_ARCHITECTURE: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const THIS_ARCHITECTURE: u32 = 0xc000_00b7;

/// Flags of clone that make namespaces.
const NEW_NAMESPACES: u32 = 0x7e02_0000;
/// The personalities that change nothing about security: Linux, 32 bits of address, both with uname26, and the question.
const PERSONALITIES: [u32; 5] = [0, 8, 0x2_0000, 0x2_0008, u32::MAX];

/// What becomes of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Allow,
    Refuse,
    Unknown,
    /// Only without new namespaces.
    Clone,
    /// Only harmless ones.
    Personality,
    /// Not to the hypervisor.
    Socket,
}

/// One instruction.
#[derive(Clone, Copy, Debug)]
struct Instruction {
    code: u16,
    if_true: u8,
    if_false: u8,
    value: u32,
}

const fn step(code: u16, if_true: u8, if_false: u8, value: u32) -> Instruction {
    Instruction { code, if_true, if_false, value }
}

/// The program for a process with these capabilities, eight bytes per instruction.
pub fn default_program(capabilities: &[String]) -> Vec<u8> {
    let mut program = vec![
        step(LOAD, 0, 0, ARCHITECTURE),
        step(JUMP_EQUAL, 1, 0, THIS_ARCHITECTURE),
        // Another instruction set's numbers mean other calls: none of them exists here.
        step(RETURN, 0, 0, NOT_IMPLEMENTED),
        step(LOAD, 0, 0, NUMBER),
    ];
    program.extend(tree(&ranges(&verdicts(capabilities))));
    program.iter().flat_map(encode).collect()
}

fn encode(instruction: &Instruction) -> [u8; 8] {
    let ([a, b], [c, d, e, f]) = (instruction.code.to_ne_bytes(), instruction.value.to_ne_bytes());
    [a, b, instruction.if_true, instruction.if_false, c, d, e, f]
}

fn verdicts(capabilities: &[String]) -> BTreeMap<u32, Verdict> {
    let always = table::ALWAYS.iter().chain(table::OLD).chain(table::YOUNG);
    let mut verdicts: BTreeMap<u32, Verdict> = always.map(|number| (*number as u32, Verdict::Allow)).collect();
    verdicts.insert(libc::SYS_personality as u32, Verdict::Personality);
    verdicts.insert(libc::SYS_socket as u32, Verdict::Socket);
    verdicts.insert(libc::SYS_clone as u32, Verdict::Clone);
    // Its flags are in memory, out of a filter's sight. "Does not exist" makes C libraries fall back to clone.
    verdicts.insert(libc::SYS_clone3 as u32, Verdict::Unknown);
    let has = |name: &str| capabilities.iter().any(|capability| capability == name);
    for (capability, numbers) in table::BY_CAPABILITY.iter().filter(|(name, _)| has(name)) {
        verdicts.extend(numbers.iter().map(|number| (*number as u32, Verdict::Allow)));
        if *capability == "CAP_SYS_ADMIN" {
            verdicts.extend([libc::SYS_clone, libc::SYS_clone3].map(|number| (number as u32, Verdict::Allow)));
        }
    }
    verdicts
}

/// (first number, verdict) up to the next one's first. What is younger than everything we know does not exist.
fn ranges(verdicts: &BTreeMap<u32, Verdict>) -> Vec<(u32, Verdict)> {
    let mut ranges: Vec<(u32, Verdict)> = Vec::new();
    let last = verdicts.keys().next_back().copied().unwrap_or(0);
    for number in 0..=last {
        let verdict = verdicts.get(&number).copied().unwrap_or(Verdict::Refuse);
        if ranges.last().is_none_or(|(_, before)| *before != verdict) {
            ranges.push((number, verdict));
        }
    }
    ranges.push((last + 1, Verdict::Unknown));
    ranges
}

fn tree(ranges: &[(u32, Verdict)]) -> Vec<Instruction> {
    let [(_, verdict)] = ranges else {
        let (below, above) = ranges.split_at(ranges.len() / 2);
        let pivot = above[0].0;
        let (below, above) = (tree(below), tree(above));
        // A condition jumps 255 instructions at most.
        let mut program = match u8::try_from(below.len()) {
            Ok(distance) => vec![step(JUMP_AT_LEAST, distance, 0, pivot)],
            Err(_) => vec![step(JUMP_AT_LEAST, 0, 1, pivot), step(JUMP, 0, 0, below.len() as u32)],
        };
        program.extend(below);
        program.extend(above);
        return program;
    };
    leaf(*verdict)
}

fn leaf(verdict: Verdict) -> Vec<Instruction> {
    let (allow, refuse) = (step(RETURN, 0, 0, ALLOW), step(RETURN, 0, 0, NOT_PERMITTED));
    let look = step(LOAD, 0, 0, FIRST_ARGUMENT);
    match verdict {
        Verdict::Allow => vec![allow],
        Verdict::Refuse => vec![refuse],
        Verdict::Unknown => vec![step(RETURN, 0, 0, NOT_IMPLEMENTED)],
        Verdict::Clone => vec![look, step(AND, 0, 0, NEW_NAMESPACES), step(JUMP_EQUAL, 0, 1, 0), allow, refuse],
        Verdict::Socket => vec![look, step(JUMP_EQUAL, 0, 1, libc::AF_VSOCK as u32), refuse, allow],
        Verdict::Personality => {
            let count = PERSONALITIES.len();
            let tests = PERSONALITIES.iter().enumerate();
            let tests = tests.map(|(position, value)| step(JUMP_EQUAL, (count - position) as u8, 0, *value));
            std::iter::once(look).chain(tests).chain([refuse, allow]).collect()
        }
    }
}

/// A program as the shim takes it.
pub(crate) fn to_hex(program: &[u8]) -> String {
    program
        .iter()
        .flat_map(|byte| [byte >> 4, byte & 15])
        .filter_map(|digit| char::from_digit(u32::from(digit), 16))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs a program as the kernel would.
    fn decide(program: &[u8], architecture: u32, number: u32, argument: u32) -> u32 {
        let instructions: Vec<Instruction> = program
            .chunks(8)
            .map(|bytes| Instruction {
                code: u16::from_ne_bytes([bytes[0], bytes[1]]),
                if_true: bytes[2],
                if_false: bytes[3],
                value: u32::from_ne_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]),
            })
            .collect();
        let (mut position, mut register) = (0, 0);
        loop {
            let at = instructions[position];
            position += 1;
            let jump = |holds: bool| usize::from(if holds { at.if_true } else { at.if_false });
            match at.code {
                LOAD => {
                    register = match at.value {
                        NUMBER => number,
                        ARCHITECTURE => architecture,
                        _ => argument,
                    }
                }
                JUMP_EQUAL => position += jump(register == at.value),
                JUMP_AT_LEAST => position += jump(register >= at.value),
                JUMP => position += at.value as usize,
                AND => register &= at.value,
                _ => return at.value,
            }
        }
    }

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| name.to_string()).collect()
    }

    #[test]
    fn every_number_gets_its_verdict() {
        for capabilities in [names(&[]), names(&crate::spec::DEFAULT_CAPABILITIES), names(&["CAP_SYS_ADMIN"])] {
            let (program, verdicts) = (default_program(&capabilities), verdicts(&capabilities));
            for number in 0..600 {
                let last = verdicts.keys().next_back().copied().unwrap_or(0);
                let expected = match verdicts.get(&number) {
                    Some(Verdict::Allow | Verdict::Clone | Verdict::Personality | Verdict::Socket) => ALLOW,
                    Some(Verdict::Unknown) => NOT_IMPLEMENTED,
                    Some(Verdict::Refuse) => NOT_PERMITTED,
                    None if number > last => NOT_IMPLEMENTED,
                    None => NOT_PERMITTED,
                };
                assert_eq!(decide(&program, THIS_ARCHITECTURE, number, 0), expected, "{number}");
            }
        }
    }

    #[test]
    fn arguments_are_looked_at() {
        let program = default_program(&[]);
        let decide = |number: i64, argument: u32| decide(&program, THIS_ARCHITECTURE, number as u32, argument);
        assert_eq!(decide(libc::SYS_clone, libc::CLONE_NEWUSER as u32), NOT_PERMITTED);
        assert_eq!(decide(libc::SYS_clone, libc::CLONE_VM as u32), ALLOW);
        assert_eq!(decide(libc::SYS_socket, libc::AF_VSOCK as u32), NOT_PERMITTED);
        assert_eq!(decide(libc::SYS_socket, libc::AF_INET as u32), ALLOW);
        assert_eq!(decide(libc::SYS_personality, 0x4_0000), NOT_PERMITTED);
        assert_eq!(decide(libc::SYS_personality, 8), ALLOW);
        assert_eq!(decide(libc::SYS_mount, 0), NOT_PERMITTED);
    }

    #[test]
    fn foreign_numbers_do_not_exist() {
        assert_eq!(decide(&default_program(&[]), 0x4000_0003, 11, 0), NOT_IMPLEMENTED);
        assert_eq!(decide(&default_program(&[]), THIS_ARCHITECTURE, 0x4000_0001, 0), NOT_IMPLEMENTED);
    }

    #[test]
    fn the_program_stays_small() {
        assert!(default_program(&names(&crate::spec::DEFAULT_CAPABILITIES)).len() / 8 < 250);
    }
}
