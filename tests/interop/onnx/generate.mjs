// Greedy generation by transformers.js, from a folder on disk: node generate.mjs MODEL '["text"…]' STEPS [DTYPE]
// Prints the ids of each text and of what follows. Without DTYPE the model's config.json says which file is loaded.
import path from 'node:path';
import { AutoModelForCausalLM, AutoTokenizer, env } from '@huggingface/transformers';

const [folder, texts, steps, dtype = null] = process.argv.slice(2);
env.allowRemoteModels = false;
env.localModelPath = path.dirname(folder) + '/';
const tokenizer = await AutoTokenizer.from_pretrained(path.basename(folder));
const model = await AutoModelForCausalLM.from_pretrained(path.basename(folder), { dtype });
const rows = [];
for (const text of JSON.parse(texts)) {
  const output = await model.generate({ ...tokenizer(text), max_new_tokens: Number(steps), do_sample: false });
  rows.push(output.tolist()[0].map(Number));
}
console.log(JSON.stringify(rows));
