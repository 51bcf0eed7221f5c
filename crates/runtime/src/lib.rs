//! Images, root file systems, sandboxes, containers, exec and stdio on one Linux host.
