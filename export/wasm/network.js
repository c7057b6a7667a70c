"use strict";

// A network in WebAssembly. Its inputs are uint8 values in the order of the contract: height, width, channels.
class Network {
  constructor(exports, contract) {
    this.exports = exports;
    this.contract = contract;
    this.input = new Uint8Array(exports.memory.buffer, exports.input(), exports.input_size());
    this.output = new Int8Array(exports.memory.buffer, exports.output(), exports.output_size());
  }

  // Compute the outputs of one input; the result is valid until the next call.
  run(values) {
    this.input.set(values);
    this.exports.run();
    return this.output;
  }

  // Compute the probabilities of the classes: softmax of the logits that the outputs stand for.
  classify(values) {
    const { output_scale: scale } = this.contract;
    const outputs = this.run(values);
    const largest = outputs.reduce((a, b) => Math.max(a, b));
    const powers = Array.from(outputs, (output) => Math.exp(scale * (output - largest)));
    const sum = powers.reduce((a, b) => a + b);
    return powers.map((power) => power / sum);
  }
}

// Open both modules of an artifact: the one that every engine runs, and the one with SIMD128 where this engine has it.
async function openNetworks(bytes) {
  const scalar = await WebAssembly.compile(bytes);
  const [text] = WebAssembly.Module.customSections(scalar, "edge_mnist");
  const contract = JSON.parse(new TextDecoder().decode(text));
  const [inner] = WebAssembly.Module.customSections(scalar, "edge_mnist_simd128");
  const modules = WebAssembly.validate(inner) ? [await WebAssembly.compile(inner), scalar] : [scalar];
  const instances = await Promise.all(modules.map((module) => WebAssembly.instantiate(module)));
  return instances.map((instance) => new Network(instance.exports, contract));
}
