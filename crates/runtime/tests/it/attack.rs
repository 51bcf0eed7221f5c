//! Images that try to lead mounts out of the container, and processes that try to reach the shim.

use std::fs;
use std::os::unix::fs::symlink;

use runtime::{Error, Mount, StartFailure};

use crate::lab::Lab;

#[tokio::test(flavor = "multi_thread")]
async fn links_in_an_image_do_not_lead_mounts_outside() {
    let Some(lab) = Lab::new().await else { return };
    let outside = lab.directory.path().join("outside");
    fs::create_dir(&outside).expect("mkdir");
    let layer = lab.layer();
    symlink(&outside, layer.join("evil")).expect("link");
    symlink("../../../../../..", layer.join("up")).expect("link");
    fs::create_dir(layer.join("run")).expect("mkdir");
    fs::create_dir(layer.join("var")).expect("mkdir");
    symlink("/run", layer.join("var/run")).expect("link");
    symlink("/proc/self/fd/3", layer.join("magic")).expect("link");
    let volume = lab.directory.path().join("volume");
    fs::create_dir(&volume).expect("mkdir");
    fs::write(volume.join("mark"), "here").expect("write");
    let place = outside.to_str().expect("path").to_owned();
    let script = format!("cat /var/run/secrets/mark /evil/a/mark /up/b/mark /run/secrets/mark {place}/a/mark /b/mark");
    let mut spec = lab.container("one", &script);
    spec.mounts = ["/var/run/secrets", "/evil/a", "/up/b"]
        .map(|target| Mount { source: Some(volume.clone()), target: target.into(), ..Mount::default() })
        .to_vec();
    let (_, text) = lab.run(spec).await;
    assert_eq!(text.trim(), "here".repeat(6));
    assert_eq!(fs::read_dir(&outside).expect("dir").count(), 0);
    let mut spec = lab.container("two", "true");
    spec.mounts = vec![Mount { source: Some(volume), target: "/magic".into(), ..Mount::default() }];
    assert!(lab.sandbox.start(spec).await.is_err(), "a magic link was followed");
    lab.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn kernel_directories_are_not_followed() {
    let Some(lab) = Lab::new().await else { return };
    fs::create_dir(lab.layer().join("elsewhere")).expect("mkdir");
    symlink("elsewhere", lab.layer().join("proc")).expect("link");
    assert!(lab.sandbox.start(lab.container("one", "true")).await.is_err());
    lab.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subpath_does_not_leave_its_volume() {
    let Some(lab) = Lab::new().await else { return };
    let (volume, outside) = (lab.directory.path().join("volume"), lab.directory.path().join("outside"));
    fs::create_dir(&volume).expect("mkdir");
    fs::create_dir(&outside).expect("mkdir");
    fs::write(outside.join("secret"), "secret").expect("write");
    symlink(&outside, volume.join("link")).expect("link");
    let mut spec = lab.container("one", "ls /data");
    spec.mounts =
        vec![Mount { source: Some(volume), subpath: Some("link".into()), target: "/data".into(), ..Mount::default() }];
    let refused = lab.sandbox.start(spec).await.expect_err("it leads out of the volume");
    let text = refused.to_string();
    assert!(matches!(refused, Error::Start { class: StartFailure::Subpath, .. }), "{text}");
    assert!(text.starts_with("/data: "), "{text}");
    lab.finish().await;
}

/// Until exec a process of a container is the shim: it must not become the shim again, with the rights of a container.
#[tokio::test(flavor = "multi_thread")]
async fn the_shim_is_no_program_of_an_image() {
    let Some(lab) = Lab::new().await else { return };
    symlink("/proc/self/exe", lab.layer().join("link")).expect("link");
    for (id, program) in [("one", "/proc/self/exe"), ("two", "/proc/1/exe"), ("three", "/link")] {
        let mut spec = lab.container(id, "");
        spec.argv = vec![program.into()];
        let text = lab.sandbox.start(spec).await.expect_err(program).to_string();
        assert_eq!(text, format!("exec: {program:?}: this is the program of the runtime, not one of the image"));
    }
    lab.finish().await;
}
