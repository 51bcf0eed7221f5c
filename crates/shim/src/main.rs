//! The program around the library.

fn main() {
    std::process::exit(shim::run());
}
