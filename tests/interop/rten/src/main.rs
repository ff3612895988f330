//! Greedy generation by rten: `llamac-rten MODEL '[[ids…]…]' STEPS` prints the new tokens of each prompt.

use std::error::Error;

use rten::Model;
use rten_generate::Generator;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [model, prompts, steps] = &arguments[..] else { return Err("MODEL PROMPTS STEPS".into()) };
    let model = Model::load_file(model)?;
    let prompts: Vec<Vec<u32>> = serde_json::from_str(prompts)?;
    let mut rows = Vec::new();
    for prompt in &prompts {
        let generator = Generator::from_model(&model)?.with_prompt(prompt);
        rows.push(generator.take(steps.parse()?).collect::<Result<Vec<u32>, _>>()?);
    }
    println!("{}", serde_json::to_string(&rows)?);
    Ok(())
}
