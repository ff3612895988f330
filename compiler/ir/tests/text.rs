//! The text form: what is accepted, and what is said about the rest.

use insta::assert_snapshot;
use llamac_ir::Graph;

/// The error of a graph over `%x`, `%p` and `@w` with these instructions.
fn error(body: &str) -> String {
    let header = "graph(%x: f32[batch, seq, 8], %p: i64[batch, seq], @w: f32[8, 8]) {\n";
    Graph::parse(&format!("{header}{body}\n}}")).unwrap_err().to_string()
}

#[test]
fn names_comments_bounds_and_missing_types_are_accepted() {
    let text = "
      // A comment.
      graph<seq: 1..=16, batch: 1..>(%x: f32[batch, seq, 4 + 2*2], @\"a b\": bf16[8, 8],) {
        %y = linear %x, @\"a b\" loc(\"odd, name\", plain) // no type
        return out=%y, x=%x
      }";
    assert_snapshot!(Graph::parse(text).unwrap().text_with_locs(), @r#"
    graph<batch: 1.., seq: 1..=16>(
      %x: f32[batch, seq, 8],
      @"a b": bf16[8, 8],
    ) {
      %0 = linear %x, @"a b" : f32[batch, seq, 8] loc("odd, name", plain)
      return out=%0, x=%x
    }
    "#);
}

#[test]
fn errors_have_a_place_and_say_what_was_expected() {
    assert_snapshot!(error("%0 = linear %x @w : f32[batch, seq, 8] return out=%0"), @"
    line 2, column 16: expected `,`, attributes, `:` or the next instruction, found `@w : f32[batch, seq, 8]`
      %0 = linear %x @w : f32[batch, seq, 8] return out=%0
                     ^
    ");
    assert_snapshot!(error("%0 = linear %y, @w return out=%0"), @"
    line 2, column 13: %y is not defined
      %0 = linear %y, @w return out=%0
                  ^
    ");
    assert_snapshot!(error("%0 = linear %x, @v return out=%0"), @"
    line 2, column 17: @v is not declared
      %0 = linear %x, @v return out=%0
                      ^
    ");
    assert_snapshot!(error("%0 = lineal %x, @w return out=%0"), @"
    line 2, column 6: `lineal` is not an operation; did you mean `linear`?
      %0 = lineal %x, @w return out=%0
           ^
    ");
    assert_snapshot!(error("%0 = linear %x, @w, @w return out=%0"), @"
    line 2, column 6: linear: the bias must hold floats of shape [8], found f32[8, 8]
      %0 = linear %x, @w, @w return out=%0
           ^
    ");
    assert_snapshot!(error("%0 = linear %p, @w return out=%0"), @"
    line 2, column 6: linear: x must be f32, found i64[batch, seq]
      %0 = linear %p, @w return out=%0
           ^
    ");
    assert_snapshot!(error("%0 = linear %x, @w {eps=1.0} return out=%0"), @"
    line 2, column 6: linear: there is no attribute `eps`
      %0 = linear %x, @w {eps=1.0} return out=%0
           ^
    ");
    assert_snapshot!(error("%0 = act %x return out=%0"), @"
    line 2, column 6: act: attribute `function` is missing
      %0 = act %x return out=%0
           ^
    ");
    assert_snapshot!(error("%0 = act %x {function=sigmoid} return out=%0"), @"
    line 2, column 6: act: attribute `function`: `sigmoid` is not a valid value: expected one of silu, gelu, gelu_tanh, quick_gelu, relu
      %0 = act %x {function=sigmoid} return out=%0
           ^
    ");
    assert_snapshot!(error("%0 = act %x {function=silu, function=silu} return out=%0"), @"
    line 2, column 29: attribute `function` is given twice
      %0 = act %x {function=silu, function=silu} return out=%0
                                  ^
    ");
    assert_snapshot!(error("%0 = act %x {function=silu : f32[batch, seq, 8] return out=%0"), @"
    line 3, column 2: expected `,`, attributes, `:` or the next instruction, found the end of the text
      }
       ^
    ");
    assert_snapshot!(error("%0 = act %x {function=silu} : f32[batch, seq, 9] return out=%0"), @"
    line 2, column 31: act results in [f32[batch, seq, 8]], not in [f32[batch, seq, 9]]
      %0 = act %x {function=silu} : f32[batch, seq, 9] return out=%0
                                    ^
    ");
    assert_snapshot!(error("%0, %1 = act %x {function=silu} return out=%0"), @"
    line 2, column 1: 2 names for the results of act, which are 1
      %0, %1 = act %x {function=silu} return out=%0
      ^
    ");
    assert_snapshot!(error("%x = act %x {function=silu} return out=%x"), @"
    line 2, column 1: %x is defined twice
      %x = act %x {function=silu} return out=%x
      ^
    ");
    assert_snapshot!(error("return out=%x, out=%x"), @"
    line 2, column 16: the name `out` is used twice
      return out=%x, out=%x
                     ^
    ");
    assert_snapshot!(error("return 1=%x"), @"
    line 2, column 8: `1` is not a name: it must begin with a letter and hold letters, digits, `_`, `.` and `-`
      return 1=%x
             ^
    ");
    assert_snapshot!(error("return out=%x } more"), @"
    line 2, column 17: expected the end of the text, found `more`
      return out=%x } more
                      ^
    ");
    assert_snapshot!(error("%0 = add %x"), @"
    line 3, column 1: expected `,`, attributes, `:` or the next instruction, found `}`
      }
      ^
    ");
}

#[test]
fn near_names_are_suggested() {
    let message = |instruction: &str| {
        let text = format!(
            "graph(%x: f32[batch, seq, 8], @gate_proj: f32[8, 8]) {{ %0 = {instruction} return out=%0 }}"
        );
        Graph::parse(&text).unwrap_err().to_string().lines().next().unwrap().to_owned()
    };
    assert_snapshot!(message("lniear %x, @gate_proj"), @"line 1, column 61: `lniear` is not an operation; did you mean `linear`?");
    assert_snapshot!(message("linear %x, @gate_porj"), @"line 1, column 72: @gate_porj is not declared; did you mean @gate_proj?");
    assert_snapshot!(message("linear %x, tranpose(@gate_proj)"), @"line 1, column 72: `tranpose` is not a recipe; did you mean `transpose`?");
    assert_snapshot!(message("act %x {functoin=silu}"), @"line 1, column 61: act: attribute `function` is missing; is it `functoin`?");
    assert_snapshot!(message("act %x {function=sliu}"), @"line 1, column 61: act: attribute `function`: `sliu` is not a valid value: expected one of silu, gelu, gelu_tanh, quick_gelu, relu; did you mean `silu`?");
    assert_snapshot!(message("act %x {function=silu, functions=relu}"), @"line 1, column 61: act: there is no attribute `functions`; did you mean `function`?");
    assert_snapshot!(message("unheard_of %x"), @"line 1, column 61: `unheard_of` is not an operation");
}

#[test]
fn headers_are_checked() {
    let error = |text: &str| Graph::parse(text).unwrap_err().to_string();
    assert_snapshot!(error(""), @"line 1, column 1: expected `graph`, found the end of the text");
    assert_snapshot!(error("graph(%x: f64[batch]) { return out=%x }"), @"
    line 1, column 11: `f64` is not an element type: f32, f16, bf16, i64, i32, bool, u8, i8 or f8_e4m3
      graph(%x: f64[batch]) { return out=%x }
                ^
    ");
    assert_snapshot!(error("graph(%x: f32[rows]) { return out=%x }"), @"
    line 1, column 15: `rows` is not a symbol: sizes are numbers, batch, seq, past and keep
      graph(%x: f32[rows]) { return out=%x }
                    ^
    ");
    assert_snapshot!(error("graph(%x: f32[99999999999999999999]) { return out=%x }"), @"
    line 1, column 15: 99999999999999999999 is too large a number
      graph(%x: f32[99999999999999999999]) { return out=%x }
                    ^
    ");
    assert_snapshot!(error("graph(@w: f32[seq]) { return out=%x }"), @"
    line 1, column 7: @w: sizes of weights are numbers
      graph(@w: f32[seq]) { return out=%x }
            ^
    ");
    assert_snapshot!(error("graph(@w: f32[4], @w: f32[4]) { return out=%x }"), @"
    line 1, column 19: @w is declared twice
      graph(@w: f32[4], @w: f32[4]) { return out=%x }
                        ^
    ");
    assert_snapshot!(error("graph(%x: f32[4], %x: f32[4]) { return out=%x }"), @"
    line 1, column 19: the name `x` is used twice
      graph(%x: f32[4], %x: f32[4]) { return out=%x }
                        ^
    ");
    assert_snapshot!(error("graph<seq: 4..=2>(%x: f32[seq]) { return out=%x }"), @"
    the graph is not valid:
      error: seq cannot be within 4..=2
    ");
    assert_snapshot!(error("graph<rows: 1..>(%x: f32[seq]) { return out=%x }"), @"
    line 1, column 7: `rows` is not a symbol: batch, seq, past, keep
      graph<rows: 1..>(%x: f32[seq]) { return out=%x }
            ^
    ");
    assert_snapshot!(error("graph(%x: f32[seq + 1]) { return out=%x }"), @"
    the graph is not valid:
      %x: f32[seq + 1]
        error: no parameter has a dimension that is seq
    ");
}

/// Nothing recurses along a graph: deep ones would overflow the stack.
#[test]
fn deep_graphs_are_read_and_printed() {
    let mut text = "graph(%x: f32[batch, 8]) {\n%v0 = act %x {function=relu}\n".to_owned();
    for n in 1..30_000 {
        text += &format!("%v{n} = act %v{} {{function=relu}}\n", n - 1);
    }
    let graph = Graph::parse(&format!("{text} return out=%v29999 }}")).unwrap();
    assert_eq!(graph.op_count(), 30_000);
    let printed = graph.to_string();
    assert_eq!(Graph::parse(&printed).unwrap().to_string(), printed);
}
