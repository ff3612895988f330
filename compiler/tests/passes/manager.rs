//! How passes are chosen, stopped, printed and dumped.

use std::fs;

use insta::assert_snapshot;
use llamac_compiler::passes::{ALL, Options, PassManager, Phase, Stage};
use llamac_compiler::target::native::Native;
use llamac_ir::Graph;

use crate::fixtures::{PLAIN, graph};

fn faults(options: Options) -> String {
    PassManager::new(options).expect_err("the options are wrong").to_string()
}

fn switches(list: &[(&str, bool)]) -> Options {
    let switches = list.iter().map(|&(name, on)| (name.to_owned(), on)).collect();
    Options { switches, ..Options::default() }
}

fn names(options: Options) -> Vec<&'static str> {
    PassManager::new(options).expect("the passes exist").names().collect()
}

#[test]
fn all_wrong_names_are_reported_together() {
    let options = Options {
        print_after: vec!["inptu".to_owned()],
        stop_after: Some("memory".to_owned()),
        ..switches(&[("fuse-qvk", false), ("legalize", false)])
    };
    assert_snapshot!(faults(options), @"
    error[E0001]: invalid argument
      --> --passes fuse-qvk
       there is no pass of this name
       help: did you mean fuse-qkv?
    error[E0001]: invalid argument
      --> --passes -legalize
       the target can take nothing else than a legalized graph
       help: stop before it with --stop-after
    error[E0001]: invalid argument
      --> --print-after inptu
       there is no pass of this name
       help: did you mean input?
    error[E0001]: invalid argument
      --> --stop-after memory
       there is no pass of this name
       help: the passes are input, canonicalize, merge-lora, assign-schemes, fold-rope, fuse-qkv, fuse-gate-up, fuse-add-rms-norm, legalize
    ");
    let off = Options { stop_after: Some("fuse-qkv".to_owned()), ..switches(&[("fuse-qkv", false)]) };
    assert_snapshot!(faults(off), @"
    error[E0001]: invalid argument
      --> --stop-after fuse-qkv
       fuse-qkv is switched off
    ");
}

#[test]
fn the_last_word_on_a_pass_counts() {
    let all: Vec<&str> = ALL.iter().map(|pass| pass.name).collect();
    assert_eq!(names(Options::default()), all);
    assert_eq!(names(switches(&[("fuse-qkv", false), ("fuse-qkv", true)])), all);
    let without: Vec<&str> = all.iter().copied().filter(|name| *name != "fuse-qkv").collect();
    assert_eq!(names(switches(&[("fuse-qkv", true), ("fuse-qkv", false)])), without);
}

#[test]
fn stopping_leaves_the_graph_as_the_pass_left_it() {
    let model = graph("gqa-f32", &PLAIN);
    let stop = |name: &str| {
        let options = Options { stop_after: Some(name.to_owned()), ..Options::default() };
        PassManager::new(options).unwrap().run(model.clone(), &Native).unwrap()
    };
    let input = stop("input");
    assert!(input.report.passes.is_empty() && *input.stage.graph() == model);
    let fused = stop("fuse-qkv");
    assert_eq!(fused.report.firings("FuseQkv"), 2);
    assert_eq!(fused.report.firings("FuseGateUp"), 0);
    assert!(matches!(fused.stage, Stage::Stopped(_)));
    assert!(matches!(stop("legalize").stage, Stage::Legalized(legal) if legal.target() == "native"));
}

#[test]
fn prints_read_back() {
    let print_after = ["fuse-qkv", "input"].map(str::to_owned).to_vec();
    let manager = PassManager::new(Options { print_after, ..Options::default() }).unwrap();
    let model = graph("gqa-f32", &PLAIN);
    let outcome = manager.run(model.clone(), &Native).unwrap();
    let [(first, input), (second, fused)] = outcome.prints.as_slice() else {
        panic!("two texts were asked for")
    };
    assert_eq!((first.as_str(), second.as_str()), ("input", "fuse-qkv"));
    assert!(Graph::parse(input).unwrap() == model);
    assert_eq!(Graph::parse(fused).unwrap().to_string().matches(" split ").count(), 2);
}

#[test]
fn dumps_are_numbered_and_tell_what_changed() {
    let folder = tempfile::tempdir().unwrap();
    let dump_dir = folder.path().join("dump");
    let options = Options { dump_dir: Some(dump_dir.clone()), ..Options::default() };
    let manager = PassManager::new(options).unwrap();
    // Three layers, of which the second and the third change alike.
    let outcome = manager.run(graph("sharded-f32", &PLAIN), &Native).unwrap();
    let mut files: Vec<String> = fs::read_dir(&dump_dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    files.sort();
    assert_snapshot!(files.join("\n"), @"
    00-input.ir
    01-canonicalize.diff
    01-canonicalize.ir
    02-merge-lora.diff
    02-merge-lora.ir
    03-assign-schemes.diff
    03-assign-schemes.ir
    04-fold-rope.diff
    04-fold-rope.ir
    05-fuse-qkv.diff
    05-fuse-qkv.ir
    06-fuse-gate-up.diff
    06-fuse-gate-up.ir
    07-fuse-add-rms-norm.diff
    07-fuse-add-rms-norm.ir
    08-legalize.diff
    08-legalize.ir
    ");
    let read = |name: &str| fs::read_to_string(dump_dir.join(name)).unwrap();
    assert!(Graph::parse(&read("08-legalize.ir")).unwrap() == *outcome.stage.graph());
    assert_snapshot!(read("05-fuse-qkv.diff"), @"
    linear 22 → 16, split 0 → 3

    ~ = model.layers.0
      ~.input_layernorm:rms_norm(model.embed_tokens:embed, @~.input_layernorm.weight) {eps=1e-5} : f32[batch, seq, 32]
    - ~.self_attn.q_proj:linear(~.input_layernorm:rms_norm, @~.self_attn.q_proj.weight) : f32[batch, seq, 32]
    + ~.self_attn.{q,k,v}_proj:linear(~.input_layernorm:rms_norm, concat(@~.self_attn.{q,k,v}_proj.weight)) : f32[batch, seq, 64]
    + ~.self_attn.{q,k,v}_proj:split(~.self_attn.{q,k,v}_proj:linear) {sizes=[32, 16, 16]} : f32[batch, seq, 32], f32[batch, seq, 16], f32[batch, seq, 16]
      model.rotary_emb:rotary_angles(positions, inv_freq(theta=10000.0, head_dim=8, scaling=default, set=short)) {factor=1.0} : f32[batch, seq, 4], f32[batch, seq, 4]
    - ~.self_attn:rotary(~.self_attn.q_proj:linear, model.rotary_emb:rotary_angles.0, model.rotary_emb:rotary_angles.1) {heads=4, head_dim=8, interleaved=false} : f32[batch, seq, 32]
    - ~.self_attn.k_proj:linear(~.input_layernorm:rms_norm, @~.self_attn.k_proj.weight) : f32[batch, seq, 16]
    - ~.self_attn:rotary#2(~.self_attn.k_proj:linear, model.rotary_emb:rotary_angles.0, model.rotary_emb:rotary_angles.1) {heads=2, head_dim=8, interleaved=false} : f32[batch, seq, 16]
    + ~.self_attn:rotary(~.self_attn.{q,k,v}_proj:split.0, model.rotary_emb:rotary_angles.0, model.rotary_emb:rotary_angles.1) {heads=4, head_dim=8, interleaved=false} : f32[batch, seq, 32]
    + ~.self_attn:rotary#2(~.self_attn.{q,k,v}_proj:split.1, model.rotary_emb:rotary_angles.0, model.rotary_emb:rotary_angles.1) {heads=2, head_dim=8, interleaved=false} : f32[batch, seq, 16]
      ~.self_attn:kv_append(past.0.key, ~.self_attn:rotary#2) : f32[batch, 2, past + seq, 8]
    - ~.self_attn.v_proj:linear(~.input_layernorm:rms_norm, @~.self_attn.v_proj.weight) : f32[batch, seq, 16]
    - ~.self_attn:kv_append#2(past.0.value, ~.self_attn.v_proj:linear) : f32[batch, 2, past + seq, 8]
    + ~.self_attn:kv_append#2(past.0.value, ~.self_attn.{q,k,v}_proj:split.2) : f32[batch, 2, past + seq, 8]
      ~.self_attn:attention(~.self_attn:rotary, ~.self_attn:kv_append, ~.self_attn:kv_append#2) {heads=4, kv_heads=2, head_dim=8, scale=0.3535533905932738, causal=true} : f32[batch, seq, 32]

    ~ = model.layers.1, and the same for 2
      ~.input_layernorm:rms_norm(model.layers.0:add#2, @~.input_layernorm.weight) {eps=1e-5} : f32[batch, seq, 32]
    - ~.self_attn.q_proj:linear(~.input_layernorm:rms_norm, @~.self_attn.q_proj.weight) : f32[batch, seq, 32]
    - ~.self_attn:rotary(~.self_attn.q_proj:linear, model.rotary_emb:rotary_angles.0, model.rotary_emb:rotary_angles.1) {heads=4, head_dim=8, interleaved=false} : f32[batch, seq, 32]
    - ~.self_attn.k_proj:linear(~.input_layernorm:rms_norm, @~.self_attn.k_proj.weight) : f32[batch, seq, 16]
    - ~.self_attn:rotary#2(~.self_attn.k_proj:linear, model.rotary_emb:rotary_angles.0, model.rotary_emb:rotary_angles.1) {heads=2, head_dim=8, interleaved=false} : f32[batch, seq, 16]
    + ~.self_attn.{q,k,v}_proj:linear(~.input_layernorm:rms_norm, concat(@~.self_attn.{q,k,v}_proj.weight)) : f32[batch, seq, 64]
    + ~.self_attn.{q,k,v}_proj:split(~.self_attn.{q,k,v}_proj:linear) {sizes=[32, 16, 16]} : f32[batch, seq, 32], f32[batch, seq, 16], f32[batch, seq, 16]
    + ~.self_attn:rotary(~.self_attn.{q,k,v}_proj:split.0, model.rotary_emb:rotary_angles.0, model.rotary_emb:rotary_angles.1) {heads=4, head_dim=8, interleaved=false} : f32[batch, seq, 32]
    + ~.self_attn:rotary#2(~.self_attn.{q,k,v}_proj:split.1, model.rotary_emb:rotary_angles.0, model.rotary_emb:rotary_angles.1) {heads=2, head_dim=8, interleaved=false} : f32[batch, seq, 16]
      ~.self_attn:kv_append(past.1.key, ~.self_attn:rotary#2) : f32[batch, 2, past + seq, 8]
    - ~.self_attn.v_proj:linear(~.input_layernorm:rms_norm, @~.self_attn.v_proj.weight) : f32[batch, seq, 16]
    - ~.self_attn:kv_append#2(past.1.value, ~.self_attn.v_proj:linear) : f32[batch, 2, past + seq, 8]
    + ~.self_attn:kv_append#2(past.1.value, ~.self_attn.{q,k,v}_proj:split.2) : f32[batch, 2, past + seq, 8]
      ~.self_attn:attention(~.self_attn:rotary, ~.self_attn:kv_append, ~.self_attn:kv_append#2) {heads=4, kv_heads=2, head_dim=8, scale=0.3535533905932738, causal=true} : f32[batch, seq, 32]
    ");
    assert_snapshot!(read("07-fuse-add-rms-norm.diff"), @"
    add 6 → 0, add_rms_norm 0 → 6, rms_norm 7 → 1

    ~ = model.layers.0
      ~.self_attn.o_proj:linear(~.self_attn:attention, @~.self_attn.o_proj.weight) : f32[batch, seq, 32]
    - ~:add(model.embed_tokens:embed, ~.self_attn.o_proj:linear) : f32[batch, seq, 32]
    - ~.post_attention_layernorm:rms_norm(~:add, @~.post_attention_layernorm.weight) {eps=1e-5} : f32[batch, seq, 32]
    - ~.mlp.{gate,up}_proj:linear(~.post_attention_layernorm:rms_norm, concat(@~.mlp.{gate,up}_proj.weight)) : f32[batch, seq, 128]
    + ~.post_attention_layernorm:add_rms_norm(model.embed_tokens:embed, ~.self_attn.o_proj:linear, @~.post_attention_layernorm.weight) {eps=1e-5} : f32[batch, seq, 32], f32[batch, seq, 32]
    + ~.mlp.{gate,up}_proj:linear(~.post_attention_layernorm:add_rms_norm.1, concat(@~.mlp.{gate,up}_proj.weight)) : f32[batch, seq, 128]
      ~.mlp:gated(~.mlp.{gate,up}_proj:linear) {function=silu} : f32[batch, seq, 64]
      ~.mlp.down_proj:linear(~.mlp:gated, @~.mlp.down_proj.weight) : f32[batch, seq, 32]
    - ~:add#2(~:add, ~.mlp.down_proj:linear) : f32[batch, seq, 32]
    - model.layers.1.input_layernorm:rms_norm(~:add#2, @model.layers.1.input_layernorm.weight) {eps=1e-5} : f32[batch, seq, 32]
    - model.layers.1.self_attn.{q,k,v}_proj:linear(model.layers.1.input_layernorm:rms_norm, concat(@model.layers.1.self_attn.{q,k,v}_proj.weight)) : f32[batch, seq, 64]
    + model.layers.1.input_layernorm:add_rms_norm(~.post_attention_layernorm:add_rms_norm.0, ~.mlp.down_proj:linear, @model.layers.1.input_layernorm.weight) {eps=1e-5} : f32[batch, seq, 32], f32[batch, seq, 32]
    + model.layers.1.self_attn.{q,k,v}_proj:linear(model.layers.1.input_layernorm:add_rms_norm.1, concat(@model.layers.1.self_attn.{q,k,v}_proj.weight)) : f32[batch, seq, 64]
      model.layers.1.self_attn.{q,k,v}_proj:split(model.layers.1.self_attn.{q,k,v}_proj:linear) {sizes=[32, 16, 16]} : f32[batch, seq, 32], f32[batch, seq, 16], f32[batch, seq, 16]

    ~ = model.layers.1
      ~.self_attn.o_proj:linear(~.self_attn:attention, @~.self_attn.o_proj.weight) : f32[batch, seq, 32]
    - ~:add(model.layers.0:add#2, ~.self_attn.o_proj:linear) : f32[batch, seq, 32]
    - ~.post_attention_layernorm:rms_norm(~:add, @~.post_attention_layernorm.weight) {eps=1e-5} : f32[batch, seq, 32]
    - ~.mlp.{gate,up}_proj:linear(~.post_attention_layernorm:rms_norm, concat(@~.mlp.{gate,up}_proj.weight)) : f32[batch, seq, 128]
    + ~.post_attention_layernorm:add_rms_norm(~.input_layernorm:add_rms_norm.0, ~.self_attn.o_proj:linear, @~.post_attention_layernorm.weight) {eps=1e-5} : f32[batch, seq, 32], f32[batch, seq, 32]
    + ~.mlp.{gate,up}_proj:linear(~.post_attention_layernorm:add_rms_norm.1, concat(@~.mlp.{gate,up}_proj.weight)) : f32[batch, seq, 128]
      ~.mlp:gated(~.mlp.{gate,up}_proj:linear) {function=silu} : f32[batch, seq, 64]
      ~.mlp.down_proj:linear(~.mlp:gated, @~.mlp.down_proj.weight) : f32[batch, seq, 32]
    - ~:add#2(~:add, ~.mlp.down_proj:linear) : f32[batch, seq, 32]
    - model.layers.2.input_layernorm:rms_norm(~:add#2, @model.layers.2.input_layernorm.weight) {eps=1e-5} : f32[batch, seq, 32]
    - model.layers.2.self_attn.{q,k,v}_proj:linear(model.layers.2.input_layernorm:rms_norm, concat(@model.layers.2.self_attn.{q,k,v}_proj.weight)) : f32[batch, seq, 64]
    + model.layers.2.input_layernorm:add_rms_norm(~.post_attention_layernorm:add_rms_norm.0, ~.mlp.down_proj:linear, @model.layers.2.input_layernorm.weight) {eps=1e-5} : f32[batch, seq, 32], f32[batch, seq, 32]
    + model.layers.2.self_attn.{q,k,v}_proj:linear(model.layers.2.input_layernorm:add_rms_norm.1, concat(@model.layers.2.self_attn.{q,k,v}_proj.weight)) : f32[batch, seq, 64]
      model.layers.2.self_attn.{q,k,v}_proj:split(model.layers.2.self_attn.{q,k,v}_proj:linear) {sizes=[32, 16, 16]} : f32[batch, seq, 32], f32[batch, seq, 16], f32[batch, seq, 16]

    ~ = model.layers.2
      ~.self_attn.o_proj:linear(~.self_attn:attention, @~.self_attn.o_proj.weight) : f32[batch, seq, 32]
    - ~:add(model.layers.1:add#2, ~.self_attn.o_proj:linear) : f32[batch, seq, 32]
    - ~.post_attention_layernorm:rms_norm(~:add, @~.post_attention_layernorm.weight) {eps=1e-5} : f32[batch, seq, 32]
    - ~.mlp.{gate,up}_proj:linear(~.post_attention_layernorm:rms_norm, concat(@~.mlp.{gate,up}_proj.weight)) : f32[batch, seq, 128]
    + ~.post_attention_layernorm:add_rms_norm(~.input_layernorm:add_rms_norm.0, ~.self_attn.o_proj:linear, @~.post_attention_layernorm.weight) {eps=1e-5} : f32[batch, seq, 32], f32[batch, seq, 32]
    + ~.mlp.{gate,up}_proj:linear(~.post_attention_layernorm:add_rms_norm.1, concat(@~.mlp.{gate,up}_proj.weight)) : f32[batch, seq, 128]
      ~.mlp:gated(~.mlp.{gate,up}_proj:linear) {function=silu} : f32[batch, seq, 64]
      ~.mlp.down_proj:linear(~.mlp:gated, @~.mlp.down_proj.weight) : f32[batch, seq, 32]
    - ~:add#2(~:add, ~.mlp.down_proj:linear) : f32[batch, seq, 32]
    - model.norm:rms_norm(~:add#2, @model.norm.weight) {eps=1e-5} : f32[batch, seq, 32]
    - lm_head:keep_last(model.norm:rms_norm) : f32[batch, keep, 32]
    + model.norm:add_rms_norm(~.post_attention_layernorm:add_rms_norm.0, ~.mlp.down_proj:linear, @model.norm.weight) {eps=1e-5} : f32[batch, seq, 32], f32[batch, seq, 32]
    + lm_head:keep_last(model.norm:add_rms_norm.1) : f32[batch, keep, 32]
      lm_head:linear(lm_head:keep_last, @lm_head.weight) : f32[batch, keep, 67]
    ");
    assert_snapshot!(read("08-legalize.diff"), @"nothing changed");
}

#[test]
fn a_dump_that_cannot_be_written_is_a_fault() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let options = Options { dump_dir: Some(file.path().join("dump")), ..Options::default() };
    let faults = PassManager::new(options).unwrap().run(graph("gqa-f32", &PLAIN), &Native).unwrap_err();
    assert!(faults.to_string().starts_with("error[E0010]"), "{faults}");
}

#[test]
fn phases_come_in_order_and_have_a_grammar() {
    assert!(ALL.windows(2).all(|pair| pair[0].phase <= pair[1].phase));
    let graph = Graph::parse(
        "graph(%x: f32[batch, seq, 8], %k: f32[batch, 1, past, 4]) {
            %g = gated %x {function=silu} loc(mlp)
            %r = repeat_kv %k {groups=2} loc(attn)
            return g=%g, r=%r }",
    )
    .unwrap();
    assert_eq!(
        Phase::Canonicalize.violations(&graph),
        [
            "gated at mlp may not appear in the phase canonicalize",
            "repeat_kv at attn may not appear in the phase canonicalize"
        ]
    );
    assert_eq!(Phase::Fuse.violations(&graph), ["repeat_kv at attn may not appear in the phase fuse"]);
    assert!(Phase::Legalize.violations(&graph).is_empty());
    let faults = PassManager::new(Options::default()).unwrap().run(graph, &Native).unwrap_err();
    let code = if cfg!(debug_assertions) { "error[E0501]" } else { "error[E0500]" };
    assert!(faults.to_string().starts_with(code), "{faults}");
}
