// Runs the models that web.py hands out: in Node, and in the page beside this file.
// A message is a line of JSON that lists arrays as [name, dtype, shape], then their bytes.
import * as ort from "onnxruntime-web";

const ARRAYS = {
  float32: Float32Array,
  float16: globalThis.Float16Array ?? Uint16Array,
  int32: Int32Array,
  int64: BigInt64Array,
  uint8: Uint8Array,
  bool: Uint8Array,
};

function unpack(buffer) {
  let offset = new Uint8Array(buffer).indexOf("\n".charCodeAt(0));
  const entries = JSON.parse(new TextDecoder().decode(buffer.slice(0, offset++)));
  return entries.map(([name, type, shape]) => {
    const size = shape.reduce((a, b) => a * b, 1) * ARRAYS[type].BYTES_PER_ELEMENT;
    const data = new ARRAYS[type](buffer.slice(offset, (offset += size)));
    return [name, new ort.Tensor(type, data, shape)];
  });
}

function pack(tensors) {
  const header = tensors.map(([name, tensor]) => [name, tensor.type, tensor.dims]);
  return new Blob([JSON.stringify(header), "\n", ...tensors.map(([, tensor]) => tensor.data)]);
}

async function run(job) {
  const [[, model], ...feeds] = unpack(job);
  const session = await ort.InferenceSession.create(model.data, { executionProviders: ["wasm"] });
  try {
    const results = await session.run(Object.fromEntries(feeds));
    return pack(session.outputNames.map((name) => [name, results[name]]));
  } finally {
    await session.release();
  }
}

const server = globalThis.location?.origin ?? process.argv[2];
ort.env.wasm.numThreads = 1;
ort.env.logLevel = "error";
for (;;) {
  const response = await fetch(`${server}/job`);
  if (response.status !== 200) continue; // none yet
  const body = await response
    .arrayBuffer()
    .then(run)
    .catch((error) => JSON.stringify({ error: String(error) }) + "\n");
  await fetch(`${server}/result`, { method: "POST", body });
}
