//! The `config.json` of an export: that of the checkpoint, byte for byte, unless it says something else than the graph.

use super::layout::Names;
use super::model::Graph;
use crate::source::{Checkpoint, Head, Members};

/// The configuration that goes with `graph`.
///
/// Loaders take the model's class, and whether it has a cache, from this file. transformers.js has no defaults of its
/// own, and wants to be told which of its names the model has and that the weights are in a second file.
pub(super) fn config_json(checkpoint: &Checkpoint, names: Names, graph: &Graph) -> Vec<u8> {
    let config = &checkpoint.config;
    let Ok(mut members) = serde_json::from_slice::<Members>(&checkpoint.config_json) else {
        unreachable!("the file was parsed when the checkpoint was opened");
    };
    members.default("model_type", &"llama");
    let class = checkpoint.head.class();
    if !config.architectures.iter().any(|name| name == class) {
        members.set("architectures", &[class]);
    }
    let cached = graph.has_cache();
    // Without a word it is on.
    let says = members.get("use_cache").unwrap_or("true") == "true";
    if checkpoint.head == Head::CausalLm && says != cached {
        members.set("use_cache", &cached);
    }
    if let Some(dtype) = names.dtype {
        members.default("num_hidden_layers", &config.num_hidden_layers);
        members.default("num_attention_heads", &config.num_attention_heads);
        members.default("num_key_value_heads", &config.num_key_value_heads);
        members.default("hidden_size", &config.hidden_size);
        members.default("head_dim", &config.head_dim);
        let external = graph.has_external_data();
        let custom = serde_json::json!({ "dtype": dtype, "use_external_data_format": external });
        members.set("transformers.js_config", &custom);
    }
    members.text().unwrap_or_else(|| checkpoint.config_json.clone())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::layout::{PLAIN, TRANSFORMERS_JS};
    use super::super::model::{Data, Initializer, Region, ValueInfo};
    use super::*;
    use crate::source::testing;

    fn checkpoint(config: &str, head: Head) -> Checkpoint {
        let directory = testing::checkpoint(&testing::config(), &testing::tensors());
        std::fs::write(directory.path().join("config.json"), config).unwrap();
        Checkpoint::open(directory.path(), Some(head)).unwrap()
    }

    fn graph(cached: bool) -> Graph {
        let input =
            |name: &str| ValueInfo { name: name.to_owned(), dtype: llamac_ir::DType::F32, shape: vec![] };
        let names = ["input_ids", "past_key_values.0.key"];
        let region = Region { file: "model.onnx_data".to_owned(), offset: 0, length: 4 };
        let data = Data::External(region);
        let initializer = Initializer {
            name: "w".to_owned(),
            element: crate::target::onnx::model::ElementType::Of(llamac_ir::DType::F32),
            shape: vec![1],
            data,
        };
        Graph {
            name: String::new(),
            inputs: names[..if cached { 2 } else { 1 }].iter().map(|name| input(name)).collect(),
            outputs: Vec::new(),
            nodes: Vec::new(),
            initializers: vec![initializer],
        }
    }

    fn written(config: &str, head: Head, names: Names, cached: bool) -> String {
        String::from_utf8(config_json(&checkpoint(config, head), names, &graph(cached))).unwrap()
    }

    #[test]
    fn what_fits_stays_as_it_is() {
        let config = testing::config().to_string().replace(',', " ,\n");
        assert_eq!(written(&config, Head::CausalLm, PLAIN, true), config);
        let on = config.replacen('{', "{\"use_cache\": true, ", 1);
        assert_eq!(written(&on, Head::CausalLm, PLAIN, true), on);
        // No other head is asked whether it has one.
        let other = config.replace("LlamaForCausalLM", "LlamaModel");
        assert_eq!(written(&other, Head::Base, PLAIN, false), other);
    }

    #[test]
    fn what_does_not_fit_is_changed_in_its_place() {
        let mut config = testing::config();
        config["use_cache"] = json!(false);
        config["zeta"] = json!({"kept": [1.0, 1e-5]});
        let text = written(&config.to_string(), Head::CausalLm, PLAIN, true);
        let keys = |text: &str| {
            let members: Members = serde_json::from_str(text).unwrap();
            members.keys().map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(keys(&text), keys(&config.to_string()));
        config["use_cache"] = json!(true);
        assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), config);
        assert!(
            text.contains(r#""zeta": {"kept":[1.0,0.00001]}"#) || text.contains(r#"[1.0,1e-5]"#),
            "{text}"
        );

        let base = written(&config.to_string(), Head::Base, PLAIN, false);
        config["architectures"] = json!(["LlamaModel"]);
        assert_eq!(serde_json::from_str::<Value>(&base).unwrap(), config);
        let without = written(&testing::config().to_string(), Head::CausalLm, PLAIN, false);
        assert_eq!(serde_json::from_str::<Value>(&without).unwrap()["use_cache"], json!(false));
    }

    #[test]
    fn transformers_js_is_told_everything() {
        let mut config = testing::config();
        config["head_dim"] = Value::Null;
        let text = written(&config.to_string(), Head::CausalLm, TRANSFORMERS_JS[0], true);
        config["head_dim"] = json!(4);
        config["transformers.js_config"] = json!({"dtype": "q4", "use_external_data_format": true});
        assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), config);
    }
}
