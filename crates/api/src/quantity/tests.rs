use super::{Format, Quantity, canonical};
use proptest::prelude::{any, proptest};

/// Text, what becomes of it when written again, whole value, thousandths; as the reference answers.
const TABLE: &[(&str, &str, i64, i64)] = &[
    ("0", "0", 0, 0),
    ("+5", "+5", 5, 5000),
    ("05", "05", 5, 5000),
    ("-0", "0", 0, 0),
    ("-1", "-1", -1, -1000),
    ("1.5", "1500m", 2, 1500),
    ("1.500", "1.500", 2, 1500),
    ("0.100", "100m", 1, 100),
    ("100.000", "100", 100, 100_000),
    ("1000m", "1", 1, 1000),
    ("1500m", "1500m", 2, 1500),
    ("0.0001", "100u", 1, 1),
    ("0.0000000001", "1n", 1, 1),
    ("0.1n", "1n", 1, 1),
    ("1E3", "1E3", 1000, 1_000_000),
    ("1e-3", "1e-3", 1, 1),
    ("12e6", "12e6", 12_000_000, 12_000_000_000),
    ("1.5e3", "1500", 1500, 1_500_000),
    ("1Ki", "1Ki", 1024, 1_024_000),
    ("1024Ki", "1Mi", 1 << 20, 1_048_576_000),
    ("1023Ki", "1023Ki", 1_047_552, 1_047_552_000),
    ("4096Ki", "4Mi", 1 << 22, 4_194_304_000),
    ("1.5Gi", "1536Mi", 1_610_612_736, 1_610_612_736_000),
    ("0.5Ki", "512", 512, 512_000),
    ("1.1Ki", "1126400m", 1127, 1_126_400),
    ("1000Mi", "1000Mi", 1_048_576_000, 1_048_576_000_000),
    ("1024M", "1024M", 1_024_000_000, 1_024_000_000_000),
    ("9223372036854775807", "9223372036854775807", i64::MAX, i64::MAX),
    ("9Ei", "9223372036854775807", i64::MAX, i64::MAX),
    ("1e19", "10e18", i64::MAX, i64::MAX),
    ("1e1000", "10e999", i64::MAX, i64::MAX),
    ("1000000000000E", "1", i64::MAX, i64::MAX),
    ("123456789012345678901234567890", "123456789012345678901234567890", i64::MAX, i64::MAX),
    ("1.", "1.", 1, 1000),
    (".5", "500m", 1, 500),
    (".", "0", 0, 0),
    ("+", "0", 0, 0),
    ("-1.5Gi", "-1536Mi", -1_610_612_736, -1_610_612_736_000),
    ("-100m", "-100m", -1, -100),
    ("1000k", "1M", 1_000_000, 1_000_000_000),
    ("0Ki", "0", 0, 0),
    ("12000e3", "12e6", 12_000_000, 12_000_000_000),
    ("-0.5Ki", "-512", -512, -512_000),
    ("1.0000000001", "1000000001n", 2, 1001),
];

#[test]
fn agrees_with_the_reference() {
    for (text, want, value, milli) in TABLE {
        let quantity = Quantity::parse(text).expect(text);
        assert_eq!(canonical(text).as_deref(), Ok(*want), "{text}");
        assert_eq!((quantity.value(), quantity.milli_value()), (*value, *milli), "{text}");
    }
}

#[test]
fn refuses() {
    for text in ["", "1x", "1 ", "1.2.3"] {
        assert!(Quantity::parse(text).is_err_and(|e| e.to_string().starts_with("quantities must match")), "{text}");
    }
    for text in ["1K", "1i", "1Kim", "1e", "1e+", "--1", "1ki", "5mm", "1e99999999999"] {
        assert!(Quantity::parse(text).is_err_and(|e| e.to_string() == "unable to parse quantity's suffix"), "{text}");
    }
}

#[test]
fn arithmetic() {
    let sum = |a: &str, b: &str| (Quantity::parse(a).expect(a) + Quantity::parse(b).expect(b)).to_string();
    assert_eq!(sum("1", "1024Mi"), "1073741825");
    assert_eq!(sum("100m", "900m"), "1");
    assert_eq!(sum("0", "1Ki"), "1Ki");
    assert_eq!(sum("1Ki", "1024"), "2Ki");
    assert_eq!(sum("1e3", "1k"), "2e3");
    let (a, b) = (Quantity::from_bytes(3 << 30), Quantity::from_milli(1500));
    assert_eq!((a.to_string(), b.to_string(), (a - a).is_zero()), ("3Gi".into(), "1500m".into(), true));
    assert!(b < a && b == Quantity::parse("1.5").expect("good") && !b.is_integer() && a.is_integer());
    assert!(Quantity::parse("1e200").expect("good") < Quantity::parse("1e300").expect("good"));
    assert!(Quantity::parse("-1e300").expect("good") < Quantity::parse("-1e200").expect("good"));
    assert_eq!(Quantity::new(5, Format::DecimalExponent).to_string(), "5");
}

proptest! {
    #[test]
    fn never_panics(text in "[+-]?[0-9.]{0,45}[eEinumkKMGTP]{0,3}[+-]?[0-9]{0,8}", other in any::<i64>()) {
        if let Ok(quantity) = Quantity::parse(&text) {
            let other = Quantity::new(other, Format::BinarySi);
            let _ = ((quantity + other).to_string(), (quantity - other).milli_value(), quantity.cmp(&other));
            let _ = (canonical(&text), quantity.is_integer(), quantity.value());
        }
    }

    #[test]
    fn canonical_text_keeps_the_value(number in any::<i64>(), suffix in "(n|u|m|k|M|G|T|Ki|Mi|Gi|e[0-6])?") {
        let text = format!("{number}{suffix}");
        let quantity = Quantity::parse(&text).expect("well formed");
        let again = Quantity::parse(&quantity.to_string()).expect("canonical");
        assert_eq!(quantity, again, "{text}");
        assert_eq!(quantity.to_string(), again.to_string());
    }
}
