//! Real containers out of busybox. They need root and a busybox that is statically linked; where one is missing they say SKIPPED.

mod attack;
mod lab;
mod life;
mod limit;
mod network;
mod stdio;
