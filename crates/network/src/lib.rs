//! Addresses, links, routes and the nft table on one Linux host.
