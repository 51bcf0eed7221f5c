//! Commands for people; kubectl's words.
