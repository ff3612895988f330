//! Plans that make no sense, a fault each: none opens, whatever its checksums say, and each is told.
//!
//! The runtime's memory safety rests on these refusals, so each rule of the check has its case here.

use llamac_runtime::plan::artifact::PLAN;
use serde_json::{Value, json};

use super::artifact::{compiled, open, places, with_plan};

const NO_SIZE: &str = "a size of the model is zero or absurd";
const HEADS: &str = "its heads cannot be grouped, or their size is odd";
const ARENA: &str = "the arena's size is absurd";
const NARROW: &str = "the width is 16, not 32";
const ROWS: &str = "a window has the wrong kind of rows";
const OUTSIDE: &str = "a window is empty or outside its buffer";
const OVERWRITES: &str = "it would overwrite what it reads";
const TWICE: &str = "a cache, a hidden state or a rule of rotation is there twice";
const NO_PROMPT: &str = "its soft prompt is empty, or leaves no room in the context";
const MISSING: &str = "a layer has no cache, or a hidden state is never handed out";

/// The plan of a model with hidden_size 32, four heads of 8, two of them for keys, and 67 tokens, with one place
/// changed: `/KEY…` in the plan, or `STEP#N/KEY…` in the N-th step of a kind. A step that becomes null is left out.
fn changed(sound: &Value, place: &str, value: Value) -> Value {
    let mut plan = sound.clone();
    let Some((kind, rest)) = place.split_once('#') else {
        *plan.pointer_mut(place).unwrap_or_else(|| panic!("{place}")) = value;
        return plan;
    };
    let (n, key) = rest.split_once('/').unwrap_or((rest, ""));
    let steps = plan["steps"].as_array_mut().unwrap();
    let of_kind = steps.iter().enumerate().filter(|(_, step)| step.get(kind).is_some());
    let at = of_kind.map(|(at, _)| at).nth(n.parse().unwrap()).unwrap_or_else(|| panic!("{place}"));
    match (key, value) {
        ("", Value::Null) => {
            steps.remove(at);
            plan["modules"].as_array_mut().unwrap().remove(at);
        }
        ("", step) => steps[at] = step,
        (key, value) => {
            *steps[at].pointer_mut(&format!("/{kind}/{key}")).unwrap_or_else(|| panic!("{place}")) = value
        }
    }
    plan
}

/// Why a plan is refused, without its step's number.
fn refusal(artifact: &[u8], place: &str, plan: &Value) -> String {
    let faults = open(&with_plan(artifact, plan.to_string().as_bytes()), false).map(|_| ()).expect_err(place);
    let message = faults.iter().next().unwrap().message.clone().unwrap();
    let why = message.strip_prefix("its plan makes no sense: ").unwrap_or_else(|| panic!("{message}"));
    match why.strip_prefix("step ").and_then(|rest| rest.split_once(": ")) {
        Some((_, why)) => why.to_owned(),
        None => why.to_owned(),
    }
}

/// The window of `width` columns from `start` on.
fn window(buffer: usize, start: usize, width: usize) -> Value {
    json!({"buffer": buffer, "start": start, "width": width})
}

/// A soft prompt of these weights.
fn prompt(kind: &str, tokens: usize, weights: &[usize]) -> Value {
    json!({"kind": kind, "tokens": tokens, "weights": weights})
}

