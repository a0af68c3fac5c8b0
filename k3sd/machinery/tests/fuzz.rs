//! The bodies of the fuzz targets over a small corpus: some good inputs, and what becomes of them by cutting, repeating and changing
//! bytes, always the same. Looking for new failures is the fuzzer's job (`fuzz/`); this shows that the targets work and hold.

#[path = "../fuzz/src/targets.rs"]
#[allow(unreachable_pub, reason = "the fuzzer's own crate exports it")]
mod targets;

/// Mutants of each seed.
const MUTANTS: u32 = 400;
/// What mutations put in: bytes that mean something to the parsers.
const DICTIONARY: &[&str] = &[
    "{", "}", "[", "]", "\"", ":", ",", ".", "-", "!", "=", "(", ")", "null", "0", "1e9", "Ki", "m", "\n",
    "in", "notin", "f:", "k:{", "v:", "\\u0000", "\u{e9}", "$patch", "delete", "name", "a",
];

/// A small generator of numbers that look random (xorshift), so that every run is the same.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % limit.max(1) as u64) as usize
    }
}

fn mutant(seed: &[u8], other: &[u8], numbers: &mut Numbers) -> Vec<u8> {
    let mut bytes = seed.to_vec();
    for _ in 0..=numbers.below(4) {
        let at = numbers.below(bytes.len() + 1);
        match numbers.below(5) {
            0 => bytes.truncate(at),
            1 => {
                let word = DICTIONARY[numbers.below(DICTIONARY.len())].bytes();
                bytes.splice(at..at, word);
            }
            2 => {
                let end = (at + numbers.below(20)).min(bytes.len());
                let piece = bytes[at..end].to_vec();
                bytes.splice(at..at, piece);
            }
            3 => {
                let from = numbers.below(other.len() + 1);
                let end = (from + numbers.below(40)).min(other.len());
                bytes.splice(at..at, other[from..end].iter().copied());
            }
            _ => {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte ^= 1 << numbers.below(8);
                }
            }
        }
    }
    bytes
}

/// Runs a target over the seeds and their mutants, and says with what it failed.
fn run(target: fn(&[u8]), seeds: &[&[u8]]) {
    let mut numbers = Numbers(0x9e37_79b9_7f4a_7c15);
    for seed in seeds {
        target(seed);
        for _ in 0..MUTANTS {
            let other = seeds[numbers.below(seeds.len())];
            let input = mutant(seed, other, &mut numbers);
            let outcome = std::panic::catch_unwind(|| target(&input));
            assert!(outcome.is_ok(), "failed with {:?}", String::from_utf8_lossy(&input));
        }
    }
}

const WEB: &str = r#"{"metadata":{"name":"web","labels":{"a":"b"},"finalizers":["x/y"]},"spec":{"replicas":2,"selector":{"matchLabels":{"a":"b"}},"template":{"spec":{"containers":[{"name":"c","image":"i","ports":[{"containerPort":80}],"resources":{"limits":{"cpu":"1500m"}}},{"name":"d"}]}}},"status":{"conditions":[{"type":"Available","status":"True"}]}}"#;

fn lines(rest: &[&str]) -> Vec<u8> {
    std::iter::once(WEB).chain(rest.iter().copied()).collect::<Vec<_>>().join("\n").into_bytes()
}

#[test]
fn selectors_hold() {
    let seeds =
        ["a=b,c!=d", "x in (a,b),!y,z", "a notin (b),c>1", "metadata.name=a,status.phase!=Running", ""];
    run(targets::selectors, &seeds.map(str::as_bytes));
}

#[test]
fn quantities_hold() {
    let seeds = ["1500m", "1.5Gi", "-3e3", "0.000000001", "9223372036854775807", "12E", "1e-9", "+5Ti"];
    run(targets::quantity, &seeds.map(str::as_bytes));
}

#[test]
fn patches_hold() {
    let seeds = [
        lines(&[
            r#"[{"op":"add","path":"/spec/replicas","value":3},{"op":"copy","from":"/spec","path":"/metadata/x"}]"#,
        ]),
        lines(&[
            r#"{"spec":{"template":{"spec":{"containers":[{"name":"c","$patch":"delete"},{"name":"e"}]}}}}"#,
        ]),
        lines(&[
            r#"{"metadata":{"$deleteFromPrimitiveList/finalizers":["x/y"],"labels":null},"$patch":"replace"}"#,
        ]),
        lines(&[
            r#"{"spec":{"template":{"spec":{"$setElementOrder/containers":[{"name":"d"},{"name":"c"}],"$retainKeys":["a"]}}}}"#,
        ]),
    ];
    run(targets::patches, &seeds.each_ref().map(Vec::as_slice));
}

#[test]
fn protobuf_holds() {
    let mut object: serde_json::Value = serde_json::from_str(WEB).expect("JSON");
    object["apiVersion"] = "apps/v1".into();
    object["kind"] = "Deployment".into();
    let encoded = machinery::protobuf::encode(&object).expect("encodes");
    run(targets::protobuf, &[&encoded, WEB.as_bytes(), b"k8s\0"]);
}

#[test]
fn server_side_apply_holds() {
    let fields = r#"{"f:spec":{".":{},"f:containers":{"k:{\"name\":\"c\"}":{".":{},"f:image":{}}},"f:x":{"v:\"<a>\"":{},"i:1":{}}}}"#;
    let seeds = [
        lines(&[r#"{"metadata":{"name":"web"},"spec":{"replicas":3}}"#, fields]),
        lines(&[
            r#"{"metadata":{"finalizers":["x/z"]},"spec":{"template":{"spec":{"containers":[{"name":"e"},{"name":"c","env":[{"name":"A"}]}]}}}}"#,
            "{}",
        ]),
        lines(&[WEB, fields]),
    ];
    run(targets::apply, &seeds.each_ref().map(Vec::as_slice));
}
