//! Protobuf bodies: no input may panic or nest without end.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|raw: &[u8]| {
    drop(api::codec::protobuf::envelope(raw));
    for kind in api::kind::ALL {
        let of = api::schema::lookup(kind.schema).expect("every kind has its type");
        drop(api::codec::protobuf::decode_type(of, raw));
    }
});