#[test]
fn a_plan_that_makes_no_sense_is_refused() {
    let artifact = compiled("tiny/gqa-f32");
    let sound: Value = serde_json::from_slice(&artifact[places(&artifact, PLAN)[0].clone()]).unwrap();
    assert!(open(&with_plan(&artifact, sound.to_string().as_bytes()), false).is_ok());
    let buffer = |place: &str| sound.pointer(place).and_then(Value::as_u64).unwrap() as usize;
    let step =
        |kind: &str| sound["steps"].as_array().unwrap().iter().find(|step| step.get(kind).is_some()).unwrap();
    // Buffers by what the first steps use them for.
    let stream = step("embed")["embed"]["out"]["buffer"].clone();
    let qkv = step("kv_append")["kv_append"]["key"]["buffer"].as_u64().unwrap() as usize;
    let kept = step("keep")["keep"]["out"]["buffer"].clone();
    let attended = step("attention")["attention"]["out"]["buffer"].as_u64().unwrap() as usize;
    let gated =
        sound["steps"].as_array().unwrap().iter().find(|step| step["linear"]["gate"] == "silu").unwrap();
    let hidden = gated["linear"]["out"]["buffer"].as_u64().unwrap() as usize;
    let place = |buffer: usize| format!("/buffers/{buffer}/offset");
    let offset = |buffer_number: usize| json!(buffer(&place(buffer_number)));
    let stream_number = stream.as_u64().unwrap() as usize;
    let (cos, norm) = (
        step("rotary_angles")["rotary_angles"]["cos"].clone(),
        step("rms_norm")["rms_norm"]["out"]["buffer"].as_u64().unwrap() as usize,
    );
    let cos_number = cos["buffer"].as_u64().unwrap() as usize;
    let kept_number = kept.as_u64().unwrap() as usize;
    let last = step("keep")["keep"]["x"]["buffer"].as_u64().unwrap() as usize;
    let (most, half) = (window(hidden, 0, 48), window(hidden, 0, 32));
    let over = window(hidden, 16, 48);
    // In place, but not in the same one.
    let mut shifted = step("add_rms_norm").clone();
    shifted["add_rms_norm"]["a"] = window(qkv, 0, 32);
    shifted["add_rms_norm"]["sum"] = window(qkv, 16, 32);
    let elementwise =
        |kind: &str, a: &Value, b: &Value, out: &Value| json!({kind: {"a": a, "b": b, "out": out}});
    let activate = |x: &Value, out: &Value| json!({"activate": {"function": "silu", "x": x, "out": out}});

    for (place, value, why) in [
        // Sizes.
        ("/shape/vocab_size", json!(0), NO_SIZE),
        ("/shape/layers", json!(1u64 << 40), NO_SIZE),
        ("/shape/max_context", json!(0), NO_SIZE),
        ("/shape/kv_heads", json!(3), HEADS),
        ("/shape/head_dim", json!(7), HEADS),
        ("/head", json!({"kind": "token-classification", "labels": []}), "it has no labels"),
        // The arena and its buffers.
        ("/arena_bytes_per_token", json!(1u64 << 40), ARENA),
        ("/arena_bytes_per_token", json!(buffer("/arena_bytes_per_token") + 4), ARENA),
        (
            "/arena_bytes_per_token",
            json!(buffer("/arena_bytes_per_token") - 64),
            "buffer 4 does not fit into the arena",
        ),
        ("/buffers/0/offset", json!(1u64 << 40), "buffer 0 does not fit into the arena"),
        ("/buffers/0/offset", json!(u64::MAX - 63), "buffer 0 does not fit into the arena"),
        ("/buffers/0/offset", json!(4), "buffer 0 does not fit into the arena"),
        ("/buffers/0/width", json!(1u64 << 62), "buffer 0 does not fit into the arena"),
        // Windows.
        ("embed#0/out/buffer", json!(99), "there is no such buffer"),
        ("embed#0/out/start", json!(1), OUTSIDE),
        ("embed#0/out/start", json!(u64::MAX), OUTSIDE),
        ("embed#0/out/width", json!(0), OUTSIDE),
        // Each step.
        ("embed#0/out/buffer", kept.clone(), ROWS),
        ("embed#0/out/width", json!(16), NARROW),
        ("embed#0/table", json!(99), "there is no such weight"),
        ("embed#0/table", json!(1), "its weight is not a matrix [67, 32]"),
        ("rms_norm#0/out/buffer", kept.clone(), ROWS),
        ("rms_norm#0/out/width", json!(16), NARROW),
        ("rms_norm#0/weight", json!(0), "its weight is not a vector of 32"),
        ("rms_norm#0/out/buffer", stream.clone(), OVERWRITES),
        (&*place(norm), offset(stream_number), OVERWRITES),
        ("add_rms_norm#0/b/buffer", kept.clone(), ROWS),
        ("add_rms_norm#0/b/width", json!(16), NARROW),
        ("add_rms_norm#0/weight", json!(0), "its weight is not a vector of 32"),
        ("add_rms_norm#0", shifted, OVERWRITES),
        ("add_rms_norm#0/out/buffer", stream.clone(), OVERWRITES),
        ("linear#1/out/buffer", kept.clone(), ROWS),
        ("linear#0/weight", json!(0), "its weight is not a matrix [64, 32]"),
        ("linear#0/bias", json!(1), "its weight is not a vector of 64"),
        ("linear#1/out/buffer", json!(attended), OVERWRITES),
        ("rotary_angles#0/cos/width", json!(3), "the width is 3, not 4"),
        (
            "rotary_angles#0/frequencies",
            json!({"static": {"inv_freq": 1}}),
            "its weight is not a vector of 4",
        ),
        (
            "rotary_angles#0/frequencies",
            json!({"longrope": {"short": 3, "long": 1, "threshold": 9}}),
            "its weight is not a vector of 4",
        ),
        (
            "rotary_angles#0/frequencies",
            json!({"longrope": {"short": 1, "long": 3, "threshold": 9}}),
            "its weight is not a vector of 4",
        ),
        ("rotary_angles#0/sin", cos, OVERWRITES),
        ("rotary#0/heads", json!(3), "the width is Some(32), not Some(24)"),
        ("rotary#0/heads", json!(1u64 << 61), "the width is Some(32), not None"),
        ("rotary#0/sin/width", json!(3), "the width is 3, not 4"),
        ("rotary#1/out/start", json!(40), OVERWRITES),
        (&place(cos_number), offset(qkv), OVERWRITES),
        ("kv_append#0/key/width", json!(8), "the width is 8, not 16"),
        ("kv_append#0/value", window(kept_number, 0, 16), ROWS),
        ("kv_append#0/layer", json!(2), "there is no layer 2"),
        ("attention#0/heads", json!(2), "the number of heads is 2, not 4"),
        ("attention#0/layer", json!(2), "there is no layer 2"),
        ("attention#0/query/width", json!(16), NARROW),
        ("attention#0/out/buffer", json!(qkv), OVERWRITES),
        ("linear#2/out/width", json!(32), "its weight is not a matrix [64, 32]"),
        ("linear#2/bias", json!(1), "its weight is not a vector of 128"),
        ("linear#2/gate", Value::Null, "its weight is not a matrix [64, 32]"),
        ("linear#1/gate", json!("silu"), "its weight is not a matrix [64, 32]"),
        ("linear#2", activate(&most, &half), "the width is 32, not 48"),
        ("linear#2", activate(&most, &over), OVERWRITES),
        ("linear#2", elementwise("add", &most, &half, &most), "the width is 32, not 48"),
        ("linear#2", elementwise("add", &most, &most, &over), OVERWRITES),
        ("linear#2", elementwise("mul", &most, &most, &half), "the width is 32, not 48"),
        ("linear#2", elementwise("mul", &over, &most, &most), OVERWRITES),
        ("keep#0/x/buffer", kept.clone(), ROWS),
        ("keep#0/out/buffer", stream.clone(), ROWS),
        ("keep#0/out/width", json!(16), NARROW),
        (&place(kept_number), offset(last), OVERWRITES),
        ("hidden_state#0/x/buffer", kept, ROWS),
        ("hidden_state#0/x/width", json!(16), NARROW),
        ("hidden_state#0/index", json!(3), "there is no hidden state 3"),
        ("output_linear#0/x/buffer", stream, ROWS),
        ("output_linear#0/weight", json!(4), "its weight is not a matrix [67, 32]"),
        ("output_linear#0/bias", json!(1), "its weight is not a vector of 67"),
        ("output_linear#0", json!({"output": {"x": window(kept_number, 0, 32)}}), "the width is 32, not 67"),
        ("output_linear#0", json!({"output": {"x": window(last, 0, 32)}}), ROWS),
        // All steps together.
        ("kv_append#1/layer", json!(0), TWICE),
        ("hidden_state#1/index", json!(0), TWICE),
        (
            "linear#2",
            json!({"rotary_angles": {
                "frequencies": {"dynamic": {"theta": 1e4, "factor": 2.0, "max_position": 8}},
                "factor": 1.0,
                "cos": window(cos_number, 0, 4),
                "sin": window(hidden, 0, 4),
            }}),
            TWICE,
        ),
        ("kv_append#0", Value::Null, MISSING),
        ("hidden_state#2", Value::Null, MISSING),
        // A soft prompt; weight 1 is a vector of 32.
        ("/prompt", prompt("embeddings", 0, &[1]), NO_PROMPT),
        ("/prompt", prompt("prefix", 256, &[1, 1]), NO_PROMPT),
        ("/prompt", prompt("prefix", usize::MAX, &[1, 1]), NO_PROMPT),
        ("/prompt", prompt("embeddings", 1, &[]), "the number of weights of its soft prompt is 0, not 1"),
        ("/prompt", prompt("prefix", 1, &[1]), "the number of weights of its soft prompt is 1, not 2"),
        ("/prompt", prompt("embeddings", 1, &[99]), "there is no such weight"),
        ("/prompt", prompt("embeddings", 2, &[1]), "its weight is not a vector of 64"),
        ("/prompt", prompt("prefix", 255, &[1, 1]), "its weight is not a vector of 8160"),
        ("output_linear#0", Value::Null, "it has 0 outputs, not one"),
        ("linear#2", step("output_linear").clone(), "it has 2 outputs, not one"),
    ] {
        assert_eq!(
            refusal(&artifact, place, &changed(&sound, place, value.clone())),
            why,
            "{place}: {value}"
        );
    }

    // As many bytes as no number can count.
    let wide =
        changed(&changed(&sound, "/shape/layers", json!(1u64 << 31)), "/shape/head_dim", json!(1u64 << 31));
    assert_eq!(refusal(&artifact, "head_dim", &wide), "its cache does not fit into memory");
}
