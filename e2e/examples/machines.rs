//! A cluster of several machines, for as long as a command runs: `machines N IMAGES COMMAND [WORD…]`.
//!
//! The first machine has the server and a node; the others have joined. All have the archive's images. The command runs on the first machine; a word
//! KUBECONFIG becomes the path of the administrator's file.

use std::path::Path;
use std::process::ExitCode;

use e2e::lab::Lab;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [count, images, command, rest @ ..] = words.as_slice() else {
        eprintln!("usage: machines N IMAGES COMMAND [WORD…]");
        return ExitCode::FAILURE;
    };
    let Some(lab) = count.parse().ok().and_then(Lab::new) else {
        eprintln!("there can be no lab of {count} machines here");
        return ExitCode::FAILURE;
    };
    let count: usize = count.parse().unwrap_or(1);
    lab.serve("up", &[]);
    let token = lab.token(&[]);
    for number in 1..=count {
        if number > 1 {
            lab.join(number, &token, &[]).ok();
        }
        lab.load_images(number, Path::new(images));
    }
    let kubeconfig = lab.path("kubeconfig").to_string_lossy().into_owned();
    let named = |word: &String| if word == "KUBECONFIG" { kubeconfig.clone() } else { word.clone() };
    let rest: Vec<String> = rest.iter().map(named).collect();
    let code = lab.host(1, Path::new(command), &rest);
    u8::try_from(code).map_or(ExitCode::FAILURE, ExitCode::from)
}
