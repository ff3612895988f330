// Greedy generation by transformers.js, from a folder on disk: node generate.mjs MODEL '[[ids…]…]' STEPS
import path from 'node:path';
import { AutoModelForCausalLM, Tensor, env } from '@huggingface/transformers';

const [folder, prompts, steps] = process.argv.slice(2);
env.allowRemoteModels = false;
env.localModelPath = path.dirname(folder) + '/';
const model = await AutoModelForCausalLM.from_pretrained(path.basename(folder), { dtype: 'fp32' });
const rows = [];
for (const ids of JSON.parse(prompts)) {
  const tensor = (values) => new Tensor('int64', values.map(BigInt), [1, values.length]);
  const output = await model.generate({
    input_ids: tensor(ids),
    attention_mask: tensor(ids.map(() => 1)),
    max_new_tokens: Number(steps),
    do_sample: false,
  });
  rows.push(output.tolist()[0].map(Number));
}
console.log(JSON.stringify(rows));
