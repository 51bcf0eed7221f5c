//! TLS identity, HTTP both ways, upgraded streams as one Channels type; knows no objects.
