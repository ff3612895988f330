//! `eval --backend onnx`, and `verify` with exported models: in programs with tract, and in others.

mod support;

use safetensors::Dtype;
use support::{fixture, folder, i64s, llamac, save};

#[cfg(not(feature = "onnx-backend"))]
#[test]
fn a_program_without_tract_says_how_to_build_one_with_it() {
    let (folder, model) = (folder(), fixture("tiny/gqa-f32"));
    let paths = [("model", &*model), ("f", folder.path())];
    llamac("-q compile {model} --target onnx -o {f}/exported", &paths).quiet();
    save(&folder.path().join("in"), &[("input_ids", Dtype::I64, &[1, 2], i64s(&[1, 2]))]);
    let eval = "eval {f}/exported --backend onnx --inputs {f}/in --outputs {f}/out";
    for line in [eval, "verify {model} {f}/exported"] {
        let message = llamac(line, &paths).failure(4);
        assert!(message.contains("--features onnx-backend"), "{message}");
    }
    assert!(!folder.path().join("out").exists());
}

#[cfg(feature = "onnx-backend")]
mod with_tract {
    use insta::assert_snapshot;
    use support::{load, redact};

    use super::*;

    #[test]
    fn an_export_computes_what_the_checkpoint_does() {
        let (folder, model) = (folder(), fixture("tiny/gqa-f32"));
        let paths = [("model", &*model), ("f", folder.path())];
        llamac("-q compile {model} --target onnx -o {f}/exported", &paths).quiet();
        save(
            &folder.path().join("in"),
            &[
                ("input_ids", Dtype::I64, &[2, 4], i64s(&[0, 0, 5, 6, 1, 2, 3, 4])),
                ("attention_mask", Dtype::I64, &[2, 4], i64s(&[0, 0, 1, 1, 1, 1, 1, 1])),
                ("position_ids", Dtype::I64, &[2, 4], i64s(&[0, 0, 0, 1, 0, 1, 2, 3])),
            ],
        );
        for options in ["", "--cached 2", "--keep 1", "--cached 3 --keep 2"] {
            let outputs = ["native", "onnx"].map(|backend| {
                let from = if backend == "native" { "{model}" } else { "{f}/exported" };
                let line = format!(
                    "eval {from} --backend {backend} --inputs {{f}}/in --outputs {{f}}/out {options}"
                );
                llamac(&line, &paths).quiet();
                load(&folder.path().join("out"))
            });
            let [native, onnx] = outputs.map(|mut outputs| outputs.remove("logits").expect("logits"));
            assert_eq!(native.0, onnx.0, "{options}");
            // The first two tokens of the first row are padding.
            let columns = native.0[1];
            let padding = native.0[2] * columns.saturating_sub(2);
            for (native, onnx) in native.1[padding..].iter().zip(&onnx.1[padding..]) {
                assert!((native - onnx).abs() <= 1e-4, "{options}: {native} and {onnx}");
            }
        }
        let text = llamac("verify {model} {f}/exported/model.onnx", &paths).quiet();
        assert!(text.contains("present.1.value") && text.contains("logits"), "{text}");
        llamac("-q compile {model} -o {f}/compiled", &paths).quiet();
        let text = llamac("verify {f}/compiled {f}/exported", &paths).quiet();
        assert!(text.contains("logits") && !text.contains("present"), "{text}");
    }

    #[test]
    fn what_an_export_lacks_is_told_at_once() {
        let (folder, model) = (folder(), fixture("tiny/gqa-f32"));
        let paths = [("model", &*model), ("f", folder.path())];
        llamac("-q compile {model} --target onnx --no-cache --inputs embeds -o {f}/exported", &paths).quiet();
        save(&folder.path().join("in"), &[("input_ids", Dtype::I64, &[1, 2], i64s(&[1, 2]))]);
        let line =
            "eval {f}/exported --backend onnx --inputs {f}/in --outputs {f}/out --cached 1 --hidden-states";
        let message = llamac(line, &paths).failure(2);
        assert_snapshot!(redact(&message, &[("f", folder.path())]));
    }

    #[test]
    fn what_tract_cannot_run_is_told_in_its_words() {
        let (folder, model) = (folder(), fixture("tiny/gqa-f32"));
        let paths = [("model", &*model), ("f", folder.path())];
        llamac("-q compile {model} --target onnx-ort -o {f}/exported", &paths).quiet();
        save(&folder.path().join("in"), &[("input_ids", Dtype::I64, &[1, 2], i64s(&[1, 2]))]);
        let line = "eval {f}/exported --backend onnx --inputs {f}/in --outputs {f}/out";
        let message = llamac(line, &paths).failure(4);
        assert!(message.contains("E0604") && message.contains("tract cannot"), "{message}");
        llamac("-q compile {model} --target onnx -o {f}/exported", &paths).quiet();
        save(&folder.path().join("in"), &[("input_ids", Dtype::I64, &[1, 2], i64s(&[1, 99_999]))]);
        let message = llamac(line, &paths).failure(4);
        assert!(message.contains("tract cannot run the model"), "{message}");
    }
}
